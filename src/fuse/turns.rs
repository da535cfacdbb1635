//! Who waits for the next request, and how.
//!
//! What it is for: to wake a thread for a request takes longer than to answer most of
//! them. So while requests follow one another closely, whoever has answered one looks for the
//! next for some microseconds before he sleeps in read(2). One thread does so at a
//! time; the others stay away meanwhile, because the kernel wakes one that sleeps there for
//! each request, also for those that are taken already (docs/performance.md).
//! May assume: when a [`Turn`] ends its request is answered, and its thread is about to
//! read the next. Must not know what a request asks for.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec};

/// For so long the next request is looked for: what programs do between two, mostly.
const LOOKS: Duration = Duration::from_micros(20);
/// So long between two looks means that somebody else wants the processor, and had it.
const LOST: Duration = Duration::from_micros(50);
/// So many turns end without looking after a request was there before the answer to
/// another was: several programs ask, and the processors are theirs.
const CROWD: u32 = 16;
/// Threads stay away for so long at most: as long as a request may wait if the one that
/// did not stay away is held up.
const AWAY: Duration = Duration::from_millis(3);
/// So often at most nobody looks after it was in vain.
const PASS_MAX: u32 = 63;

thread_local! {
    /// The last request that came to this thread in parts.
    static PARTED: Cell<u64> = const { Cell::new(0) };
}

/// What the threads of one session share.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Where requests come from. Until it is known nobody looks.
    device: OnceLock<OwnedFd>,
    /// Somebody looks.
    looking: AtomicBool,
    /// How often in a row it was in vain.
    missed: AtomicU32,
    /// How many turns end without looking.
    pass: AtomicU32,
    away: AtomicUsize,
    lock: Mutex<()>,
    back: Condvar,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    /// Its sender asks nothing before he has the answer.
    waited_for: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.next(self.waited_for);
    }
}

impl Turns {
    /// Requests come from there, and are looked for from now on.
    pub(super) fn look_at(&self, device: OwnedFd) {
        // There is one device for each session.
        let _ = self.device.set(device);
    }

    /// A request has come.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn {
            turns: self,
            waited_for: true,
        }
    }

    /// A request has come whose sender need not wait for the answer: the next one may be
    /// there already.
    pub(super) fn quiet_turn(&self) -> Turn<'_> {
        Turn {
            turns: self,
            waited_for: false,
        }
    }

    /// A part of such a request has come: of one that has many of them (BATCH_FORGET) the
    /// first one alone is a turn.
    pub(super) fn turn_of_one(&self, request: u64) -> Option<Turn<'_>> {
        (PARTED.replace(request) != request).then(|| self.quiet_turn())
    }

    /// To answer this one may take a while: another thread is to read.
    pub(super) fn takes_long(&self) {
        if self.away.load(Ordering::Relaxed) > 0 {
            self.back.notify_one();
        }
    }

    fn next(&self, waited_for: bool) {
        let Some(device) = self.device.get() else {
            return;
        };
        let pass = self.pass.load(Ordering::Relaxed);
        if pass > 0 {
            self.pass.store(pass - 1, Ordering::Relaxed);
            return;
        }
        if self.looking.swap(true, Ordering::Acquire) {
            return self.stay_away();
        }
        self.look(device, waited_for);
        self.looking.store(false, Ordering::Release);
    }

    fn look(&self, device: &OwnedFd, waited_for: bool) {
        let begin = Instant::now();
        if is_ready(device) {
            if waited_for {
                self.pass.store(CROWD, Ordering::Relaxed);
            }
            // More come than one thread can answer.
            return self.takes_long();
        }
        let mut last = begin;
        loop {
            if is_ready(device) {
                return self.missed.store(0, Ordering::Relaxed);
            }
            let now = Instant::now();
            if now - last > LOST {
                return self.pass.store(PASS_MAX, Ordering::Relaxed);
            }
            if now - begin > LOOKS {
                let missed = 1 + self.missed.load(Ordering::Relaxed).min(u32::BITS);
                self.missed.store(missed, Ordering::Relaxed);
                let pass = 1_u32
                    .checked_shl(missed)
                    .map_or(PASS_MAX, |turns| turns - 1);
                return self.pass.store(pass.min(PASS_MAX), Ordering::Relaxed);
            }
            last = now;
        }
    }

    fn stay_away(&self) {
        self.away.fetch_add(1, Ordering::Relaxed);
        // Woken too early or a little late: either does no harm.
        self.back.wait_for(&mut self.lock.lock(), AWAY);
        self.away.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether there is something to read: a request, or the end.
fn is_ready(device: impl AsFd) -> bool {
    let mut requests = [PollFd::new(&device, PollFlags::IN)];
    rustix::event::poll(&mut requests, Some(&Timespec::default())) != Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, pipe};
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn after_looking_in_vain_turns_end_without_until_a_request_comes_in_time() {
        let turns = Turns::default();
        drop(turns.turn());
        assert_eq!(
            turns.missed.load(Ordering::Relaxed),
            0,
            "nothing to look at"
        );
        let (mut requests, mut kernel) = pipe().unwrap();
        turns.look_at(requests.try_clone().unwrap().into());
        let passed = || {
            let mut turns_passed = 0;
            while turns.pass.load(Ordering::Relaxed) > 0 {
                drop(turns.turn());
                turns_passed += 1;
            }
            turns_passed
        };
        for _ in 0..20 {
            drop(turns.turn());
            let passed = passed();
            assert!((1..=PASS_MAX).contains(&passed), "{passed}");
        }
        // What is there at once says that there are others, unless nobody waited.
        kernel.write_all(b"r").unwrap();
        drop(turns.quiet_turn());
        assert_eq!(passed(), 0);
        drop(turns.turn());
        assert_eq!(passed(), CROWD);
        requests.read_exact(&mut [0]).unwrap();
        assert!(!turns.looking.load(Ordering::Relaxed));
    }

    #[test]
    fn who_stays_away_comes_back_when_another_takes_long_and_by_himself() {
        let turns = Arc::new(Turns::default());
        let (requests, _kernel) = pipe().unwrap();
        turns.look_at(requests.into());
        turns.looking.store(true, Ordering::Relaxed);
        // By himself.
        drop(turns.turn());
        assert_eq!(turns.away.load(Ordering::Relaxed), 0);
        let other = Arc::clone(&turns);
        let away = thread::spawn(move || {
            for _ in 0..50 {
                drop(other.turn());
            }
        });
        while !away.is_finished() {
            turns.takes_long();
            thread::yield_now();
        }
        away.join().unwrap();
        assert_eq!(turns.away.load(Ordering::Relaxed), 0);
    }
}
