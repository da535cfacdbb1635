//! Threads that are made when there is work, for what may take minutes.
//!
//! What it is for: copying ten gigabytes up must hold up neither lookups, which
//! the session's own few threads answer, nor reads, which have a
//! [`Pool`](super::pool::Pool) of their own. May assume: a job answers its
//! request itself. Must not know what a job is.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A thread without work for so long ends.
const LINGER: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    threads: usize,
    idle: usize,
    ending: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a job, or the end.
    more: Condvar,
    /// A thread has ended.
    fewer: Condvar,
}

/// Up to a number of threads, and the jobs that wait for one.
pub(super) struct Workers {
    shared: Arc<Shared>,
    most: usize,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers, at most {}", self.most)
    }
}

impl Workers {
    /// No thread yet, and never more than `most`.
    pub(super) fn new(most: usize) -> Self {
        let shared = Arc::default();
        Self { shared, most }
    }

    /// Has a job done. It begins at once unless all threads are at work.
    pub(super) fn give(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.waiting.push_back(Box::new(job));
        if state.idle >= state.waiting.len() || state.threads >= self.most {
            self.shared.more.notify_one();
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("worker".to_owned());
        match thread.spawn(move || work(&shared)) {
            Ok(_) => state.threads += 1,
            // One that is at work comes to it.
            Err(_) if state.threads > 0 => {}
            // There is nobody else.
            Err(_) => {
                let job = state.waiting.pop_back();
                drop(state);
                if let Some(job) = job {
                    job();
                }
            }
        }
    }
}

/// Counts a thread out, also one whose job panicked.
struct Leaving<'a>(&'a Shared);

impl Leaving<'_> {
    /// Counts it out under the lock under which it decided to go: nobody may count
    /// on it from then on.
    fn now(self, state: &mut State) {
        state.threads -= 1;
        self.0.fewer.notify_all();
        std::mem::forget(self);
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.state.lock().threads -= 1;
        self.0.fewer.notify_all();
    }
}

fn work(shared: &Shared) {
    let leaving = Leaving(shared);
    loop {
        let mut state = shared.state.lock();
        while state.waiting.is_empty() {
            if state.ending {
                return leaving.now(&mut state);
            }
            state.idle += 1;
            let tired = shared.more.wait_for(&mut state, LINGER).timed_out();
            state.idle -= 1;
            if tired && state.waiting.is_empty() {
                return leaving.now(&mut state);
            }
        }
        let job = state.waiting.pop_front();
        drop(state);
        if let Some(job) = job {
            job();
        }
    }
}

impl Drop for Workers {
    /// Waits until every job is done.
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.ending = true;
        self.shared.more.notify_all();
        while state.threads > 0 {
            self.shared.fewer.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn every_job_is_done_before_the_workers_are_gone() {
        let done = Arc::new(AtomicU32::new(0));
        let workers = Workers::new(3);
        for _ in 0..100 {
            let done = Arc::clone(&done);
            workers.give(move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        drop(workers);
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_job_does_not_wait_for_those_that_take_long() {
        let workers = Workers::new(3);
        let (end, ended) = channel::<()>();
        let ended = Arc::new(Mutex::new(ended));
        for _ in 0..2 {
            let ended = Arc::clone(&ended);
            workers.give(move || {
                let _ = ended.lock().recv();
            });
        }
        let (say, heard) = channel();
        workers.give(move || say.send(()).unwrap());
        heard.recv_timeout(Duration::from_secs(20)).unwrap();
        drop(end);
    }
}
