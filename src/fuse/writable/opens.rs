//! Which files are open, and how.
//!
//! What it is for: *one mode per file at a time*. A file is open either through
//! the kernel's cache, its requests answered here, or handed to the kernel as a
//! backing file. The kernel answers EIO to whoever mixes the two, or two backing
//! numbers of one file (fs/fuse/iomode.c). May assume: the kernel knows of an
//! open file for no longer than this table does, because it is counted before
//! the kernel is answered and counted out when the kernel says that it has gone.
//! Must not know what a request looks like.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::union::upper::Data;

/// How a file is open.
#[derive(Debug)]
pub(super) enum Mode<B> {
    /// The kernel asks for its pages.
    Cached,
    /// The kernel reads and writes the backing file of that number.
    Passthrough(B),
}

/// One file that is open, or about to be.
#[derive(Debug)]
pub(super) struct File<B> {
    /// Descriptors and mappings. 0: nobody has it open yet, and `mode` says nothing.
    handles: u64,
    /// Those of them that are running programs.
    running: u64,
    mode: Mode<B>,
    /// Its contents, once they are in the upper directory and as long as requests
    /// for them come here.
    pub(super) data: Option<Arc<dyn Data>>,
    /// It has left the table; whoever still found it looks again.
    left: bool,
}

impl<B> File<B> {
    /// How it is open; nothing when nobody has it open.
    pub(super) fn mode(&self) -> Option<&Mode<B>> {
        (self.handles > 0).then_some(&self.mode)
    }

    /// Counts one more; the first one says how. `runs`: it is opened to be executed.
    pub(super) fn opened(&mut self, first: Option<Mode<B>>, runs: bool) -> &Mode<B> {
        if let (0, Some(mode)) = (self.handles, first) {
            self.mode = mode;
        }
        self.handles += 1;
        self.running += u64::from(runs);
        &self.mode
    }
}

type Shared<B> = Arc<Mutex<File<B>>>;

/// All open files, by number.
pub(super) struct Opens<B>(Mutex<HashMap<u64, Shared<B>>>);

impl<B> fmt::Debug for Opens<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opens: {}", self.0.lock().len())
    }
}

impl<B> Default for Opens<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B> Opens<B> {
    /// Does something with a file while nobody else opens or closes it. Nothing
    /// slow, please. If nobody has it open then, nothing of it is kept.
    pub(super) fn with<T>(&self, number: u64, act: impl FnOnce(&mut File<B>) -> T) -> T {
        loop {
            let shared = Arc::clone(self.0.lock().entry(number).or_insert_with(|| {
                Arc::new(Mutex::new(File {
                    handles: 0,
                    running: 0,
                    mode: Mode::Cached,
                    data: None,
                    left: false,
                }))
            }));
            let mut file = shared.lock();
            if file.left {
                // Between the two locks its last user has closed it.
                continue;
            }
            let done = act(&mut file);
            self.tidy(number, &mut file);
            return done;
        }
    }

    /// Counts one out; `ran`: one that was opened to be executed. Says whether it was
    /// handed to the kernel.
    pub(super) fn closed(&self, number: u64, ran: bool) -> bool {
        self.with(number, |file| {
            let passed = matches!(file.mode(), Some(Mode::Passthrough(_)));
            file.handles = file.handles.saturating_sub(1);
            file.running = file.running.saturating_sub(u64::from(ran));
            passed
        })
    }

    /// Whether a file is a running program.
    pub(super) fn runs(&self, number: u64) -> bool {
        let shared = self.0.lock().get(&number).map(Arc::clone);
        shared.is_some_and(|shared| shared.lock().running > 0)
    }

    /// Contents of a file that somebody has open.
    pub(super) fn data(&self, number: u64) -> Option<Arc<dyn Data>> {
        let shared = Arc::clone(self.0.lock().get(&number)?);
        let file = shared.lock();
        file.data.clone()
    }

    /// Lets go of a file that nobody has open.
    fn tidy(&self, number: u64, file: &mut MutexGuard<'_, File<B>>) {
        if file.handles > 0 {
            return;
        }
        // A backing file is let go before anybody can register the next one.
        file.data = None;
        file.mode = Mode::Cached;
        file.left = true;
        // Nobody waits for a file's lock while he holds the table's.
        self.0.lock().remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    /// A backing number that counts how many there are.
    #[derive(Debug)]
    struct Backing<'a>(u32, &'a AtomicU32);

    impl Drop for Backing<'_> {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_first_open_says_how_and_the_last_close_lets_go() {
        let opens = Opens::default();
        opens.with(7, |file| {
            assert!(file.mode().is_none());
            file.opened(Some(Mode::Passthrough(1)), false);
        });
        opens.with(7, |file| {
            assert!(matches!(file.mode(), Some(Mode::Passthrough(1))));
            assert!(matches!(file.opened(None, false), Mode::Passthrough(1)));
        });
        assert!(opens.closed(7, false));
        opens.with(7, |file| assert!(file.mode().is_some()));
        assert!(opens.closed(7, false));
        opens.with(7, |file| assert!(file.mode().is_none()));
        assert!(opens.0.lock().is_empty());
    }

    #[test]
    fn an_open_that_fails_leaves_nothing_behind() {
        let opens: Opens<u32> = Opens::default();
        assert_eq!(opens.with(7, |_| Err::<(), _>("no")), Err("no"));
        assert!(opens.0.lock().is_empty());
    }

    #[test]
    fn one_file_never_has_two_backing_numbers() {
        let (next, living) = (AtomicU32::new(0), AtomicU32::new(0));
        let opens = Opens::default();
        let open = || {
            opens.with(7, |file| {
                let first = file.mode().is_none().then(|| {
                    // One at a time: the last one is gone.
                    assert_eq!(living.fetch_add(1, Ordering::SeqCst), 0);
                    Mode::Passthrough(Backing(next.fetch_add(1, Ordering::SeqCst), &living))
                });
                match file.opened(first, false) {
                    Mode::Passthrough(backing) => backing.0,
                    Mode::Cached => panic!("nobody opened it so"),
                }
            })
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let mine = open();
                        assert_eq!(open(), mine);
                        opens.closed(7, false);
                        opens.closed(7, false);
                    }
                });
            }
        });
        assert_eq!(living.load(Ordering::SeqCst), 0);
        assert!(opens.0.lock().is_empty());
    }
}
