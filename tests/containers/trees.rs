//! All backends show the same tree: `copy` has written it down, the others show it.

use std::fs;
use std::io;
use std::path::PathBuf;

use lazyroot::mounts;
use tar::EntryType;

use super::host::{Host, KINDS, SERVED, is_there, names};
use super::images::{Layer, Pack, contents};
use super::walk::{Look, Walk, differences, walk};

const ALL: Look = Look {
    now: i64::MAX,
    root: true,
    links: true,
};

/// Three layers with every kind of object, but for what `overlay` cannot show: 0/0 devices
/// and marks of overlayfs itself.
fn every_kind(host: &Host) {
    let mut low = Layer::new();
    let header = |kind: EntryType, mode: u32, time: u64| {
        move |header: &mut tar::Header| {
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_mtime(time);
            header.set_uid(1234);
            header.set_gid(4321);
        }
    };
    low.odd(".", header(EntryType::Directory, 0o751, 77))
        .dir("dir", 0o755)
        .file("dir/file", &contents(1, 100_000))
        .file("dir/empty", b"")
        .file("dir/gone", b"gone")
        .file("dir/changed", b"below")
        .odd("dir/setuid", header(EntryType::Regular, 0o4755, 5))
        .odd("sticky", header(EntryType::Directory, 0o1777, 6))
        .odd("closed", header(EntryType::Directory, 0o000, 7))
        .odd("fifo", header(EntryType::Fifo, 0o600, 8))
        .odd("null", |header| {
            header.set_entry_type(EntryType::Char);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        })
        .odd("block", |header| {
            header.set_entry_type(EntryType::Block);
            header.set_device_major(7).unwrap();
            header.set_device_minor(1).unwrap();
        })
        .symlink("link", "dir/file")
        .symlink("dangling", "/nowhere");
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(EntryType::Link);
    low.named("dir/again", &mut link, "dir/file");
    low.pax("mtime", b"1234567890.123456789")
        .file("nanoseconds", b"n")
        .pax("SCHILY.xattr.user.color", b"blue\0green")
        .file("colored", b"c")
        .pax(
            "SCHILY.xattr.security.capability",
            b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )
        .file("capable", b"c")
        .dir("opaque", 0o755)
        .file("opaque/below", b"b");
    let mut middle = Layer::new();
    middle
        .file("dir/.wh.gone", b"")
        .file("dir/changed", b"above")
        .dir("opaque", 0o700)
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/above", b"a");
    let mut high = Layer::new();
    high.dir("dir/new", 0o755).file("dir/new/file", b"new");
    let layers = [
        low.pack(Pack::Gzip),
        middle.pack(Pack::Zstd),
        high.pack(Pack::Plain),
    ];
    host.lab.import("app:1", &layers);
}

#[track_caller]
fn same(one: &Walk, other: &Walk, what: &str) {
    if let Some(text) = differences(one, other) {
        panic!("{what}: {text}");
    }
}

#[test]
fn marks_of_overlayfs_that_an_image_has_mean_nothing_in_any_backend() {
    let Some(host) = Host::new() else { return };
    host.lab.image("marked:1", Pack::Gzip, |layer| {
        let mark = |name| format!("SCHILY.xattr.trusted.overlay.{name}");
        layer
            .pax(&mark("metacopy"), b"\0\x04\0\0")
            .file("file", b"data");
        layer.pax(&mark("opaque"), b"x").dir("dir", 0o755);
        layer.pax(&mark("whiteout"), b"y").file("dir/empty", b"");
    });
    for kind in KINDS {
        let path = host.provision(kind, "marked:1", kind);
        assert_eq!(fs::read(path.join("file")).unwrap(), b"data", "{kind}");
        assert_eq!(
            fs::metadata(path.join("dir/empty")).unwrap().len(),
            0,
            "{kind}"
        );
        host.destroy(kind);
    }
}

#[test]
fn all_backends_show_the_same_tree_also_after_their_servers_were_killed() {
    let Some(host) = Host::new() else { return };
    every_kind(&host);
    let made = KINDS.map(|kind| (kind, host.provision(kind, "app:1", kind)));
    let copy = walk(&made[3].1, &ALL);
    assert_eq!(names(&made[3].1.join("dir")).len(), 6);
    assert_eq!(names(&made[3].1.join("opaque")), ["above"]);
    assert_eq!(copy.len(), 21, "{:?}", copy.keys());
    for (kind, path) in &made {
        same(&copy, &walk(path, &ALL), kind);
    }
    // Written changes are there again, too.
    for kind in ["fuse", "overlay", "copy"] {
        let (_, path) = made.iter().find(|(other, _)| *other == kind).unwrap();
        fs::write(path.join("dir/changed"), "written").unwrap();
        fs::remove_file(path.join("dir/empty")).unwrap();
        fs::create_dir(path.join("opaque/made")).unwrap();
        fs::rename(path.join("dir/new"), path.join("sticky/moved")).unwrap();
    }
    // An mtime is that of the change, in each; all else is the same.
    let then = Look {
        now: 1_700_000_000,
        ..ALL
    };
    let written = walk(&made[3].1, &then);
    host.kill_servers();
    for kind in SERVED {
        assert_eq!(host.state(kind), "down");
        let path = &made.iter().find(|(other, _)| *other == kind).unwrap().1;
        // What was read before may still be remembered; a name that nobody asked for is not.
        let error = fs::symlink_metadata(path.join("asked-by-nobody")).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::NotFound, "{kind}");
    }
    assert_eq!(host.state("copy"), "ready");
    host.run(&["recover"]);
    for (kind, path) in &made {
        assert_eq!(host.state(kind), "ready");
        match *kind {
            "bind" => same(&copy, &walk(path, &ALL), kind),
            _ => same(&written, &walk(path, &then), kind),
        }
    }
    assert_eq!(host.json(&["recover"]).as_array().unwrap().len(), 0);
    for kind in KINDS {
        host.destroy(kind);
    }
    host.nothing_is_left();
}

#[test]
fn whiteouts_hide_what_is_below_in_every_backend() {
    let Some(host) = Host::new() else { return };
    let (mut low, mut high) = (Layer::new(), Layer::new());
    low.dir("dir1", 0o755)
        .file("dir1/file1", b"1")
        .dir("dir1/dir2", 0o755)
        .file("dir1/dir2/file2", b"2");
    high.dir("dir1", 0o755)
        .file("dir1/.wh.file1", b"")
        .dir("dir1/dir2", 0o755)
        .file("dir1/dir2/.wh..wh..opq", b"")
        .file("dir1/dir2/file3", b"3");
    host.lab
        .import("app:1", &[low.pack(Pack::Gzip), high.pack(Pack::Gzip)]);
    for kind in KINDS {
        let path = host.provision(kind, "app:1", kind);
        assert_eq!(names(&path.join("dir1")), ["dir2"], "{kind}");
        assert_eq!(names(&path.join("dir1/dir2")), ["file3"], "{kind}");
        host.destroy(kind);
    }
    host.nothing_is_left();
}

/// A lower layer has a link that leads out of the rootfs, and the upper one a file behind
/// it. Copying the layers one after the other wrote to the machine's file (MESOS-5028).
#[test]
fn what_replaces_another_kind_replaces_it_and_no_link_leads_out() {
    let Some(host) = Host::new() else { return };
    let outside = host.lab.place("outside");
    fs::write(outside.join("victim"), "safe").unwrap();
    let up = "../".repeat(20) + outside.to_str().unwrap().trim_start_matches('/');
    let (mut low, mut high) = (Layer::new(), Layer::new());
    low.dir("dir", 0o755)
        .file("dir/inner", b"")
        .dir("dir-to-link", 0o755)
        .file("dir-to-link/inner", b"")
        .file("file", b"f")
        .symlink("link", "merged")
        .dir("merged", 0o755)
        .file("merged/low", b"")
        .symlink("attack", &up)
        .symlink("file-attack", &format!("{up}/victim"))
        .symlink("absolute", outside.to_str().unwrap());
    high.file("dir", b"now a file")
        .symlink("dir-to-link", "merged")
        .dir("file", 0o755)
        .file("file/inner", b"")
        .dir("link", 0o755)
        .file("link/inner", b"")
        .dir("merged", 0o755)
        .file("merged/high", b"")
        .file("attack/victim", b"overwritten")
        .file("file-attack", b"overwritten")
        .file("absolute/victim", b"overwritten");
    host.lab
        .import("app:1", &[low.pack(Pack::Gzip), high.pack(Pack::Gzip)]);
    for kind in KINDS {
        let path = host.provision(kind, "app:1", kind);
        assert_eq!(fs::read_to_string(path.join("dir")).unwrap(), "now a file");
        let target = fs::read_link(path.join("dir-to-link")).unwrap();
        assert_eq!(target, PathBuf::from("merged"));
        assert_eq!(names(&path.join("file")), ["inner"]);
        assert_eq!(names(&path.join("link")), ["inner"]);
        assert_eq!(names(&path.join("merged")), ["high", "low"]);
        for name in ["attack/victim", "file-attack", "absolute/victim"] {
            let file = path.join(name);
            assert!(fs::symlink_metadata(&file).unwrap().is_file());
            assert_eq!(fs::read_to_string(&file).unwrap(), "overwritten", "{kind}");
        }
        assert_eq!(names(&outside), ["victim"]);
        assert_eq!(
            fs::read_to_string(outside.join("victim")).unwrap(),
            "safe",
            "{kind}"
        );
        host.destroy(kind);
    }
    host.nothing_is_left();
}

/// One option of mount(2) has a page at most; Mesos' overlay backend failed from 38
/// layers on (MESOS-6000).
#[test]
fn images_of_many_layers_with_long_names_work_in_every_backend() {
    let Some(host) = Host::new() else { return };
    for count in [64, 126] {
        let name = |number: usize| format!("{number:03}{}", "x".repeat(97));
        let layers: Vec<_> = (0..count)
            .map(|number| {
                let mut layer = Layer::new();
                layer
                    .dir(&name(number), 0o755)
                    .file(&format!("{}/file", name(number)), name(number).as_bytes());
                layer.file("last", name(number).as_bytes());
                layer.pack(Pack::Plain)
            })
            .collect();
        host.lab.import("app:1", &layers);
        for kind in KINDS {
            let path = host.provision(kind, "app:1", kind);
            let mut listed = names(&path);
            assert_eq!(listed.pop().unwrap(), "last");
            assert_eq!(listed, (0..count).map(name).collect::<Vec<_>>(), "{kind}");
            for number in 0..count {
                let text = fs::read_to_string(path.join(name(number)).join("file"));
                assert_eq!(text.unwrap(), name(number), "{kind}");
            }
            assert_eq!(
                fs::read_to_string(path.join("last")).unwrap(),
                name(count - 1)
            );
            host.destroy(kind);
            assert!(!is_there(&path));
        }
    }
    host.nothing_is_left();
    assert_eq!(
        mounts::below(&mounts::all().unwrap(), &host.rootfs_dir()),
        []
    );
}
