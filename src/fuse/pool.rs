//! Threads for what may be slow.
//!
//! What it is for: reading decodes, and a decode must not hold up lookups, which
//! the session's own few threads answer. May assume: a job answers its request
//! itself. Must not know what a job is.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};

/// A buffer that nobody used for so long is given back.
const KEEP_BUFFER: Duration = Duration::from_secs(5);

/// A bounded queue of jobs and the threads that do them.
#[derive(Debug)]
pub(super) struct Pool<J> {
    queue: Option<Sender<J>>,
    threads: Vec<JoinHandle<()>>,
}

impl<J: Send + 'static> Pool<J> {
    /// `threads` threads, at most `waiting` jobs in the queue. Every thread has a
    /// buffer that `work` may use as it likes.
    pub(super) fn new(
        threads: usize,
        waiting: usize,
        work: impl Fn(J, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = bounded::<J>(waiting);
        let work = Arc::new(work);
        let mut pool = Self {
            queue: Some(queue),
            threads: Vec::with_capacity(threads),
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

    /// Hands a job over; gives it back when the queue is full, so that the
    /// caller does it himself and nobody waits for room.
    pub(super) fn give(&self, job: J) -> Result<(), J> {
        match &self.queue {
            None => Err(job),
            Some(queue) => queue.try_send(job).map_err(|error| match error {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
        }
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn every_job_is_done_before_the_pool_is_gone() {
        let done = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&done);
        let pool = Pool::new(3, 1000, move |job: u32, _: &mut Vec<u8>| {
            count.fetch_add(job, Ordering::Relaxed);
        })
        .unwrap();
        (0..100).for_each(|_| pool.give(1).unwrap());
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let (gate, wait) = bounded::<()>(0);
        let pool = Pool::new(1, 1, move |_: u32, _: &mut Vec<u8>| {
            let _ = wait.recv();
        })
        .unwrap();
        // One is at work, one waits, a third finds no room.
        let refused = (0..100).map(|job| pool.give(job)).find_map(Result::err);
        assert!(refused.is_some());
        drop(gate);
    }
}
