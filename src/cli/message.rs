//! A message of Mesos on the command line.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use super::report::{Exit, Failure};
use crate::mesos::SIZE_MAX;

/// A message that is given as itself, as a file, or on standard input.
pub(super) fn read(text: &str) -> Result<Vec<u8>, Failure> {
    if text.trim_start().starts_with(['{', '[']) {
        return Ok(text.as_bytes().to_vec());
    }
    let path = PathBuf::from(text.strip_prefix("file://").unwrap_or(text));
    let mut bytes = Vec::new();
    // One more than is taken, so that it is seen to be too large.
    let limit = SIZE_MAX as u64 + 1;
    let got = match text {
        "-" => io::stdin().take(limit).read_to_end(&mut bytes),
        _ => File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    got.map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("cannot read `{text}`: {error}"))
    })?;
    Ok(bytes)
}
