//! Names come, go and move; whiteouts cover.

use rustix::io::Errno;

use super::*;

const FILE: Option<Kind> = Some(Kind::File);
const DIR: Option<Kind> = Some(Kind::Dir);
const WHITEOUT: Option<Kind> = None;

#[test]
fn all_whiteouts_are_one_inode_and_never_a_programs_object() {
    let Some(mut lab) = furnished() else { return };
    assert_eq!(lab.links("upper/out"), 3);
    assert_eq!(lab.links("upper/dir/hidden"), 3);
    let expected = shown(&[
        ("dir", DIR),
        ("empty", DIR),
        ("file", FILE),
        ("out", WHITEOUT),
    ]);
    assert_eq!(lab.shown(lab.root()), expected);
    // Another mount has a whiteout inode of its own, and still knows those.
    lab.reopen();
    assert_eq!(lab.shown(lab.root()), expected);
    lab.up().cover(lab.root(), b"more").unwrap();
    assert_eq!((lab.links("upper/out"), lab.links("upper/more")), (2, 2));
    let error = lab.up().cover(lab.root(), b"file").unwrap_err();
    assert_eq!(errno(&error), Errno::EXIST);
}

#[test]
fn when_the_shared_whiteout_has_all_its_links_another_one_follows() {
    let Some(lab) = lab() else { return };
    // ext4 has 65000 links to an inode; who has no such limit passes all the same.
    for number in 0..65_010 {
        lab.up()
            .cover(lab.root(), format!("{number}").as_bytes())
            .unwrap();
    }
    assert_eq!(lab.list(lab.root()).len(), 65_010);
    assert_eq!(lab.find(lab.root(), "65009"), Some(Entry::Whiteout));
    std::fs::remove_file(lab.path("work/work/#whiteout")).unwrap();
    lab.up().cover(lab.root(), b"one more").unwrap();
    assert_eq!(lab.links("upper/one more"), 2);
}

#[test]
fn everything_can_be_made_over_a_whiteout_and_nothing_over_an_object() {
    let Some(lab) = lab() else { return };
    let root = lab.root();
    let file = lab.make(root, "linked", What::File(1));
    let kinds = [
        What::File(0),
        What::Dir,
        What::Symlink(b"x"),
        What::Char(NULL),
        What::Char(Device::default()),
        What::Fifo,
        What::Socket,
    ];
    for (number, what) in kinds.into_iter().enumerate() {
        for way in ["make", "publish"] {
            let name = format!("{way}{number}");
            lab.up().cover(root, name.as_bytes()).unwrap();
            let new = new(what, 0o644);
            let publish = || {
                let key = lab.up().stage(&new)?;
                lab.up().publish(key, &[(root, name.as_bytes())])?;
                Ok(key)
            };
            let make = || {
                lab.up()
                    .make(root, name.as_bytes(), &new)
                    .map(|made| made.0)
            };
            let again = || if way == "make" { make() } else { publish() };
            let key = again().unwrap();
            assert_eq!(lab.find(root, &name), Some(Entry::Object(key, what.kind())));
            assert_eq!(errno(&again().unwrap_err()), Errno::EXIST);
            assert_eq!(lab.find(root, &name), Some(Entry::Object(key, what.kind())));
        }
    }
    lab.up().cover(root, b"link").unwrap();
    lab.up().link(file, root, b"link", false).unwrap();
    assert_eq!(lab.key(root, "link"), file);
    let error = lab.up().link(file, root, b"make0", false).unwrap_err();
    assert_eq!(errno(&error), Errno::EXIST);
    lab.shown(root);
}

#[test]
fn a_removed_name_is_gone_or_covered() {
    for cover in [false, true] {
        let Some(lab) = furnished() else { return };
        let (up, root) = (lab.up(), lab.root());
        let full = lab.make(root, "full", What::Dir);
        up.cover(full, b"a").unwrap();
        lab.make(full, "b", What::File(0));
        let error = up.remove(root, b"full", cover).unwrap_err();
        assert_eq!(errno(&error), Errno::NOTEMPTY);
        for name in [&b"out"[..], b"nothing"] {
            let error = up.remove(root, name, cover).unwrap_err();
            assert_eq!(errno(&error), Errno::NOENT);
        }
        for name in [&b"file"[..], b"dir", b"empty"] {
            up.remove(root, name, cover).unwrap();
        }
        let mut expected = shown(&[("full", DIR), ("out", WHITEOUT)]);
        if cover {
            let covered = [("dir", WHITEOUT), ("empty", WHITEOUT), ("file", WHITEOUT)];
            expected.splice(0..0, shown(&covered));
            expected.sort_by(|one, other| one.0.cmp(&other.0));
        }
        assert_eq!(lab.shown(root), expected);
        up.tidy();
        assert_eq!(lab.left_over(), [""; 0]);
    }
}

/// With 200 000 of them nothing else could be done for as long as that took.
#[test]
fn whiteouts_of_a_removed_directory_go_when_others_may_change_names_again() {
    for cover in [false, true] {
        let Some(lab) = furnished() else { return };
        let (up, root) = (lab.up(), lab.root());
        let dir = lab.make(root, "hides", What::Dir);
        for name in [b"a", b"b", b"c"] {
            up.cover(dir, name).unwrap();
        }
        up.remove(root, b"hides", cover).unwrap();
        assert_eq!(lab.left_over().len(), 1, "removing it is put off");
        up.tidy();
        assert_eq!(lab.left_over(), [""; 0]);
    }
}

#[test]
fn a_rename_replaces_what_may_be_replaced_and_leaves_a_whiteout_where_asked() {
    for cover in [false, true] {
        for (from, to) in [
            ("file", "new"),
            ("file", "out"),
            ("file", "other"),
            ("empty", "new"),
            ("empty", "out"),
            ("empty", "dir"),
            ("dir", "empty"),
            ("dir", "out"),
            ("dir", "new"),
        ] {
            let Some(lab) = furnished() else { return };
            let (up, root) = (lab.up(), lab.root());
            lab.make(root, "other", What::File(9));
            let moved = lab.find(root, from).unwrap();
            let replaced = lab.find(root, to);
            up.rename((root, from.as_bytes()), (root, to.as_bytes()), cover)
                .unwrap();
            assert_eq!(lab.find(root, to), Some(moved), "{from} {to}");
            let left = cover.then_some(Entry::Whiteout);
            assert_eq!(lab.find(root, from), left, "{from} {to}");
            if let Some(Entry::Object(key, _)) = replaced {
                assert_eq!(up.stat(key).unwrap().attr.nlink, 0);
            }
            if let Entry::Object(key, Kind::Dir) = moved {
                let inside = shown(&[("hidden", WHITEOUT)]);
                assert_eq!(lab.shown(key), if from == "dir" { inside } else { vec![] });
                lab.make(key, "inside", What::File(0));
            }
            lab.shown(root);
            assert_eq!(lab.left_over(), [""; 0]);
        }
    }
}

#[test]
fn a_rename_that_cannot_be_changes_nothing() {
    let Some(lab) = furnished() else { return };
    let (up, root) = (lab.up(), lab.root());
    let full = lab.make(root, "full", What::Dir);
    let below = lab.make(full, "below", What::Dir);
    let before = (lab.shown(root), lab.shown(full));
    for (from, to, expected) in [
        ((root, "out"), (root, "new"), Errno::NOENT),
        ((root, "nothing"), (root, "new"), Errno::NOENT),
        ((root, "file"), (root, "empty"), Errno::ISDIR),
        ((root, "empty"), (root, "file"), Errno::NOTDIR),
        ((root, "dir"), (root, "full"), Errno::NOTEMPTY),
        ((root, "full"), (below, "x"), Errno::INVAL),
    ] {
        for cover in [false, true] {
            let (from, to) = ((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()));
            let error = up.rename(from, to, cover).unwrap_err();
            assert_eq!(errno(&error), expected, "{from:?} {to:?}");
        }
    }
    assert_eq!((lab.shown(root), lab.shown(full)), before);
}

#[test]
fn renaming_one_name_of_an_object_onto_another_does_nothing() {
    let Some(lab) = furnished() else { return };
    let (up, root) = (lab.up(), lab.root());
    let key = lab.key(root, "file");
    up.link(key, root, b"same", false).unwrap();
    up.rename((root, b"file"), (root, b"same"), false).unwrap();
    assert_eq!((lab.key(root, "file"), lab.key(root, "same")), (key, key));
}
