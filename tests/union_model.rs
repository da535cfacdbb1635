//! *The model is the definition*: random stacks of layers, shown by `Union` and
//! applied one after the other to the naive tree of `support/model.rs`, must be
//! the same tree. `PROPTEST_CASES` says how many stacks are tried.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod support;
#[path = "union_model/whitelists.rs"]
mod whitelists;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use lazyroot::node::{Ino, Kind};
use lazyroot::tree_path::TreePath;
use lazyroot::union::{Effort, Found, FsError, Union};
use proptest::prelude::*;
use support::both;
use support::layers::{Data, Entry, Maker, What};
use support::model::{Lost, Node, Path, Tree, split};

/// Few names, so that layers meet often. One is not UTF-8, one sorts before `/`.
const NAMES: &[&[u8]] = &[b"a", b"b", b"a b", b"c", b"\xff"];

fn path() -> impl Strategy<Value = Vec<u8>> {
    support::stacks::path(NAMES, 3)
}

fn entry() -> impl Strategy<Value = Entry> {
    support::stacks::entry(NAMES, 3)
}

fn stacks() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    support::stacks::stacks(NAMES, 3, 13, 6)
}

fn dangling(union: &Union) -> Result<Vec<(TreePath, TreePath)>, FsError> {
    let stop = AtomicBool::new(false);
    union.dangling_links(&Effort::of_links(&stop))?.collect()
}

fn whole_list(union: &Union, dir: Ino) -> Vec<(u64, Vec<u8>, Ino, Kind)> {
    list_from(union, dir, 0, usize::MAX)
}

fn list_from(union: &Union, dir: Ino, cookie: u64, most: usize) -> Vec<(u64, Vec<u8>, Ino, Kind)> {
    let mut list = Vec::new();
    let mut visit = |listed: lazyroot::union::Listed<'_>| {
        if list.len() == most {
            return false;
        }
        list.push((listed.cookie, listed.name.to_vec(), listed.ino, listed.kind));
        true
    };
    union.list(dir, cookie, &mut visit).unwrap();
    list
}

fn tree_path(path: &[Vec<u8>]) -> TreePath {
    TreePath::parse(&path.join(&b'/')).unwrap()
}

/// Compares everything below and including one directory. `numbers` has the
/// number that each object of the model was seen with.
fn compare_dir(
    union: &Union,
    tree: &Tree,
    path: &Path,
    numbers: &mut BTreeMap<(bool, usize), Ino>,
    parent: Ino,
    dir: Found,
) {
    let children = tree.children(path);
    let list = whole_list(union, dir.ino);
    let names: Vec<_> = list.iter().map(|listed| listed.1.clone()).collect();
    let dots = [b".".to_vec(), b"..".to_vec()];
    let expected: Vec<_> = dots
        .iter()
        .chain(children.iter().map(|child| &child.0))
        .cloned()
        .collect();
    assert_eq!(names, expected, "names in {path:?}");
    assert_eq!(
        (list[0].2, list[1].2),
        (dir.ino, parent),
        "dots of {path:?}"
    );
    assert_eq!(union.lookup(dir.ino, b".").unwrap(), dir);
    assert_eq!(union.lookup(dir.ino, b"..").unwrap().ino, parent);
    compare_cookies(union, dir.ino, &list);
    for name in NAMES
        .iter()
        .chain(&[&b"absent"[..], b"a ", b".wh.a", b".wh..wh..opq"])
    {
        if !children.iter().any(|child| child.0 == *name) {
            let outcome = union.lookup(dir.ino, name);
            assert!(
                matches!(outcome, Err(FsError::NotFound)),
                "{name:?} in {path:?}: {outcome:?}"
            );
        }
    }
    for ((name, node), (_, _, d_ino, d_type)) in children.iter().zip(&list[2..]) {
        let at: Path = path.iter().chain([name]).cloned().collect();
        let found = union.lookup(dir.ino, name).unwrap();
        assert_eq!(found.ino, *d_ino, "d_ino of {at:?}");
        assert_eq!(found.attr.kind, *d_type, "d_type of {at:?}");
        compare_object(union, tree, &at, found);
        let key = match *node {
            Node::Dir(number) => (true, number),
            Node::Object(number) => (false, number),
            Node::Nowhere => unreachable!(),
        };
        let known = *numbers.entry(key).or_insert(found.ino);
        assert_eq!(known, found.ino, "one place, one Ino: {at:?}");
        if key.0 {
            compare_dir(union, tree, &at, numbers, dir.ino, found);
        }
    }
}

/// A listing goes on behind every cookie, whatever was asked before.
fn compare_cookies(union: &Union, dir: Ino, list: &[(u64, Vec<u8>, Ino, Kind)]) {
    for most in [1, 2, usize::MAX] {
        for (number, listed) in list.iter().enumerate() {
            let rest = &list[number + 1..];
            let expected = &rest[..rest.len().min(most)];
            assert_eq!(
                list_from(union, dir, listed.0, most),
                expected,
                "behind {listed:?}"
            );
        }
    }
    for listed in list.iter().rev() {
        let rest = list.iter().filter(|other| other.0 > listed.0);
        assert_eq!(
            list_from(union, dir, listed.0, usize::MAX).len(),
            rest.count()
        );
    }
    assert!(list.iter().all(|listed| listed.0 != 0));
    assert!(list_from(union, dir, u64::MAX, 1).is_empty());
}

fn compare_object(union: &Union, tree: &Tree, path: &Path, found: Found) {
    let object = tree.object(path);
    assert_eq!(found.attr, tree.attr(path), "attributes of {path:?}");
    assert_eq!(union.attr(found.ino).unwrap(), found.attr, "{path:?}");
    assert_eq!(
        union.xattrs(found.ino).unwrap(),
        object.xattrs,
        "xattrs of {path:?}"
    );
    assert!(found.ino <= union.last_ino());
    let named = union.path_of(found.ino).unwrap();
    assert_eq!(
        tree.nodes[&split(named.as_bytes())],
        tree.nodes[path],
        "path_of {path:?}"
    );
    match &object.data {
        Some(data) => compare_data(union, found.ino, data),
        None => {
            let outcome = union.read(found.ino, 0, &mut [0]);
            match found.attr.kind {
                Kind::Dir => assert!(matches!(outcome, Err(FsError::IsDir))),
                _ => assert!(matches!(outcome, Err(FsError::WrongKind))),
            }
        }
    }
    match found.attr.kind {
        Kind::Symlink => assert_eq!(union.target(found.ino).unwrap(), object.target),
        _ => assert!(matches!(union.target(found.ino), Err(FsError::WrongKind))),
    }
    if found.attr.kind != Kind::Dir {
        assert!(matches!(
            union.lookup(found.ino, b"a"),
            Err(FsError::NotDir)
        ));
        assert!(matches!(
            union.list(found.ino, 0, &mut |_| true),
            Err(FsError::NotDir)
        ));
    }
}

fn compare_data(union: &Union, ino: Ino, data: &Data) {
    let bytes = data.bytes();
    let mut buffer = vec![0xaa; bytes.len() + 9];
    assert_eq!(union.read(ino, 0, &mut buffer).unwrap(), bytes.len());
    assert_eq!(&buffer[..bytes.len()], bytes);
    let from = bytes.len() / 3;
    assert_eq!(union.read(ino, from as u64, &mut buffer[..5]).unwrap(), 5);
    assert_eq!(buffer[..5], bytes[from..from + 5]);
    assert_eq!(union.read(ino, data.size, &mut buffer).unwrap(), 0);
    // Stored bytes of the model are never zero, holes always are.
    for offset in 0..=data.size {
        let next = |wanted: &dyn Fn(u8) -> bool| {
            (offset..data.size).find(|&at| wanted(bytes[at as usize]))
        };
        assert_eq!(
            union.seek(ino, offset, true).unwrap(),
            next(&|byte| byte != 0)
        );
        let hole = next(&|byte| byte == 0).or((offset < data.size).then_some(data.size));
        assert_eq!(union.seek(ino, offset, false).unwrap(), hole);
    }
}

fn compare_resolve(union: &Union, tree: &Tree, path: &[u8]) {
    for follow in [false, true] {
        let outcome = union.resolve(&TreePath::parse(path).unwrap(), follow);
        match (tree.resolve(&split(path), follow), outcome) {
            (Ok(at), Ok(found)) => {
                let direct = union.resolve(&tree_path(&at), false).unwrap();
                assert_eq!(found, direct, "{path:?}");
                assert_eq!(found.attr, tree.attr(&at), "{path:?}");
            }
            (Err(Lost::NotFound), Err(FsError::NotFound))
            | (Err(Lost::NotDir), Err(FsError::NotDir))
            | (Err(Lost::Loop), Err(FsError::Loop)) => {}
            (expected, outcome) => panic!("{path:?}: {expected:?}, but {outcome:?}"),
        }
    }
}

fn compare(union: &Union, tree: &Tree) {
    let attr = union.attr(Ino::ROOT).unwrap();
    let root = Found {
        ino: Ino::ROOT,
        attr,
    };
    compare_object(union, tree, &Path::new(), root);
    let mut numbers = BTreeMap::new();
    compare_dir(union, tree, &Path::new(), &mut numbers, Ino::ROOT, root);
    let mut all: Vec<_> = numbers.values().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), numbers.len(), "one Ino, one place");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_union_is_what_unpacking_layer_by_layer_gives(
        stack in stacks(),
        paths in prop::collection::vec(path(), 8),
    ) {
        let (union, tree) = both(&stack);
        compare(&union, &tree);
        for path in &paths {
            compare_resolve(&union, &tree, path);
        }
        let nowhere = tree.nodes.values().filter(|node| **node == Node::Nowhere).count();
        prop_assert!(dangling(&union).unwrap().len() >= nowhere);
    }

    #[test]
    fn numbers_are_the_same_after_another_mount_in_another_order(stack in stacks()) {
        let (union, tree) = both(&stack);
        let again = Union::new(union.layers().to_vec());
        // The first is walked from the top, the second asked by number at once.
        let mut numbers = BTreeMap::new();
        for (path, node) in &tree.nodes {
            if *node == Node::Nowhere {
                continue;
            }
            let found = union.resolve(&tree_path(path), false).unwrap();
            numbers.insert(found.ino, found.attr);
        }
        for (ino, attr) in numbers.iter().rev() {
            prop_assert_eq!(again.attr(*ino).unwrap(), *attr);
        }
    }
}

fn file(path: &str) -> Entry {
    Entry::new(
        path,
        What::File(Data {
            size: 8,
            salt: 4,
            stored: None,
        }),
    )
}

fn dir(path: &str, mode: u16) -> Entry {
    Entry {
        mode,
        ..Entry::new(path, What::Dir)
    }
}

fn link(path: &str, target: &str) -> Entry {
    Entry::new(path, What::Link(target.as_bytes().to_vec()))
}

/// Compares, and hands the union out for more.
fn union_of(stack: &[Vec<Entry>]) -> Union {
    let (union, tree) = both(stack);
    compare(&union, &tree);
    union
}

fn found(union: &Union, path: &str) -> Option<Found> {
    match union.resolve(&TreePath::parse(path.as_bytes()).unwrap(), false) {
        Ok(found) => Some(found),
        Err(FsError::NotFound) => None,
        Err(error) => panic!("{path}: {error}"),
    }
}

#[test]
fn no_layers_are_an_empty_tree() {
    let union = Union::new(Vec::new());
    assert_eq!(whole_list(&union, Ino::ROOT).len(), 2);
    let attr = union.attr(Ino::ROOT).unwrap();
    assert_eq!((attr.kind, attr.mode, attr.nlink), (Kind::Dir, 0o755, 2));
    assert_eq!(union.last_ino(), Ino::ROOT);
    assert_eq!(union.layer_of(Ino::ROOT).unwrap(), 0);
    assert!(union.xattrs(Ino::ROOT).unwrap().is_empty());
    assert!(matches!(
        union.lookup(Ino::ROOT, b"a"),
        Err(FsError::NotFound)
    ));
    assert!(matches!(union.attr(Ino(2)), Err(FsError::Stale)));
    assert!(found(&union, "").is_some());
}

#[test]
fn a_whiteout_hides_every_lower_entry_of_that_name_and_none_of_its_own_layer() {
    let whiteout = Entry::new("d", What::Whiteout);
    let union = union_of(&[
        vec![file("d/old"), file("f")],
        vec![file("d/older")],
        vec![file("d/new"), whiteout, Entry::new("f", What::Whiteout)],
    ]);
    assert!(found(&union, "d/new").is_some());
    assert!(found(&union, "d/old").is_none() && found(&union, "d/older").is_none());
    assert!(found(&union, "f").is_none());
}

#[test]
fn a_directory_that_a_layer_only_reaches_through_keeps_what_it_was() {
    let below = vec![
        dir("d", 0o700),
        dir("o", 0o700),
        file("o/f"),
        dir("w", 0o700),
    ];
    let above = vec![
        file("d/f"),
        Entry::new("o", What::Opaque),
        Entry::new("w", What::Whiteout),
        file("w/f"),
    ];
    let union = union_of(&[below, above]);
    assert_eq!(found(&union, "d").unwrap().attr.mode, 0o700);
    // Emptied, but the same directory.
    assert_eq!(found(&union, "o").unwrap().attr.mode, 0o700);
    assert!(found(&union, "o/f").is_none());
    // Removed and made anew.
    assert_eq!(found(&union, "w").unwrap().attr.mode, 0o755);
}

#[test]
fn a_file_in_between_hides_what_lies_below_it() {
    let union = union_of(&[vec![file("d/old")], vec![file("d")], vec![file("d/new")]]);
    assert!(found(&union, "d/new").is_some() && found(&union, "d/old").is_none());
    // The same within one layer.
    let union = union_of(&[vec![file("d/old")], vec![file("d"), dir("d", 0o711)]]);
    assert!(found(&union, "d/old").is_none());
}

#[test]
fn a_hard_link_over_three_layers_is_one_object() {
    let union = union_of(&[
        vec![file("a"), link("b", "a")],
        vec![link("d/c", "b")],
        vec![link("e", "d/c"), Entry::new("a", What::Whiteout)],
        vec![link("d/c", "d/c"), link("nothing", "a")],
    ]);
    let numbers: Vec<_> = ["b", "d/c", "e"]
        .map(|path| found(&union, path).unwrap().ino)
        .into();
    assert!(numbers.iter().all(|ino| *ino == numbers[0]));
    assert_eq!(union.attr(numbers[0]).unwrap().nlink, 3);
    assert_eq!(union.layer_of(numbers[0]).unwrap(), 0);
    assert!(found(&union, "nothing").is_none());
    let dangling = dangling(&union).unwrap();
    assert_eq!(format!("{dangling:?}"), "[(/nothing, /a)]");
}

/// A link leads into each of `parents` in turn, which are behind a long way of symlinks.
fn far_links(parents: &[String], links: usize) -> Union {
    let way = |n: usize| format!("s{}{}", n + 1, "/.".repeat(100)).into_bytes();
    let mut below: Vec<_> = (0..30)
        .map(|n| Entry::new(&format!("s{n}"), What::Symlink(way(n))))
        .collect();
    below.extend(
        parents
            .iter()
            .map(|parent| file(&format!("s30/{parent}/x"))),
    );
    let above = (0..links).map(|n| {
        let parent = &parents[n % parents.len()];
        link(&format!("l{n}"), &format!("s0/{parent}/x"))
    });
    // Without the model, which follows symlinks by recursion.
    let mut maker = Maker::new();
    let above: Vec<_> = above.collect();
    Union::new(vec![maker.layer(&below), maker.layer(&above)])
}

#[test]
fn hard_links_into_few_directories_take_few_steps() {
    // The bug: only the directory of the link before was known, so links that led into
    // two of them in turn were each followed from the root: minutes for an import.
    let union = far_links(&["a".to_owned(), "b".to_owned()], 500);
    let stop = AtomicBool::new(false);
    let effort = Effort::new(10_000, &stop);
    assert_eq!(union.dangling_links(&effort).unwrap().count(), 0);
}

#[test]
fn hard_links_that_take_too_many_steps_are_an_error_and_can_be_stopped() {
    let parents: Vec<_> = (0..20).map(|n| format!("d{n}")).collect();
    let union = far_links(&parents, 20);
    let stop = AtomicBool::new(true);
    let found = union.dangling_links(&Effort::new(100_000, &stop));
    assert!(matches!(found.err(), Some(FsError::Interrupted)));
    stop.store(false, Ordering::Relaxed);
    let found = union.dangling_links(&Effort::new(10_000, &stop));
    assert!(matches!(found.err(), Some(FsError::TooManySteps)));
    // Nothing of it is remembered.
    assert!(dangling(&union).unwrap().is_empty());
}

#[test]
fn a_hard_link_finds_its_target_through_a_symlinked_directory() {
    let symlink = Entry::new("lib", What::Symlink(b"/usr/lib".to_vec()));
    let union = union_of(&[vec![symlink, file("usr/lib/x")], vec![link("y", "lib/x")]]);
    assert_eq!(
        found(&union, "y").unwrap().ino,
        found(&union, "usr/lib/x").unwrap().ino
    );
}

#[test]
fn depth_and_height_have_room() {
    let deep = |name: &str| format!("{}{name}", "d/".repeat(4000));
    let mut maker = Maker::new();
    let layers = [deep("low"), deep("high"), "x".to_owned()];
    let union = Union::new(layers.map(|path| maker.layer(&[file(&path)])).into());
    let ino = found(&union, &deep("high")).unwrap().ino;
    assert_eq!(
        union.path_of(ino).unwrap().as_bytes(),
        deep("high").as_bytes()
    );
    // By number alone, with nothing remembered.
    let again = Union::new(union.layers().to_vec());
    let parent = found(&union, &deep("")).unwrap();
    assert_eq!(again.attr(parent.ino).unwrap(), parent.attr);
    assert_eq!(whole_list(&again, parent.ino).len(), 4);

    let stack: Vec<_> = (0..130)
        .map(|n| vec![file(&format!("d/{n:03}")), file("d/last")])
        .collect();
    let union = union_of(&stack);
    assert_eq!(
        whole_list(&union, found(&union, "d").unwrap().ino).len(),
        133
    );
    assert_eq!(
        union
            .layer_of(found(&union, "d/last").unwrap().ino)
            .unwrap(),
        129
    );
}

#[test]
fn a_large_merged_directory_is_listed_in_pieces_of_any_size() {
    let layer = |step: usize| {
        (0..900)
            .step_by(step)
            .map(|n| file(&format!("d/{n:04}")))
            .collect()
    };
    let mut top: Vec<Entry> = vec![dir("d", 0o755)];
    top.extend(
        (0..900)
            .step_by(7)
            .map(|n| Entry::new(&format!("d/{n:04}"), What::Whiteout)),
    );
    let (union, _) = both(&[layer(1), layer(2), top]);
    let ino = found(&union, "d").unwrap().ino;
    let whole = whole_list(&union, ino);
    assert_eq!(whole.len(), 2 + 900 - 900usize.div_ceil(7));
    for most in [1, 2, 63, 64, 65, 500] {
        let mut pieces = Vec::new();
        loop {
            let cookie = pieces
                .last()
                .map_or(0, |last: &(u64, Vec<u8>, Ino, Kind)| last.0);
            let piece = list_from(&union, ino, cookie, most);
            if piece.is_empty() {
                break;
            }
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole, "{most} at a time");
    }
    for number in [700, 3, 400] {
        assert_eq!(
            list_from(&union, ino, whole[number].0, 1),
            whole[number + 1..number + 2]
        );
    }
}

#[test]
fn numbers_that_were_never_given_out_are_refused() {
    let union = union_of(&[vec![file("a")], vec![file("b")]]);
    for ino in [0, 2, 4, union.last_ino().0 + 1, u64::MAX] {
        assert!(matches!(union.attr(Ino(ino)), Err(FsError::Stale)), "{ino}");
    }
}
