//! Makes one kind of system call again and again, and prints the nanoseconds of one
//! (`scripts/bench`). A loop in a script would measure the script.
//!
//! * `stat ROUNDS`, `read ROUNDS`: lstat, or open and read to the end and close, of the
//!   paths on standard input (NUL between them); the least of the rounds
//! * `pread FILE COUNT`, `pwrite FILE COUNT`: 4 KiB each, at random places of the file
//! * `statfs DIRECTORY COUNT`: of a FUSE mount, each is one message
//! * `files DIRECTORY COUNT`: make and write files of 1 KiB, then rename, then unlink them; three figures

#![expect(clippy::print_stdout, reason = "its figures are all it is for")]

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

const BYTES: [u8; 1024] = [b'x'; 1024];
const PAGE: u64 = 4096;
/// What cat and cp read at once.
const PIECE: usize = 128 << 10;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Nanoseconds for one of `count`.
fn each(count: usize, start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / count.max(1) as f64
}

/// The paths on standard input, each given to `call`.
fn rounds(count: u32, mut call: impl FnMut(&Path) -> Result) -> Result {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let names = text
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty());
    let names: Vec<&Path> = names
        .map(|name| Path::new(OsStr::from_bytes(name)))
        .collect();
    let mut best = f64::INFINITY;
    for _ in 0..count {
        let start = Instant::now();
        for name in &names {
            call(name)?;
        }
        best = best.min(each(names.len(), start));
    }
    println!("{best}");
    Ok(())
}

/// Places of pages in a file, the same in each run.
fn places(size: u64, count: usize) -> impl Iterator<Item = u64> {
    let pages = (size / PAGE).max(1);
    let mut state = 1_u64;
    std::iter::repeat_with(move || {
        // Knuth's MMIX generator; its upper bits are the random ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % pages * PAGE
    })
    .take(count)
}

fn at_random(file: &File, count: usize, mut call: impl FnMut(u64) -> io::Result<usize>) -> Result {
    let places: Vec<u64> = places(file.metadata()?.len(), count).collect();
    let start = Instant::now();
    for place in places {
        call(place)?;
    }
    println!("{}", each(count, start));
    Ok(())
}

fn files(directory: &Path, count: usize) -> Result {
    let names = |prefix| -> Vec<PathBuf> {
        (0..count)
            .map(|number| directory.join(format!("{prefix}{number}")))
            .collect()
    };
    let (old, new) = (names("a"), names("b"));
    let start = Instant::now();
    for path in &old {
        File::create_new(path)?.write_all(&BYTES)?;
    }
    print!("{}", each(count, start));
    let start = Instant::now();
    for (from, to) in old.iter().zip(&new) {
        fs::rename(from, to)?;
    }
    print!(" {}", each(count, start));
    let start = Instant::now();
    for path in &new {
        fs::remove_file(path)?;
    }
    println!(" {}", each(count, start));
    Ok(())
}

fn main() -> Result {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.to_str()?.parse().ok());
    let mut piece = vec![0; PIECE];
    match (words.first().and_then(|word| word.to_str()), words.get(1)) {
        (Some("stat"), Some(_)) => rounds(number(1).unwrap_or(1), |name| {
            // Names that are not there are asked for too.
            let _ = fs::symlink_metadata(name);
            Ok(())
        }),
        (Some("read"), Some(_)) => rounds(number(1).unwrap_or(1), |name| {
            let mut file = File::open(name)?;
            while file.read(&mut piece)? > 0 {}
            Ok(())
        }),
        (Some("pread"), Some(path)) => {
            let file = File::open(path)?;
            let page = &mut piece[..PAGE as usize];
            let count = number(2).unwrap_or(0) as usize;
            at_random(&file, count, |place| file.read_at(page, place))
        }
        (Some("pwrite"), Some(path)) => {
            let file = OpenOptions::new().write(true).open(path)?;
            let count = number(2).unwrap_or(0) as usize;
            at_random(&file, count, |place| {
                file.write_at(&piece[..PAGE as usize], place)
            })
        }
        (Some("statfs"), Some(directory)) => {
            let count = number(2).unwrap_or(0) as usize;
            // Not to be opened: that would be messages of its own.
            let directory = rustix::fs::open(
                Path::new(directory),
                rustix::fs::OFlags::PATH,
                rustix::fs::Mode::empty(),
            )?;
            let start = Instant::now();
            for _ in 0..count {
                rustix::fs::fstatfs(&directory)?;
            }
            println!("{}", each(count, start));
            Ok(())
        }
        (Some("files"), Some(directory)) => {
            files(Path::new(directory), number(2).unwrap_or(0) as usize)
        }
        _ => Err(
            "usage: calls stat|read ROUNDS, pread|pwrite FILE COUNT, statfs|files DIRECTORY COUNT"
                .into(),
        ),
    }
}
