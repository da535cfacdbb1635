//! What is there is shown; what programs say is kept exactly.

use rustix::io::Errno;

use super::*;
use crate::node::Time;
use crate::union::upper::{Change, Mark, SetTime, SetXattr};

#[test]
fn every_kind_is_made_as_it_was_asked_for_in_place_and_staged() {
    let Some(lab) = lab() else { return };
    let kinds = [
        What::File(0),
        What::File(12345),
        What::Dir,
        What::Symlink(b"to/nowhere"),
        What::Char(NULL),
        What::Char(Device::default()),
        What::Block(Device {
            major: 7,
            minor: 300,
        }),
        What::Fifo,
        What::Socket,
    ];
    let times = (
        Time {
            seconds: -5,
            nanos: 7,
        },
        Time {
            seconds: 1 << 33,
            nanos: 999_999_999,
        },
    );
    for (number, what) in kinds.into_iter().enumerate() {
        for mode in [0o640, 0o7711, 0] {
            for (uid, times) in [(0, None), (0, Some(times)), (1234, Some(times))] {
                let name = format!("{number}-{mode:o}-{uid}-{}", times.is_some());
                let gid = uid;
                let new = New {
                    uid,
                    gid,
                    times,
                    ..new(what, mode)
                };
                let (key, told) = lab.up().make(lab.root(), name.as_bytes(), &new).unwrap();
                let kind = what.kind();
                assert_eq!(lab.find(lab.root(), &name), Some(Entry::Object(key, kind)));
                let stat = lab.up().stat(key).unwrap();
                assert_eq!(told.attr, stat.attr, "{name}");
                assert_eq!((told.ctime, told.atime), (stat.ctime, stat.atime));
                let wanted = if kind == Kind::Symlink { 0o777 } else { mode };
                assert_eq!((stat.attr.kind, stat.attr.mode), (kind, wanted), "{name}");
                assert_eq!((stat.attr.uid, stat.attr.gid), (uid, gid));
                if let Some(times) = times {
                    assert_eq!((stat.atime, stat.attr.mtime), times);
                }
                match what {
                    What::File(size) => assert_eq!(stat.attr.size, size),
                    What::Char(number) | What::Block(number) => {
                        assert_eq!((stat.attr.rdev, stat.attr.size), (number, 0));
                    }
                    What::Symlink(to) => assert_eq!(lab.up().target(key).unwrap(), to),
                    What::Dir | What::Fifo | What::Socket => assert_eq!(stat.attr.size, 0),
                }
            }
        }
    }
    lab.shown(lab.root());
    assert_eq!(lab.left_over(), [""; 0]);
}

#[test]
fn a_group_is_handed_down_by_a_setgid_directory_only_as_far_as_it_was_asked_for() {
    let Some(lab) = lab() else { return };
    let up = lab.up();
    let marked = New {
        gid: 77,
        ..new(What::Dir, 0o2755)
    };
    let (dir, _) = up.make(lab.root(), b"d", &marked).unwrap();
    for (gid, what, mode) in [
        (77, What::File(0), 0o600),
        (0, What::File(0), 0o600),
        (77, What::Dir, 0o755),
        (77, What::Dir, 0o2755),
        (0, What::Symlink(b"x"), 0o777),
    ] {
        let name = format!("{gid}{:?}{mode}", what.kind());
        let (_, stat) = up
            .make(
                dir,
                name.as_bytes(),
                &New {
                    gid,
                    ..new(what, mode)
                },
            )
            .unwrap();
        assert_eq!((stat.attr.gid, stat.attr.mode), (gid, mode), "{name}");
    }
    // The directory's bit and group change: what is made next follows.
    let change = Change {
        mode: Some(0o755),
        gid: Some(5),
        ..Change::default()
    };
    up.set_attr(dir, &change).unwrap();
    let (_, stat) = up.make(dir, b"after", &new(What::Dir, 0o755)).unwrap();
    assert_eq!((stat.attr.gid, stat.attr.mode), (0, 0o755));
}

#[test]
fn what_programs_set_below_the_marks_prefix_is_theirs_and_no_mark() {
    let Some(lab) = lab() else { return };
    let up = lab.up();
    assert_eq!(up.xattrs(up.root()).unwrap(), []);
    for what in [What::Dir, What::File(0), What::Symlink(b"x"), What::Fifo] {
        let name = format!("{:?}", what.kind());
        let key = lab.make(lab.root(), &name, what);
        let names = [
            &b"trusted.overlay.opaque"[..],
            b"trusted.overlay.overlay.x",
            b"trusted.a",
        ];
        for name in names {
            up.set_xattr(key, name, b"y", SetXattr::Create).unwrap();
            let twice = up.set_xattr(key, name, b"y", SetXattr::Create).unwrap_err();
            assert_eq!(errno(&twice), Errno::EXIST);
            assert_eq!(up.xattr(key, name).unwrap().unwrap(), b"y");
        }
        assert_eq!(up.marks(key).unwrap(), Marks::default());
        up.mark(key, Mark::Origin(b"7:1")).unwrap();
        assert_eq!(up.marks(key).unwrap().origin.unwrap(), b"7:1");
        let seen = up.xattrs(key).unwrap();
        let expected = names.map(|name| (name.to_vec(), b"y".to_vec()));
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(seen, expected);
        up.remove_xattr(key, names[0]).unwrap();
        assert_eq!(up.xattr(key, names[0]).unwrap(), None);
        let gone = up.remove_xattr(key, names[0]).unwrap_err();
        assert_eq!(errno(&gone), Errno::NODATA);
        let absent = up
            .set_xattr(key, names[0], b"", SetXattr::Replace)
            .unwrap_err();
        assert_eq!(errno(&absent), Errno::NODATA);
    }
}

#[test]
fn long_values_and_many_names_are_read_whole() {
    let Some(lab) = lab() else { return };
    let key = lab.make(lab.root(), "f", What::File(0));
    let value = vec![7; 1000];
    lab.up()
        .set_xattr(key, b"user.long", &value, SetXattr::Any)
        .unwrap();
    for number in 0..60 {
        let name = format!("user.name-number-{number}");
        lab.up()
            .set_xattr(key, name.as_bytes(), b"", SetXattr::Any)
            .unwrap();
    }
    assert_eq!(lab.up().xattr(key, b"user.long").unwrap().unwrap(), value);
    assert_eq!(lab.up().xattrs(key).unwrap().len(), 61);
}

#[test]
fn marks_are_there_from_the_first_moment_and_complete_takes_two_away() {
    let Some(lab) = lab() else { return };
    let up = lab.up();
    let marks = Marks {
        redirect: Some(b"/a/b".to_vec()),
        metacopy: true,
        origin: Some(b"o".to_vec()),
        ..PLAIN
    };
    let xattrs = [(b"trusted.overlay.metacopy".to_vec(), b"mine".to_vec())];
    let new = New {
        marks: &marks,
        xattrs: &xattrs,
        ..new(What::File(99), 0o600)
    };
    let key = up.stage(&new).unwrap();
    assert_eq!(up.marks(key).unwrap(), marks);
    up.publish(key, &[(lab.root(), b"f")]).unwrap();
    assert_eq!(up.marks_at(lab.root(), b"f").unwrap(), marks);
    assert_eq!(up.stat(key).unwrap().attr.size, 99);
    up.mark(key, Mark::Complete).unwrap();
    up.mark(key, Mark::Complete).unwrap();
    let origin = marks.origin.clone();
    assert_eq!(up.marks(key).unwrap(), Marks { origin, ..PLAIN });
    assert_eq!(up.xattrs(key).unwrap(), xattrs);
}

#[test]
fn marks_that_make_no_sense_are_damage() {
    let Some(lab) = lab() else { return };
    let key = lab.make(lab.root(), "f", What::File(0));
    for (mark, value) in [("redirect", "/../x"), ("redirect", ""), ("metacopy", "y")] {
        let (path, name) = (lab.path("upper/f"), format!("trusted.overlay.{mark}"));
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, &name, value.as_bytes(), flags).unwrap();
        let error = lab.up().marks(key).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{mark}");
        rustix::fs::removexattr(&path, &name).unwrap();
    }
}

#[test]
fn a_programs_own_device_without_a_number_is_a_device_wherever_it_goes() {
    let Some(mut lab) = lab() else { return };
    let root = lab.root();
    let dir = lab.make(root, "d", What::Dir);
    let sub = lab.make(dir, "s", What::Dir);
    let key = lab.make(dir, "dev", What::Char(Device::default()));
    let sticky = lab.make(dir, "empty", What::File(0));
    let change = |mode| Change {
        mode: Some(mode),
        ..Change::default()
    };
    for mode in [0o1755, 0o600, 0o6755] {
        lab.up().set_attr(key, &change(mode)).unwrap();
        lab.up().set_attr(sticky, &change(mode)).unwrap();
        assert_eq!(lab.up().stat(key).unwrap().attr.mode, mode);
        assert_eq!(lab.up().stat(sticky).unwrap().attr.mode, mode);
    }
    lab.up().set_attr(sticky, &change(0o1700)).unwrap();
    let error = lab.up().open(key).unwrap_err();
    assert_eq!(errno(&error), Errno::INVAL);
    // To directories that have none yet, by every way there is.
    lab.up()
        .rename((dir, b"dev"), (sub, b"renamed"), false)
        .unwrap();
    lab.up().link(key, root, b"linked", false).unwrap();
    let other = lab.make(root, "other", What::Dir);
    lab.make(other, "file", What::File(0));
    lab.up()
        .exchange((root, b"linked"), (other, b"file"))
        .unwrap();
    let staged = lab
        .up()
        .stage(&new(What::Char(Device::default()), 0o600))
        .unwrap();
    let third = lab.make(root, "third", What::Dir);
    lab.up()
        .publish(staged, &[(third, b"one"), (third, b"two")])
        .unwrap();
    lab.reopen();
    let root = lab.root();
    let chars = |dir: &str| {
        let shown = lab.shown(lab.key(root, dir));
        shown
            .iter()
            .filter(|(_, kind)| *kind == Some(Kind::Char))
            .count()
    };
    assert_eq!((chars("d"), chars("other"), chars("third")), (0, 1, 2));
    let sub = lab.key(lab.key(root, "d"), "s");
    assert_eq!(lab.shown(sub), shown(&[("renamed", Some(Kind::Char))]));
    let stat = lab.up().stat(lab.key(sub, "renamed")).unwrap();
    assert_eq!((stat.attr.rdev, stat.attr.nlink), (Device::default(), 2));
    assert_eq!(lab.up().xattrs(lab.key(sub, "renamed")).unwrap(), []);
}

#[test]
fn attributes_are_set_without_following_anything() {
    let Some(lab) = lab() else { return };
    let up = lab.up();
    let file = lab.make(lab.root(), "f", What::File(100));
    let link = lab.make(lab.root(), "l", What::Symlink(b"f"));
    let before = up.stat(file).unwrap();
    let time = Time {
        seconds: 5,
        nanos: 6,
    };
    let change = Change {
        uid: Some(3),
        gid: Some(4),
        mtime: Some(SetTime::To(time)),
        ..Change::default()
    };
    up.set_attr(link, &change).unwrap();
    let stat = up.stat(link).unwrap();
    assert_eq!(
        (stat.attr.uid, stat.attr.gid, stat.attr.mtime),
        (3, 4, time)
    );
    assert_eq!(up.stat(file).unwrap(), before);
    let mode = Change {
        mode: Some(0o600),
        ..Change::default()
    };
    assert_eq!(
        errno(&up.set_attr(link, &mode).unwrap_err()),
        Errno::OPNOTSUPP
    );

    up.set_attr(
        file,
        &Change {
            mode: Some(0o6755),
            ..Change::default()
        },
    )
    .unwrap();
    up.set_attr(
        file,
        &Change {
            size: Some(7),
            ..Change::default()
        },
    )
    .unwrap();
    assert_eq!(up.stat(file).unwrap().attr.mode, 0o6755);
    up.set_attr(file, &change).unwrap();
    let stat = up.stat(file).unwrap();
    assert_eq!(
        (stat.attr.size, stat.attr.mode),
        (7, 0o755),
        "chown(2) strips"
    );
}

#[test]
fn contents_are_read_and_written_where_they_are() {
    let Some(lab) = lab() else { return };
    let key = lab.make(lab.root(), "f", What::File(0));
    let data = lab.up().open(key).unwrap();
    let same = lab.up().open(key).unwrap();
    data.write_at(1 << 20, b"far").unwrap();
    let mut read = [9; 10];
    assert_eq!(same.read_at((1 << 20) - 2, &mut read).unwrap(), 5);
    assert_eq!(&read[..5], b"\0\0far");
    assert_eq!(data.seek(0, true).unwrap(), Some(1 << 20));
    assert_eq!(data.seek(0, false).unwrap(), Some(0));
    assert_eq!(data.seek(2 << 20, true).unwrap(), None);
    data.allocate(0, 0, 2 << 20).unwrap();
    assert_eq!(lab.up().stat(key).unwrap().attr.size, 2 << 20);
    data.sync(true).unwrap();
    data.sync(false).unwrap();
    assert!(data.descriptor().is_some());
    assert!(data.read_at(u64::MAX, &mut read).is_err());
}

#[test]
fn a_path_longer_than_any_system_call_takes_is_reached() {
    let Some(mut lab) = lab() else { return };
    let name = "n".repeat(200);
    let mut dir = lab.root();
    // More than PATH_MAX (4096), and more directories than stay open.
    for _ in 0..300 {
        dir = lab.make(dir, &name, What::Dir);
    }
    lab.make(dir, "deep", What::File(3));
    for _ in 0..2 {
        let mut dir = lab.root();
        let top = lab.key(dir, &name);
        for _ in 0..300 {
            dir = lab.key(dir, &name);
        }
        assert_eq!(lab.up().stat(lab.key(dir, "deep")).unwrap().attr.size, 3);
        lab.up().sync_dir(top).unwrap();
        lab.reopen();
    }
}

#[test]
fn names_that_are_paths_never_reach_the_system() {
    let Some(lab) = lab() else { return };
    for name in ["", ".", "..", "a/b", "/", "a\0"] {
        let error = lab.up().find(lab.root(), name.as_bytes()).unwrap_err();
        assert_eq!(errno(&error), Errno::INVAL, "{name}");
        let made = lab
            .up()
            .make(lab.root(), name.as_bytes(), &new(What::Dir, 0o755));
        assert_eq!(errno(&made.unwrap_err()), Errno::INVAL, "{name}");
    }
    let long = lab.up().find(lab.root(), "x".repeat(256).as_bytes());
    assert_eq!(errno(&long.unwrap_err()), Errno::NAMETOOLONG);
}

#[test]
fn an_object_that_somebody_exchanged_behind_our_back_is_stale() {
    let Some(mut lab) = lab() else { return };
    lab.make(lab.root(), "f", What::File(1));
    lab.make(lab.root(), "d", What::Dir);
    lab.reopen();
    let (key, dir) = (lab.key(lab.root(), "f"), lab.key(lab.root(), "d"));
    for name in ["f", "d"] {
        let path = lab.path("upper").join(name);
        std::fs::rename(&path, lab.path(&format!("was-{name}"))).unwrap();
        std::os::unix::fs::symlink(lab.path(""), &path).unwrap();
    }
    assert_eq!(errno(&lab.up().stat(key).unwrap_err()), Errno::STALE);
    assert_eq!(errno(&lab.up().open(key).unwrap_err()), Errno::STALE);
    assert_eq!(errno(&lab.up().marks(key).unwrap_err()), Errno::STALE);
    assert_eq!(
        errno(&lab.up().find(dir, b"inside").unwrap_err()),
        Errno::STALE
    );
    assert_eq!(errno(&lab.up().stat(Key(99)).unwrap_err()), Errno::STALE);
}

#[test]
fn access_control_lists_and_capabilities_arrive_with_the_wanted_mode() {
    let Some(lab) = lab() else { return };
    // Version 2; user:: rw, user:5: rw, group:: r, mask:: rw, other:: none (acl(5),
    // include/uapi/linux/posix_acl_xattr.h).
    let entry = |tag: u16, perm: u16, id: u32| {
        let (tag, perm, id) = (tag.to_le_bytes(), perm.to_le_bytes(), id.to_le_bytes());
        [&tag[..], &perm, &id].concat()
    };
    let nobody = u32::MAX;
    let entries = [
        entry(1, 6, nobody),
        entry(2, 6, 5),
        entry(4, 4, nobody),
        entry(16, 6, nobody),
        entry(32, 0, nobody),
    ];
    let acl = [&2u32.to_le_bytes()[..], &entries.concat()].concat();
    // Revision 2, effective, CAP_NET_RAW (include/uapi/linux/capability.h).
    let words = [0x0200_0001u32, 1 << 13, 0, 0, 0];
    let capability: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let xattrs = [
        (b"security.capability".to_vec(), capability),
        (b"system.posix_acl_access".to_vec(), acl),
    ];
    let new = New {
        uid: 7,
        gid: 8,
        xattrs: &xattrs,
        ..new(What::File(0), 0o6660)
    };
    let (key, stat) = lab.up().make(lab.root(), b"f", &new).unwrap();
    assert_eq!((stat.attr.mode, stat.attr.uid), (0o6660, 7));
    assert_eq!(lab.up().xattrs(key).unwrap(), xattrs);
}
