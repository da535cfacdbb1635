//! Everything that an image can have.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use lazyroot::backend::copy::sync;
use proptest::prelude::*;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags};

use super::disk::{is_the_same, stretches, xattrs};
use super::support::both;
use super::support::layers::{Data, Entry, Maker, What};
use super::support::stacks::stacks;
use super::{copied, is_root};

const NAMES: &[&[u8]] = &[b"a", b"b", b"a b", b"c", b"\xff"];

/// A capability as the kernel takes it: cap_net_raw, permitted and effective
/// (`struct vfs_cap_data`, revision 2).
fn capability() -> Vec<u8> {
    let words = [0x0200_0001u32, 1 << 13, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An access control list of version 2 (`struct posix_acl_xattr_entry`).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for &(tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Owner, one user, group, mask, others.
fn acl_for(user: u32) -> Vec<u8> {
    let nobody = u32::MAX;
    acl(&[
        (1, 7, nobody),
        (2, 5, user),
        (4, 5, nobody),
        (16, 5, nobody),
        (32, 0, nobody),
    ])
}

fn data(size: u64, salt: u8) -> What {
    What::File(Data {
        size,
        salt,
        stored: None,
    })
}

fn with(mut entry: Entry, mode: u16, xattrs: &[(&str, Vec<u8>)]) -> Entry {
    entry.mode = mode;
    let pair = |(name, value): &(&str, Vec<u8>)| (name.as_bytes().to_vec(), value.clone());
    entry.xattrs = xattrs.iter().map(pair).collect();
    entry.owner = 1000;
    entry
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 4,
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_copy_is_what_unpacking_layer_by_layer_gives(stack in stacks(NAMES, 3, 13, 6)) {
        if !is_root() {
            return Ok(());
        }
        let mut stack = stack;
        for entry in stack.iter_mut().flatten() {
            for (_, value) in entry.xattrs.iter_mut().filter(|x| x.0 == b"security.capability") {
                *value = capability();
            }
        }
        let (union, tree) = both(&stack);
        let dir = tempfile::tempdir().unwrap();
        copied(&union, dir.path()).unwrap();
        is_the_same(dir.path(), &tree);
    }
}

#[test]
fn privileges_lists_and_attributes_arrive() {
    if !is_root() {
        return;
    }
    let trusted = ("trusted.mark", b"\0\xff".to_vec());
    let layer = [
        with(
            Entry::new("", What::Dir),
            0o1751,
            &[("user.root", b"r".to_vec())],
        ),
        with(Entry::new("suid", data(10, 1)), 0o6755, &[]),
        with(
            Entry::new("ping", data(4000, 2)),
            0o755,
            &[
                ("security.capability", capability()),
                ("user.empty", vec![]),
            ],
        ),
        with(
            Entry::new("dir", What::Dir),
            0o2750,
            &[
                ("system.posix_acl_access", acl_for(7)),
                ("system.posix_acl_default", acl_for(8)),
                trusted.clone(),
            ],
        ),
        // What is made in a directory with a default list must not inherit it.
        with(Entry::new("dir/plain", data(3, 3)), 0o666, &[]),
        with(Entry::new("dir/below", What::Dir), 0o777, &[]),
        with(
            Entry::new("listed", data(3, 4)),
            0o750,
            &[("system.posix_acl_access", acl_for(9))],
        ),
        with(
            Entry::new("null", What::Char(1, 3)),
            0o6666,
            std::slice::from_ref(&trusted),
        ),
        with(Entry::new("whiteout", What::Char(0, 0)), 0o600, &[]),
        with(
            Entry::new("pipe", What::Fifo),
            0o4622,
            std::slice::from_ref(&trusted),
        ),
        with(
            Entry::new("soft", What::Symlink(b"/no/where".to_vec())),
            0o777,
            &[trusted],
        ),
        with(Entry::new("closed", What::Dir), 0, &[]),
        with(Entry::new("closed/file", data(1, 5)), 0, &[]),
    ];
    let (union, tree) = both(&[layer.to_vec()]);
    let dir = tempfile::tempdir().unwrap();
    // Neither may what is made in the directory inherit its own list, group and mode.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o2777)).unwrap();
    rustix::fs::chown(dir.path(), None, Some(rustix::fs::Gid::from_raw(55))).unwrap();
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        rustix::fs::setxattr(dir.path(), name, &acl_for(10), XattrFlags::empty()).unwrap();
    }
    let copied = copied(&union, dir.path()).unwrap();
    is_the_same(dir.path(), &tree);
    assert_eq!((copied.objects, copied.bytes), (12, 4017));
    let seen = xattrs(&dir.path().join("dir"));
    assert_eq!(seen[&b"system.posix_acl_default"[..]], acl_for(8));
    sync(dir.path()).unwrap();
}

#[test]
fn one_object_stays_one_whatever_it_is_and_whichever_layers_name_it() {
    if !is_root() {
        return;
    }
    let link = |path: &str, to: &str| Entry::new(path, What::Link(to.as_bytes().to_vec()));
    let low = vec![
        Entry::new("z/file", data(100_000, 1)),
        link("a/again", "z/file"),
        Entry::new("soft", What::Symlink(b"z".to_vec())),
        link("b/soft", "soft"),
        Entry::new("pipe", What::Fifo),
        Entry::new("device", What::Char(1, 5)),
        link("b/device", "device"),
    ];
    let high = vec![
        link("b/third", "a/again"),
        link("b/pipe", "pipe"),
        Entry::new("z/file", What::Whiteout),
    ];
    let (union, tree) = both(&[low, high]);
    let dir = tempfile::tempdir().unwrap();
    let copied = copied(&union, dir.path()).unwrap();
    is_the_same(dir.path(), &tree);
    // a, b and z; file, symlink, pipe and device.
    assert_eq!((copied.objects, copied.bytes), (7, 100_000));
}

#[test]
fn holes_stay_holes_and_large_files_are_whole() {
    if !is_root() {
        return;
    }
    const MIB: u64 = 1 << 20;
    let maps = [
        vec![],
        vec![(0, 4096)],
        vec![(MIB, MIB)],
        vec![(0, 8192), (MIB, 4096), (3 * MIB, MIB)],
        vec![(0, 2 * MIB + 4096)],
    ];
    let sparse = |(number, map): (usize, &Vec<(u64, u64)>)| {
        let stored = Some(map.clone());
        let file = Data {
            size: 4 * MIB,
            salt: number as u8,
            stored,
        };
        Entry::new(&format!("sparse-{number}"), What::File(file))
    };
    let mut layer: Vec<Entry> = maps.iter().enumerate().map(sparse).collect();
    layer.push(Entry::new("large", data(3 * MIB + 17, 9)));
    layer.push(Entry::new("empty", data(0, 9)));
    let (union, tree) = both(&[layer]);
    let dir = tempfile::tempdir().unwrap();
    let copied = copied(&union, dir.path()).unwrap();
    is_the_same(dir.path(), &tree);
    for (number, map) in maps.iter().enumerate() {
        let path = dir.path().join(format!("sparse-{number}"));
        assert_eq!(&stretches(&path), map);
        let stored: u64 = map.iter().map(|stretch| stretch.1).sum();
        assert_eq!(fs::metadata(path).unwrap().blocks() * 512, stored);
    }
    let stored: u64 = maps.iter().flatten().map(|stretch| stretch.1).sum();
    assert_eq!(copied.bytes, stored + 3 * MIB + 17);
}

#[test]
fn a_tree_deeper_than_any_path_arrives() {
    if !is_root() {
        return;
    }
    // Beside each directory is a file, and one more directory.
    let depth = 1500;
    let mut layer = Vec::new();
    let mut path = String::new();
    for level in 0..depth {
        layer.push(Entry::new(&format!("{path}file"), data(level % 7, 1)));
        layer.push(with(Entry::new(&format!("{path}a"), What::Dir), 0o700, &[]));
        layer.push(with(Entry::new(&format!("{path}z"), What::Dir), 0, &[]));
        path.push_str("next/");
        let this = Entry::new(path.trim_end_matches('/'), What::Dir);
        layer.push(with(this, 0o711, &[]));
    }
    let (mut maker, dir) = (Maker::new(), tempfile::tempdir().unwrap());
    let union = lazyroot::union::Union::new(vec![maker.layer(&layer)]);
    let copied = copied(&union, dir.path()).unwrap();
    assert_eq!(copied.objects, depth * 4);
    let open = |at: &OwnedFd| rustix::fs::openat(at, "next", OFlags::PATH, Mode::empty());
    let mut at = rustix::fs::openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    for level in 0..depth {
        let stat = |name| rustix::fs::statat(&at, name, rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!(stat("file").st_size as u64, level % 7);
        assert_eq!(stat("a").st_mode & 0o7777, 0o700);
        assert_eq!(stat("z").st_mode & 0o7777, 0);
        at = open(&at).unwrap();
        let stat = rustix::fs::fstat(&at).unwrap();
        assert_eq!(
            (stat.st_mode & 0o7777, stat.st_mtime, stat.st_mtime_nsec),
            (0o711, 1, 7)
        );
    }
    lazyroot::remove::remove_contents(dir.path()).unwrap();
}

#[test]
fn a_directory_that_many_layers_make_arrives_however_large() {
    if !is_root() {
        return;
    }
    let file = |layer: u8, number: u32| {
        let path = format!("large/{number}");
        Entry::new(&path, data(u64::from(number % 3), layer))
    };
    let low = (0..3000).map(|number| file(1, number)).collect();
    let mut high: Vec<Entry> = (2000..4000).map(|number| file(2, number)).collect();
    high.push(Entry::new("large/0", What::Whiteout));
    let (union, tree) = both(&[low, high]);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(copied(&union, dir.path()).unwrap().objects, 4000);
    is_the_same(dir.path(), &tree);
}
