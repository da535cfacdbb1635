//! Create, write and close small files in a directory, then unlink them: prints the
//! nanoseconds of both passes, for one file each (`scripts/bench-write`). A loop in
//! a script would measure the script.

#![expect(clippy::print_stdout, reason = "its figures are all it is for")]

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

const BYTES: [u8; 1024] = [b'x'; 1024];

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let (Some(directory), Some(count)) = (words.next(), words.next()) else {
        return Err("usage: small_files DIRECTORY COUNT".into());
    };
    let (directory, count) = (PathBuf::from(directory), count.to_string_lossy().parse()?);
    let paths: Vec<PathBuf> = (0..count)
        .map(|n: u32| directory.join(n.to_string()))
        .collect();
    let start = Instant::now();
    for path in &paths {
        File::create_new(path)?.write_all(&BYTES)?;
    }
    let made = start.elapsed().as_nanos();
    let start = Instant::now();
    for path in &paths {
        fs::remove_file(path)?;
    }
    let removed = start.elapsed().as_nanos();
    let each = paths.len().max(1) as u128;
    println!("{} {}", made / each, removed / each);
    Ok(())
}
