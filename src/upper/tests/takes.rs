//! Who may take a directory, and what is done with it before anything else.

use super::*;
use crate::union::upper::{Mark, SetXattr};

#[test]
fn a_directory_is_taken_by_one_mount_and_for_one_image() {
    let Some(mut lab) = lab() else { return };
    let (upper, work) = (lab.path("upper"), lab.path("work"));
    let open = |upper: &PathBuf, work: &PathBuf, layers| Directory::open(upper, work, layers);
    let again = open(&upper, &work, "sha256:1").unwrap_err();
    assert!(matches!(again, UpperError::InUse(_)), "{again}");
    let other_work = open(&upper, &lab.path("work2"), "sha256:1").unwrap_err();
    assert!(matches!(other_work, UpperError::InUse(_)), "{other_work}");
    assert!(!lab.path("work2").try_exists().unwrap());
    lab.upper = None;
    let other = open(&upper, &work, "sha256:2").unwrap_err();
    assert!(matches!(other, UpperError::OtherImage(_)), "{other}");
    let device = |path: &str| std::fs::metadata(path).unwrap().dev();
    let here = std::fs::metadata(&upper).unwrap().dev();
    match ["/dev/shm", "/tmp"]
        .iter()
        .find(|path| device(path) != here)
    {
        Some(elsewhere) => {
            let elsewhere = tempfile::tempdir_in(elsewhere).unwrap();
            let apart = open(&upper, &elsewhere.path().join("work"), "sha256:1");
            assert!(matches!(apart, Err(UpperError::Apart { .. })));
        }
        None => println!("SKIPPED: needs two file systems"),
    }
    for (upper, work) in [("upper", "upper/w"), ("work/u", "work"), ("upper", "upper")] {
        let nested = open(&lab.path(upper), &lab.path(work), "sha256:1");
        assert!(matches!(nested, Err(UpperError::Nested { .. })), "{upper}");
    }
    // A refusal leaves no directory that it made.
    for path in ["work/u", "upper/w"] {
        assert!(!lab.path(path).try_exists().unwrap(), "{path}");
    }
    open(&upper, &lab.path("no/work"), "sha256:1").unwrap_err();
    open(&lab.path("new"), &lab.path("no/work"), "sha256:1").unwrap_err();
    assert!(!lab.path("new").try_exists().unwrap());
    open(&upper, &work, "sha256:1").unwrap();
}

#[test]
fn who_comes_while_another_lets_go_waits_and_has_his_own_work_directory() {
    let Some(mut lab) = lab() else { return };
    lab.upper = None;
    let (upper, work) = (lab.path("upper"), lab.path("work"));
    let open = || {
        let opened = Directory::open(&upper, &work, "sha256:1");
        opened.map(|directory| directory.with_own_work(work.clone()))
    };
    for _ in 0..20 {
        let before = open().unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(before);
        });
        let next = open().unwrap();
        late.join().unwrap();
        assert!(work.join("work").try_exists().unwrap());
        drop(next);
        assert!(!work.try_exists().unwrap());
    }
}

#[test]
fn the_work_directory_is_cleared_of_what_mounts_leave_and_nothing_else_is() {
    let Some(mut lab) = lab() else { return };
    lab.upper = None;
    let outside = lab.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), "kept").unwrap();
    let work = lab.path("work");
    std::fs::create_dir_all(work.join("index/a/b/c/d")).unwrap();
    std::fs::write(work.join("index/a/b/f"), "").unwrap();
    std::fs::create_dir_all(work.join("#1/#2/#3")).unwrap();
    std::os::unix::fs::symlink(&outside, work.join("#4")).unwrap();
    std::os::unix::fs::symlink(&outside, work.join("index/a/link")).unwrap();
    lab.reopen();
    assert_eq!(std::fs::read(outside.join("f")).unwrap(), b"kept");
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 1);
    assert_eq!(lab.left_over(), [""; 0]);
}

#[test]
fn a_directory_with_something_of_somebodys_in_it_is_no_work_directory() {
    let Some(mut lab) = lab() else { return };
    lab.upper = None;
    let mine = lab.path("work").join("thesis");
    std::fs::write(&mine, "kept").unwrap();
    let opened = Directory::open(&lab.path("upper"), &lab.path("work"), "sha256:1");
    assert!(matches!(opened, Err(UpperError::Unfit { .. })));
    assert_eq!(std::fs::read(mine).unwrap(), b"kept");
}

#[test]
fn marks_below_user_are_used_where_a_user_namespaces_root_began() {
    let Some(mut lab) = lab() else { return };
    lab.upper = None;
    let flags = rustix::fs::XattrFlags::empty();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(lab.path("upper"), name, value, flags).unwrap();
    };
    set("user.overlay.lazyroot.layers", b"sha256:1");
    // A program in a mount of root's can set that, too: it means nothing there.
    let forged = Directory::open(&lab.path("upper"), &lab.path("work"), "sha256:1");
    assert!(forged.is_ok());
    drop(forged);
    for (dir, name) in [
        ("upper", "trusted.overlay.lazyroot.layers"),
        ("work", "user.overlay.lazyroot.trusted"),
    ] {
        rustix::fs::removexattr(lab.path(dir), name).unwrap();
    }
    lab.reopen();
    let (up, root) = (lab.up(), lab.root());
    let marks = Marks {
        opaque: true,
        origin: Some(b"o".to_vec()),
        ..PLAIN
    };
    let opaque = New {
        marks: &marks,
        ..new(What::Dir, 0o755)
    };
    let (dir, _) = up.make(root, b"d", &opaque).unwrap();
    assert_eq!(up.marks(dir).unwrap(), marks);
    // Neither can have `user.*`: the origin is not kept, which is no error.
    let origin = Marks {
        origin: Some(b"o".to_vec()),
        ..PLAIN
    };
    for (name, what) in [("l", What::Symlink(b"x")), ("p", What::Fifo)] {
        let new = New {
            marks: &origin,
            ..new(what, 0o644)
        };
        let (key, _) = up.make(root, name.as_bytes(), &new).unwrap();
        up.mark(key, Mark::Origin(b"o")).unwrap();
        assert_eq!(up.marks(key).unwrap(), PLAIN);
    }
    up.set_xattr(dir, b"user.overlay.opaque", b"mine", SetXattr::Any)
        .unwrap();
    let seen = up.xattrs(dir).unwrap();
    assert_eq!(seen, [(b"user.overlay.opaque".to_vec(), b"mine".to_vec())]);
    lab.make(dir, "dev", What::Char(Device::default()));
    assert_eq!(lab.shown(dir), shown(&[("dev", Some(Kind::Char))]));
}
