//! Names come, go and move; whiteouts cover; what lost its name stays usable.

use rustix::io::Errno;

use super::*;
use crate::node::Time;
use crate::union::upper::{Change, Mark, SetTime, SetXattr};

const FILE: Option<Kind> = Some(Kind::File);
const DIR: Option<Kind> = Some(Kind::Dir);
const WHITEOUT: Option<Kind> = None;

/// A file, a directory with a whiteout in it, an empty one, and a whiteout.
fn furnished() -> Option<Lab> {
    let lab = lab()?;
    let root = lab.root();
    lab.make(root, "file", What::File(5));
    let dir = lab.make(root, "dir", What::Dir);
    lab.up().cover(dir, b"hidden").unwrap();
    lab.make(root, "empty", What::Dir);
    lab.up().cover(root, b"out").unwrap();
    Some(lab)
}

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
    ];
    for (number, what) in kinds.into_iter().enumerate() {
        for way in ["make", "publish"] {
            let name = format!("{way}{number}");
            lab.up().cover(root, name.as_bytes()).unwrap();
            let new = new(what, 0o644);
            let publish = || {
                let key = lab.up().stage(&new)?;
                lab.up().publish(key, &[(root, name.as_bytes())], false)?;
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
        assert_eq!(lab.left_over(), [""; 0]);
    }
}

#[test]
fn what_lost_its_last_name_stays_usable_until_it_is_forgotten() {
    let Some(lab) = furnished() else { return };
    let (up, root) = (lab.up(), lab.root());
    let file = lab.key(root, "file");
    let dir = lab.key(root, "dir");
    let link = lab.make(root, "symlink", What::Symlink(b"target"));
    for name in [&b"file"[..], b"dir", b"symlink"] {
        up.remove(root, name, false).unwrap();
    }
    // Numbers of the dead are not given to those that come.
    for number in 0..50 {
        let key = lab.make(root, &format!("new{number}"), What::File(0));
        assert!(![file, dir, link].contains(&key));
    }
    let change = Change {
        mode: Some(0o611),
        uid: Some(9),
        mtime: Some(SetTime::To(Time {
            seconds: 1,
            nanos: 2,
        })),
        ..Change::default()
    };
    for key in [file, dir] {
        up.set_attr(key, &change).unwrap();
        let stat = up.stat(key).unwrap();
        assert_eq!(
            (stat.attr.mode, stat.attr.uid, stat.attr.mtime.nanos),
            (0o611, 9, 2)
        );
        assert_eq!(stat.attr.nlink, 0);
        up.set_xattr(key, b"user.a", b"b", SetXattr::Any).unwrap();
        up.mark(key, Mark::Impure).unwrap();
        assert_eq!(up.xattrs(key).unwrap().len(), 1);
    }
    assert_eq!(up.target(link).unwrap(), b"target");
    up.set_attr(
        file,
        &Change {
            size: Some(3),
            ..Change::default()
        },
    )
    .unwrap();
    let data = up.open(file).unwrap();
    up.forget(file);
    data.write_at(0, b"abcd").unwrap();
    assert_eq!(errno(&up.stat(file).unwrap_err()), Errno::STALE);
    let made = up.make(dir, b"x", &new(What::File(0), 0o600)).unwrap_err();
    assert_eq!(errno(&made), Errno::NOENT);
    let listed = up.list(dir, &mut |_, _| ()).unwrap_err();
    assert_eq!(errno(&listed), Errno::NOENT);
}

#[test]
fn names_of_one_object_come_and_go_and_it_stays_the_same() {
    let Some(lab) = lab() else { return };
    let (up, root) = (lab.up(), lab.root());
    let key = lab.make(root, "0", What::File(5));
    let dir = lab.make(root, "d", What::Dir);
    // More than are remembered.
    for number in 1..20 {
        up.link(
            key,
            if number % 2 == 0 { root } else { dir },
            format!("{number}").as_bytes(),
            false,
        )
        .unwrap();
    }
    assert_eq!(up.stat(key).unwrap().attr.nlink, 20);
    for number in (0..20).rev() {
        let parent = if number % 2 == 0 { root } else { dir };
        up.rename(
            (parent, format!("{number}").as_bytes()),
            (dir, b"moved"),
            false,
        )
        .unwrap();
        assert_eq!(up.stat(key).unwrap().attr.size, 5);
        up.remove(dir, b"moved", false).unwrap();
        assert_eq!(up.stat(key).unwrap().attr.nlink, number);
    }
    assert_eq!(up.stat(key).unwrap().attr.nlink, 0);
    up.forget(key);
    assert_eq!(errno(&up.stat(key).unwrap_err()), Errno::STALE);
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

#[test]
fn what_lies_below_a_renamed_directory_is_found_by_its_old_key() {
    let Some(lab) = furnished() else { return };
    let (up, root) = (lab.up(), lab.root());
    let dir = lab.key(root, "dir");
    let sub = lab.make(dir, "sub", What::Dir);
    let file = lab.make(sub, "f", What::File(7));
    up.rename((root, b"dir"), (root, b"moved"), false).unwrap();
    assert_eq!(up.stat(file).unwrap().attr.size, 7);
    let empty = lab.key(root, "empty");
    up.exchange((dir, b"sub"), (root, b"empty")).unwrap();
    assert_eq!((lab.key(root, "empty"), lab.key(dir, "sub")), (sub, empty));
    assert_eq!(up.stat(file).unwrap().attr.size, 7);
    up.forget(dir);
    up.forget(sub);
    assert_eq!(up.stat(file).unwrap().attr.size, 7);
    assert_eq!(up.marks(file).unwrap(), Marks::default());
}

#[test]
fn what_nobody_asks_for_is_not_remembered() {
    let Some(lab) = lab() else { return };
    let root = lab.root();
    let mut all = vec![root];
    for _ in 0..50 {
        all.push(lab.make(*all.last().unwrap(), "d", What::Dir));
    }
    assert_eq!(lab.up().table.lock().len(), 52);
    let (last, dirs) = all.split_last().unwrap();
    for key in dirs {
        lab.up().forget(*key);
    }
    assert_eq!(lab.up().table.lock().len(), 52);
    lab.up().stat(*last).unwrap();
    lab.up().forget(*last);
    assert_eq!(lab.up().table.lock().len(), 2);
    assert!(lab.list(root).len() == 1);
}

#[test]
fn what_was_staged_and_never_published_is_gone_when_it_is_forgotten() {
    let Some(lab) = lab() else { return };
    let up = lab.up();
    let keys = [What::File(3), What::Dir, What::Symlink(b"x")]
        .map(|what| up.stage(&new(what, 0o700)).unwrap());
    assert_eq!(lab.left_over().len(), 3);
    up.open(keys[0]).unwrap().write_at(0, b"x").unwrap();
    up.publish(keys[0], &[], true).unwrap();
    assert_eq!(up.stat(keys[0]).unwrap().attr.nlink, 0);
    for key in keys {
        up.forget(key);
    }
    assert_eq!(lab.left_over(), [""; 0]);
    assert!(lab.list(lab.root()).is_empty());
}

#[test]
fn publishing_gives_all_names_and_leaves_the_directories_times() {
    let Some(lab) = lab() else { return };
    let (up, root) = (lab.up(), lab.root());
    let dir = lab.make(root, "d", What::Dir);
    up.cover(dir, b"two").unwrap();
    let old = Time {
        seconds: 1000,
        nanos: 1,
    };
    let change = Change {
        atime: Some(SetTime::To(old)),
        mtime: Some(SetTime::To(old)),
        ..Change::default()
    };
    for key in [root, dir] {
        up.set_attr(key, &change).unwrap();
    }
    let key = up.stage(&new(What::File(0), 0o600)).unwrap();
    let names = [(root, &b"one"[..]), (dir, b"two"), (dir, b"three")];
    up.publish(key, &names, true).unwrap();
    up.link(key, root, b"four", true).unwrap();
    for dir in [root, dir] {
        let stat = up.stat(dir).unwrap();
        assert_eq!((stat.atime, stat.attr.mtime), (old, old));
    }
    assert_eq!(up.stat(key).unwrap().attr.nlink, 4);
    assert_eq!((lab.key(dir, "two"), lab.key(root, "four")), (key, key));
    up.link(key, root, b"five", false).unwrap();
    assert_ne!(up.stat(root).unwrap().attr.mtime, old);
    let twice = up.publish(key, &[(root, b"six")], false).unwrap_err();
    assert_eq!(errno(&twice), Errno::INVAL);
}

#[test]
fn lookers_never_meet_an_error_while_names_change_beside_them() {
    let Some(lab) = furnished() else { return };
    let (up, root) = (lab.up(), lab.root());
    let dir = lab.key(root, "dir");
    let file = lab.make(dir, "f", What::File(5));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(up.stat(file).unwrap().attr.size, 5);
                    assert_eq!(up.marks(file).unwrap(), Marks::default());
                    up.open(file).unwrap();
                    up.set_attr(
                        file,
                        &Change {
                            mode: Some(0o600),
                            ..Change::default()
                        },
                    )
                    .unwrap();
                }
            });
        }
        for _ in 0..300 {
            up.rename((root, b"dir"), (root, b"x"), true).unwrap();
            up.rename((dir, b"f"), (root, b"f"), false).unwrap();
            up.rename((root, b"x"), (root, b"dir"), false).unwrap();
            up.rename((root, b"f"), (dir, b"f"), false).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
