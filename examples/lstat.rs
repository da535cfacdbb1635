//! lstat of the paths given on standard input (NUL between them), again and
//! again: prints the nanoseconds of one call, the least of some rounds
//! (`scripts/bench-read`). A loop in a script would measure the script.

#![expect(clippy::print_stdout, reason = "its figure is all it is for")]

use std::ffi::CString;
use std::io::{self, Read};
use std::time::Instant;

const ROUNDS: usize = 15;

fn main() -> io::Result<()> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let names = text
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty());
    let names: Vec<CString> = names.map(CString::new).collect::<Result<_, _>>()?;
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for name in &names {
            // Names that are not there are asked for too.
            let _ = rustix::fs::lstat(name.as_c_str());
        }
        best = best.min(start.elapsed().as_nanos());
    }
    println!("{}", best as f64 / names.len().max(1) as f64);
    Ok(())
}
