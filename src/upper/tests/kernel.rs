//! The kernel's overlayfs goes on with what we wrote, and we with what it wrote.

use std::path::Path;
use std::process::Command;

use super::*;

/// A mount of kernel overlayfs, undone at the end.
struct Overlay(PathBuf);

impl Overlay {
    fn mount(lab: &Lab) -> Option<Self> {
        for dir in ["merged", "lower", "upper", "work"] {
            std::fs::create_dir_all(lab.path(dir)).unwrap();
        }
        let at = |dir: &str| lab.path(dir).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},metacopy=on,redirect_dir=on,index=off",
            at("lower"),
            at("upper"),
            at("work")
        );
        let status = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options, &at("merged")])
            .status();
        if !status.is_ok_and(|status| status.success()) {
            println!("SKIPPED: needs kernel overlayfs");
            return None;
        }
        Some(Self(lab.path("merged")))
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn write_lower(lower: &Path) {
    std::fs::create_dir_all(lower.join("dir/sub")).unwrap();
    std::fs::create_dir_all(lower.join("gone")).unwrap();
    std::fs::create_dir_all(lower.join("again")).unwrap();
    for name in ["big", "dir/f", "gone/f", "again/f", "removed"] {
        std::fs::write(lower.join(name), vec![b'x'; 100_000]).unwrap();
    }
}

#[test]
fn marks_and_whiteouts_that_the_kernel_wrote_are_read() {
    let Some(mut lab) = lab() else { return };
    lab.upper = None;
    write_lower(&lab.path("lower"));
    let Some(overlay) = Overlay::mount(&lab) else {
        return;
    };
    let chmod = |name| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::chmod(overlay.path(name), mode).unwrap();
    };
    chmod("big");
    std::fs::rename(overlay.path("big"), overlay.path("moved-big")).unwrap();
    std::fs::rename(overlay.path("dir"), overlay.path("moved-dir")).unwrap();
    std::fs::remove_file(overlay.path("removed")).unwrap();
    std::fs::remove_dir_all(overlay.path("gone")).unwrap();
    std::fs::remove_dir_all(overlay.path("again")).unwrap();
    std::fs::create_dir(overlay.path("again")).unwrap();
    let name = "trusted.overlay.opaque";
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::setxattr(overlay.path("again"), name, b"mine", flags);
    drop(overlay);
    lab.reopen();
    let (up, root) = (lab.up(), lab.root());
    let expected = [
        ("again", Some(Kind::Dir)),
        ("big", None),
        ("dir", None),
        ("gone", None),
        ("moved-big", Some(Kind::File)),
        ("moved-dir", Some(Kind::Dir)),
        ("removed", None),
    ];
    assert_eq!(lab.shown(root), shown(&expected));
    let big = up.marks_at(root, b"moved-big").unwrap();
    assert_eq!((big.metacopy, big.redirect), (true, Some(b"big".to_vec())));
    assert_eq!(
        up.stat(lab.key(root, "moved-big")).unwrap().attr.size,
        100_000
    );
    let dir = up.marks(lab.key(root, "moved-dir")).unwrap();
    let to = dir.redirect.unwrap();
    assert!(to == b"dir" || to == b"/dir", "{to:?}");
    let again = lab.key(root, "again");
    assert!(up.marks(again).unwrap().opaque);
    if set.is_ok() {
        // Linux 6.7 and later escape it.
        let value = up.xattr(again, name.as_bytes()).unwrap();
        assert_eq!(value.as_deref(), Some(&b"mine"[..]));
    }
    assert_eq!(up.xattrs(lab.key(root, "moved-big")).unwrap(), []);
}

#[test]
fn the_kernel_shows_what_we_wrote() {
    let Some(mut lab) = lab() else { return };
    write_lower(&lab.path("lower"));
    let (up, root) = (lab.up(), lab.root());
    for name in [&b"removed"[..], b"gone", b"big", b"dir"] {
        up.cover(root, name).unwrap();
    }
    let marks = Marks {
        opaque: true,
        ..PLAIN
    };
    up.make(
        root,
        b"again",
        &New {
            marks: &marks,
            ..new(What::Dir, 0o700)
        },
    )
    .unwrap();
    let marks = Marks {
        redirect: Some(b"/dir".to_vec()),
        ..PLAIN
    };
    up.make(
        root,
        b"moved-dir",
        &New {
            marks: &marks,
            ..new(What::Dir, 0o711)
        },
    )
    .unwrap();
    let marks = Marks {
        redirect: Some(b"/big".to_vec()),
        metacopy: true,
        origin: Some(b"1:2".to_vec()),
        ..PLAIN
    };
    let xattrs = [(b"trusted.overlay.x".to_vec(), b"mine".to_vec())];
    let big = New {
        marks: &marks,
        xattrs: &xattrs,
        ..new(What::File(100_000), 0o640)
    };
    let key = up.stage(&big).unwrap();
    up.publish(key, &[(root, b"moved-big")]).unwrap();
    lab.upper = None;
    let Some(overlay) = Overlay::mount(&lab) else {
        return;
    };
    let mut names: Vec<_> = std::fs::read_dir(&overlay.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["again", "moved-big", "moved-dir"]);
    assert_eq!(std::fs::read_dir(overlay.path("again")).unwrap().count(), 0);
    assert_eq!(
        std::fs::read_dir(overlay.path("moved-dir"))
            .unwrap()
            .count(),
        2
    );
    let contents = std::fs::read(overlay.path("moved-big")).unwrap();
    assert!(contents == vec![b'x'; 100_000]);
    assert_eq!(
        std::fs::metadata(overlay.path("moved-big")).unwrap().mode() & 0o7777,
        0o640
    );
    drop(overlay);
    lab.reopen();
    assert_eq!(lab.shown(lab.root()).len(), 7);
}
