//! From `mount` to `umount`, and what may come between.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use lazyroot::mounts;
use rustix::process::Signal;

use super::images::{PACKS, Pack, contents};
use super::lab::{Lab, Running, alive, has, servers_below, signal, succeeded, until};

fn small(lab: &Lab, name: &str, says: &str) {
    lab.image(name, Pack::Gzip, |layer| {
        layer
            .dir("etc", 0o755)
            .file("etc/says", says.as_bytes())
            .file("large", &contents(7, 3 << 20));
    });
}

fn says(at: &Path) -> String {
    fs::read_to_string(at.join("etc/says")).unwrap()
}

fn leases(lab: &Lab) -> usize {
    fs::read_dir(lab.store("leases")).unwrap().count()
}

#[test]
fn a_mount_is_usable_when_mount_returns_and_leaves_nothing_behind() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let at = lab.mount("app:1", "at");
    assert_eq!(says(&at), "one");

    let table = fs::read_to_string("/proc/mounts").unwrap();
    let line = format!("app:1 {} fuse.lazyroot ro", at.display());
    assert!(table.lines().any(|l| l.starts_with(&line)), "{table}");
    let pid = lab.server(&at);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
    // proc_pid_stat(5): state, ppid, pgrp, session, tty.
    assert_eq!((fields[4], fields[5]), (&*pid.to_string(), "0"), "{stat}");
    assert_eq!(leases(&lab), 1);

    // The same image once more, somewhere else.
    let other = lab.mount("app:1", "other");
    assert_ne!(lab.server(&other), pid);
    assert_eq!((says(&other), leases(&lab)), ("one".to_owned(), 2));
    lab.umount(&other);
    assert_eq!(says(&at), "one");

    lab.umount(&at);
    assert!(mounts::mount_at(&at).unwrap().is_none());
    until("the server ends", || !alive(pid));
    until("its lease is gone", || leases(&lab) == 0);
    assert_eq!(lab.log("at"), Vec::<String>::new());
}

#[test]
fn nobody_else_can_write_what_a_writable_mount_leaves_in_the_store() {
    let Some(lab) = Lab::new() else { return };
    // What else is there is as whoever makes it wants it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    lab.image("app:1", Pack::Zstd, |layer| {
        layer.file("large", &contents(7, 12 << 20));
    });
    fs::remove_dir_all(lab.store("metrics-v1")).unwrap();
    let at = lab.writable("app:1", "at", &[]);
    fs::read(at.join("large")).unwrap();
    fs::write(at.join("new"), "new").unwrap();
    lab.umount(&at);
    let open = super::lab::system(
        "find",
        &[
            lab.store("").to_str().unwrap(),
            "!",
            "-type",
            "l",
            "-perm",
            "/022",
        ],
    );
    assert_eq!(open, "");
    let expanded = fs::read_dir(lab.store("expanded-v1")).unwrap();
    assert!(expanded.count() > 0);
    assert!(lab.store("metrics-v1/values.json").try_exists().unwrap());
}

/// A daemon may have none. The bug: anyone could write to the store that it made.
#[test]
fn without_a_umask_nobody_else_can_write_to_a_store() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let (other, archive) = (lab.path("other"), lab.path("archive"));
    lab.run(&["export", "app:1", archive.to_str().unwrap()]);
    let mut shell = Command::new("sh");
    let script = r#"umask 0; "$@""#;
    shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_lazyroot")]);
    shell.arg("--store").arg(&other).arg("import").arg(&archive);
    succeeded("import", &shell.output().unwrap());
    let other = other.to_str().unwrap();
    let open = super::lab::system("find", &[other, "!", "-type", "l", "-perm", "/022"]);
    assert_eq!(open, "");
}

#[test]
fn an_upper_directory_is_mounted_again_as_soon_as_it_is_unmounted() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let upper = lab.path("kept");
    for round in 0..10 {
        let at = lab.writable("app:1", "at", &["--upper", upper.to_str().unwrap()]);
        fs::write(at.join("new"), contents(round, 1 << 20)).unwrap();
        // Needs the work directory.
        fs::set_permissions(
            at.join("large"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
        lab.umount(&at);
    }
    assert_eq!(fs::read(upper.join("new")).unwrap(), contents(9, 1 << 20));
}

#[test]
fn what_is_in_use_stays_unless_it_is_unmounted_lazily() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let at = lab.mount("app:1", "at");
    let pid = lab.server(&at);
    let file = File::open(at.join("large")).unwrap();
    let dir = at.to_str().unwrap();
    let said = lab.fails(4, &["umount", dir]);
    let own = std::process::id().to_string();
    assert!(
        said.contains(&format!("by process {own}")) && said.contains("--lazy"),
        "{said}"
    );
    assert_eq!(says(&at), "one");
    lab.run(&["umount", "--lazy", dir]);
    assert!(mounts::mount_at(&at).unwrap().is_none());
    let mut piece = [0; 1000];
    file.read_exact_at(&mut piece, 2 << 20).unwrap();
    assert_eq!(piece, contents(7, 3 << 20)[2 << 20..][..1000]);
    assert!(alive(pid));
    drop(file);
    until("the server ends with its last user", || !alive(pid));
    let said = lab.fails(3, &["umount", dir]);
    assert!(said.contains("is not a mount point"), "{said}");
}

#[test]
fn a_mount_that_cannot_be_made_says_why_with_its_exit_code() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let at = lab.place("at");
    let at = at.to_str().unwrap();
    let mount = |image: &'static str, at: &str| {
        vec!["mount", "--read-only", image]
            .into_iter()
            .map(str::to_owned)
            .chain([at.to_owned()])
            .collect::<Vec<_>>()
    };
    let fails = |code, image, at: &str| {
        let words = mount(image, at);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        lab.fails(code, &words)
    };
    let missing = lab.path("none");
    let said = fails(3, "app:1", missing.to_str().unwrap());
    assert!(
        said.contains("none`") && said.contains("try: mkdir"),
        "{said}"
    );
    let said = fails(3, "app:1", missing.join("below").to_str().unwrap());
    assert!(
        said.contains("none/below`") && said.contains("try: mkdir"),
        "{said}"
    );
    let file = lab.path("file");
    fs::write(&file, "").unwrap();
    let said = fails(3, "app:1", file.to_str().unwrap());
    assert!(
        said.contains("ot a directory") && !said.contains("mkdir"),
        "{said}"
    );
    let said = fails(3, "none:1", at);
    assert!(said.contains("`none:1` is not in the store"), "{said}");
    let said = lab.fails(2, &["mount", "-r", "-o", "frob", "app:1", at]);
    assert!(said.contains("`frob` is not known"), "{said}");

    // Twice at one place would have to be undone twice.
    lab.run(&["mount", "-r", "app:1", at]);
    let said = fails(4, "app:1", at);
    assert!(said.contains("has `app:1` mounted already"), "{said}");
    assert_eq!(says(Path::new(at)), "one");
    lab.umount(Path::new(at));
    assert!(mounts::mount_at(Path::new(at)).unwrap().is_none());

    let index = fs::read_dir(lab.store("layers-v1")).unwrap().flatten();
    let index = index.map(|entry| entry.path());
    let index = index.filter(|path| path.extension() == Some("idx".as_ref()));
    for path in index {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(100)
            .unwrap();
    }
    let said = fails(5, "app:1", at);
    assert!(
        said.contains(".idx") && said.contains("try: lazyroot verify"),
        "{said}"
    );
}

/// The bug: the server waited on, and mounted when the store was free.
#[test]
fn who_is_interrupted_while_he_mounts_mounts_nothing() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let at = lab.place("at");
    for by in [Signal::INT, Signal::KILL] {
        let held = File::options()
            .append(true)
            .open(lab.store("lock"))
            .unwrap();
        held.lock().unwrap();
        let mut mount = lab.lazyroot(&["mount", "app:1", at.to_str().unwrap()]);
        let mut child = Running(mount.spawn().unwrap());
        let below = lab.path("");
        until("the server waits", || servers_below(&below).len() == 1);
        signal(child.0.id(), by);
        child.0.wait().unwrap();
        drop(held);
        until("it ends", || servers_below(&below).is_empty());
        assert!(mounts::mount_at(&at).unwrap().is_none());
    }
}

/// The bug: a lock or the end of a pipe that a script had open was the server's until the end.
#[test]
fn a_server_has_nothing_open_of_who_mounts() {
    let Some(lab) = Lab::new() else { return };
    if !has("flock") {
        println!("SKIPPED: needs flock");
        return;
    }
    small(&lab, "app:1", "one");
    let (at, lock) = (lab.place("at"), lab.path("a lock"));
    let script = r#"exec 9>"$1"; flock 9; shift; "$@" || exit; exec 9>&-; flock -n "$LOCK" true"#;
    let at = at.to_str().unwrap();
    let words = |mount: &[&str]| {
        let command = lab.lazyroot(mount);
        let mut shell = Command::new("sh");
        shell
            .env("LOCK", &lock)
            .args(["-c", script, "sh"])
            .arg(&lock);
        shell.arg(command.get_program()).args(command.get_args());
        succeeded(mount, &shell.output().unwrap());
    };
    words(&["mount", "app:1", at]);
    lab.umount(Path::new(at));
    words(&["mount", "--read-only", "app:1", at]);
    lab.umount(Path::new(at));
}

#[test]
fn in_the_foreground_a_signal_unmounts_and_ends_well() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let at = lab.place("at");
    for by in [Signal::INT, Signal::TERM] {
        let dir = at.to_str().unwrap();
        let words = ["mount", "-r", "--verbose", "--foreground", "app:1", dir];
        let child = lab.lazyroot(&words).stderr(Stdio::piped()).spawn().unwrap();
        let mut child = Running(child);
        until("it is mounted", || mounts::mount_at(&at).unwrap().is_some());
        assert_eq!(says(&at), "one");
        signal(child.0.id(), by);
        let status = child.0.wait().unwrap();
        assert!(status.success(), "{status}");
        assert!(mounts::mount_at(&at).unwrap().is_none());
        let mut said = String::new();
        let mut from = child.0.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut from, &mut said).unwrap();
        assert!(said.contains("`app:1` at `"), "{said}");
    }
    until("its lease is gone", || leases(&lab) == 0);
}

#[test]
fn a_verbose_server_writes_lines_to_its_log() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let (at, log) = (lab.place("at"), lab.path("a log"));
    let (dir, file) = (at.to_str().unwrap(), log.to_str().unwrap());
    lab.run(&["mount", "-r", "-v", "--log", file, "app:1", dir]);
    assert_eq!(says(&at), "one");
    let text = fs::read_to_string(&log).unwrap();
    let pid = lab.server(&at).to_string();
    assert!(
        text.contains(&format!(" {pid} `app:1` at `{dir}`")),
        "{text}"
    );
    let bad = lab.path("no/log");
    let said = lab.fails(
        1,
        &["mount", "-r", "--log", bad.to_str().unwrap(), "app:1", dir],
    );
    assert!(said.contains("no/log`"), "{said}");
}

#[test]
fn a_server_has_the_store_and_the_log_that_a_config_file_says() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let (at, log) = (lab.place("at"), lab.path("the log"));
    let config = lab.path("c.toml");
    fs::write(&config, "store = 'store'\nlog = 'the log'\n").unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lazyroot"));
        command.env_remove("LAZYROOT_STORE");
        command.env("LAZYROOT_CONFIG", &config).args(args);
        succeeded(args, &command.output().unwrap());
    };
    run(&["mount", "-r", "-v", "app:1", at.to_str().unwrap()]);
    assert_eq!(says(&at), "one");
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("`app:1` at `"), "{text}");
    // A file that is wrong by now is nothing to the server, nor to who unmounts.
    fs::write(&config, "nonsense").unwrap();
    run(&["umount", at.to_str().unwrap()]);
}

#[test]
fn after_a_server_is_killed_its_place_can_be_used_again() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let at = lab.mount("app:1", "at");
    let pid = lab.server(&at);
    signal(pid, Signal::KILL);
    until("it is dead", || !alive(pid));
    until("its mount says so", || fs::metadata(&at).is_err());
    let error = fs::read(at.join("etc/says")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let dir = at.to_str().unwrap();
    let said = lab.fails(4, &["mount", "-r", "app:1", dir]);
    assert!(said.contains("try: lazyroot umount"), "{said}");
    lab.umount(&at);
    assert_eq!(leases(&lab), 1);
    lab.mount("app:1", "at");
    assert_eq!(says(&at), "one");
    // The dead server's lease is swept; the living one's is not.
    lab.run(&["gc"]);
    assert_eq!(leases(&lab), 1);
    lab.umount(&at);
}

#[test]
fn a_mount_outlives_its_store() {
    let Some(lab) = Lab::new() else { return };
    let whole = contents(3, 30 << 20);
    for pack in PACKS {
        let name = format!("{pack:?}").to_lowercase();
        lab.image(&name, pack, |layer| {
            layer.dir("etc", 0o755).file("etc/says", b"one");
            // One tar would be one layer, whatever it is packed with.
            layer.file("pack", name.as_bytes());
            layer.file("large", &whole).file("last", b"last");
        });
        let at = lab.mount(&name, &name);
        // What is one frame was needed once.
        assert_eq!(says(&at), "one");
    }
    until("the copy is made", || {
        let copies = fs::read_dir(lab.store("expanded-v1")).unwrap().flatten();
        copies
            .into_iter()
            .any(|copy| copy.file_name().to_str().unwrap().ends_with(".tar"))
    });
    fs::rename(lab.path("store"), lab.path("moved")).unwrap();
    let check = |file: &str, wanted: &[u8]| {
        for pack in PACKS {
            let at = lab.path(&format!("{pack:?}").to_lowercase());
            let got = fs::read(at.join(file)).unwrap();
            assert!(got == wanted, "{pack:?}");
        }
    };
    check("last", b"last");
    fs::remove_dir_all(lab.path("moved")).unwrap();
    check("large", &whole);
    for pack in PACKS {
        lab.umount(&lab.path(&format!("{pack:?}").to_lowercase()));
    }
}

#[test]
fn a_server_that_ends_leaves_the_next_mount_at_its_place_alone() {
    // The kernel gives a mount's number to the next one; a server that had not
    // seen its own end yet took the new mount away.
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    let at = lab.place("at");
    let words = at.to_str().unwrap();
    for _ in 0..5 {
        lab.run(&["mount", "--read-only", "app:1", words]);
        let old = lab.server(&at);
        signal(old, Signal::STOP);
        lab.run(&["umount", words]);
        lab.run(&["mount", "--read-only", "app:1", words]);
        signal(old, Signal::CONT);
        until("the old server ends", || !alive(old));
        assert!(mounts::mount_at(&at).unwrap().is_some_and(|m| m.is_ours()));
        lab.run(&["umount", words]);
    }
}

#[test]
fn the_image_of_a_mount_stays_whatever_gc_is_asked_to_remove() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "used:1", "one");
    small(&lab, "other:1", "two");
    let at = lab.mount("used:1", "at");
    // The server counts behind its word that the mount can be used.
    until("the mount is counted", || {
        let shown = lab.run(&["metrics"]);
        shown.contains("\nlazyroot_mounts_total 1\n")
    });
    let shown = lab.run(&["metrics"]);
    assert!(!shown.contains("\nlazyroot_mounts_active 0\n"), "{shown}");
    for rule in [&["--all"][..], &["--older-than", "0"], &["--to-size", "0"]] {
        let said = lab.run(&[&["gc"], rule].concat());
        assert!(!said.contains("removed image used:1"), "{said}");
    }
    assert_eq!(lab.run(&["images", "-q"]).lines().count(), 1);
    lab.fails(4, &["remove", "used:1"]);
    lab.run(&["verify"]);
    assert_eq!(says(&at), "one");
    lab.umount(&at);
    until("the lease is gone", || leases(&lab) == 0);
    assert!(lab.run(&["gc", "--all"]).contains("removed image used:1"));
    assert_eq!(lab.run(&["images", "-q"]), "");
}

#[test]
fn mounts_come_and_go_while_images_are_collected() {
    let Some(lab) = Lab::new() else { return };
    small(&lab, "app:1", "one");
    // Also when something fails below: else its neighbour would go on for ever.
    struct Done<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Done(&done);
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                lab.run(&["gc", "--all", "--keep", "app:1"]);
                lab.run(&["gc", "--to-size", "1", "--keep", "app:1"]);
            }
        });
        for round in 0..12 {
            let at = lab.mount("app:1", &format!("at{round}"));
            // By other processes: what this one has open, the next one of its neighbour has, too,
            // until it has begun, and the mount is in use then.
            let read = |name: &str| {
                let cat = Command::new("cat").arg(at.join(name)).output().unwrap();
                assert!(cat.status.success(), "{cat:?}");
                cat.stdout
            };
            assert_eq!(read("etc/says"), b"one");
            assert!(read("large").len() >= 3 << 20);
            lab.umount(&at);
        }
    });
    lab.run(&["verify"]);
}
