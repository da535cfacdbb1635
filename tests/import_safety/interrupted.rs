//! Ctrl-C and kill -9 at any moment of an import.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::images::*;

/// An import that waits for more of a pipe.
struct Waiting {
    child: Child,
    to: ChildStdin,
}

impl Waiting {
    /// Feeds the first `bytes` slowly, so that the end of them has been read.
    fn fed(bench: &Bench, bytes: &[u8]) -> Self {
        let mut child = bench
            .command(&["import", "--quiet", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut to = child.stdin.take().unwrap();
        for piece in bytes.chunks(16 << 10) {
            to.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(60));
        Self { child, to }
    }

    /// Sends a signal while the pipe stays open.
    fn end(self, signal: Signal) -> Ran {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        let output = self.child.wait_with_output().unwrap();
        drop(self.to);
        Ran::of(output)
    }
}

fn image() -> Vec<u8> {
    let layers = [1_u64, 2, 3].map(|seed| {
        let tar = Tar::new()
            .file(&format!("f{seed}"), &noise(seed, 300_000))
            .end();
        Layer::new(&tar, Packing::Gzip)
    });
    archive(&Image::new("slow:1", layers.to_vec()).docker())
}

/// Moments: before anything, within a header, a document, layers, the last byte.
fn moments(len: usize) -> Vec<usize> {
    let mut dice = Dice::new(77);
    let mut moments = vec![0, 100, 700, 2000, len / 2, len - 1];
    moments.extend((0..6).map(|_| dice.below(len)));
    moments
}

fn nothing_but_names(bench: &Bench) {
    let names = bench.store.join("images-v1/names.json");
    let left: Vec<_> = bench
        .files()
        .into_keys()
        .filter(|path| *path != names)
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ctrl_c_ends_an_import_in_order_even_of_a_silent_pipe() {
    let bytes = image();
    for at in moments(bytes.len()) {
        for signal in [Signal::INT, Signal::TERM] {
            let bench = Bench::new();
            let ran = Waiting::fed(&bench, &bytes[..at]).end(signal);
            assert_eq!(ran.code, 130, "after {at} bytes: {}", ran.err);
            assert!(ran.err.contains("interrupted"), "{}", ran.err);
            assert!(
                bench.files().is_empty(),
                "after {at} bytes: {:?}",
                bench.files()
            );
            assert_eq!(bench.run(&["images"]).code, 0);
        }
    }
}

#[test]
fn kill_9_leaves_nothing_that_the_next_does_not_sweep() {
    let bytes = image();
    for (number, at) in moments(bytes.len()).into_iter().enumerate() {
        let bench = Bench::new();
        let ran = Waiting::fed(&bench, &bytes[..at]).end(Signal::KILL);
        assert_eq!(ran.code, 137);
        assert_eq!(
            bench.run(&["images", "-q"]).text(),
            "",
            "no image half there"
        );
        if number % 2 == 0 {
            // The store may not be there at all yet.
            let swept = bench.run(&["gc"]);
            assert!(swept.code == 0 || at == 0, "{}", swept.err);
            assert!(bench.files().is_empty(), "{:?}", bench.files());
        }
        bench.pipe(&bytes, &[]).ok();
        bench.run(&["verify"]).ok();
        assert!(
            !bench
                .files()
                .keys()
                .any(|path| path.starts_with(bench.store.join("staging")))
        );
        bench.run(&["remove", "slow:1"]).ok();
        nothing_but_names(&bench);
    }
}

#[test]
fn kill_9_while_names_are_given_leaves_all_or_nothing() {
    let bytes = image();
    let mut dice = Dice::new(5);
    let mut whole = 0;
    for round in 0..30 {
        let bench = Bench::new();
        let mut waiting = Waiting::fed(&bench, &bytes[..bytes.len() - 1]);
        waiting.to.write_all(&bytes[bytes.len() - 1..]).unwrap();
        let Waiting { child, to } = waiting;
        drop(to);
        thread::sleep(Duration::from_micros(dice.below(90_000) as u64));
        // It may be done already: then there is nobody to be killed.
        let _ = kill_process(Pid::from_child(&child), Signal::KILL);
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert!([0, 137].contains(&ran.code), "{ran:?}");
        let images = bench.run(&["images", "-q"]).ok().text();
        if !images.is_empty() {
            whole += 1;
            bench.run(&["verify"]).ok();
            let id = images.trim();
            for n in 1..4 {
                let found = bench.run(&["cat", &format!("{id}:/f{n}")]).ok();
                assert_eq!(found.out, noise(n, 300_000));
            }
            bench.run(&["remove", id]).ok();
        } else if round % 2 == 0 {
            bench.pipe(&bytes, &[]).ok();
            bench.run(&["verify"]).ok();
            bench.run(&["remove", "slow:1"]).ok();
        }
        bench.run(&["gc"]).ok();
        nothing_but_names(&bench);
    }
    println!("{whole} of 30 images were whole when they were killed");
}
