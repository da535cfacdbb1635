//! The lazy mount that `overlay` and `bind` containers of an image share.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::host::{Host, is_there};
use super::images::Pack;
use super::lab::{alive, has, signal, succeeded, until};
use rustix::process::Signal;

/// The bug: the directory of a container let nobody else in, but the mount that it stands
/// on did, with the setuid programs of its image.
#[test]
fn strangers_reach_no_shared_mount() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in ["overlay", "bind"] {
        host.provision(kind, "app:1", "web");
        let trees = host.lowers();
        assert_eq!(trees.len(), 1);
        for tree in trees {
            let above = tree.parent().unwrap();
            let mode = fs::metadata(above).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", above.display());
        }
        host.destroy("web");
    }
}

#[test]
fn one_mount_is_shared_by_all_containers_of_an_image_and_ends_with_the_last() {
    let Some(host) = Host::with_image() else {
        return;
    };
    host.lab.image("app:2", Pack::Gzip, |layer| {
        layer.file("two", b"2");
    });
    // The same layers by another name are the same mount.
    host.run(&["tag", "app:1", "same:1"]);
    host.provision("overlay", "app:1", "a");
    host.provision("bind", "same:1", "b");
    host.provision("overlay", "app:1", "c");
    let one = host.lowers();
    assert_eq!((one.len(), host.servers().len()), (1, 1));
    host.provision("bind", "app:2", "d");
    let two = host.lowers();
    assert_eq!((two.len(), host.servers().len()), (2, 2));
    host.destroy("d");
    assert_eq!(host.lowers(), one);
    host.destroy("a");
    host.destroy("b");
    assert_eq!(host.lowers(), one);
    host.destroy("c");
    assert_eq!(host.lowers().len(), 0);
    host.nothing_is_left();
}

#[test]
fn when_the_shared_server_dies_its_containers_are_down_and_recover_mends_them_all() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let kinds = [("a", "overlay"), ("b", "bind"), ("c", "overlay")];
    let made = kinds.map(|(id, kind)| host.provision(kind, "app:1", id));
    host.provision("fuse", "app:1", "own");
    fs::write(made[0].join("etc/says"), "changed").unwrap();
    let old = host.lowers();
    let (pid, _) = host
        .servers()
        .into_iter()
        .find(|(_, at)| *at == old[0])
        .unwrap();
    signal(pid, Signal::KILL);
    until("it is gone", || !alive(pid));
    for (id, _) in kinds {
        assert_eq!(host.state(id), "down");
    }
    assert_eq!(host.state("own"), "ready");
    // A newcomer does not stand on what is dead.
    let new = host.provision("bind", "app:1", "d");
    assert_eq!(fs::read_to_string(new.join("etc/says")).unwrap(), "one");
    let said = host.run(&["recover"]);
    assert_eq!(said.lines().count(), 4, "{said}");
    let lowers = host.lowers();
    assert!(lowers.len() == 1 && lowers != old, "{lowers:?}");
    assert!(!is_there(old[0].parent().unwrap()));
    let says = made.map(|path| fs::read_to_string(path.join("etc/says")).unwrap());
    assert_eq!(says, ["changed", "one", "one"]);
    assert_eq!(host.run(&["recover"]), "");
    host.run(&["destroy", "a", "b", "c", "d", "own"]);
    host.nothing_is_left();
}

#[test]
fn a_shared_mount_that_nothing_stands_on_any_more_goes_with_recover() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let path = host.provision("bind", "app:1", "a");
    // As after a crash between the two: the container is gone, the mount below is not.
    host.provision("overlay", "app:1", "b");
    for id in ["a", "b"] {
        fs::remove_file(host.record(id)).unwrap();
    }
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(host.lowers().len(), 1);
    let recover = |args: &[&str]| {
        let said = host.run(&[&["recover"], args].concat());
        // Their directories are told.
        let rest = said.lines().filter(|line| !line.starts_with("left: "));
        rest.map(str::to_owned).collect::<Vec<_>>()
    };
    let planned = recover(&["--dry-run"]);
    assert_eq!(planned, [""; 0], "overlayfs still stands on it");
    let overlay = lazyroot::mounts::below(&lazyroot::mounts::all().unwrap(), &host.rootfs_dir());
    rustix::mount::unmount(&overlay[0].at, rustix::mount::UnmountFlags::DETACH).unwrap();
    let said = recover(&[]);
    assert!(
        said.len() == 1 && said[0].contains("nothing uses it"),
        "{said:?}"
    );
    fs::remove_dir_all(host.rootfs_dir().join("a")).unwrap();
    fs::remove_dir_all(host.rootfs_dir().join("b")).unwrap();
    host.nothing_is_left();
}

/// A second overlayfs on an upper directory that another has may damage it.
#[test]
fn what_stands_on_a_mount_of_another_namespace_is_left_alone_until_its_server_is_gone() {
    let Some(host) = Host::with_image() else {
        return;
    };
    if !has("unshare") {
        return;
    }
    for (id, kind) in [("a", "overlay"), ("b", "bind")] {
        let inside = host.lazyroot(&["--backend", kind, "provision", "app:1", "--id", id]);
        let made = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(inside.get_program())
            .args(inside.get_args())
            .output();
        succeeded(&inside, &made.unwrap());
        assert_eq!(host.state(id), "elsewhere");
    }
    let servers = host.servers();
    let told = host.run(&["recover"]);
    assert_eq!(told.matches("another mount namespace").count(), 2, "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
    assert_eq!((host.servers(), host.lowers()), (servers, Vec::new()));
    host.kill_servers();
    host.run(&["recover"]);
    assert_eq!(
        (host.state("a"), host.state("b")),
        ("ready".into(), "ready".into())
    );
    host.destroy("a");
    host.destroy("b");
    host.nothing_is_left();
}
