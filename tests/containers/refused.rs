//! What cannot be is refused at once, with the reason; and where containers may lie.

use std::fs;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::host::{Host, KINDS, WRITABLE, is_there, names};
use super::lab::succeeded;

#[test]
fn names_that_would_lead_elsewhere_are_no_containers() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let (long, deep) = ("x".repeat(129), vec!["x"; 200].join("/"));
    for id in [
        "..", ".", "a/../b", "/etc", "a//b", "a/", "", ".trash", "a b", "a\nb", "a+b", &long, &deep,
    ] {
        let at = format!("--id={id}");
        for words in [
            &["provision", "-q", "app:1", &at][..],
            &["destroy", "--", id],
        ] {
            let said = host.fails(2, words);
            assert!(
                said.contains("no name of a container") || said.contains("too long"),
                "{said}"
            );
        }
        host.fails(2, &["recover", &format!("--known=a,{id}x/..")]);
    }
    host.fails(2, &["provision", "-q", "app:1", "--id=a", "--parent=../b"]);
    assert!(!is_there(&host.rootfs_dir()));
    assert_eq!(names(&host.lab.store("containers-v1")), [""; 0]);
}

#[test]
fn a_backend_that_is_none_or_cannot_be_is_refused_before_anything_is_made() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let said = host.fails(
        2,
        &[
            "provision",
            "-q",
            "app:1",
            "--id",
            "web",
            "--backend",
            "aufs",
        ],
    );
    assert!(said.contains("'aufs' for '--backend"), "{said}");
    assert!(!is_there(&host.rootfs_dir()));
    // Any can be named by `auto`.
    let path = host.provision("auto", "app:1", "web");
    assert!(
        path.starts_with(host.rootfs_dir().join("web/backends/fuse")),
        "{path:?}"
    );
    host.destroy("web");
    host.nothing_is_left();
}

/// An agent inside of a container has overlayfs below. Neither the kernel's nor our own
/// upper directories can lie there: it has no whiteouts for others.
#[test]
fn on_overlayfs_changes_cannot_be_kept_which_is_told_and_other_backends_work() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let at = host.lab.place("containers");
    let parts = ["low", "up", "work"].map(|name| host.lab.place(name));
    let [low, up, work] = parts.each_ref().map(|path| path.to_str().unwrap());
    let data = format!("lowerdir={low},upperdir={up},workdir={work}");
    let data = std::ffi::CString::new(data).unwrap();
    mount(
        "overlay",
        &at,
        "overlay",
        MountFlags::empty(),
        data.as_c_str(),
    )
    .unwrap();
    for (kind, words) in [
        (
            "overlay",
            ["the kernel refuses overlayfs at", "--rootfs-dir there"],
        ),
        (
            "fuse",
            [
                "cannot keep changes: it has no whiteouts",
                "(or --rootfs-dir) on ext4",
            ],
        ),
    ] {
        let said = host.fails(
            1,
            &["provision", "-q", "app:1", "--id", "web", "--backend", kind],
        );
        for word in words {
            assert!(said.contains(word), "{said}");
        }
        assert_eq!((host.states().len(), host.lowers().len()), (0, 0));
    }
    for (kind, word) in [
        ("fuse", "-r"),
        ("overlay", "-r"),
        ("bind", "-q"),
        ("copy", "-q"),
    ] {
        let words = ["provision", word, "app:1", "--id", kind, "--backend", kind];
        let path = host.run(&words);
        let says = fs::read_to_string(format!("{}/etc/says", path.trim_end()));
        assert_eq!(says.unwrap(), "one");
        host.destroy(kind);
    }
    unmount(&at, UnmountFlags::empty()).unwrap();
    assert_eq!(names(&parts[1]), [".trash"]);
}

#[test]
fn containers_on_a_tmpfs_work_in_every_backend() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let at = host.lab.place("containers");
    mount("tmpfs", &at, "tmpfs", MountFlags::empty(), None).unwrap();
    for kind in KINDS {
        let path = host.provision(kind, "app:1", kind);
        assert_eq!(fs::read_to_string(path.join("etc/says")).unwrap(), "one");
        if WRITABLE.contains(&kind) {
            fs::write(path.join("etc/says"), kind).unwrap();
        }
    }
    host.kill_servers();
    host.run(&["recover"]);
    for kind in WRITABLE {
        let all = host.containers();
        let line = all.iter().find(|line| line["id"] == kind).unwrap();
        let path = line["rootfses"][0]["path"].as_str().unwrap();
        assert_eq!(
            fs::read_to_string(format!("{path}/etc/says")).unwrap(),
            kind
        );
    }
    host.run(&["recover", "--known="]);
    unmount(&at, UnmountFlags::empty()).unwrap();
}

#[test]
fn a_container_that_has_filled_the_disk_is_destroyed() {
    let Some(host) = Host::new() else { return };
    // Of store and containers alike.
    let at = host.lab.path("");
    mount(
        "tmpfs",
        &at,
        "tmpfs",
        MountFlags::empty(),
        Some(c"size=12m"),
    )
    .unwrap();
    host.lab.image("app:1", super::images::Pack::Gzip, |layer| {
        layer.dir("etc", 0o755).file("etc/says", b"one");
    });
    for kind in ["fuse", "overlay"] {
        let path = host.provision(kind, "app:1", kind);
        let full = fs::write(path.join("large"), vec![1; 20 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        host.destroy(kind);
    }
    assert_eq!(host.containers(), [""; 0]);
    super::lab::until("it can be unmounted", || {
        unmount(&at, UnmountFlags::empty()).is_ok()
    });
}

#[test]
fn two_stores_do_not_touch_each_others_containers_in_one_directory() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let other = host.lab.path("other-store");
    let path = host.provision("copy", "app:1", "web");
    let layout = host.lab.path("layout");
    super::images::layout(&layout, &[]);
    let mut import = std::process::Command::new(env!("CARGO_BIN_EXE_lazyroot"));
    import
        .args(["import", "-q", "--name", "empty:1"])
        .arg(&layout)
        .arg("--store")
        .arg(&other);
    succeeded("import", &import.output().unwrap());
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lazyroot"));
        command.args(words).arg("--store").arg(&other);
        command.arg("--rootfs-dir").arg(host.rootfs_dir());
        command.output().unwrap()
    };
    let refused = run(&["provision", "-q", "empty:1", "--id", "web"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(
        said.contains("is there already, and is no container of this store"),
        "{said}"
    );
    assert_eq!(run(&["destroy", "web"]).status.code(), Some(3));
    succeeded("recover", &run(&["recover", "--known="]));
    assert_eq!(fs::read_to_string(path.join("etc/says")).unwrap(), "one");
    // Under other names they live beside each other.
    succeeded(
        "provision",
        &run(&["provision", "-q", "empty:1", "--id", "other"]),
    );
    assert_eq!(host.states().len(), 1);
    host.destroy("web");
    succeeded("destroy", &run(&["destroy", "other"]));
    host.nothing_is_left();
}

/// The copy of a provision that waits to serve, and is not needed.
#[test]
fn what_fails_leaves_no_process_behind() {
    let Some(host) = Host::with_image() else {
        return;
    };
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    host.fails(
        3,
        &[
            "--backend",
            "fuse",
            "provision",
            "-q",
            "--pull=never",
            "none:1",
            "--id=a",
        ],
    );
    // What outlives its parent comes to us, also dead.
    let left = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
    assert_eq!(left.err(), Some(rustix::io::Errno::CHILD));
}
