//! An ordinary user, with a store of his own or root's.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lazyroot::mounts;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;

use super::images::{Pack, contents};
use super::lab::{Lab, alive, has, in_own_namespace, succeeded, until};

/// `nobody` on Debian; any that is not root will do.
const USER: u32 = 65534;

struct User<'a> {
    lab: &'a Lab,
}

impl<'a> User<'a> {
    fn new(lab: &'a Lab) -> Self {
        // Directories above our program may be closed to him.
        fs::copy(env!("CARGO_BIN_EXE_lazyroot"), lab.path("lazyroot")).unwrap();
        for name in ["home", "at"] {
            chown(lab.place(name), Some(USER), Some(USER)).unwrap();
        }
        Self { lab }
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let home = self.lab.path("home");
        let mut command = Command::new(self.lab.path("lazyroot"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &home)
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("LAZYROOT_STORE", self.lab.path("store"))
            .stdin(Stdio::null())
            .current_dir("/")
            .uid(USER)
            .gid(USER);
        command
    }

    #[track_caller]
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn cat(&self, path: &Path) -> Output {
        Command::new("cat")
            .arg(path)
            .uid(USER)
            .gid(USER)
            .output()
            .unwrap()
    }
}

fn copies(dir: &Path) -> usize {
    let entries = fs::read_dir(dir.join("expanded-v1"));
    entries.map_or(0, |entries| {
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter(|name| name.to_str().unwrap().ends_with(".tar"))
            .count()
    })
}

#[test]
fn a_user_looks_into_roots_store_and_mounts_from_it() {
    if !has("fusermount3")
        || !in_own_namespace("user::a_user_looks_into_roots_store_and_mounts_from_it")
    {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let large = contents(5, 9 << 20);
    lab.image("app:1", Pack::Zstd, |layer| {
        layer
            .dir("etc", 0o755)
            .file("etc/says", b"one")
            .file("large", &large);
    });
    let user = User::new(&lab);
    let before = tree(&lab.path("store"));

    let listed = succeeded("ls", &user.run(&["ls", "app:1:/etc"]));
    assert_eq!(listed, "says\n");
    assert_eq!(
        succeeded("cat", &user.run(&["cat", "app:1:/etc/says"])),
        "one"
    );
    assert!(user.run(&["cat", "app:1:/large"]).stdout == large);

    let at = lab.path("at");
    let (dir, log) = (at.to_str().unwrap(), lab.path("home/log"));
    let words = ["mount", "-r", "--log", log.to_str().unwrap(), "app:1", dir];
    succeeded("mount", &user.run(&words));
    let mount = mounts::mount_at(&at).unwrap().unwrap();
    assert!(mount.is_ours() && mount.source == "app:1", "{mount:?}");
    for option in ["ro", "nosuid", "nodev"] {
        assert!(mount.options.split(',').any(|o| o == option), "{mount:?}");
    }
    let got = user.cat(&at.join("large"));
    assert!(
        got.stdout == large,
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    let own = lab.path("home/cache/lazyroot");
    until("his copy is made", || copies(&own) == 1);
    assert_eq!(
        tree(&lab.path("store")),
        before,
        "root's store is as it was"
    );
    let said = user.fails(4, &["mount", "-r", "app:1", dir]);
    assert!(said.contains("mounted already"), "{said}");
    let pid = lab.server(&at);
    succeeded("umount", &user.run(&["umount", dir]));
    assert!(mounts::mount_at(&at).unwrap().is_none());
    until("the server ends", || !alive(pid));
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
}

#[test]
fn what_a_user_may_not_do_is_refused_in_words() {
    if !has("fusermount3") || !in_own_namespace("user::what_a_user_may_not_do_is_refused_in_words")
    {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.file("says", b"one");
    });
    let user = User::new(&lab);
    let dir = lab.path("at");
    let dir = dir.to_str().unwrap();
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if conf.lines().any(|line| line.trim() == "user_allow_other") {
        println!("SKIPPED: needs an /etc/fuse.conf without user_allow_other");
    } else {
        let said = user.fails(1, &["mount", "-r", "-o", "allow_other", "app:1", dir]);
        assert!(
            said.contains("`user_allow_other` in `/etc/fuse.conf`"),
            "{said}"
        );
    }
    let said = user.fails(1, &["mount", "app:1", dir]);
    assert!(
        said.contains("needs root") && said.contains("--read-only"),
        "{said}"
    );
    // A place that is not his.
    let other = lab.place("other");
    let said = user.fails(1, &["mount", "-r", "app:1", other.to_str().unwrap()]);
    assert!(
        said.contains("fusermount3") && said.contains(other.to_str().unwrap()),
        "{said}"
    );
    assert_eq!(mounts::mount_at(&other).unwrap(), None);

    let layout = lab.path("home/layout");
    super::images::layout(&layout, &[]);
    let said = user.fails(1, &["import", layout.to_str().unwrap(), "--name", "mine"]);
    let store = lab.path("store");
    assert!(
        said.contains(store.to_str().unwrap()) && said.contains("--store"),
        "{said}"
    );
    // In his own it works.
    let words = [
        "import",
        "-q",
        "--store",
        "home",
        "--name",
        "mine",
        layout.to_str().unwrap(),
    ];
    let own = lab.path("home/own");
    let words = words.map(|word| {
        if word == "home" {
            own.to_str().unwrap()
        } else {
            word
        }
    });
    succeeded("import", &user.run(&words));
    let mode = fs::metadata(&own).unwrap().permissions().mode();
    assert_eq!(mode & 0o002, 0);
}

/// In a user namespace nobody may set `trusted.*` or labels of security modules, so they
/// were gone of what was copied up, in the mount, in `diff` and in what was committed.
#[test]
fn attributes_that_cannot_be_copied_up_are_the_layers_still() {
    if !has("unshare") || !has("getfattr") || !has("setfattr") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        for name in ["changed", "same"] {
            let all = [
                ("trusted.t", b"t"),
                ("security.label", b"s"),
                ("user.u", b"u"),
            ];
            let records = all.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.to_vec()));
            layer.pax_records(&records).file(name, b"text");
        }
    });
    let (at, upper) = (lab.place("at"), lab.path("upper"));
    let script = "set -e; no() { if \"$@\"; then exit 9; fi; }; cd \"$2\"; getfattr -d -m security changed >\"$3\"
        chmod 600 changed same; chmod 644 same
        getfattr -d -m security changed | cmp - \"$3\"
        no setfattr -x security.label changed; no setfattr -n security.label -v x same
        setfattr -x user.u changed; no setfattr -x trusted.t changed
        getfattr -d -m security changed | cmp - \"$3\"; cd /; \"$1\" umount \"$2\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--pid", "--fork"])
        .args(["--kill-child", "sh", "-c"])
        .arg(format!(
            "\"$1\" mount --upper \"$4\" app:1 \"$2\"; {script}"
        ))
        .arg("sh")
        .arg(env!("CARGO_BIN_EXE_lazyroot"))
        .args([&at, &lab.path("before"), &upper])
        .env("LAZYROOT_STORE", lab.path("store"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare failed") {
        println!("SKIPPED: needs user namespaces");
        return;
    }
    assert!(output.status.success(), "{said}");
    let before = fs::read_to_string(lab.path("before")).unwrap();
    assert!(before.contains("security.label=\"s\""), "{before}");
    let upper = upper.to_str().unwrap();
    let changed = lab.run(&["diff", "app:1", "--upper", upper]);
    assert_eq!(changed, "C /changed\n");
    lab.run(&["commit", "app:1", "--upper", upper, "app:2"]);
    let at = lab.mount("app:2", "again");
    let all = |name: &str| {
        let file = at.join(name);
        super::lab::system(
            "getfattr",
            &["-d", "-m-", "--only-values", file.to_str().unwrap()],
        )
    };
    assert_eq!((all("changed"), all("same")), ("st".into(), "stu".into()));
}

/// Every path of a tree with what must not change.
fn tree(dir: &Path) -> Vec<String> {
    super::lab::system(
        "find",
        &[dir.to_str().unwrap(), "-printf", "%p %m %s %T@\n"],
    )
    .lines()
    .map(str::to_owned)
    .collect()
}

/// `nobody` and users of services have a home that is not there, and their mounts ended with the log
/// that they did not ask for.
#[test]
fn a_user_whose_home_cannot_be_written_mounts_without_a_log() {
    if !has("fusermount3")
        || !in_own_namespace("user::a_user_whose_home_cannot_be_written_mounts_without_a_log")
    {
        return;
    }
    if Path::new("/dev/log").symlink_metadata().is_ok() {
        println!("SKIPPED: needs a system without a log");
        return;
    }
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.file("says", b"one");
    });
    let user = User::new(&lab);
    let at = lab.path("at");
    let dir = at.to_str().unwrap();
    let homeless = |args: &[&str]| {
        let mut command = user.command(args);
        command.env("HOME", "/proc/nobody").output().unwrap()
    };
    let output = homeless(&["mount", "-r", "app:1", dir]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    succeeded("mount", &output);
    for word in [
        "note: ",
        "/proc/nobody/.local/state/lazyroot/lazyroot.log`",
        "--log",
    ] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(user.cat(&at.join("says")).stdout, b"one");
    succeeded("umount", &user.run(&["umount", dir]));
    // One that he asked for is an error as before.
    let said = user.fails(
        1,
        &["mount", "-r", "--log", "/proc/nobody/log", "app:1", dir],
    );
    assert!(
        said.contains("/proc/nobody/log`") && !said.contains("note"),
        "{said}"
    );
}
