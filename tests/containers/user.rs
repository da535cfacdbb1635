//! An ordinary user's containers.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lazyroot::mounts;

use super::host::{Host, names};
use super::images::{Layer, Pack, layout};
use super::lab::{Lab, has, in_own_namespace, succeeded, until};

/// `nobody` on Debian; any that is not root will do.
const USER: u32 = 65534;

/// The program as that user, with a store of his own.
fn run(lab: &Lab, args: &[&str]) -> Output {
    let home = lab.path("home");
    Command::new(lab.path("lazyroot"))
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", &home)
        .env("LAZYROOT_STORE", home.join("store"))
        .env("LAZYROOT_ROOTFS_DIR", home.join("containers"))
        .stdin(Stdio::null())
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap()
}

fn his(lab: &Lab) {
    // Directories above our program may be closed to him.
    fs::copy(env!("CARGO_BIN_EXE_lazyroot"), lab.path("lazyroot")).unwrap();
    chown(lab.place("home"), Some(USER), Some(USER)).unwrap();
    let mut layer = Layer::new();
    layer.dir("etc", 0o755).file("etc/says", b"one");
    let from = lab.path("layout");
    layout(&from, &[layer.pack(Pack::Gzip)]);
    let words = ["import", "-q", "--name", "app:1", from.to_str().unwrap()];
    succeeded("import", &run(lab, &words));
}

fn cat(path: &Path) -> Output {
    Command::new("cat")
        .arg(path)
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap()
}

/// It was an error about a file of root's that he has never heard of.
#[test]
fn a_user_sees_which_containers_root_has_and_not_their_states() {
    if !in_own_namespace("user::a_user_sees_which_containers_root_has_and_not_their_states") {
        return;
    }
    let Some(host) = Host::with_image() else {
        return;
    };
    host.provision("fuse", "app:1", "web");
    host.provision("fuse", "app:1", "pod/inner");
    fs::copy(env!("CARGO_BIN_EXE_lazyroot"), host.lab.path("lazyroot")).unwrap();
    let (store, containers) = (host.lab.path("store"), host.rootfs_dir());
    let mut words = vec!["containers", "--store", store.to_str().unwrap()];
    words.extend(["--rootfs-dir", containers.to_str().unwrap()]);
    let output = run(&host.lab, &words);
    let listed = succeeded("containers", &output);
    assert!(
        listed.contains("web ") && listed.contains(" unknown "),
        "{listed}"
    );
    // One that only holds others has nothing that is closed.
    let pod = listed.lines().find(|line| line.starts_with("pod "));
    let state = pod.and_then(|line| line.split_whitespace().nth(1));
    assert_eq!(state, Some("-"), "{listed}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.starts_with("note: states are unknown: cannot "),
        "{told}"
    );
    assert_eq!(host.state("web"), "ready");
    host.destroy("web");
    host.destroy("pod");
}

#[test]
fn a_user_has_read_only_containers_of_his_own() {
    if !has("fusermount3") || !in_own_namespace("user::a_user_has_read_only_containers_of_his_own")
    {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    his(&lab);
    let words = ["provision", "-q", "-r", "app:1", "--id", "web"];
    let made = succeeded("provision", &run(&lab, &words));
    let path = PathBuf::from(made.trim_end());
    let file = path.join("etc/says");
    assert_eq!(succeeded("cat", &cat(&file)), "one");
    let listed = succeeded("containers", &run(&lab, &["containers"]));
    assert!(
        listed.contains("web") && listed.contains("ready"),
        "{listed}"
    );
    // Killed and recovered, too.
    for (pid, _) in super::lab::servers_below(&lab.path("")) {
        super::lab::signal(pid, rustix::process::Signal::KILL);
        until("it is gone", || !super::lab::alive(pid));
    }
    let listed = succeeded("containers", &run(&lab, &["containers"]));
    assert!(listed.contains("down"), "{listed}");
    succeeded("recover", &run(&lab, &["recover"]));
    assert_eq!(succeeded("cat", &cat(&file)), "one");
    succeeded("destroy", &run(&lab, &["destroy", "web"]));
    let below = mounts::below(&mounts::all().unwrap(), &lab.path("home"));
    assert_eq!(below, []);
    assert_eq!(names(&lab.path("home/containers")), [".trash"]);
    assert_eq!(names(&lab.path("home/store/containers-v1")), [""; 0]);
    until("the server ends", || {
        super::lab::servers_below(&lab.path("")).is_empty()
    });
}

#[test]
fn backends_that_need_root_are_refused_for_a_user_in_words() {
    if !has("fusermount3")
        || !in_own_namespace("user::backends_that_need_root_are_refused_for_a_user_in_words")
    {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    his(&lab);
    for (kind, words) in [
        ("overlay", ["it needs root", "--backend copy"]),
        ("bind", ["it needs root", "--backend copy"]),
        ("fuse", ["needs root", "--read-only"]),
        ("copy", ["user 0", "as root"]),
    ] {
        let words_of_verb = ["provision", "-q", "app:1", "--id", "web", "--backend", kind];
        let output = run(&lab, &words_of_verb);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in words {
            assert!(said.contains(word), "{kind}: no `{word}` in {said}");
        }
        assert_eq!(succeeded("list", &run(&lab, &["containers", "-q"])), "");
    }
    assert_eq!(names(&lab.path("home/store/containers-v1")), [""; 0]);
}

/// The program in namespaces of its own: a mount namespace, and with `--map-root-user` a
/// user namespace with one user.
fn unshared(host: &Host, words: &[&str], script: &str) -> String {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .args(words)
        .args(["sh", "-ec", script])
        .env("LAZYROOT", env!("CARGO_BIN_EXE_lazyroot"))
        .env("LAZYROOT_STORE", host.lab.path("store"))
        .env("LAZYROOT_ROOTFS_DIR", host.rootfs_dir())
        .env("LAZYROOT_LOG", host.lab.path("servers.log"))
        .stdin(Stdio::null());
    succeeded(script, &command.output().unwrap())
}

#[test]
fn root_of_a_user_namespace_has_all_backends() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let may = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "true"]);
        command.status().is_ok_and(|status| status.success())
    };
    if !has("unshare") || !may() {
        println!("SKIPPED: needs user namespaces");
        return;
    }
    let script = r#"
        for kind in fuse overlay bind copy; do
            rootfs=$("$LAZYROOT" provision -q app:1 --id $kind --backend $kind)
            cat $rootfs/etc/says
            test $kind = bind || echo " $kind" >$rootfs/etc/says
            test $kind = bind || cat $rootfs/etc/says
        done
        "$LAZYROOT" recover
        "$LAZYROOT" destroy -q fuse overlay bind copy
        "$LAZYROOT" containers -q
    "#;
    let said = unshared(&host, &["--map-root-user"], script);
    assert_eq!(said, "one fuse\none overlay\noneone copy\n");
    host.nothing_is_left();
}

#[test]
fn what_is_mounted_in_another_mount_namespace_is_left_there_and_can_be_destroyed() {
    let Some(host) = Host::with_image() else {
        return;
    };
    if !has("unshare") {
        return;
    }
    let script = r#""$LAZYROOT" provision -q app:1 --id web --backend fuse"#;
    let path = PathBuf::from(unshared(&host, &[], script).trim_end());
    assert_eq!(names(&path), [""; 0], "it is not mounted here");
    assert_eq!(host.state("web"), "elsewhere");
    let said = host.run(&["recover"]);
    assert!(
        said.starts_with("left: ") && said.contains("another mount namespace"),
        "{said}"
    );
    assert_eq!(host.servers().len(), 1);
    host.destroy("web");
    host.nothing_is_left();
}
