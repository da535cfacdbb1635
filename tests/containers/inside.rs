//! Somebody is inside of a container that goes, or has mounted something in it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};

use lazyroot::mounts;
use rustix::mount::mount_bind;
use rustix::process::Signal;

use super::host::{Host, KINDS, WRITABLE, is_there, names};
use super::lab::{Running, alive, signal, until};

/// MESOS-9196: what was busy kept a container for ever.
#[test]
fn who_is_inside_does_not_keep_a_container_and_goes_on_with_what_he_has() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in KINDS {
        let path = host.provision(kind, "app:1", "web");
        let mut open = File::open(path.join("etc/says")).unwrap();
        let mut inside = Command::new("/bin/sleep");
        inside
            .arg("60")
            .current_dir(path.join("etc"))
            .stdin(Stdio::null());
        let mut inside = Running(inside.spawn().unwrap());
        let mut program = Running(Command::new(path.join("sleep")).arg("60").spawn().unwrap());
        host.destroy("web");
        assert!(!is_there(&path) && !is_there(&host.rootfs_dir().join("web")));
        assert_eq!(host.states(), []);
        let below = mounts::below(&mounts::all().unwrap(), &host.lab.path(""));
        assert_eq!(below, [], "{kind}");
        let mut text = String::new();
        open.rewind().unwrap();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one", "{kind}");
        assert_eq!(inside.0.try_wait().unwrap(), None);
        assert_eq!(program.0.try_wait().unwrap(), None);
        // The same name again, while the old one is still in use.
        let again = host.provision(kind, "app:1", "web");
        assert_eq!(fs::read_to_string(again.join("etc/says")).unwrap(), "one");
        host.destroy("web");
        drop((open, inside, program));
        host.nothing_is_left();
    }
}

#[test]
fn a_server_that_hangs_stops_neither_a_look_nor_a_plan_nor_the_destruction() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in ["fuse", "overlay", "bind"] {
        host.provision(kind, "app:1", "web");
        let (pid, _) = host.servers()[0];
        signal(pid, Signal::STOP);
        assert_eq!(host.state("web"), "ready");
        assert_eq!(host.run(&["recover"]), "");
        host.destroy("web");
        assert!(alive(pid));
        signal(pid, Signal::CONT);
        until("it ends", || !alive(pid));
        host.nothing_is_left();
    }
}

/// Mesos' removal walked into whatever was mounted below a container and deleted it.
#[test]
fn what_is_mounted_in_a_container_is_unmounted_and_never_removed() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let outside = host.lab.place("outside");
    fs::write(outside.join("file"), "safe").unwrap();
    for kind in WRITABLE {
        let path = host.provision(kind, "app:1", "web");
        let child = host.provision(kind, "app:1", "web/c");
        fs::create_dir(path.join("data")).unwrap();
        fs::create_dir(path.join("data/more")).unwrap();
        mount_bind(&outside, path.join("data/more")).unwrap();
        fs::create_dir(child.join("data")).unwrap();
        mount_bind(&outside, child.join("data")).unwrap();
        mount_bind(outside.join("file"), path.join("etc/says")).unwrap();
        // Also beside what is shown: below its scratch directory, and the container's own.
        let own = host.rootfs_dir().join("web");
        let scratch = own.join("backends").join(kind).join("scratch");
        let scratch = scratch.join(path.file_name().unwrap());
        for place in [scratch, own.clone()] {
            fs::create_dir_all(place.join("mounted")).unwrap();
            mount_bind(&outside, place.join("mounted")).unwrap();
            mount_bind(&outside, place.join("mounted")).unwrap();
        }
        assert_eq!(names(&path.join("data/more")), ["file"]);
        host.destroy("web");
        assert!(!is_there(&own));
        assert_eq!(names(&outside), ["file"]);
        assert_eq!(
            fs::read_to_string(outside.join("file")).unwrap(),
            "safe",
            "{kind}"
        );
        host.nothing_is_left();
    }
}
