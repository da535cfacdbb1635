//! Objects by their keys: wherever their names go, and after they lost them.

use rustix::io::Errno;

use super::*;
use crate::node::Time;
use crate::union::upper::{Change, Mark, SetTime, SetXattr};

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
    up.tidy();
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
    up.publish(keys[0], &[]).unwrap();
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
    up.publish(key, &names).unwrap();
    up.link(key, root, b"four", true).unwrap();
    for dir in [root, dir] {
        let stat = up.stat(dir).unwrap();
        assert_eq!((stat.atime, stat.attr.mtime), (old, old));
    }
    assert_eq!(up.stat(key).unwrap().attr.nlink, 4);
    assert_eq!((lab.key(dir, "two"), lab.key(root, "four")), (key, key));
    up.link(key, root, b"five", false).unwrap();
    assert_ne!(up.stat(root).unwrap().attr.mtime, old);
    let twice = up.publish(key, &[(root, b"six")]).unwrap_err();
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

/// Files in the upper or work directory that this process has open.
fn open_files(lab: &Lab) -> Vec<PathBuf> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let ours = open.filter(|path| path.starts_with(lab.dir.path()));
    // A name that is gone leads nowhere.
    ours.filter(|path| !path.is_dir()).collect()
}

#[test]
fn files_stay_open_in_case_that_somebody_asks_but_not_many_and_not_for_ever() {
    let Some(lab) = lab() else { return };
    let (up, root) = (lab.up(), lab.root());
    let keys: Vec<_> = (0..300_u16)
        .map(|number| {
            let key = lab.make(root, &format!("f{number}"), What::File(0));
            let data = up.open(key).unwrap();
            data.write_at(0, &number.to_le_bytes()).unwrap();
            key
        })
        .collect();
    let open = open_files(&lab).len();
    assert!((1..=64).contains(&open), "{open}");
    for (number, key) in (0..300_u16).zip(&keys) {
        let change = Change {
            mode: Some(number),
            ..Change::default()
        };
        up.set_attr(*key, &change).unwrap();
        let name = format!("user.{number}");
        up.set_xattr(*key, name.as_bytes(), b"v", SetXattr::Create)
            .unwrap();
    }
    assert!(open_files(&lab).len() <= 64);
    up.rest();
    assert_eq!(open_files(&lab), [""; 0].map(PathBuf::from));
    for (number, key) in (0..300_u16).zip(&keys) {
        let stat = up.stat(*key).unwrap();
        assert_eq!((stat.attr.mode, stat.attr.size), (number, 2));
        let name = format!("user.{number}").into_bytes();
        assert_eq!(up.xattrs(*key).unwrap(), [(name, b"v".to_vec())]);
        let mut bytes = [0; 2];
        up.open(*key).unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, number.to_le_bytes());
    }
    assert!(open_files(&lab).len() <= 64);
}

#[test]
fn a_file_that_stays_open_is_what_its_key_says_and_its_room_is_given_back() {
    let Some(lab) = lab() else { return };
    let (up, root) = (lab.up(), lab.root());
    let old = lab.make(root, "f", What::File(0));
    let other = lab.make(root, "g", What::File(0));
    up.open(old).unwrap().write_at(0, b"old").unwrap();
    up.open(other).unwrap().write_at(0, b"other").unwrap();
    up.link(old, root, b"second", false).unwrap();
    // Each of its names goes another way: replaced, and removed.
    up.rename((root, b"g"), (root, b"f"), false).unwrap();
    assert_eq!(up.stat(old).unwrap().attr.nlink, 1);
    up.remove(root, b"second", false).unwrap();
    assert_eq!(up.stat(old).unwrap().attr.nlink, 0);
    assert_eq!(lab.key(root, "f"), other);
    let bytes = |key| {
        let mut bytes = vec![0; 9];
        let len = up.open(key).unwrap().read_at(0, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    };
    assert_eq!(
        (bytes(old), bytes(other)),
        (b"old".to_vec(), b"other".to_vec())
    );
    let size = Change {
        size: Some(2),
        ..Change::default()
    };
    up.set_attr(old, &size).unwrap();
    assert_eq!(
        (bytes(old), bytes(other)),
        (b"ol".to_vec(), b"other".to_vec())
    );
    up.forget(old);
    let left = open_files(&lab);
    assert_eq!(
        left,
        [lab.path("upper/f")],
        "only what is there keeps its room"
    );
    // A program's own device has no contents, though it is a file on disk.
    let device = lab.make(root, "d", What::Char(Device::default()));
    assert_eq!(errno(&up.open(device).unwrap_err()), Errno::INVAL);
    let staged = up.stage(&new(What::File(0), 0o600)).unwrap();
    up.forget(staged);
    assert_eq!(lab.left_over(), [""; 0]);
    assert_eq!(open_files(&lab), left);
}
