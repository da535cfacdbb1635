//! Writable mounts: where writes go, what becomes of them, who may.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lazyroot::mounts;
use rustix::process::Signal;

use super::images::{Pack, contents};
use super::lab::{Lab, alive, has, signal, succeeded, system, until};

/// `nobody` on Debian; any that is not root will do.
const USER: u32 = 65534;

fn lab_with(files: &[(&str, &[u8])]) -> Option<Lab> {
    let lab = Lab::new()?;
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.dir("etc", 0o755);
        for (name, bytes) in files {
            layer.file(name, bytes);
        }
    });
    Some(lab)
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn what_is_written_goes_when_the_mount_is_undone() {
    let Some(lab) = lab_with(&[("etc/says", b"one")]) else {
        return;
    };
    let at = lab.writable("app:1", "at", &[]);
    fs::write(at.join("etc/says"), "two").unwrap();
    fs::write(at.join("new"), "three").unwrap();
    assert_eq!(entries(&lab.store("uppers")), 1);
    // The bug: whoever else was on the machine could read it, write to its /tmp and run
    // its setuid programs there.
    let uppers = fs::read_dir(lab.store("uppers")).unwrap();
    for upper in uppers.flatten() {
        assert_eq!(upper.metadata().unwrap().mode() & 0o077, 0);
    }
    assert_eq!(lab.run(&["gc"]).lines().count(), 1, "it is in use");
    assert_eq!(fs::read(at.join("new")).unwrap(), b"three");
    lab.umount(&at);
    until("it is gone", || entries(&lab.store("uppers")) == 0);
    until("all of it", || entries(&lab.store("trash")) == 0);
    let at = lab.writable("app:1", "again", &[]);
    assert_eq!(fs::read(at.join("etc/says")).unwrap(), b"one");
    assert!(!at.join("new").is_file());
}

#[test]
fn what_was_written_before_a_kill_stays_until_it_is_given_up() {
    let Some(lab) = lab_with(&[("etc/says", b"one")]) else {
        return;
    };
    let mut places = Vec::new();
    for name in ["one", "other"] {
        let at = lab.writable("app:1", name, &[]);
        let pid = lab.server(&at);
        if name == "one" {
            fs::write(at.join("new"), "three").unwrap();
        }
        signal(pid, Signal::KILL);
        until("it is dead", || !alive(pid));
        places.push(at);
    }
    for at in &places {
        lab.run(&["umount", "--lazy", at.to_str().unwrap()]);
    }
    assert!(lab.run(&["du"]).contains("changes of mounts"));
    let said = lab.run(&["gc"]);
    assert!(
        said.contains("gc --uppers") && said.contains("/uppers/upper-"),
        "{said}"
    );
    assert_eq!(entries(&lab.store("uppers")), 1, "one was empty");
    lab.run(&["gc", "--uppers"]);
    assert_eq!(entries(&lab.store("uppers")), 0);
    assert_eq!(entries(&lab.store("trash")), 0);
}

#[test]
fn an_upper_directory_is_gone_on_with_also_after_a_kill() {
    let Some(lab) = lab_with(&[("etc/says", b"one"), ("etc/goes", b"x")]) else {
        return;
    };
    lab.image("other:1", Pack::Plain, |layer| {
        layer.file("else", b"else");
    });
    let upper = lab.path("upper");
    let words = ["--upper", upper.to_str().unwrap()];
    let at = lab.writable("app:1", "at", &words);
    fs::write(at.join("etc/says"), "two").unwrap();
    fs::remove_file(at.join("etc/goes")).unwrap();
    fs::rename(at.join("etc"), at.join("conf")).unwrap();
    let number = fs::metadata(at.join("conf/says")).unwrap().ino();

    let place = lab.place("second");
    let place = place.to_str().unwrap();
    let said = lab.fails(4, &["mount", "app:1", place, words[0], words[1]]);
    assert!(said.contains("in use"), "{said}");

    let held = File::options()
        .write(true)
        .open(at.join("conf/says"))
        .unwrap();
    let pid = lab.server(&at);
    signal(pid, Signal::KILL);
    until("it is dead", || !alive(pid));
    lab.run(&["umount", "--lazy", at.to_str().unwrap()]);
    let passes = |line: &str| line.starts_with("yes") && line.contains("FUSE passthrough");
    if lab.run(&["doctor"]).lines().any(passes) {
        // The kernel was handed the file: it is written to without any server.
        held.write_all_at(b"six", 0).unwrap();
    } else {
        println!("SKIPPED: needs FUSE passthrough");
        fs::write(upper.join("conf/says"), "six").unwrap();
    }

    let said = lab.fails(1, &["mount", "other:1", place, words[0], words[1]]);
    assert!(
        said.contains("another image") && said.contains("try:"),
        "{said}"
    );

    let at = lab.writable("app:1", "again", &words);
    assert_eq!(fs::read(at.join("conf/says")).unwrap(), b"six");
    assert!(!at.join("conf/goes").is_file() && !at.join("etc").is_dir());
    assert_eq!(fs::metadata(at.join("conf/says")).unwrap().ino(), number);
    lab.umount(&at);
    until("the work directory goes", || {
        !lab.path("upper.work").is_dir()
    });
    assert!(upper.is_dir());
    assert_eq!(entries(&lab.store("uppers")), 0);
}

/// Pages of a file that wait to be written to the disk (cachestat(2)).
#[expect(unsafe_code, reason = "no crate wraps cachestat(2)")]
fn dirty_pages(file: &File) -> u64 {
    const CACHESTAT: libc::c_long = 451;
    // `struct cachestat_range` and `struct cachestat` (linux/mman.h).
    let (range, mut found) = ([0_u64, 0], [0_u64; 5]);
    // SAFETY: both are as large as the kernel's structures, and live longer than the call.
    let done = unsafe {
        let (range, found) = (range.as_ptr(), found.as_mut_ptr());
        libc::syscall(CACHESTAT, file.as_raw_fd(), range, found, 0)
    };
    if done == 0 { found[1] } else { 0 }
}

#[test]
fn what_a_program_opens_again_to_have_it_written_out_is_written_out() {
    let Some(lab) = lab_with(&[("etc/says", b"one")]) else {
        return;
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let upper = dir.path().to_str().unwrap();
    let at = lab.writable("app:1", "at", &["--upper", upper]);
    let open = |how: &mut OpenOptions| drop(how.open(at.join("new")).unwrap());
    fs::write(at.join("new"), vec![1; 1 << 20]).unwrap();
    let below = File::open(dir.path().join("new")).unwrap();
    if dirty_pages(&below) == 0 {
        println!("SKIPPED: needs cachestat(2), and a file system that writes later");
        return;
    }
    // Neither who reads nor who appends asks for it.
    open(File::options().read(true));
    open(File::options().append(true));
    assert_ne!(dirty_pages(&below), 0);
    open(File::options().write(true));
    assert_eq!(dirty_pages(&below), 0);
    assert_eq!(fs::read(at.join("new")).unwrap(), vec![1; 1 << 20]);
}

#[test]
fn where_changes_cannot_be_kept_is_said_before_anything_is_mounted() {
    let Some(lab) = lab_with(&[("etc/says", b"one")]) else {
        return;
    };
    let at = lab.place("at");
    let dir = at.to_str().unwrap();
    let inside = format!("{dir}/upper");
    let above = lab.path("");
    let missing = lab.path("no/such/upper");
    let missing = missing.to_str().unwrap();
    let table: [(i32, &[&str], &str); 6] = [
        (2, &["--read-only", "--upper", "/x"], "--read-only"),
        (2, &["-o", "ro", "--upper", "/x"], "read-only"),
        (2, &["-o", "workdir=/x"], "work directory"),
        (2, &["--upper", &inside], "in one another"),
        (2, &["--upper", above.to_str().unwrap()], "in one another"),
        (3, &["--upper", missing], "mkdir -p"),
    ];
    for (code, words, says) in table {
        let all: Vec<&str> = ["mount", "app:1", dir]
            .iter()
            .chain(words)
            .copied()
            .collect();
        let said = lab.fails(code, &all);
        assert!(said.contains(says), "{words:?}: {said}");
        assert_eq!(mounts::mount_at(&at).unwrap(), None);
    }
    assert_eq!(entries(&lab.store("uppers")), 0);
}

#[test]
fn options_of_mount_are_understood_as_overlayfs_has_them() {
    let Some(lab) = lab_with(&[("etc/says", b"one")]) else {
        return;
    };
    let (upper, work) = (lab.path("u"), lab.place("w"));
    let option = format!(
        "rw,noatime,nosuid,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let at = lab.writable("app:1", "at", &["-o", &option]);
    let mount = mounts::mount_at(&at).unwrap().unwrap();
    assert!(mount.options.starts_with("rw,nosuid"), "{mount:?}");
    fs::write(at.join("new"), "x").unwrap();
    assert_eq!(fs::read(upper.join("new")).unwrap(), b"x");
    lab.umount(&at);
    assert!(work.is_dir(), "it was named, so it stays");
}

#[test]
fn two_slow_copies_do_not_hold_up_a_third_file() {
    let Some(lab) = Lab::new() else { return };
    // What does not compress takes longest to copy.
    let large = contents(9, 48 << 20);
    lab.image("app:1", Pack::Gzip, |layer| {
        layer
            .file("one", &large)
            .file("two", &large)
            .file("third", b"small");
    });
    let at = lab.writable("app:1", "at", &[]);
    let copying = AtomicBool::new(true);
    let during = thread::scope(|scope| {
        let copies = ["one", "two"].map(|name| {
            let path = at.join(name);
            scope.spawn(move || {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .unwrap();
                file.write_all_at(b"x", 0).unwrap();
            })
        });
        let other = scope.spawn(|| {
            let mut during = 0;
            while copying.load(Ordering::Relaxed) {
                // Never asked for before, so the server has to answer.
                assert!(!at.join(format!("no-{during}")).is_file());
                assert_eq!(fs::read(at.join("third")).unwrap(), b"small");
                fs::write(at.join(format!("yes-{during}")), b"y").unwrap();
                during += 1;
            }
            during
        });
        for copy in copies {
            copy.join().unwrap();
        }
        copying.store(false, Ordering::Relaxed);
        other.join().unwrap()
    });
    assert!(during > 20, "{during} rounds while files were copied");
    for name in ["one", "two"] {
        let copy = fs::read(at.join(name)).unwrap();
        assert!(copy[..1] == *b"x" && copy[1..] == large[1..]);
    }
}

#[test]
fn a_write_by_an_ordinary_user_takes_setuid_and_capabilities_away() {
    let Some(lab) = lab_with(&[]) else { return };
    if !has("setfattr") {
        return;
    }
    let at = lab.writable("app:1", "at", &[]);
    // CAP_NET_RAW, permitted and effective (linux/capability.h, vfs_cap_data).
    let capability = "0x0100000200200000000000000000000000000000";
    let actions = [
        "printf x >> f",
        "printf x 1<> f",
        ": > f",
        "truncate -s 1 f",
        "truncate -s 20000 f",
        "exec 3<f; printf x >> f",
        "dd if=/dev/zero of=f bs=300k count=1 conv=notrunc 2>/dev/null",
        "fallocate -l 30000 f",
    ];
    for (number, action) in actions.into_iter().enumerate() {
        for fresh in [true, false] {
            let dir = at.join(format!("{number}-{fresh}"));
            fs::create_dir(&dir).unwrap();
            let file = dir.join("f");
            fs::write(&file, vec![b'a'; 10_000]).unwrap();
            let path = file.to_str().unwrap();
            system(
                "setfattr",
                &["-n", "security.capability", "-v", capability, path],
            );
            fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
            // Somebody has it open already, or nobody.
            let held = (!fresh).then(|| File::open(&file).unwrap());
            let output = Command::new("sh")
                .args(["-c", action])
                .current_dir(&dir)
                .uid(USER)
                .gid(USER)
                .output()
                .unwrap();
            succeeded(action, &output);
            let mode = fs::metadata(&file).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o777, "{action}, {fresh}");
            let left = Command::new("getfattr")
                .args(["--absolute-names", "-d", "-m", "security", path])
                .output()
                .unwrap();
            assert!(left.stdout.is_empty(), "{action}, {fresh}: {left:?}");
            drop(held);
        }
    }
    // Root may keep them.
    let file = at.join("root");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&file)
        .unwrap();
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(7)
        .unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o6777);
    let path = file.to_str().unwrap();
    system(
        "setfattr",
        &["-n", "security.capability", "-v", capability, path],
    );
    OpenOptions::new()
        .append(true)
        .open(&file)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o6777);
    assert_eq!(
        system(
            "getfattr",
            &["--absolute-names", "-d", "-m", "security", path]
        ),
        ""
    );
}

#[test]
fn root_of_a_user_namespace_writes_without_any_privilege_outside() {
    let Some(lab) = lab_with(&[("etc/says", b"one"), ("etc/large", &contents(4, 3 << 20))]) else {
        return;
    };
    if !has("unshare") {
        return;
    }
    let at = lab.place("at");
    let script = r#"
        set -e
        "$1" --store "$2" mount --log "$2.log" app:1 "$3"
        cd "$3"
        exec 4<etc/says
        printf two > etc/says
        test "$(cat <&4)" = two
        printf x >> etc/large
        test "$(stat -c %s etc/large)" = 3145729
        mkdir d; mv etc d/etc; ln d/etc/says hard; rm d/etc/large
        test "$(cat hard)" = two
        test ! -e etc
        exec 4<&-
        cd /
        "$1" --store "$2" umount "$3"
    "#;
    let mut command = Command::new("timeout");
    command.args([
        "60",
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
    ]);
    let output = command
        .args([script, "sh", env!("CARGO_BIN_EXE_lazyroot")])
        .args([lab.path("store"), at])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    succeeded("in a user namespace", &output);
    until("changes are gone", || entries(&lab.store("uppers")) == 0);
}
