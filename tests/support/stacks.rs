//! Random stacks of layers.
//!
//! What it is for: members of few names, so that layers meet often: files in each
//! other's place, directories merged, hidden and made anew, hard links within a
//! layer and across layers.

use proptest::prelude::*;

use super::layers::{Data, Entry, What};

/// Paths of at most `depth` such names.
pub(crate) fn path(
    names: &'static [&'static [u8]],
    depth: usize,
) -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(names);
    prop::collection::vec(name, 1..=depth).prop_map(|names| names.join(&b'/'))
}

fn target(names: &'static [&'static [u8]], depth: usize) -> impl Strategy<Value = Vec<u8>> {
    let fixed: Vec<&[u8]> = vec![
        b".",
        b"..",
        b"/",
        b"a/",
        b"./b//c",
        b"../../a",
        b"/nothing",
        b"a/../b",
        b"c/.",
    ];
    let path = || path(names, depth);
    prop_oneof![
        2 => path(),
        1 => path().prop_map(|path| [b"/", &path[..]].concat()),
        1 => path().prop_map(|path| [b"../", &path[..]].concat()),
        1 => prop::sample::select(fixed).prop_map(<[u8]>::to_vec),
    ]
}

fn data() -> impl Strategy<Value = Data> {
    let maps = vec![
        None,
        None,
        None,
        Some(vec![]),
        Some(vec![(0, 3), (5, 2)]),
        Some(vec![(2, 6)]),
    ];
    (8u64..40, any::<u8>(), prop::sample::select(maps)).prop_map(|(size, salt, stored)| Data {
        size,
        salt,
        stored,
    })
}

fn what(names: &'static [&'static [u8]], depth: usize) -> impl Strategy<Value = What> {
    prop_oneof![
        5 => data().prop_map(What::File),
        5 => Just(What::Dir),
        3 => target(names, depth).prop_map(What::Symlink),
        4 => path(names, depth).prop_map(What::Link),
        1 => (0u32..3, 0u32..3).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => Just(What::Fifo),
        4 => Just(What::Whiteout),
        2 => Just(What::Opaque),
    ]
}

/// A member.
pub(crate) fn entry(names: &'static [&'static [u8]], depth: usize) -> impl Strategy<Value = Entry> {
    let xattr: &[&[u8]] = &[b"user.a", b"user.b", b"user.c", b"security.capability"];
    let xattr =
        (prop::sample::select(xattr), 0u8..3).prop_map(|(name, v)| (name.to_vec(), vec![v]));
    let xattrs = prop_oneof![3 => Just(None), 1 => xattr.prop_map(Some)];
    let path = prop_oneof![1 => Just(Vec::new()), 30 => path(names, depth)];
    let what = what(names, depth);
    (path, what, 0u16..0o10000, 0u32..5, -3i64..9, xattrs).prop_map(
        |(path, what, mode, owner, seconds, xattr)| {
            let xattrs = xattr.into_iter().collect();
            // Symlinks have no other.
            let mode = match what {
                What::Symlink(_) => 0o777,
                _ => mode,
            };
            Entry {
                path,
                what,
                mode,
                owner,
                seconds,
                xattrs,
            }
        },
    )
}

/// One to `layers` layers of at most `members` members each, lowest first.
pub(crate) fn stacks(
    names: &'static [&'static [u8]],
    depth: usize,
    members: usize,
    layers: usize,
) -> impl Strategy<Value = Vec<Vec<Entry>>> {
    let layer = prop::collection::vec(entry(names, depth), 0..=members);
    prop::collection::vec(layer, 1..=layers)
}
