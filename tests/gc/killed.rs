//! Killed before any system call that changes something, `gc` leaves a store whose
//! images are whole, and the next `gc` leaves nothing lying about.
//!
//! The killer is strace, which can send a signal before the n-th call.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

/// The system calls that change something (strace counts each by itself). What
/// opening a file makes is there before one of these.
const CALLS: &str = "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,write,pwrite64,\
    fsync,fdatasync,linkat,chmod,fchmod,ftruncate";

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// Runs `gc` and kills it before a call; says whether there was one.
fn kill_before(bench: &Bench, call: &str, number: u32, words: &[&str]) -> bool {
    let gc = bench.command(words);
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:signal=KILL:when={number}"))
        .arg(gc.get_program())
        .args(gc.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    // A signal has no exit code: else it failed by itself.
    assert!(
        status.success() || status.code().is_none(),
        "{call} {number}"
    );
    !status.success()
}

fn strace() -> bool {
    let there = Command::new("strace").arg("-V").output();
    let there = there.is_ok_and(|output| output.status.success());
    if !there {
        println!("SKIPPED: needs strace");
    }
    there
}

#[test]
fn a_kill_at_any_moment_leaves_whole_images_and_the_next_run_cleans_up() {
    if !strace() {
        return;
    }
    let bench = Bench::new();
    take(&bench, "kept:1", &[1, 2]);
    take(&bench, "gone:1", &[2, 3]);
    take_aci(&bench, "base", &[]);
    take(&bench, "removed:1", &[4]);
    bench.run(&["remove", "--no-gc", "removed:1"]).ok();
    let store = Store::create(&bench.store, 0).unwrap();
    drop(store.fresh_upper(store.find("kept:1").unwrap()).unwrap());
    let pristine = bench.path("pristine");
    copy(&bench.store, &pristine);
    let words = ["gc", "--all", "--keep", "kept:1"];
    let (mut kills, mut states) = (0, BTreeSet::new());
    for call in CALLS.split(',') {
        for number in 1.. {
            copy(&pristine, &bench.store);
            if !kill_before(&bench, call, number, &words) {
                break;
            }
            kills += 1;
            // Whatever is there is whole, and can be found.
            bench.run(&["verify"]).ok();
            states.insert((bench.files().len(), names(&bench)));
            gc(&bench, &[]);
            is_whole(&bench);
            gc(&bench, &words[1..]);
            assert_eq!(names(&bench), ["kept:1"], "{call} {number}");
            is_whole(&bench);
            let counts = [
                "layers-v1",
                "seek-v1",
                "images-v1",
                "uppers",
                "blobs/sha512",
            ];
            let counts = counts.map(|directory| count(&bench, directory));
            assert_eq!(counts, [4, 2, 3, 0, 0], "{call} {number}");
            bench.run(&["cat", "kept:1:/etc/big-2"]).ok();
            bench.run(&["metrics"]).ok();
        }
    }
    println!("{kills} kills, {} states", states.len());
    // A rename and a removal for each file, and some more.
    assert!(kills > 40, "{kills}");
    assert!(states.len() > 15, "{states:?}");
}

/// What was renamed and not yet deleted when the machine went down.
#[test]
fn what_is_in_the_trash_from_before_is_deleted() {
    let bench = Bench::new();
    take(&bench, "one:1", &[1]);
    let trash = bench.store.join("trash");
    for entry in fs::read_dir(bench.store.join("layers-v1")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, trash.join(path.file_name().unwrap())).unwrap();
    }
    fs::create_dir_all(trash.join("upper-x/upper/deep")).unwrap();
    fs::write(trash.join("upper-x/upper/deep/file"), "x").unwrap();
    let swept = gc(&bench, &[]);
    assert_eq!(swept["files"], 3);
    is_whole(&bench);
    bench.run(&["cat", "one:1:/etc/big-1"]).ok();
}
