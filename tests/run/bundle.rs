//! Other launchers over what `provision` gives: bundles for runc and crun, and what takes a
//! directory.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::lab::{has, succeeded};
use super::launcher::{Launcher, Ran};

/// A container with programs, and where its root file system is.
fn provisioned(here: &Launcher) -> PathBuf {
    here.image(
        "box:1",
        &json!({"Env": ["PATH=/bin"], "User": "www", "WorkingDir": "/srv"}),
        |layer| {
            layer
                .dir("proc", 0o755)
                .dir("dev", 0o755)
                .dir("sys", 0o755)
                .dir("usr", 0o755);
            layer.file("etc/os-release", b"ID=test\n").dir("srv", 0o755);
        },
    );
    let args = ["provision", "box:1", "--id", "web1", "--quiet"];
    let out = succeeded(&args, &here.command(&args).output().unwrap());
    PathBuf::from(out.trim_end())
}

fn bundle(here: &Launcher, name: &str, args: &[&str]) -> PathBuf {
    let dir = here.lab.path(name);
    let words = [&["bundle"], args, &["web1", dir.to_str().unwrap(), "--"]].concat();
    let script = "id; hostname; pwd; cat /etc/hostname; ls /shared; touch /shared/x 2>/dev/null || echo closed; \
        grep CapBnd /proc/self/status; exit 3";
    let words = [&words[..], &["sh", "-c", script]].concat();
    let out = succeeded(&words, &here.command(&words).output().unwrap());
    assert_eq!(out.trim_end(), dir.to_str().unwrap());
    dir
}

#[test]
fn runc_and_crun_run_a_bundle() {
    let Some(here) = Launcher::new() else { return };
    let root = provisioned(&here);
    let shared = here.lab.place("shared");
    std::fs::write(shared.join("says"), "").unwrap();
    let volume = format!("{}:/shared:ro", shared.display());
    for runtime in ["runc", "crun"] {
        let dir = bundle(&here, runtime, &["--hostname", "box", "-v", &volume]);
        let config = std::fs::read(dir.join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["root"]["path"], root.to_str().unwrap());
        if !has(runtime) {
            continue;
        }
        let name = format!("lazyroot-test-{}", std::process::id());
        let state = here.lab.place("state");
        let ran = |before: &[&str]| {
            let mut command = Command::new("timeout");
            command
                .arg("60")
                .args(before)
                .args([runtime, "--root"])
                .arg(&state);
            command.args(["run", "--bundle"]).arg(&dir).arg(&name);
            command.stdin(std::process::Stdio::null());
            Ran::from(command.output().unwrap())
        };
        let mut before: &[&str] = &[];
        let mut came = ran(before);
        if came.err.contains("hybrid mode not supported") && has("unshare") {
            // Where it sees control groups of version 2 alone.
            let script =
                "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec \"$@\"";
            let private = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
            let words = [&private[..], &[script, "sh"]].concat();
            before = words.leak();
            came = ran(before);
        }
        if came.err.contains("RLIM_MEMLOCK") {
            println!(
                "SKIPPED: needs CAP_SYS_RESOURCE for {runtime}'s rules of devices; the rest is tried"
            );
            let mut config = config.clone();
            config["linux"]["resources"] = json!({});
            std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
            came = ran(before);
        }
        let ran = came;
        let wanted = "uid=33(www) gid=33(www) groups=29(audio),33(www)\nbox\n/srv\nbox\nsays\nclosed\n\
            CapBnd:\t00000000a00425fb\n";
        assert_eq!(
            (ran.code, &*ran.out),
            (Some(3), wanted),
            "{runtime}: {ran:?}"
        );
    }
    // It is not written over, and needs a container that is there.
    let dir = here.lab.path("runc");
    for (args, code, says) in [
        (["bundle", "web1", dir.to_str().unwrap()], 4, "is not empty"),
        (
            ["bundle", "none", "/nowhere"],
            3,
            "there is no container `none`",
        ),
    ] {
        let ran = Ran::from(here.command(&args).output().unwrap());
        assert!(ran.code == Some(code) && ran.err.contains(says), "{ran:?}");
    }
    let args = ["destroy", "web1"];
    succeeded(&args, &here.command(&args).output().unwrap());
}

#[test]
fn launchers_that_take_a_directory_take_a_provisioned_one() {
    let Some(here) = Launcher::new() else { return };
    let root = provisioned(&here);
    let root = root.to_str().unwrap();
    let script = "cat /etc/os-release; touch /srv/new && ls /srv";
    for words in [
        &["chroot", root][..],
        &[
            "bwrap",
            "--bind",
            root,
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--unshare-pid",
        ],
        &[
            "systemd-nspawn",
            "--quiet",
            "--console=pipe",
            "--register=no",
            "--keep-unit",
            "--directory",
            root,
        ],
    ] {
        if !has(words[0]) {
            continue;
        }
        let mut command = Command::new("timeout");
        command
            .arg("60")
            .args(words)
            .args(["/bin/sh", "-c", script]);
        let ran = Ran::from(command.stdin(std::process::Stdio::null()).output().unwrap());
        if words[0] == "systemd-nspawn" && ran.code != Some(0) {
            // It demands much of the machine: control groups, a bus, mounts.
            println!(
                "SKIPPED: needs a machine for systemd-nspawn: {}",
                ran.err.trim_end()
            );
            continue;
        }
        assert_eq!(
            (ran.code, &*ran.out),
            (Some(0), "ID=test\nnew\n"),
            "{words:?}: {ran:?}"
        );
    }
    let args = ["destroy", "web1"];
    succeeded(&args, &here.command(&args).output().unwrap());
    here.is_clean();
}
