//! An ordinary user's containers.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::lab::{has, in_own_namespace};
use super::launcher::{Launcher, Ran, layout_with_programs};

/// `nobody` on Debian; any that is not root will do.
const USER: u32 = 65534;

#[test]
fn an_ordinary_user_is_root_in_his_own_container() {
    if !has("busybox") || !in_own_namespace("user::an_ordinary_user_is_root_in_his_own_container") {
        return;
    }
    let Some(here) = Launcher::new() else { return };
    // Directories above our program may be closed to him.
    fs::copy(env!("CARGO_BIN_EXE_lazyroot"), here.lab.path("lazyroot")).unwrap();
    let home = here.lab.place("home");
    chown(&home, Some(USER), Some(USER)).unwrap();
    let image = here.lab.place("image");
    layout_with_programs(&image);
    let command = |args: &[&str]| {
        let mut command = Command::new(here.lab.path("lazyroot"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &home);
        command
            .stdin(Stdio::null())
            .current_dir("/")
            .uid(USER)
            .gid(USER);
        command
    };
    let run = |args: &[&str]| Ran::from(command(args).output().unwrap());
    let ran = run(&[
        "import",
        "--quiet",
        "--name",
        "app:1",
        image.to_str().unwrap(),
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let script = "id -u; touch /bin/new && stat -c %u /bin/new /bin/busybox; echo x > /dev/null; \
        grep -c . /proc/1/cmdline; exit 4";
    let ran = run(&["run", "app:1", "--", "sh", "-c", script]);
    if ran.err.contains("cannot make namespaces") {
        println!(
            "SKIPPED: needs user namespaces for ordinary users: {}",
            ran.err
        );
        return;
    }
    assert_eq!((ran.code, &*ran.out), (Some(4), "0\n0\n0\n1\n"), "{ran:?}");
    // A home that cannot be written has no log either, and that is told.
    let store = home.join(".local/share/lazyroot/store");
    let containers = home.join("containers");
    let typed = [("--store", store), ("--rootfs-dir", containers)];
    let typed = typed
        .iter()
        .flat_map(|(flag, path)| [flag, path.to_str().unwrap()]);
    let mut command = command(&typed.chain(["run", "app:1", "true"]).collect::<Vec<_>>());
    let ran = Ran::from(command.env("HOME", "/proc/nobody").output().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.err
            .contains("/proc/nobody/.local/state/lazyroot/lazyroot.log`"),
        "{ran:?}"
    );
    // Changes by the kernel's overlayfs, whose marks are `user.` there.
    let script = "touch /bin/new && rm /bin/cat && mv /bin /moved && /moved/ls -l /moved/new /moved/cat; \
        /moved/grep -c userxattr /proc/mounts";
    let ran = run(&[
        "run",
        "--backend",
        "overlay",
        "app:1",
        "--",
        "sh",
        "-c",
        script,
    ]);
    match ran.err.contains("the kernel refuses overlayfs") {
        true => println!("SKIPPED: needs overlayfs for ordinary users: {}", ran.err),
        false => {
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert!(ran.out.ends_with("/moved/new\n1\n"), "{ran:?}");
        }
    }
    for (options, says) in [
        (["-u", "www"], "your user namespace has only root"),
        (["--keep", "--usage"], "a container that is kept needs root"),
    ] {
        let ran = run(&[&["run"], &options[..], &["app:1", "--", "true"]].concat());
        assert!(ran.code == Some(125) && ran.err.contains(says), "{ran:?}");
    }
    let ran = run(&["containers", "--quiet"]);
    assert_eq!((ran.code, &*ran.out), (Some(0), ""), "{ran:?}");
    let left = home.join(".local/share/lazyroot/containers");
    let left = fs::read_dir(left)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), [".trash"]);
}
