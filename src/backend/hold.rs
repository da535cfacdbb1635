//! Whether a server lives.
//!
//! A server holds the lock of a file for as long as it lives, with its pid in it. So
//! whether it does needs no guess from pids, which are given again, nor from boot
//! times: the lock goes with the process, at kill -9 and at a loss of power. And
//! while the lock is held, the pid is that of its holder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::mounts;

/// Whoever looks whether a server lives has the lock for a moment.
const MOMENT: Duration = Duration::from_secs(2);

/// The lock, held until the process ends.
#[derive(Debug)]
pub struct Hold {
    _file: File,
}

impl Hold {
    /// Takes the lock and writes down whose it is.
    ///
    /// # Errors
    /// Another server has it, or the file cannot be written.
    pub fn take(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        let until = Instant::now() + MOMENT;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::WOULDBLOCK) => {
                    let what = format!("another server has `{}`", path.display());
                    return Err(io::Error::other(what));
                }
                Err(error) => return Err(error.into()),
            }
        }
        file.set_len(0)?;
        file.write_all(std::process::id().to_string().as_bytes())?;
        Ok(Self { _file: file })
    }
}

/// The process that holds the lock of a file; nothing if nobody does.
///
/// # Errors
/// The file is there and cannot be read.
pub fn holder(path: &Path) -> io::Result<Option<u32>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            // Empty for a moment after the lock is taken: it lives, and has no mount yet.
            Ok(Some(text.parse().unwrap_or(0)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a process has a mount at that path that we do not have.
#[must_use]
pub fn is_elsewhere(pid: u32, path: &Path) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    let theirs = namespace(&pid.to_string());
    if theirs.is_none() || theirs == namespace("self") {
        return false;
    }
    let table = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    mounts::uppermost(&mounts::parse(&table), path).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_lives_for_as_long_as_it_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server");
        assert_eq!(holder(&path).unwrap(), None);
        let hold = Hold::take(&path).unwrap();
        assert_eq!(holder(&path).unwrap(), Some(std::process::id()));
        drop(hold);
        assert_eq!(holder(&path).unwrap(), None);
        assert!(Hold::take(&path).is_ok());
    }
}
