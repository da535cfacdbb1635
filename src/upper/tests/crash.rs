//! Killed before any system call that changes something, the tree is as before or
//! as after the operation that was going on, and the next mount goes on with it.
//!
//! The killer is strace, which can send a signal before the n-th call.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::node::Time;
use crate::union::upper::SetXattr;

/// Where the victim works.
const PLACE: &str = "LAZYROOT_TEST_CRASH";
/// The system calls that change something (strace counts each by itself).
const CALLS: [&str; 13] = [
    "mkdirat",
    "mknodat",
    "openat",
    "linkat",
    "renameat2",
    "unlinkat",
    "setxattr",
    "removexattr",
    "fchmodat",
    "fchownat",
    "utimensat",
    "fsync",
    "ftruncate",
];
/// What a layer below would have.
const LOWER: [&str; 4] = ["a", "b", "dir/hidden", "dir2/hidden"];

fn furnish(up: &Directory) {
    let root = up.root();
    for name in ["dir", "dir2", "plain"] {
        let key = up
            .make(root, name.as_bytes(), &new(What::Dir, 0o755))
            .unwrap()
            .0;
        if name != "plain" {
            up.cover(key, b"hidden").unwrap();
        }
    }
    up.make(root, b"a", &new(What::File(3), 0o644)).unwrap();
    up.cover(root, b"b").unwrap();
    up.cover(root, b"nothing-below").unwrap();
}

type Step = fn(&Directory, &dyn Fn(&str) -> Key) -> std::io::Result<()>;

/// Each is one operation of the trait.
const STEPS: &[Step] = &[
    |up, _| up.remove(up.root(), b"a", true),
    |up, _| {
        let device = New {
            times: Some((Time::default(), Time::default())),
            ..new(What::Char(Device::default()), 0o666)
        };
        up.make(up.root(), b"a", &device).map(drop)
    },
    |up, key| up.rename((up.root(), b"a"), (key("plain"), b"dev"), true),
    |up, _| up.make(up.root(), b"b", &new(What::Dir, 0o2755)).map(drop),
    |up, key| {
        let staged = up.stage(&new(What::File(10), 0o6755))?;
        let names = [(up.root(), &b"one"[..]), (key("plain"), b"two")];
        up.publish(staged, &names[..1])?;
        up.link(staged, names[1].0, names[1].1, true)
    },
    |up, _| up.rename((up.root(), b"b"), (up.root(), b"nothing-below"), true),
    |up, _| up.rename((up.root(), b"nothing-below"), (up.root(), b"b"), false),
    |up, _| up.rename((up.root(), b"b"), (up.root(), b"dir"), true),
    |up, _| up.remove(up.root(), b"dir2", true).map(|()| up.tidy()),
    |up, _| up.exchange((up.root(), b"dir"), (up.root(), b"plain")),
    |up, _| {
        let _ = up.remove(up.root(), b"dir", false);
        up.tidy();
        Ok(())
    },
];

/// Objects of the tree, and names of the layer below that show through.
fn view(up: &Directory) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut open = vec![(up.root(), String::new())];
    let mut hidden = BTreeSet::new();
    while let Some((dir, path)) = open.pop() {
        if up.marks(dir).unwrap().opaque {
            hidden.insert(format!("{path}hidden"));
        }
        let mut entries = Vec::new();
        up.list(dir, &mut |name, entry| {
            entries.push((String::from_utf8(name.to_vec()).unwrap(), entry));
        })
        .unwrap();
        for (name, entry) in entries {
            let path = format!("{path}{name}");
            assert_eq!(up.find(dir, name.as_bytes()).unwrap(), Some(entry));
            match entry {
                Entry::Whiteout => _ = hidden.insert(path),
                Entry::Object(key, kind) => {
                    let stat = up.stat(key).unwrap().attr;
                    all.insert(format!("{path} {kind:?} {:o} {}", stat.mode, stat.size));
                    hidden.insert(path.clone());
                    if kind == Kind::Dir {
                        open.push((key, format!("{path}/")));
                    }
                }
            }
        }
    }
    for name in LOWER {
        let above = name.split_once('/').map(|(dir, _)| dir);
        let gone = above.is_some_and(|dir| {
            let entry = up.find(up.root(), dir.as_bytes()).unwrap();
            !matches!(entry, Some(Entry::Object(_, Kind::Dir)))
        });
        if !gone && !hidden.contains(name) {
            all.insert(format!("{name} of the layer"));
        }
    }
    all
}

fn open(place: &Path) -> Directory {
    Directory::open(&place.join("upper"), &place.join("work"), "sha256:1").unwrap()
}

fn step(up: &Directory, step: Step) {
    let key = |name: &str| match up.find(up.root(), name.as_bytes()) {
        Ok(Some(Entry::Object(key, _))) => key,
        other => panic!("{name} is {other:?}"),
    };
    step(up, &key).unwrap();
}

#[test]
#[ignore = "run by the tests below, which say where"]
fn victim() {
    let Some(place) = std::env::var_os(PLACE) else {
        return;
    };
    let up = open(Path::new(&place));
    if up.find(up.root(), b"dir").unwrap().is_none() {
        furnish(&up);
    }
    for one in STEPS {
        step(&up, *one);
    }
}

#[test]
fn a_kill_before_any_system_call_leaves_a_tree_as_before_or_after_an_operation() {
    let Some(lab) = lab() else { return };
    let strace = Command::new("strace").arg("-V").output();
    if !strace.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: needs strace");
        return;
    }
    furnish(lab.up());
    let mut allowed = vec![view(lab.up())];
    for one in STEPS {
        step(lab.up(), *one);
        allowed.push(view(lab.up()));
    }
    // A file is published name by name.
    let mut half = allowed[5].clone();
    half.retain(|line| !line.starts_with("plain/two"));
    allowed.push(half);
    let (mut reached, mut kills) = (BTreeSet::new(), 0);
    for call in CALLS {
        for number in 1.. {
            let dir = tempfile::tempdir().unwrap();
            furnish(&open(dir.path()));
            if !kill_before(call, number, dir.path()) {
                break;
            }
            kills += 1;
            let seen = view(&open(dir.path()));
            let state = allowed.iter().position(|view| *view == seen);
            assert!(state.is_some(), "{call} {number}: {seen:#?}");
            reached.insert(state);
        }
    }
    assert!(kills > 50, "{kills}");
    // Most of the states; which, depends on the build's own system calls.
    assert!(3 * reached.len() >= 2 * STEPS.len(), "{reached:?}");
}

/// Runs the victim, and kills it before the `number`-th system call of that name;
/// says whether there was one.
fn kill_before(call: &str, number: u32, place: &Path) -> bool {
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:signal=KILL:when={number}"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "upper::tests::crash::victim", "--ignored"])
        .env(PLACE, place)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    // A signal has no exit code: else the victim failed by itself.
    assert!(
        status.success() || status.code().is_none(),
        "{call} {number}"
    );
    !status.success()
}

/// Runs a program as root of a user namespace; whether it went well.
fn unshare(place: &Path, args: &[&str]) -> bool {
    Command::new("unshare")
        .arg("--map-root-user")
        .args(args)
        .env(PLACE, place)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[test]
#[ignore = "run by the test below, which says where"]
fn victim_of_labels() {
    let Some(place) = std::env::var_os(PLACE) else {
        return;
    };
    let up = open(Path::new(&place));
    let xattrs = ["security.selinux", "trusted.x", "user.kept"];
    let xattrs = xattrs.map(|name| (name.as_bytes().to_vec(), b"value".to_vec()));
    let file = New {
        xattrs: &xattrs,
        ..new(What::File(0), 0o644)
    };
    let key = up.stage(&file).unwrap();
    up.publish(key, &[(up.root(), b"file")]).unwrap();
    let kept = up.xattrs(key).unwrap();
    assert!(
        kept.iter().any(|(name, _)| name == b"user.kept"),
        "{kept:?}"
    );
    // Whoever asks for one himself is told.
    up.set_xattr(key, b"trusted.x", b"value", SetXattr::Any)
        .unwrap_err();
}

#[test]
fn what_only_root_of_the_machine_may_set_keeps_nothing_from_going_up() {
    if !unshare(Path::new("/"), &["true"]) {
        println!("SKIPPED: needs unshare and user namespaces");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let name = "upper::tests::crash::victim_of_labels";
    assert!(unshare(
        dir.path(),
        &[this.to_str().unwrap(), "--exact", name, "--ignored"]
    ));
    // It was there, and did it.
    assert!(dir.path().join("upper/file").try_exists().unwrap());
}

#[test]
fn root_goes_on_with_what_a_user_namespace_began() {
    let Some(lab) = lab() else { return };
    if !unshare(Path::new("/"), &["true"]) {
        println!("SKIPPED: needs unshare and user namespaces");
        return;
    }
    furnish(lab.up());
    STEPS.iter().for_each(|one| step(lab.up(), *one));
    let dir = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let victim = [
        this.to_str().unwrap(),
        "--exact",
        "upper::tests::crash::victim",
        "--ignored",
    ];
    assert!(unshare(dir.path(), &victim));
    let name = "user.overlay.lazyroot.layers";
    let mut value = [0; 64];
    rustix::fs::getxattr(dir.path().join("upper"), name, &mut value).unwrap();
    assert_eq!(view(&open(dir.path())), view(lab.up()));
}
