//! Programs of the system over a mount: mount(8), ls, find, chroot, bwrap.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::images::{Layer, Pack};
use super::lab::{Lab, alive, has, in_own_namespace, succeeded, system, until};
use lazyroot::mounts;
use tar::EntryType;

#[test]
fn mount_8_mounts_an_image_by_the_helper() {
    if !has("mount") || !in_own_namespace("programs::mount_8_mounts_an_image_by_the_helper") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.file("says", b"one");
    });
    // mount(8) looks in /sbin alone. This namespace is ours: nobody else sees it.
    let sbin = lab.place("sbin");
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/mount.fuse.lazyroot");
    let copy = sbin.join("mount.fuse.lazyroot");
    fs::copy(helper, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let real = system("realpath", &["/sbin"]);
    system(
        "mount",
        &["--bind", sbin.to_str().unwrap(), real.trim_end()],
    );

    let (at, log) = (lab.place("at"), lab.path("at.log"));
    // Whatever PATH is, it hands the helper a short one.
    let bin = lab.place("bin");
    fs::copy(env!("CARGO_BIN_EXE_lazyroot"), bin.join("lazyroot")).unwrap();
    system(
        "mount",
        &["--bind", bin.to_str().unwrap(), "/usr/local/bin"],
    );
    let mount = |image: &str, options: &str| {
        let store = lab.path("store");
        let log = log.display();
        let options = format!("{options},store={},log={log}", store.display());
        let mut command = Command::new("mount");
        command.args(["-t", "fuse.lazyroot", image]).arg(&at);
        command.args(["-o", &options]).output().unwrap()
    };
    succeeded(
        "mount",
        &mount("app:1", "ro,nosuid,noexec,x-systemd.automount,nofail"),
    );
    assert_eq!(fs::read(at.join("says")).unwrap(), b"one");
    let table = mounts::mount_at(&at).unwrap().unwrap();
    assert!(table.is_ours() && table.source == "app:1");
    for option in ["ro", "nosuid", "noexec"] {
        assert!(table.options.split(',').any(|o| o == option), "{table:?}");
    }
    assert!(!table.options.contains("nodev"), "{table:?}");
    let pid = lab.server(&at);
    system("umount", &[at.to_str().unwrap()]);
    until("the server ends", || !alive(pid));
    let generic = "ro,sync,dirsync,relatime,lazytime,silent,iversion,_netdev,user,suid";
    succeeded("mount", &mount("app:1", generic));
    system("umount", &[at.to_str().unwrap()]);

    for (image, options, says) in [
        ("none:1", "ro", "`none:1` is not in the store"),
        ("app:1", "ro,upperdir=/nowhere", "it has no upper directory"),
        ("app:1", "ro,frob", "`frob` is not known"),
        ("app:1", "remount,ro", "cannot be remounted"),
        ("app:1", "dirsync", "does not keep what `dirsync` promises"),
    ] {
        let output = mount(image, options);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(says),
            "{output:?}"
        );
    }
}

/// select.poll() of Python, apt and npm wait for files so. fuser knew no answer and warned of it, once
/// a mount, as if something had gone wrong.
#[test]
fn waiting_for_a_file_leaves_nothing_in_the_log() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.file("f", b"one");
    });
    let looked_at = lab.mount("app:1", "looked-at");
    let written = lab.writable("app:1", "written", &[]);
    for (at, name) in [(looked_at, "looked-at"), (written, "written")] {
        let file = fs::File::open(at.join("f")).unwrap();
        let mut waiting = [PollFd::new(&file, PollFlags::IN)];
        let ready = poll(&mut waiting, Some(&Timespec::default())).unwrap();
        assert!(ready == 1 && waiting[0].revents().contains(PollFlags::IN));
        drop(file);
        lab.umount(&at);
        assert_eq!(lab.log(name), [""; 0]);
    }
}

/// One of everything that `ls` shows.
fn everything(layer: &mut Layer) {
    let acl = "0200000001000600ffffffff02000400e803000004000400ffffffff\
               10000400ffffffff20000400ffffffff";
    let acl: Vec<u8> = (0..acl.len() / 2)
        .map(|i| u8::from_str_radix(&acl[2 * i..][..2], 16).unwrap())
        .collect();
    layer
        .dir("a", 0o755)
        .dir("a/b", 0o1777)
        .dir("a/b/c", 0o2750);
    layer
        .file("a/b/c/deep", &[7; 12_345])
        .symlink("a/link", "b/c");
    layer
        .dir("empty", 0o700)
        .file("zero", b"")
        .file("Upper", b"x");
    layer.file("with space", b"1").file("umlaut-\u{e4}", b"22");
    layer
        .file(".hidden", b"3")
        .program("su", 0o4755, "/bin/true");
    layer
        .dir("dev", 0o755)
        .dir("owners", 0o755)
        .dir("lists", 0o755);
    for (name, kind, major, minor) in [
        ("dev/null", EntryType::Char, 1, 3),
        ("dev/disk", EntryType::Block, 259, 1_000_000),
        ("dev/pipe", EntryType::Fifo, 0, 0),
    ] {
        layer.odd(name, |header| {
            header.set_entry_type(kind);
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        });
    }
    layer.file("dev/a-file", &[0; 1_234_567]);
    for (name, uid, gid, time) in [
        ("owners/one", 0, 5, 0),
        ("owners/two", 1000, 100_000, 4_102_444_800),
        ("owners/three", 65534, 1, 951_827_696),
    ] {
        layer.odd(name, |header| {
            header.set_uid(uid);
            header.set_gid(gid);
            header.set_mtime(time);
        });
    }
    layer.odd("owners/link", |header| {
        header.set_entry_type(EntryType::Link);
        header.set_link_name("owners/one").unwrap();
    });
    layer.pax("SCHILY.xattr.system.posix_acl_access", &acl);
    layer.file("lists/with", b"x").file("lists/without", b"y");
}

#[test]
fn ls_prints_what_ls_prints_of_the_mount() {
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, everything);
    let at = lab.mount("app:1", "at");
    let dir = at.to_str().unwrap();
    for (verb, theirs) in [
        ("-lR", "-lRn"),
        ("-lRa", "-lRna"),
        ("-l", "-ln"),
        ("-R", "-R"),
    ] {
        let wanted = system("ls", &[theirs, "--time-style=long-iso", dir]);
        let wanted: Vec<String> = wanted
            .lines()
            .filter(|line| !line.starts_with("total "))
            .map(|line| match line.strip_prefix(dir) {
                Some(":") => "/:".to_owned(),
                Some(rest) => rest.to_owned(),
                // What `..` of the root is, the mount does not know.
                None if line.ends_with(" ..") && theirs.contains('a') => "..".to_owned(),
                None => line.to_owned(),
            })
            .collect();
        let got = lab.run(&["ls", verb, "app:1"]);
        let got: Vec<String> = got
            .lines()
            .map(|line| match line.ends_with(" ..") {
                true => "..".to_owned(),
                false => line.to_owned(),
            })
            .collect();
        assert_eq!(got, wanted, "{verb}");
    }
    // A file, and one directory of several.
    let line = lab.run(&["ls", "-l", "app:1:/a/b/c/deep"]);
    assert!(
        line.starts_with("-rw-r--r-- 1 0 0 12345 2023-11-14 22:13 "),
        "{line}"
    );
}

#[test]
fn a_large_layer_costs_little_memory_and_less_when_idle() {
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        for i in 0..100_000 {
            let path = format!("d{:02}/e{}/file-{i:06}", i / 1000, i / 100 % 10);
            layer.file(&path, b"");
        }
        layer.file("large", &super::images::contents(1, 40 << 20));
    });
    let at = lab.mount("app:1", "at");
    let pid = lab.server(&at);
    // Pages of the program itself are not its image's, and are shared by all servers.
    let rss = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap()
    };
    let mounted = rss();
    assert!(mounted <= 8 << 10, "{mounted} KiB after mounting");
    let dir = at.to_str().unwrap();
    let found = system("find", &[dir, "-name", "file-*", "-size", "0"]);
    assert_eq!(found.lines().count(), 100_000);
    let listed = rss();
    fs::read(at.join("large")).unwrap();
    let read = rss();
    assert!(
        listed.max(read) <= 64 << 10,
        "{listed} KiB after find, {read} KiB after reading"
    );
    // That is after ten to twenty seconds without a request.
    let aim = mounted + (8 << 10);
    until("an idle server is small", || rss() <= aim);
    println!(
        "mounted {mounted}, listed {listed}, read {read}, idle {} KiB",
        rss()
    );
    lab.umount(&at);
}

#[test]
fn programs_run_from_a_mount_and_with_it_as_their_root() {
    let Some(lab) = Lab::new() else { return };
    if !has("busybox") || !has("chroot") {
        return;
    }
    lab.image("app:1", Pack::Gzip, |layer| {
        layer
            .dir("bin", 0o755)
            .program("bin/busybox", 0o755, "/bin/busybox");
        layer
            .symlink("bin/sh", "busybox")
            .symlink("bin/cat", "busybox");
        layer.dir("etc", 0o755).file("etc/says", b"one\n");
        layer.dir("proc", 0o755).dir("dev", 0o755);
    });
    let at = lab.mount("app:1", "at");
    let dir = at.to_str().unwrap();
    let script = "exec 2>&1; cat /etc/says; echo x >/new || echo refused; cd /; echo *";
    let wanted =
        "one\n/bin/sh: can't create /new: Read-only file system\nrefused\nbin dev etc proc\n";
    let own = system("chroot", &[dir, "/bin/sh", "-c", script]);
    assert_eq!(
        own.replace("sh: line 0: ", "/bin/sh: "),
        wanted.replace("/bin/sh: ", own_prefix(&own))
    );
    if has("bwrap") {
        let words = ["--ro-bind", dir, "/", "--proc", "/proc", "--dev", "/dev"];
        let words: Vec<&str> = words.into_iter().chain(["/bin/cat", "/etc/says"]).collect();
        assert_eq!(system("bwrap", &words), "one\n");
    }
    lab.umount(&at);
}

/// What this busybox calls itself in front of an error.
fn own_prefix(said: &str) -> &str {
    let line = said.lines().nth(1).unwrap_or_default();
    line.find("can't").map_or("", |at| &line[..at])
}

#[test]
fn setuid_programs_have_their_effect_unless_nosuid_forbids_it() {
    let Some(lab) = Lab::new() else { return };
    if !has("id") {
        return;
    }
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.program("id", 0o4755, "/usr/bin/id");
    });
    let (at, safe) = (lab.mount("app:1", "at"), lab.place("safe"));
    lab.run(&[
        "mount",
        "-r",
        "-o",
        "nosuid",
        "app:1",
        safe.to_str().unwrap(),
    ]);
    let runs_as = |at: &Path| {
        let mode = fs::metadata(at.join("id")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o4755);
        let output = Command::new(at.join("id"))
            .arg("-u")
            .uid(65534)
            .gid(65534)
            .output();
        succeeded("id", &output.unwrap())
    };
    assert_eq!((runs_as(&at).trim(), runs_as(&safe).trim()), ("0", "65534"));
}
