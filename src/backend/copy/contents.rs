//! Regular files, written in the order of their layers.
//!
//! What it is for: two threads share the files; each takes those of one stretch of a
//! layer at a time, so that no span is decoded by both and what one decodes the next
//! files need. Holes stay holes.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::attributes::Object;
use super::places::{Places, Reach};
use super::walk::{File, Plan};
use super::{Copy, CopyError};
use crate::node::Attr;

/// Threads that decode and write.
const THREADS: usize = 2;
/// Bytes of a layer whose files one thread takes at a time: some spans.
const STRETCH: u64 = 1 << 20;
/// Bytes that are read and written at a time.
const PIECE: usize = 1 << 20;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);

/// What the threads share.
struct Shared<'a> {
    plan: &'a Plan,
    stretches: Vec<Range<usize>>,
    /// The next stretch that nobody has taken.
    next: AtomicUsize,
    /// One of them has failed.
    failed: AtomicBool,
}

impl Copy<'_> {
    /// Writes all regular files.
    pub(super) fn write_contents(
        &self,
        plan: &Plan,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), CopyError> {
        let shared = Shared {
            plan,
            stretches: stretches(&plan.files),
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        };
        let mut outcome = Ok(());
        thread::scope(|scope| {
            let (done, outcomes) = channel();
            let mut working = 0;
            for _ in 0..THREADS {
                let (done, shared) = (done.clone(), &shared);
                let work = move || {
                    let written = self.write_some(shared);
                    if written.is_err() {
                        shared.failed.store(true, Ordering::Relaxed);
                    }
                    // The other end waits for all of them.
                    let _ = done.send(written);
                };
                // The system may have no more threads: then fewer do it.
                working += u32::from(thread::Builder::new().spawn_scoped(scope, work).is_ok());
            }
            drop(done);
            if working == 0 {
                outcome = self.write_some(&shared);
            }
            loop {
                match outcomes.recv_timeout(TELL) {
                    Ok(written) if outcome.is_ok() => outcome = written,
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => {
                        let copied = self.copied();
                        progress(copied.bytes, copied.objects);
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        });
        outcome
    }

    fn write_some(&self, shared: &Shared<'_>) -> Result<(), CopyError> {
        let mut reach = Reach::new(&self.root);
        let mut buffer = vec![0; PIECE];
        loop {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(stretch) = shared.stretches.get(number) else {
                return Ok(());
            };
            for file in &shared.plan.files[stretch.clone()] {
                if shared.failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.go_on()?;
                self.write_file(&shared.plan.places, &mut reach, file, &mut buffer)?;
            }
        }
    }

    fn write_file(
        &self,
        places: &Places,
        reach: &mut Reach<'_>,
        file: &File,
        buffer: &mut [u8],
    ) -> Result<(), CopyError> {
        let attr = self.union.attr(file.ino);
        let attr = attr.map_err(|error| self.unreadable(places, file.name, file.ino, error))?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let made = reach.open(places, file.name.dir);
        let made =
            made.and_then(|dir| rustix::fs::openat(dir, places.name(file.name), flags, mode));
        let made = made.map_err(|error| self.failed("make", places, file.name)(error))?;
        self.fill(&made, places, file, &attr, buffer)?;
        self.furnish(Object::Open(&made), places, file.name, file.ino, &attr)?;
        self.objects.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn fill(
        &self,
        to: &OwnedFd,
        places: &Places,
        file: &File,
        attr: &Attr,
        buffer: &mut [u8],
    ) -> Result<(), CopyError> {
        if attr.stored == attr.size {
            return self.fill_range(to, places, file, 0..attr.size, buffer);
        }
        let seek = |at, data| self.union.seek(file.ino, at, data);
        let mut at = 0;
        loop {
            let stretch = seek(at, true).and_then(|from| match from {
                Some(from) => Ok(Some(from..seek(from, false)?.unwrap_or(attr.size))),
                None => Ok(None),
            });
            let stretch =
                stretch.map_err(|error| self.unreadable(places, file.name, file.ino, error))?;
            let Some(stretch) = stretch else {
                break;
            };
            at = stretch.end;
            self.fill_range(to, places, file, stretch, buffer)?;
        }
        // What follows the last byte is a hole, too.
        let sized = rustix::fs::ftruncate(to, attr.size);
        sized.map_err(|error| self.failed("write", places, file.name)(error))
    }

    fn fill_range(
        &self,
        to: &OwnedFd,
        places: &Places,
        file: &File,
        mut range: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<(), CopyError> {
        while !range.is_empty() {
            self.go_on()?;
            let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let wanted = left.min(buffer.len());
            let piece = &mut buffer[..wanted];
            let read = self.union.read_on(file.ino, range.start, piece);
            let read = read.map_err(|error| self.unreadable(places, file.name, file.ino, error))?;
            if read == 0 {
                // Rather an error than a loop without an end.
                let short = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(self.failed("read all of", places, file.name)(short));
            }
            let written = write_at(to, &piece[..read], range.start);
            written.map_err(|error| self.failed("write", places, file.name)(error))?;
            range.start += read as u64;
            self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Writes all of it.
fn write_at(to: impl AsFd, mut from: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !from.is_empty() {
        match rustix::io::pwrite(&to, from, offset) {
            // A file system that takes nothing has no room.
            Ok(0) => return Err(Errno::NOSPC),
            Ok(len) => {
                from = &from[len..];
                offset += len as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Runs of files that lie in the same stretch of a layer.
fn stretches(files: &[File]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut last = None;
    for (number, file) in files.iter().enumerate() {
        let stretch = Some((file.at.0, file.at.1 / STRETCH));
        match runs.last_mut() {
            Some(run) if stretch == last => run.end = number + 1,
            _ => runs.push(number..number + 1),
        }
        last = stretch;
    }
    runs
}
