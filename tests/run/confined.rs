//! What a command can reach.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;

use serde_json::json;

use super::launcher::{Launcher, Ran};

#[test]
fn namespaces_are_its_own_but_for_the_network() {
    let Some(here) = Launcher::new() else { return };
    let script =
        "for n in mnt pid ipc uts net; do readlink /proc/self/ns/$n; done; hostname; echo $$";
    let own = |options: &[&str]| {
        let out = here.script(options, script);
        let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
        let rest = lines.split_off(5);
        let mut same = lines
            .iter()
            .zip(["mnt", "pid", "ipc", "uts", "net"])
            .map(|(line, name)| {
                let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
                *line == ours.to_str().unwrap()
            });
        let same: Vec<bool> = same.by_ref().collect();
        (same, rest)
    };
    let (same, rest) = own(&["--id", "web1"]);
    assert_eq!(same, [false, false, false, false, true]);
    assert_eq!(rest, ["web1", "2"]);
    let (same, rest) = own(&["--network", "none", "--hostname", "other"]);
    assert_eq!((same, &*rest[0]), (vec![false; 5], "other"));
    let out = here.script(
        &["--network", "none"],
        "ip -o link; cat /etc/hosts /etc/hostname",
    );
    assert!(
        out.starts_with("1: lo: <LOOPBACK,UP,LOWER_UP>") && !out.contains("\n2: "),
        "{out}"
    );
    assert!(out.contains("127.0.0.1\tlocalhost"), "{out}");
}

#[test]
fn devices_are_few_and_the_machines_files_are_closed() {
    let Some(here) = Launcher::new() else { return };
    let out = here.script(&[], "cd /dev; ls | sort | while read n; do echo $n; done");
    let names: Vec<&str> = out.lines().collect();
    let wanted =
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(names.join(" "), wanted);
    let out = here.script(&[], "echo x > /dev/null; (echo y > /dev/full) 2>/dev/null || echo full; echo z > /dev/shm/z && cat /dev/shm/z");
    assert!(out.ends_with("full\nz\n"), "{out}");
    let tries = "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/x; do \
        (echo x > $f) 2>/dev/null && echo $f open; done; cat /proc/keys /proc/kcore /proc/timer_list 2>/dev/null; \
        ls /sys/firmware /proc/acpi; mount -t tmpfs x /tmp 2>/dev/null && echo mounted; \
        ls /proc/1/root/ 2>/dev/null && echo reached; cat /proc/1/fd/3 2>/dev/null; readlink /proc/1/exe; true";
    let found = here.script(&[], tries);
    assert_eq!(found, "/proc/acpi:\n\n/sys/firmware:\n");
    let bounds = "grep CapBnd /proc/self/status";
    // Docker's without CAP_MKNOD.
    assert_eq!(here.script(&[], bounds), "CapBnd:\t00000000a00425fb\n");
    let all = here.script(&["--privileged"], bounds);
    assert_ne!(all, "CapBnd:\t00000000a00425fb\n");
    assert_eq!(
        here.script(&["--privileged"], "mount -t tmpfs x /tmp && ls /tmp"),
        ""
    );
    // `/tmp` is the image's, unless somebody says otherwise.
    assert_eq!(here.script(&[], "ls /tmp"), "kept\n");
    assert_eq!(
        here.script(
            &["--tmpfs", "/tmp:size=1m,noexec,mode=700"],
            "ls /tmp; grep ' /tmp tmpfs' /proc/mounts"
        ),
        "tmpfs /tmp tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k,mode=700 0 0\n"
    );
}

#[test]
fn only_the_three_standard_descriptors_get_in() {
    let Some(here) = Launcher::new() else { return };
    // A directory of the machine would be a way out.
    let outside = File::open("/").unwrap();
    rustix::io::fcntl_setfd(&outside, rustix::io::FdFlags::empty()).unwrap();
    let script = format!(
        "ls /proc/self/fd/{} 2>/dev/null && echo open; true",
        outside.as_raw_fd()
    );
    assert_eq!(here.script(&[], &script), "");
}

#[test]
fn names_are_resolved_as_the_machine_does_and_the_image_is_not_changed() {
    let Some(here) = Launcher::new() else { return };
    let out = here.script(
        &["--id", "web1"],
        "cat /etc/resolv.conf; echo --; cat /etc/hosts; echo --; cat /etc/hostname",
    );
    let parts: Vec<&str> = out.split("--\n").collect();
    assert_eq!(
        parts[0],
        fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
    );
    assert!(parts[1].contains("127.0.1.1\tweb1"), "{out}");
    assert_eq!(parts[2], "web1\n");
    // What is written to them is not written to the container.
    let ran = here.run(&[
        "--keep",
        "--id",
        "kept",
        "app:1",
        "--",
        "sh",
        "-c",
        "echo mine > /etc/resolv.conf",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let find = super::lab::system(
        "find",
        &[
            here.containers().to_str().unwrap(),
            "-name",
            "resolv.conf",
            "-path",
            "*upper*",
            "-size",
            "+0",
        ],
    );
    assert_eq!(find, "");
    let link = json!({"Env": ["PATH=/bin"]});
    here.image("link:1", &link, |layer| {
        layer.symlink("etc/resolv.conf", "../run/systemd/stub.conf");
        layer.symlink("etc/hosts", "/../../../../hosts");
    });
    let ran = here.run(&[
        "link:1",
        "--",
        "sh",
        "-c",
        "wc -l < /run/systemd/stub.conf; ls /hosts",
    ]);
    assert!(
        ran.code == Some(0) && ran.out.ends_with("/hosts\n"),
        "{ran:?}"
    );
    assert!(!std::path::Path::new("/hosts").is_file());
}

#[test]
fn a_read_only_container_cannot_be_written_to() {
    let Some(here) = Launcher::new() else { return };
    let script = "touch /x 2>&1; touch /dev/shm/y && echo memory; touch /tmp/z && echo tmpfs";
    let out = here.script(&["--read-only", "--tmpfs", "/tmp"], script);
    assert_eq!(out, "touch: /x: Read-only file system\nmemory\ntmpfs\n");
    for backend in ["overlay", "copy"] {
        let out = here.script(&["--backend", backend], "touch /x && ls /x /tmp");
        assert_eq!(out, "/x\n\n/tmp:\nkept\n", "{backend}");
    }
    // With no place for /proc, nothing can be run.
    let ran = here.run(&["--backend", "bind", "app:1", "true"]);
    assert!(
        ran.code == Some(125) && ran.err.contains("has no `/proc` to mount at"),
        "{ran:?}"
    );
    here.image("places:1", &json!({}), |layer| {
        layer.dir("proc", 0o755).dir("sys", 0o755).dir("dev", 0o755);
    });
    let ran = here.run(&[
        "--backend",
        "bind",
        "places:1",
        "--",
        "/bin/sh",
        "-c",
        "echo $PATH; : > /x",
    ]);
    assert!(
        ran.out.starts_with("/usr/local/sbin:") && ran.err.contains("Read-only file system"),
        "{ran:?}"
    );
    here.is_clean();
}

#[test]
fn device_nodes_of_an_image_are_dead_and_no_new_ones_can_be_made() {
    let Some(here) = Launcher::new() else { return };
    here.image("nodes:1", &json!({"Env": ["PATH=/bin"]}), |layer| {
        layer.symlink("bin/mknod", "busybox").odd("zero", |header| {
            header.set_entry_type(tar::EntryType::Char);
            header.set_mode(0o666);
            header.set_device_major(1).unwrap();
            header.set_device_minor(5).unwrap();
        });
    });
    let script =
        "(: < /zero) 2>/dev/null && echo open; mknod /dev/new c 1 5 2>/dev/null && echo made; true";
    for (options, found) in [(&[][..], ""), (&["--privileged"], "open\nmade\n")] {
        let ran = here.run(&[options, &["nodes:1", "--", "sh", "-c", script]].concat());
        assert_eq!(
            (ran.code, &*ran.out),
            (Some(0), found),
            "{options:?}: {ran:?}"
        );
    }
}

#[test]
fn root_in_a_user_namespace_is_the_one_who_runs_it() {
    let Some(here) = Launcher::new() else { return };
    let script = "cat /proc/self/uid_map /proc/self/setgroups; touch /x && stat -c %u:%g /x /bin/busybox; \
        echo y > /dev/null && ls /dev/pts >/dev/null && test -d /sys/class && echo devices; id -G";
    let out = here.script(&["--user-namespace"], script);
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words.join(" "), "0 0 1 deny 0:0 0:0 devices 0");
    let ran = here.run(&["--user-namespace", "-u", "www", "app:1", "true"]);
    assert!(
        ran.code == Some(125) && ran.err.contains("--user 0:0"),
        "{ran:?}"
    );
    here.is_clean();
}

/// Most were taken and did nothing, without a word.
#[test]
fn isolators_are_done_or_named() {
    let Some(here) = Launcher::new() else { return };
    let script = ["app:1", "grep", "NoNewPrivs", "/proc/self/status"];
    for (isolators, set, says) in [
        ("posix/cpu", 0, ""),
        ("docker/runtime,linux/nnp", 1, ""),
        (
            "linux/capabilities,linux/nnp,linux/seccomp",
            1,
            "note: of --isolation, not done here: linux/capabilities, linux/seccomp\n",
        ),
    ] {
        let ran = here.run(&[&["--isolation", isolators][..], &script].concat());
        assert_eq!(ran.out, format!("NoNewPrivs:\t{set}\n"), "{isolators}");
        assert_eq!(ran.err, says);
    }
    let quiet = ["--quiet", "--isolation", "linux/seccomp", "app:1", "true"];
    assert_eq!(here.run(&quiet).err, "");
    // Names of several.
    for (isolators, memory) in [("process", true), ("posix/cpu", false)] {
        let ran = here.run(&["--usage", "--isolation", isolators, "app:1", "true"]);
        assert_eq!(ran.err.contains("memory "), memory, "{isolators}: {ran:?}");
    }
    let of = |isolators: &str| {
        here.run(&[
            "--isolation",
            isolators,
            "app:1",
            "cat",
            "/proc/self/cgroup",
        ])
    };
    let (both, same) = (of("cgroups/cpu,cgroups/mem"), of("cgroups"));
    assert_eq!(same.code, both.code, "{same:?}");
    let grouped = |ran: &Ran| ran.out.contains("lazyroot-");
    assert_eq!(grouped(&same), grouped(&both), "{same:?}");
    // What the machine lacks is nothing to fail for.
    let all = of("cgroups/all,cgroups/cpu");
    assert!(
        !all.err.contains("no controller") && !all.err.contains("not mounted"),
        "{all:?}"
    );
    assert!(both.code != Some(0) || grouped(&all), "{all:?}");
    here.is_clean();
}

#[test]
fn limits_are_set_or_refused() {
    let Some(here) = Launcher::new() else { return };
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let top = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let top = top
        .and_then(|line| line.split(' ').nth(1))
        .map(str::to_owned);
    let there = top
        .as_ref()
        .map(|top| fs::read_to_string(format!("{top}/cgroup.controllers")).unwrap());
    let has = there.is_some_and(|there| there.contains("cpu") && there.contains("memory"));
    let args = [
        "--memory",
        "64M",
        "--cpus",
        "0.5",
        "app:1",
        "--",
        "cat",
        "/proc/self/cgroup",
    ];
    let ran = here.run(&args);
    if has {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("lazyroot-"), "{ran:?}");
    } else {
        println!("SKIPPED: needs control groups of version 2 with cpu and memory");
        assert_eq!(ran.code, Some(125));
        assert!(
            ran.err.contains("cannot limit CPU time") && ran.err.contains("try: "),
            "{ran:?}"
        );
    }
    let ran = here.run(&["--usage", "app:1", "true"]);
    assert!(
        ran.err.starts_with("usage: cpu ") && ran.err.contains("memory "),
        "{ran:?}"
    );
    let ran = here.run(&["--usage", "--isolation", "posix/cpu", "app:1", "true"]);
    assert!(
        ran.err.starts_with("usage: cpu ") && !ran.err.contains("memory "),
        "{ran:?}"
    );
    here.is_clean();
}
