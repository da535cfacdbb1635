//! A FUSE file system that does nothing: what a message takes, whoever serves it
//! (`scripts/bench-floors`).
//!
//! `nothing DIRECTORY` mounts it there, and ends when it is unmounted.

use std::io;

struct Nothing;

impl fuser::Filesystem for Nothing {}

fn main() -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "usage: nothing DIRECTORY");
    let directory = std::env::args_os().nth(1).ok_or_else(missing)?;
    fuser::mount(Nothing, directory, &fuser::Config::default())
}
