//! Threads for what may be slow.
//!
//! What it is for: reading decodes, and a decode must not hold up lookups, which
//! the session's own few threads answer. But to hand a job over wakes one more thread, which takes
//! longer than to read most files; so all threads of the session but one may do a short one
//! themselves. May assume: a job answers its request itself. Must not know what a job is.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};

/// A buffer that nobody used for so long is given back.
const KEEP_BUFFER: Duration = Duration::from_secs(5);

/// Does a job; the buffer is its to use as it likes.
type Work<J> = Arc<dyn Fn(J, &mut Vec<u8>) + Send + Sync>;

/// A bounded queue of jobs and the threads that do them.
pub(super) struct Pool<J> {
    queue: Option<Sender<J>>,
    threads: Vec<JoinHandle<()>>,
    work: Work<J>,
    /// Threads that gave a job and do it themselves, now and at most.
    here: AtomicUsize,
    most_here: usize,
}

impl<J> fmt::Debug for Pool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool of {} threads", self.threads.len())
    }
}

impl<J: Send + 'static> Pool<J> {
    /// `threads` threads, at most `waiting` jobs in the queue. Every thread has a
    /// buffer that `work` may use as it likes. Of the `givers`, one at least never works.
    pub(super) fn new(
        givers: usize,
        threads: usize,
        waiting: usize,
        work: impl Fn(J, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = bounded::<J>(waiting);
        let work: Work<J> = Arc::new(work);
        let mut pool = Self {
            queue: Some(queue),
            threads: Vec::with_capacity(threads),
            work: Arc::clone(&work),
            here: AtomicUsize::new(0),
            most_here: givers.saturating_sub(1),
        };
        for number in 0..threads {
            let (jobs, work) = (jobs.clone(), Arc::clone(&work));
            let body = move || {
                let mut buffer = Vec::new();
                loop {
                    let job = match jobs.recv_timeout(KEEP_BUFFER) {
                        Ok(job) => job,
                        Err(RecvTimeoutError::Timeout) => {
                            buffer = Vec::new();
                            // From here on the thread sleeps until there is work.
                            match jobs.recv() {
                                Ok(job) => job,
                                Err(_) => break,
                            }
                        }
                        Err(RecvTimeoutError::Disconnected) => break,
                    };
                    work(job, &mut buffer);
                }
            };
            let builder = thread::Builder::new().name(format!("read-{number}"));
            pool.threads.push(builder.spawn(body)?);
        }
        Ok(pool)
    }

    /// Has a job done: by a thread of the pool, or here, where it is `short` and another giver
    /// is free, or the queue is full, so that nobody waits for room.
    pub(super) fn give(&self, job: J, short: bool) {
        if short && self.here.fetch_add(1, Ordering::Relaxed) < self.most_here {
            let _here = Here(&self.here);
            return (self.work)(job, &mut Vec::new());
        }
        if short {
            self.here.fetch_sub(1, Ordering::Relaxed);
        }
        let refused = match &self.queue {
            None => Some(job),
            Some(queue) => queue.try_send(job).err().map(|error| match error {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
        };
        if let Some(job) = refused {
            (self.work)(job, &mut Vec::new());
        }
    }
}

/// Counts a giver out, also one whose job panicked.
struct Here<'a>(&'a AtomicUsize);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<J> Drop for Pool<J> {
    /// Waits until every job that was handed over is done.
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // A worker that panicked has dropped its job, which answered EIO.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_job_is_done_before_the_pool_is_gone() {
        let done = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&done);
        let pool = Pool::new(2, 3, 1000, move |job: u32, _: &mut Vec<u8>| {
            count.fetch_add(job, Ordering::Relaxed);
        })
        .unwrap();
        (0..100).for_each(|job| pool.give(1, job % 3 == 0));
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn where_the_queue_is_full_whoever_gives_a_job_does_it() {
        let (gate, wait) = bounded::<()>(0);
        let (say, said) = crossbeam_channel::unbounded();
        let pool = Pool::new(1, 1, 1, move |job: u32, _: &mut Vec<u8>| {
            if job == 0 {
                let _ = wait.recv();
            }
            say.send((job, thread::current().id())).unwrap();
        })
        .unwrap();
        // One is at work; of the others one waits at most, so two at least are done here.
        pool.give(0, true);
        (1..4).for_each(|job| pool.give(job, false));
        let here = thread::current().id();
        assert_eq!(said.recv().unwrap().1, here);
        assert_eq!(said.recv().unwrap().1, here);
        drop(gate);
    }

    #[test]
    fn a_short_job_is_done_by_who_gives_it_unless_he_is_the_last_who_is_free() {
        let (gate, wait) = bounded::<()>(0);
        let (say, said) = crossbeam_channel::unbounded();
        let pool = Pool::new(2, 1, 10, move |job: u32, _: &mut Vec<u8>| {
            say.send((job, thread::current().id())).unwrap();
            if job == 1 {
                let _ = wait.recv();
            }
        })
        .unwrap();
        let here = thread::current().id();
        pool.give(0, true);
        assert_eq!(said.recv().unwrap(), (0, here));
        thread::scope(|scope| {
            scope.spawn(|| pool.give(1, true));
            assert_ne!(said.recv().unwrap().1, here);
            pool.give(2, true);
            let (job, by) = said.recv().unwrap();
            assert!(job == 2 && by != here);
            drop(gate);
        });
        pool.give(3, false);
        assert_ne!(said.recv().unwrap(), (3, here));
        pool.give(4, true);
        assert_eq!(said.recv().unwrap(), (4, here));
    }
}
