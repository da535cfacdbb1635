//! How containers go: whoever works on them is waited for, and what a failure leaves
//! another call finishes.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::thread;

use rustix::process::Signal;

use super::host::{Host, KINDS, hears, is_there, names, start};
use super::images::{Pack, contents};
use super::lab::{has, signal, succeeded, system, until};

#[test]
fn a_container_that_nobody_has_is_told_so_also_the_second_time() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let said = host.fails(3, &["destroy", "web"]);
    assert!(said.contains("there is no container `web`"), "{said}");
    assert!(said.contains("lazyroot containers"), "{said}");
    host.provision("fuse", "app:1", "web");
    host.provision("copy", "app:1", "other");
    // The others are destroyed all the same.
    host.fails(3, &["destroy", "nobody", "web", "other"]);
    host.fails(3, &["destroy", "web"]);
    host.fails(3, &["destroy", "web/child"]);
    host.nothing_is_left();
}

/// A provision that was stopped while its rootfs was written, and has not ended.
fn half_provisioned(host: &Host, id: &str) -> Child {
    host.lab.image("large:1", Pack::Plain, |layer| {
        for number in 0..64 {
            layer.file(&format!("{number}"), &contents(number, 1 << 20));
        }
    });
    let words = [
        "provision",
        "-q",
        "large:1",
        "--id",
        id,
        "--backend",
        "copy",
    ];
    let child = start(&mut host.lazyroot(&words));
    let below = host.rootfs_dir().join(id.replace('/', "/containers/"));
    let rootfses = below.join("backends/copy/rootfses");
    let begun = || {
        let rootfs = names(&rootfses).pop();
        rootfs.is_some_and(|name| !names(&rootfses.join(name)).is_empty())
    };
    until("files are written", begun);
    signal(child.id(), Signal::STOP);
    assert_eq!(host.state(id), "provisioning");
    child
}

/// Continues it, and both end well: one after the other.
fn both_end(provision: Child, destroy: Child) {
    signal(provision.id(), Signal::CONT);
    let made = succeeded("provision", &provision.wait_with_output().unwrap());
    succeeded("destroy", &destroy.wait_with_output().unwrap());
    assert!(!is_there(&PathBuf::from(made.trim_end())));
}

#[test]
fn destroying_waits_for_a_provision_in_flight() {
    let Some(host) = Host::new() else { return };
    let provision = half_provisioned(&host, "web");
    let mut destroy = start(&mut host.lazyroot(&["destroy", "web"]));
    hears(
        &mut destroy,
        "waiting for another process that works on `web`",
    );
    assert_eq!(destroy.try_wait().unwrap(), None);
    assert_eq!(host.state("web"), "provisioning");
    both_end(provision, destroy);
    host.nothing_is_left();
}

#[test]
fn a_parent_is_destroyed_after_the_child_that_is_being_provisioned() {
    let Some(host) = Host::new() else { return };
    let provision = half_provisioned(&host, "p/c");
    let mut destroy = start(&mut host.lazyroot(&["destroy", "p"]));
    hears(
        &mut destroy,
        "waiting for another process that works on `p`",
    );
    assert_eq!(host.state("p"), "-");
    both_end(provision, destroy);
    host.nothing_is_left();
}

#[test]
fn a_provision_that_is_interrupted_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    let provision = half_provisioned(&host, "p/c");
    signal(provision.id(), Signal::INT);
    signal(provision.id(), Signal::CONT);
    let output = provision.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    host.nothing_is_left();
}

#[test]
fn a_provision_that_fails_leaves_nothing_and_keeps_what_was_there() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let layer = host.lab.image("bad:1", Pack::Plain, |layer| {
        layer.file("file", &contents(1, 100_000));
    });
    let blob = host.lab.store("blobs/sha256").join(layer.hex());
    let len = fs::metadata(&blob).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&blob)
        .unwrap()
        .set_len(len / 2)
        .unwrap();
    for kind in KINDS {
        let words = ["provision", "-q", "bad:1", "--id", "p/c", "--backend", kind];
        let said = host.fails(5, &words);
        assert!(said.contains("`bad:1`") && said.contains("`p/c`"), "{said}");
        host.nothing_is_left();
    }
    let path = host.provision("copy", "app:1", "web");
    fs::write(path.join("own"), "own").unwrap();
    host.fails(
        5,
        &[
            "provision",
            "-q",
            "bad:1",
            "--id",
            "web",
            "--backend",
            "copy",
        ],
    );
    assert_eq!(host.state("web"), "ready");
    assert_eq!(names(path.parent().unwrap()).len(), 1);
    assert_eq!(fs::read_to_string(path.join("own")).unwrap(), "own");
    // An image that is not there is refused before anything is made.
    host.fails(
        3,
        &[
            "provision",
            "-q",
            "none:1",
            "--id",
            "new",
            "--pull",
            "never",
        ],
    );
    host.destroy("web");
    host.nothing_is_left();
}

/// The record of Mesos stayed as "destroying" with a failed promise, so that no second
/// call could succeed until a restart.
#[test]
fn a_destroy_that_failed_is_finished_by_another_and_by_nothing_else() {
    let Some(host) = Host::with_image() else {
        return;
    };
    if !has("chattr") {
        return;
    }
    let path = host.provision("copy", "app:1", "web");
    host.provision("fuse", "app:1", "web");
    let kept = fs::File::open(path.join("etc/says")).unwrap();
    let link = |fd: &fs::File| {
        use std::os::fd::AsRawFd as _;
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    };
    system("chattr", &["+i", path.join("etc/says").to_str().unwrap()]);
    for _ in 0..2 {
        let said = host.fails(1, &["destroy", "web"]);
        assert!(
            said.contains("etc/says") && said.contains("chattr"),
            "{said}"
        );
        assert_eq!(host.state("web"), "destroying");
        assert!(!is_there(&path));
    }
    let said = host.fails(4, &["provision", "-q", "app:1", "--id", "web"]);
    assert!(said.contains("is being destroyed"), "{said}");
    let said = host.fails(4, &["provision", "-q", "app:1", "--id", "web/c"]);
    assert!(said.contains("`web` is being destroyed"), "{said}");
    system("chattr", &["-i", link(&kept).to_str().unwrap()]);
    drop(kept);
    host.destroy("web");
    host.nothing_is_left();
}

#[test]
fn of_many_who_destroy_one_container_one_does_and_the_others_say_so() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in KINDS {
        host.provision(kind, "app:1", "web");
        host.provision(kind, "app:1", "web/c");
        let codes: Vec<i32> = thread::scope(|scope| {
            let begin = |_| {
                scope.spawn(|| {
                    let output = host.lazyroot(&["destroy", "web"]).output().unwrap();
                    output.status.code().unwrap()
                })
            };
            let all: Vec<_> = (0..5).map(begin).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let done = codes.iter().filter(|code| **code == 0).count();
        let unknown = codes.iter().filter(|code| **code == 3).count();
        assert_eq!((done, unknown), (1, 4), "{kind}: {codes:?}");
        host.nothing_is_left();
    }
}
