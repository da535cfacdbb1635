//! Many readers at once.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::images::{Pack, contents};
use super::lab::{Lab, has, succeeded};

const FILES: usize = 24;

fn size(i: usize) -> usize {
    // From a few bytes to some megabytes.
    3 + (i * i * i) % 97 * 41_000
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % end.max(1)
    }
}

fn scene(lab: &Lab, name: &str, pack: Pack) -> Vec<Vec<u8>> {
    let all: Vec<Vec<u8>> = (0..FILES)
        .map(|i| contents(i as u64 + 1000 * pack as u64, size(i)))
        .collect();
    lab.image(name, pack, |layer| {
        layer.dir("names", 0o755);
        for i in 0..2000 {
            layer.file(&format!("names/{i:04}"), &[]);
        }
        for (i, data) in all.iter().enumerate() {
            layer.file(&format!("{i:02}"), data);
        }
    });
    all
}

#[test]
fn many_readers_at_random_places_read_what_was_written() {
    for pack in [Pack::Gzip, Pack::Zstd] {
        let Some(lab) = Lab::new() else { return };
        let all = scene(&lab, "app:1", pack);
        let at = lab.mount("app:1", "at");
        let until = Instant::now() + Duration::from_secs(3);
        thread::scope(|scope| {
            for thread in 0..8 {
                let (at, all) = (&at, &all);
                scope.spawn(move || {
                    let mut random = Random(thread);
                    let mut buffer = vec![0; 300_000];
                    while Instant::now() < until {
                        let i = random.below(FILES);
                        let file = File::open(at.join(format!("{i:02}"))).unwrap();
                        let from = random.below(all[i].len());
                        let len = random.below(buffer.len()).min(all[i].len() - from);
                        file.read_exact_at(&mut buffer[..len], from as u64).unwrap();
                        assert!(buffer[..len] == all[i][from..][..len], "{i} at {from}");
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    while Instant::now() < until {
                        let entries = fs::read_dir(at.join("names")).unwrap();
                        let sizes = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
                        assert_eq!(sizes.map(|size| size + 1).sum::<u64>(), 2000);
                    }
                });
            }
        });
        lab.umount(&at);
    }
}

#[test]
fn mapped_files_have_the_same_bytes() {
    let Some(lab) = Lab::new() else { return };
    if !has("python3") {
        return;
    }
    for pack in [Pack::Gzip, Pack::Zstd] {
        let name = format!("{pack:?}").to_lowercase();
        let all = scene(&lab, &name, pack);
        let at = lab.mount(&name, &name);
        let script = "import mmap, os, random, sys\n\
            same = True\n\
            for i in range(3, 24):\n\
            \x20   a, b = (open(f'{d}/{i:02}', 'rb') for d in sys.argv[1:])\n\
            \x20   m, want = mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ), b.read()\n\
            \x20   for n in range(30):\n\
            \x20       at = random.randrange(len(want))\n\
            \x20       same = same and m[at:at + 9999] == want[at:at + 9999]\n\
            print(same)\n";
        let wanted = lab.place(&format!("wanted-{name}"));
        for (i, data) in all.iter().enumerate() {
            fs::write(wanted.join(format!("{i:02}")), data).unwrap();
        }
        let output = Command::new("python3")
            .args(["-c", script])
            .args([&at, &wanted])
            .output();
        assert_eq!(succeeded("python3", &output.unwrap()), "True\n");
        lab.umount(&at);
    }
}

#[test]
fn lookups_are_quick_while_a_layer_is_decoded() {
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Zstd, |layer| {
        layer.dir("names", 0o755);
        for i in 0..2000 {
            layer.file(&format!("names/{i:04}"), &[]);
        }
        layer
            .file("large", &contents(1, 120 << 20))
            .file("last", b"last");
    });
    let at = lab.mount("app:1", "at");
    let done = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(fs::read(at.join("last")).unwrap(), b"last");
                done.store(true, Ordering::Relaxed);
            });
        }
        let mut times = Vec::new();
        for i in 0..2000 {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let begin = Instant::now();
            fs::symlink_metadata(at.join(format!("names/{i:04}"))).unwrap();
            times.push(begin.elapsed());
            // So that there are lookups for as long as it is decoded.
            thread::sleep(Duration::from_millis(1));
        }
        times
    });
    assert!(times.len() > 20, "the layer was there at once");
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{} lookups, median {median:?}, worst {worst:?}",
        times.len()
    );
    // Decoding takes tenths of a second, and the machine may be busy otherwise.
    assert!(median < Duration::from_millis(20), "{median:?}");
}
