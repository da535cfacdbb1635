//! Bounds what the headers of a tar may make its reader read into memory.
//!
//! Long names and extended headers are members whose length the archive claims;
//! the reader collects them before anyone is asked. Between members nothing but
//! headers is read, so there a bound can be set from outside.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Headers of one member together: extended attributes may have 64 KiB each.
const HEADERS_MAX: u64 = 1 << 20;
/// Size of a tar's blocks (POSIX, pax, "ustar Interchange Format").
pub(super) const BLOCK: u64 = 512;

/// Where a [`Gate`] stands; shared with who opens it.
#[derive(Debug, Default)]
pub(super) struct GateState {
    at: AtomicU64,
    until: AtomicU64,
}

impl GateState {
    /// Bytes that have passed.
    pub(super) fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// Lets the headers pass of the member that begins behind `end`.
    pub(super) fn headers_behind(&self, end: u64) {
        let end = end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        self.until
            .store(end.saturating_add(HEADERS_MAX), Ordering::Relaxed);
    }

    /// Lets all bytes pass.
    pub(super) fn open(&self) {
        self.until.store(u64::MAX, Ordering::Relaxed);
    }
}

/// A reader that stops with an error where its state says.
#[derive(Debug)]
pub(super) struct Gate<R> {
    from: R,
    state: Arc<GateState>,
}

impl<R> Gate<R> {
    pub(super) fn new(from: R) -> (Self, Arc<GateState>) {
        let state = Arc::new(GateState::default());
        (
            Self {
                from,
                state: Arc::clone(&state),
            },
            state,
        )
    }
}

impl<R: Read> Read for Gate<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let at = self.state.at();
        let left = self.state.until.load(Ordering::Relaxed).saturating_sub(at);
        if left == 0 && !to.is_empty() {
            let what = "the headers of one member take more than 1 MiB";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let most = usize::try_from(left).map_or(to.len(), |left| left.min(to.len()));
        let got = self.from.read(&mut to[..most])?;
        self.state.at.store(at + got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

impl<R: Seek> Seek for Gate<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = self.from.seek(to)?;
        self.state.at.store(at, Ordering::Relaxed);
        Ok(at)
    }
}
