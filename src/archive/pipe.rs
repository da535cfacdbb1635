//! A descriptor that may keep its reader waiting for ever.
//!
//! Ctrl-C must end an import whose pipe has fallen silent, and end it in order.
//! A signal alone does not: `read` is taken up again behind the handler.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a signal may go unnoticed: shorter than a person does.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Reads until somebody says stop.
pub(super) struct Pipe {
    file: File,
    stop: Arc<AtomicBool>,
}

impl Pipe {
    pub(super) fn new(file: File, stop: Arc<AtomicBool>) -> Self {
        Self { file, stop }
    }
}

impl Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("interrupted"));
            }
            let mut wait = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut wait, Some(&PATIENCE)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                // Bytes, the end, or an error that `read` will tell.
                Ok(_) => return self.file.read(to),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
