//! What images look like with their dependencies: against a naive rendering, by the
//! words of the specification, into a map.

use std::collections::BTreeMap;

use super::What::{Char, Dir, Fifo, File, Link, Symlink};
use super::images::*;
use super::{Aci, Attrs, Node, Object, Seen, What, What2, grouped, id, seen};
use serde_json::json;

/// Applies an image with its dependencies, each as often as it comes.
fn render(
    images: &BTreeMap<String, Aci>,
    name: &str,
    lists: &[Vec<String>],
    tree: &mut Seen,
    made: &mut u64,
) {
    let image = &images[name];
    let texts = |field: &str, key: Option<&str>| -> Vec<String> {
        let values = image.manifest[field].as_array().into_iter().flatten();
        let text = |value: &serde_json::Value| {
            let value = key.map_or(value, |key| &value[key]);
            value.as_str().unwrap().trim_matches('/').to_owned()
        };
        values.map(text).collect()
    };
    let mut lists = lists.to_vec();
    lists.extend(Some(texts("pathWhitelist", None)).filter(|list| !list.is_empty()));
    for dependency in texts("dependencies", Some("imageName")) {
        render(images, &dependency, &lists, tree, made);
    }
    // What it unpacks to, a second time anew.
    let mut own: BTreeMap<&str, Node> = BTreeMap::new();
    for (path, what) in &image.members {
        let is_dir = matches!(what, Dir(_));
        let on = |list: &Vec<String>| {
            let below = format!("{path}/");
            list.iter()
                .any(|listed| listed == path || (is_dir && listed.starts_with(&below)))
        };
        let node = match what {
            Link(target) => own[target].clone(),
            what => {
                *made += 1;
                Node {
                    what: unpacked(what),
                    attrs: Attrs::of(name, path, what),
                    object: Object::Number(*made),
                }
            }
        };
        own.insert(path, node.clone());
        if lists.iter().all(on) {
            put(tree, path, node, made);
        }
    }
}

fn unpacked(what: &What) -> What2 {
    match what {
        Dir(_) => What2::Dir,
        File(text) => What2::File(text.as_bytes().to_vec()),
        Symlink(target) => What2::Symlink(target.as_bytes().to_vec()),
        Char(major, minor) => What2::Char(*major, *minor),
        Fifo => What2::Fifo,
        Link(_) => unreachable!("a link is its target"),
    }
}

fn put(tree: &mut Seen, path: &str, node: Node, made: &mut u64) {
    let is_dir =
        |tree: &Seen, path: &str| tree.get(path).is_some_and(|node| node.what == What2::Dir);
    // Parents that no archive names are there all the same.
    for (at, _) in path.match_indices('/') {
        let parent = &path[..at];
        if !is_dir(tree, parent) {
            *made += 1;
            let (attrs, object) = (Attrs::implied(), Object::Number(*made));
            let what = What2::Dir;
            tree.insert(
                parent.to_owned(),
                Node {
                    what,
                    attrs,
                    object,
                },
            );
        }
    }
    let merges = node.what == What2::Dir && is_dir(tree, path);
    if !merges {
        tree.retain(|other, _| !other.starts_with(&format!("{path}/")));
    }
    tree.insert(path.to_owned(), node);
}

/// Imports images and compares the one called `top` with its rendering.
fn agrees(images: &[Aci]) -> Seen {
    let bench = Bench::new();
    let mut by_name = BTreeMap::new();
    for image in images {
        image.import(&bench);
        by_name.insert(image.name().to_owned(), image.clone());
    }
    let mut tree = Seen::new();
    render(&by_name, "top", &[], &mut tree, &mut 0);
    let tree = grouped(tree);
    let found = seen(&bench, "appc:top");
    for path in tree.keys().chain(found.keys()) {
        assert_eq!(found.get(path), tree.get(path), "{path} of {images:?}");
    }
    tree
}

fn dir(path: &'static str) -> (&'static str, What) {
    (path, Dir(0o755))
}

fn file(path: &'static str, text: &'static str) -> (&'static str, What) {
    (path, File(text))
}

fn says(tree: &Seen, path: &str, text: &str) {
    assert_eq!(
        tree[path].what,
        What2::File(text.as_bytes().to_vec()),
        "{path}"
    );
}

#[test]
fn an_image_on_one_other() {
    let base = Aci::new(
        "base",
        &[
            dir("a"),
            file("a/one", "base"),
            dir("b"),
            file("b/two", "base"),
            dir("c"),
        ],
    );
    for (top, gone) in [
        // From the dependency, and beside it.
        (vec![], ""),
        (vec![dir("d"), file("d/new", "top")], ""),
        (vec![file("a/new", "top")], ""),
        // Over it.
        (vec![("a", Dir(0o700))], ""),
        (vec![file("a/one", "top")], ""),
        (vec![file("a", "top")], "a/one"),
        (vec![("a", Symlink("b"))], "a/one"),
        (vec![file("a/one/x", "top")], ""),
        // There are no whiteouts: this is a name like others.
        (vec![file("a/.wh.one", ""), file("b/.wh..wh..opq", "")], ""),
    ] {
        let tree = agrees(&[base.clone(), Aci::new("top", &top).on(&["base"])]);
        assert!(gone.is_empty() || !tree.contains_key(gone), "{gone}");
    }
}

#[test]
fn a_symlink_below_is_replaced_and_never_followed() {
    let base = Aci::new(
        "base",
        &[dir("x"), file("x/f", "base"), ("l", Symlink("x"))],
    );
    let top = Aci::new("top", &[dir("l"), file("l/f", "top")]).on(&["base"]);
    let tree = agrees(&[base, top]);
    says(&tree, "x/f", "base");
    says(&tree, "l/f", "top");
}

/// Everything a tar can hold, below, above and on both sides of a whitelist.
#[test]
fn kinds_owners_times_attributes_and_links_are_those_of_the_image_that_counts() {
    let all = [
        dir("d"),
        file("d/one", "one"),
        ("d/two", Link("d/one")),
        ("three", Link("d/one")),
        ("null", Char(1, 3)),
        ("pipe", Fifo),
        ("soft", Symlink("d/one")),
        ("soft-too", Link("soft")),
        ("pipe-too", Link("pipe")),
        dir("e"),
        file("e/x", ""),
    ];
    let base = Aci::new("base", &all);
    let tree = agrees(&[base.clone(), Aci::new("top", &[]).on(&["base"])]);
    assert_eq!(tree["three"].object, Object::With("d/one".to_owned()));
    // A link is cut where one of its names is replaced, and the others stay one.
    let top = [
        file("d/one", "top"),
        ("null", Char(1, 5)),
        file("pipe", "no pipe any more"),
        ("soft", Symlink("e")),
        ("e", Dir(0o1777)),
    ];
    let tree = agrees(&[base.clone(), Aci::new("top", &top).on(&["base"])]);
    says(&tree, "d/one", "top");
    says(&tree, "three", "one");
    assert_eq!(tree["three"].object, Object::With("d/two".to_owned()));
    assert_eq!(tree["pipe-too"].what, What2::Fifo);
    // The target of a link is not on the list, and one that is keeps what is in it.
    for list in [&["/three", "/d/two"][..], &["/d/two", "/pipe-too", "/e"]] {
        let tree = agrees(&[
            base.clone().listing(list),
            Aci::new("top", &[]).on(&["base"]),
        ]);
        says(&tree, "d/two", "one");
        agrees(&[
            base.clone(),
            Aci::new("top", &top).on(&["base"]).listing(list),
        ]);
    }
    // Applied twice: what is below the same image in between is replaced, links and all.
    agrees(&[
        base,
        Aci::new("left", &top).on(&["base"]),
        Aci::new("right", &[]).on(&["base"]),
        Aci::new("top", &[]).on(&["left", "right"]),
    ]);
}

#[test]
fn later_dependencies_go_over_earlier_ones() {
    let one =
        |name: &'static str| Aci::new(name, &[dir("dir"), file("dir/who", name), file(name, "")]);
    // B D C A: the documented example.
    let tree = agrees(&[
        one("b"),
        one("d"),
        one("c").on(&["d"]),
        Aci::new("top", &[]).on(&["b", "c"]),
    ]);
    says(&tree, "dir/who", "c");
    // Twice: the second time is above what came in between.
    let tree = agrees(&[
        one("b").on(&["c"]),
        one("c"),
        one("d").on(&["c"]),
        Aci::new("top", &[]).on(&["b", "d"]),
    ]);
    says(&tree, "dir/who", "d");
    let tree = agrees(&[
        one("b"),
        one("c"),
        Aci::new("d", &[]).on(&["c"]),
        Aci::new("top", &[]).on(&["c", "b", "d"]),
    ]);
    says(&tree, "dir/who", "c");
    // A diamond where both sides change the kind of one path.
    agrees(&[
        Aci::new("base", &[file("k", "base"), dir("e"), file("e/x", "base")]),
        Aci::new("left", &[dir("k"), file("k/in", "left"), file("e", "left")]).on(&["base"]),
        Aci::new("right", &[file("e/y", "right")]).on(&["base"]),
        Aci::new("top", &[file("t", "top")]).on(&["left", "right"]),
    ]);
}

#[test]
fn whitelists_are_intersected_along_the_branch() {
    let base = Aci::new(
        "base",
        &[
            dir("a"),
            file("a/1", "base"),
            file("a/2", "base"),
            dir("c"),
            dir("d"),
            file("d/1", "base"),
            file("e", "base"),
        ],
    );
    let mine: &[_] = &[
        dir("a"),
        file("a/3", "top"),
        file("e", "top"),
        dir("f"),
        file("f/1", "top"),
    ];
    let top = |base: &[&str]| Aci::new("top", mine).on(base);
    // In the dependency only: the image itself may add what it likes.
    let tree = agrees(&[base.clone().listing(&["/a/1", "/c", "/d/"]), top(&["base"])]);
    assert!(!tree.contains_key("a/2") && !tree.contains_key("d/1") && tree.contains_key("d"));
    // In the image only: it speaks of the dependency too.
    let tree = agrees(&[
        base.clone(),
        top(&["base"]).listing(&["/a/2", "/f/1", "/e"]),
    ]);
    assert!(!tree.contains_key("a/1") && tree.contains_key("a/2") && !tree.contains_key("a/3"));
    // In both, and in one of three in a row.
    agrees(&[
        base.clone().listing(&["/a/1", "/a/2", "/e"]),
        top(&["base"]).listing(&["/a/2", "/f/1", "/a/3"]),
    ]);
    let middle = Aci::new("middle", &[file("a/4", "middle"), file("d/2", "middle")]);
    let middle = middle
        .on(&["base"])
        .listing(&["/a/1", "/a/4", "/d/2", "/d/1"]);
    let tree = agrees(&[
        base.clone(),
        middle.clone(),
        top(&["middle"]).listing(&["/a/1", "/a/4", "/d/1", "/nothing"]),
    ]);
    assert_eq!(
        tree.keys().collect::<Vec<_>>(),
        ["a", "a/1", "a/4", "d", "d/1"]
    );
    // Of two dependencies one has a list; the same image is below both.
    let other = Aci::new("other", &[file("o", "other")]).on(&["base"]);
    let tree = agrees(&[
        base.clone(),
        middle.clone(),
        other.clone(),
        top(&["middle", "other"]),
    ]);
    assert!(tree.contains_key("a/2"), "it comes by way of the other");
    agrees(&[base.clone(), middle, other, top(&["other", "middle"])]);
    // An empty list is none; an image without files restricts what it is built on.
    agrees(&[base.clone(), top(&["base"]).listing(&[])]);
    let tree = agrees(&[base, Aci::new("top", &[]).on(&["base"]).listing(&["/e"])]);
    assert_eq!(tree.keys().collect::<Vec<_>>(), ["e"]);
}

/// Each image with a list or without: what the reference renderer's `getUpperPWLM` is tested
/// with, and where it goes wrong (a list that is applied to a sibling, or not to a grandchild).
#[test]
fn every_choice_of_lists_gives_the_tree_of_the_specification() {
    let image = |name: &'static str, own: &'static str| {
        let all = [
            dir("d"),
            file("d/who", name),
            dir(own),
            file("shared", name),
            ("c", Dir(0o711)),
        ];
        Aci::new(name, &all)
    };
    let lists: [&[&str]; 4] = [
        &["/d/who", "/base-dir", "/left-dir", "/top-dir", "/shared"],
        &["/d/who", "/base-dir", "/c"],
        &["/d", "/base-dir", "/shared"],
        &["/d/who", "/right-dir"],
    ];
    for chosen in 0..1 << lists.len() {
        let mut images = [
            image("top", "top-dir").on(&["left", "right"]),
            image("left", "left-dir").on(&["base"]),
            image("base", "base-dir"),
            image("right", "right-dir"),
        ];
        for (number, list) in lists.iter().enumerate() {
            if chosen & (1 << number) != 0 {
                images[number] = images[number].clone().listing(list);
            }
        }
        agrees(&images);
    }
}

/// An image without files of its own is its dependencies, as its list leaves them.
#[test]
fn an_image_without_files_is_what_it_is_built_on() {
    let one = Aci::new("one", &[dir("a"), file("a/1", "one"), file("b", "one")]);
    let two = Aci::new("two", &[("a", Dir(0o700)), file("a/2", "two")]);
    let empty = |list: &[&str]| {
        Aci::new("top", &[])
            .on(&["one", "none", "two"])
            .listing(list)
    };
    let none = Aci::new("none", &[]);
    for (of_one, of_two, of_top) in [
        (&[][..], &[][..], &[][..]),
        (&["/a/1"], &[], &[]),
        (&[], &["/a"], &[]),
        (&["/b"], &["/a/2"], &[]),
        (&["/a/1", "/b"], &["/a/2"], &["/a/1", "/a/2"]),
        (&[], &[], &["/b", "/a"]),
        (&["/a/1"], &["/a/2"], &["/b"]),
    ] {
        agrees(&[
            one.clone().listing(of_one),
            two.clone().listing(of_two),
            none.clone(),
            empty(of_top),
        ]);
    }
}

#[test]
fn images_that_make_no_tree_say_why() {
    let bench = Bench::new();
    let base = Aci::new("base", &[file("f", "")]).import(&bench);
    Aci::new("a", &[]).on(&["b"]).import(&bench);
    Aci::new("b", &[]).on(&["a"]).import(&bench);
    Aci::new("lost", &[]).on(&["base", "nobody"]).import(&bench);
    let none = format!("sha512-{}", "0".repeat(128));
    let wanted = json!([{"imageName": "base", "imageID": none}]);
    Aci::new("wrong", &[])
        .with("dependencies", wanted)
        .import(&bench);
    let wanted = json!([{"imageName": "other", "imageID": base}]);
    Aci::new("named", &[])
        .with("dependencies", wanted)
        .import(&bench);
    let wanted = json!([{"imageName": "base", "labels": [{"name": "version", "value": "2"}]}]);
    Aci::new("older", &[])
        .with("dependencies", wanted)
        .import(&bench);
    for (name, code, words) in [
        ("a", 1, "in a circle: a:1.0.0 -> b:1.0.0 -> a:1.0.0"),
        (
            "lost",
            3,
            "`appc:nobody` is missing: lost:1.0.0 -> appc:nobody",
        ),
        ("wrong", 3, "of that name: wrong:1.0.0 -> appc:base"),
        (
            "named",
            1,
            "is `appc:base:1.0.0` by its ID: named:1.0.0 -> appc:other",
        ),
        (
            "older",
            3,
            "`appc:base:2` is missing: older:1.0.0 -> appc:base:2",
        ),
    ] {
        let reference = format!("appc:{name}");
        for args in [vec!["ls", &reference], vec!["cat", &reference]] {
            bench.refuses(code, &[words], |bench| bench.run(&args));
        }
    }
    assert_eq!(json_ids(&bench, "appc:lost"), serde_json::Value::Null);
}

fn json_ids(bench: &Bench, image: &str) -> serde_json::Value {
    super::json_of(bench, &["inspect", "--json", image])["stack"].clone()
}

/// rkt#1198: an image was shown as it had been rendered once.
#[test]
fn a_dependency_that_changes_gives_another_tree() {
    let bench = Bench::new();
    let old = Aci::new("base", &[file("who", "old")]);
    let old_id = old.import(&bench);
    Aci::new("top", &[]).on(&["base"]).import(&bench);
    let store = || lazyroot::store::Store::open(&bench.store, &bench.path("cache"), 0).unwrap();
    let identity = || {
        let store = store();
        let id = store.find("appc:top").unwrap();
        let caches = lazyroot::store::Caches::default();
        lazyroot::view::open(&store, id, &caches, None)
            .unwrap()
            .identity
    };
    says(&seen(&bench, "appc:top"), "who", "old");
    let before = identity();
    assert_eq!(identity(), before);
    // Imported later: it is what the name means now.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let new = Aci::new("base", &[file("who", "new")]);
    let new_id = new.import(&bench);
    says(&seen(&bench, "appc:top"), "who", "new");
    assert_ne!(identity(), before);
    assert_eq!((id(&old.tar()), id(&new.tar())), (old_id, new_id));
}
