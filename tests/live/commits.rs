//! Commits of mounts that are in use.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::images::Pack;
use super::lab::{Lab, signal, until};

/// Bytes of a file that is never half one thing and half another.
const WHOLE: usize = 256 << 10;

#[test]
fn every_file_of_a_mount_that_is_written_to_comes_as_it_was_at_one_moment() {
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.file("whole", &vec![b'a'; WHOLE]);
    });
    let upper = lab.path("upper");
    let words = ["--upper", upper.to_str().unwrap()];
    let at = lab.writable("app:1", "at", &words);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let whole = OpenOptions::new()
                .write(true)
                .open(at.join("whole"))
                .unwrap();
            let mut log = OpenOptions::new()
                .append(true)
                .create(true)
                .open(at.join("log"))
                .unwrap();
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                if n.is_multiple_of(8) {
                    let letter = b'b' + (n / 8 % 24) as u8;
                    whole.write_all_at(&vec![letter; WHOLE], 0).unwrap();
                }
                writeln!(log, "{n}").unwrap();
                n += 1;
                thread::sleep(Duration::from_millis(6));
            }
        });
        until("it is being written", || at.join("log").is_file());
        let mut moved = 0;
        for round in 0..6 {
            let name = format!("new:{round}");
            let more = [
                "commit", "app:1", &name, "--json", "--quiet", words[0], words[1],
            ];
            let said: Value = serde_json::from_str(&lab.run(&more)).unwrap();
            moved += said["moved"].as_array().unwrap().len();
            let whole = lab.run(&["cat", &format!("{name}:/whole")]).into_bytes();
            assert_eq!(whole.len(), WHOLE);
            assert!(
                whole.iter().all(|byte| *byte == whole[0]),
                "two moments in one file"
            );
            let log = lab.run(&["cat", &format!("{name}:/log")]);
            for (n, line) in log.lines().enumerate() {
                assert_eq!(line, n.to_string());
            }
        }
        assert!(
            moved > 0,
            "something must have changed meanwhile, and be told"
        );
        stop.store(true, Ordering::Relaxed);
    });
    lab.umount(&at);
    let more = ["commit", "app:1", "still:1", "--json", words[0], words[1]];
    let said: Value = serde_json::from_str(&lab.run(&more)).unwrap();
    assert_eq!(said["moved"], serde_json::json!([]));
    let name = lab.writable("still:1", "again", &[]);
    assert_eq!(
        fs::read(name.join("log")).unwrap(),
        fs::read(upper.join("log")).unwrap()
    );
    lab.umount(&name);
}

#[test]
fn a_commit_that_is_stopped_or_killed_leaves_the_store_as_it_was() {
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.file("a", b"a");
    });
    let upper = lab.path("upper");
    let words = ["--upper", upper.to_str().unwrap()];
    let at = lab.writable("app:1", "at", &words);
    let mut large = fs::File::create(at.join("large")).unwrap();
    let mut seed = 1u64;
    for _ in 0..48 {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as u8
        };
        let piece: Vec<u8> = (0..1 << 20).map(|_| next()).collect();
        large.write_all(&piece).unwrap();
    }
    drop(large);
    lab.umount(&at);
    let staged = || {
        let staging = fs::read_dir(lab.store("staging")).unwrap();
        let layer = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().path().join("layer");
        staging.map(layer).any(|layer| layer.is_file())
    };
    for (how, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let more = ["commit", "app:1", "new:1", "--quiet", words[0], words[1]];
        let mut running = lab.lazyroot(&more).stderr(Stdio::null()).spawn().unwrap();
        until("it is at work", staged);
        signal(running.id(), how);
        assert_eq!(running.wait().unwrap().code(), code);
        lab.fails(3, &["inspect", "new:1"]);
    }
    // The next one sweeps what a kill has left.
    lab.run(&["commit", "app:1", "new:1", words[0], words[1]]);
    assert_eq!(fs::read_dir(lab.store("staging")).unwrap().count(), 0);
    assert_eq!(lab.run(&["images"]).matches("new:1").count(), 1);
    lab.run(&["verify"]);
}
