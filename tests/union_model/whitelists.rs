//! *The model is the definition*, with whitelists: a layer that is restricted is as
//! if what is not on all of its lists had not been in its archive.

use std::collections::BTreeSet;
use std::sync::Arc;

use lazyroot::digest::AciId;
use lazyroot::layer::blocks::BlockCache;
use lazyroot::layer::path_set::{self, PathSet};
use lazyroot::tree_path::TreePath;
use lazyroot::union::Union;
use proptest::prelude::*;

use super::support::layers::{Entry, Maker, What};
use super::support::model::{Node, Path, Tree, split};
use super::{compare, compare_resolve, entry, file, found, path};

/// Paths of one whitelist, as written.
type List = Vec<Vec<u8>>;

/// What an archive of AppC may have in it: no whiteouts, no path twice, and no hard
/// link to what it does not have. Returns its tree too.
fn sound(entries: &[Entry]) -> (Vec<Entry>, Tree) {
    let mut seen = BTreeSet::new();
    let plain = |entry: &&Entry| !matches!(entry.what, What::Whiteout | What::Opaque);
    let mut kept: Vec<Entry> = entries.iter().filter(plain).cloned().collect();
    kept.retain(|entry| seen.insert(split(&entry.path)));
    loop {
        let mut tree = Tree::new();
        let admitted = tree.apply(&kept);
        let lost = |path: &[u8]| tree.nodes.get(&split(path)) == Some(&Node::Nowhere);
        let before = kept.len();
        kept.retain(|entry| admitted.contains(entry) && !lost(&entry.path));
        if kept.len() == before {
            return (kept, tree);
        }
    }
}

fn admitted(list: &List, at: &Path, is_dir: bool) -> bool {
    let mut paths = list.iter().map(|path| split(path));
    at.is_empty() || paths.any(|path| path == *at || (is_dir && path.starts_with(at)))
}

/// Puts the tree of one layer over what lies below, node by node, parents first.
fn put_over(below: &mut Tree, layer: &Tree, lists: &[List]) {
    let offset = below.objects.len();
    below.objects.extend(layer.objects.iter().cloned());
    for (at, node) in &layer.nodes {
        let is_dir = matches!(node, Node::Dir(_));
        let parent_shown = at.is_empty() || below.nodes.contains_key(&at[..at.len() - 1]);
        if !lists.iter().all(|list| admitted(list, at, is_dir)) {
            continue;
        }
        assert!(parent_shown, "what leads to {at:?} is shown too");
        let dir_over_dir = is_dir && matches!(below.nodes.get(at), Some(Node::Dir(_)));
        if !dir_over_dir {
            below.nodes.retain(|other, _| !other.starts_with(at));
            below.uncounted.retain(|other| !other.starts_with(at));
        }
        if is_dir && !lists.is_empty() {
            // Whoever looks would have to ask the whitelists of every entry.
            below.uncounted.insert(at.clone());
        }
        let moved = match node {
            // Nothing but a member of the archive has nanoseconds: no member named it.
            Node::Dir(n) if dir_over_dir && layer.objects[*n].attr.mtime.nanos == 0 => continue,
            Node::Dir(n) => Node::Dir(n + offset),
            Node::Object(n) => Node::Object(n + offset),
            Node::Nowhere => unreachable!("sound() leaves these out"),
        };
        below.nodes.insert(at.clone(), moved);
    }
}

/// The same restricted layers as a union and as a model.
fn both(stack: &[(Vec<Entry>, Vec<List>)]) -> (Union, Tree) {
    let (mut maker, mut tree) = (Maker::new(), Tree::new());
    let cache = BlockCache::new(1 << 20);
    let open = |list: &List| {
        let paths: Vec<_> = list
            .iter()
            .map(|path| TreePath::parse(path).unwrap())
            .collect();
        let owner: AciId = format!("sha512-{}", "0".repeat(128)).parse().unwrap();
        let sealed = path_set::write(owner, &paths, Vec::new()).unwrap();
        Arc::new(PathSet::open(owner, Box::new(sealed), Arc::clone(&cache)).unwrap())
    };
    let mut layers = Vec::new();
    for (entries, lists) in stack {
        let (entries, own) = sound(entries);
        put_over(&mut tree, &own, lists);
        layers.push((maker.layer(&entries), lists.iter().map(open).collect()));
    }
    (Union::restricted(layers), tree)
}

fn stacks() -> impl Strategy<Value = Vec<(Vec<Entry>, Vec<List>)>> {
    let list = prop::collection::vec(path(), 1..8);
    let lists = prop_oneof![
        1 => Just(Vec::new()),
        2 => prop::collection::vec(list, 1..3),
    ];
    prop::collection::vec((prop::collection::vec(entry(), 0..20), lists), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_restricted_union_is_what_unpacking_the_listed_paths_gives(
        stack in stacks(),
        paths in prop::collection::vec(path(), 8),
    ) {
        let (union, tree) = both(&stack);
        compare(&union, &tree);
        for path in &paths {
            compare_resolve(&union, &tree, path);
        }
    }
}

fn list(paths: &[&str]) -> List {
    paths.iter().map(|path| path.as_bytes().to_vec()).collect()
}

fn union_of(stack: &[(Vec<Entry>, Vec<List>)]) -> Union {
    let (union, tree) = both(stack);
    compare(&union, &tree);
    union
}

#[test]
fn what_is_on_one_list_only_is_hidden() {
    let files = vec![file("a/b"), file("a/c"), file("d/e"), file("f")];
    let lists = vec![list(&["a/b", "a/c", "d"]), list(&["a/b", "f", "d/e"])];
    let union = union_of(&[(files, lists)]);
    assert!(found(&union, "a/b").is_some());
    // A directory that is listed, or leads to something that is, stays; empty perhaps.
    assert!(found(&union, "d").is_some());
    for hidden in ["a/c", "d/e", "f"] {
        assert!(found(&union, hidden).is_none(), "{hidden}");
    }
}

#[test]
fn a_hidden_file_does_not_hide_what_lies_below_it() {
    let union = union_of(&[
        (vec![file("a/b"), file("c")], vec![]),
        (vec![file("a"), file("c")], vec![list(&["x"])]),
    ]);
    assert!(found(&union, "a/b").is_some());
    assert_eq!(union.layer_of(found(&union, "c").unwrap().ino).unwrap(), 0);
}

#[test]
fn a_name_that_is_not_listed_is_no_link_any_more() {
    let entries = vec![
        file("a"),
        Entry::new("b", What::Link(b"a".to_vec())),
        Entry::new("c", What::Link(b"a".to_vec())),
    ];
    let union = union_of(&[(entries, vec![list(&["b", "c"])])]);
    let (b, c) = (found(&union, "b").unwrap(), found(&union, "c").unwrap());
    assert_eq!((b.ino, b.attr.nlink), (c.ino, 2));
}
