//! Threads for what may be slow.
//!
//! What it is for: reading decodes, and a decode must not hold up lookups, which
//! the session's own few threads answer. But to hand a job over wakes one more thread, which takes
//! longer than to read most files; so all threads of the session but one may do a short one
//! themselves. May assume: a job answers its request itself. Must not know what a job is.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;

/// A buffer that nobody used for so long is given back.
const KEEP_BUFFER: Duration = Duration::from_secs(5);

/// Does a job; the buffer is its to use as it likes.
type Work<J> = dyn Fn(J, &mut Vec<u8>) + Send + Sync;

/// A bounded queue of jobs and the threads that do them. These are made when there are jobs:
/// who only looks at names never needs one, and no mount waits for its own.
pub(super) struct Pool<J> {
    queue: Option<Sender<J>>,
    jobs: Receiver<J>,
    work: Arc<Work<J>>,
    most: usize,
    /// How many there are, to be read without the lock.
    made: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Threads that gave a job and do it themselves, now and at most.
    here: AtomicUsize,
    most_here: usize,
}

impl<J> fmt::Debug for Pool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool, at most {}", self.most)
    }
}

impl<J: Send + 'static> Pool<J> {
    /// At most `most` threads, at most `waiting` jobs in the queue. Every thread has a
    /// buffer that `work` may use as it likes. Of the `givers`, one at least never works,
    /// unless nobody else can.
    pub(super) fn new(
        givers: usize,
        most: usize,
        waiting: usize,
        work: impl Fn(J, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let (queue, jobs) = bounded::<J>(waiting);
        Self {
            queue: Some(queue),
            jobs,
            work: Arc::new(work),
            most,
            made: AtomicUsize::new(0),
            threads: Mutex::default(),
            here: AtomicUsize::new(0),
            most_here: givers.saturating_sub(1),
        }
    }

    /// Has a job done: by a thread of the pool, or here, where it is `short` and another giver
    /// is free, or the queue is full or there is no thread, so that nobody waits for room.
    pub(super) fn give(&self, job: J, short: bool) {
        if short {
            let before = self.here.fetch_add(1, Ordering::Relaxed);
            let _here = Here(&self.here);
            if before < self.most_here {
                return self.work_here(job);
            }
        }
        if let Err(job) = self.hand_over(job) {
            self.work_here(job);
        }
    }

    /// A giver is needed also after a job that panicked, which answers EIO when it is dropped.
    fn work_here(&self, job: J) {
        let work = AssertUnwindSafe(|| (self.work)(job, &mut Vec::new()));
        // The hook for panics has told of it.
        let _ = catch_unwind(work);
    }

    fn hand_over(&self, job: J) -> Result<(), J> {
        if self.made.load(Ordering::Relaxed) < self.most && self.one_more() == 0 {
            return Err(job);
        }
        match &self.queue {
            None => Err(job),
            Some(queue) => queue.try_send(job).map_err(|error| match error {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
        }
    }

    /// Makes one more thread, if there may be one; how many there are.
    fn one_more(&self) -> usize {
        let mut threads = self.threads.lock();
        if threads.len() < self.most {
            let (jobs, work) = (self.jobs.clone(), Arc::clone(&self.work));
            let builder = thread::Builder::new().name(format!("read-{}", threads.len()));
            // Without it the others have more to do.
            threads.extend(builder.spawn(move || serve(&jobs, &*work)));
            self.made.store(threads.len(), Ordering::Relaxed);
        }
        threads.len()
    }
}

fn serve<J>(jobs: &Receiver<J>, work: &Work<J>) {
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
}

/// Counts a giver out.
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
        for thread in self.threads.get_mut().drain(..) {
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
        });
        (0..100).for_each(|job| pool.give(1, job % 3 == 0));
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn threads_come_with_jobs_and_no_more_than_may_be() {
        let pool = Pool::new(2, 2, 1000, |_: u32, _: &mut Vec<u8>| {});
        let made = |pool: &Pool<u32>| pool.threads.lock().len();
        pool.give(1, true);
        assert_eq!(made(&pool), 0);
        pool.give(1, false);
        assert_eq!(made(&pool), 1);
        (0..10).for_each(|_| pool.give(1, false));
        assert_eq!(made(&pool), 2);
    }

    #[test]
    fn whoever_does_a_job_himself_survives_its_panic() {
        let pool = Pool::new(2, 1, 1, |job: u32, _: &mut Vec<u8>| {
            assert!(job != 1, "meant")
        });
        pool.give(1, true);
        assert_eq!(pool.here.load(Ordering::Relaxed), 0);
        pool.give(2, true);
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
        });
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
        });
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
