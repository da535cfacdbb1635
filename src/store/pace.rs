//! Whether there is a processor to spare.
//!
//! What it is for: work that nobody waits for yet is done while a processor is idle, and not
//! where it would take one from who has work. The scheduler counts for each thread how
//! long it ran and how long it waited to run (kernel `Documentation/scheduler/sched-stats.rst`,
//! `/proc/PID/schedstat`). Must not know what the work is.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// A thread that had to wait does nothing for so long; then it tries again.
const PAUSE: Duration = Duration::from_millis(100);

/// Nanoseconds that a thread ran, and waited to run.
type Figures = [u64; 2];

/// The pace of one thread, which alone may ask.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Nothing where the kernel does not count: then there are no pauses.
    counted: Option<File>,
    before: Figures,
    paused: Option<Instant>,
}

impl Pace {
    /// Of the thread that calls.
    pub(super) fn new() -> Self {
        let counted = File::open("/proc/thread-self/schedstat").ok();
        let before = counted.as_ref().and_then(figures).unwrap_or_default();
        Self {
            counted,
            before,
            paused: None,
        }
    }

    /// Whether to do what can be left undone.
    pub(super) fn may_run(&mut self) -> bool {
        self.paused = self.paused.filter(|since| since.elapsed() < PAUSE);
        self.paused.is_none()
    }

    /// It is done. Whoever waited longer than he worked has taken a processor from others.
    pub(super) fn has_run(&mut self) {
        let Some(now) = self.counted.as_ref().and_then(figures) else {
            return;
        };
        if crowded(self.before, now) {
            self.paused = Some(Instant::now());
        }
        self.before = now;
    }
}

fn crowded(before: Figures, now: Figures) -> bool {
    let [ran, waited] = [0, 1].map(|at| now[at].saturating_sub(before[at]));
    waited > ran
}

fn figures(file: &File) -> Option<Figures> {
    let mut text = [0; 80];
    let len = file.read_at(&mut text, 0).ok()?;
    parse(text.get(..len)?)
}

fn parse(text: &[u8]) -> Option<Figures> {
    let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let mut next = || words.next()?.parse().ok();
    Some([next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_longer_than_he_works_makes_a_pause_and_tries_again() {
        assert_eq!(parse(b"123 45 6\n"), Some([123, 45]));
        assert_eq!(parse(b"123"), None);
        assert!(!crowded([100, 100], [500, 400]));
        assert!(crowded([100, 100], [500, 501]));
        let mut pace = Pace::new();
        assert!(pace.may_run());
        pace.paused = Some(Instant::now());
        assert!(!pace.may_run());
        pace.paused = Instant::now().checked_sub(PAUSE);
        assert!(pace.may_run());
    }

    #[test]
    fn the_kernel_counts_what_a_thread_runs() {
        let mut pace = Pace::new();
        let before = pace.before;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {}
        pace.has_run();
        assert!(pace.counted.is_none() || pace.before[0] > before[0]);
    }
}
