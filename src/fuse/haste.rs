//! Whether requests come, and how fast.
//!
//! What it is for: the main thread of a server lets caches go when nobody asks, and
//! keeps processors from halting while requests follow one another closely. Every
//! request wakes a thread of the server and its answer the program that waits, each
//! on a processor that has just become idle. In a virtual machine an idle processor
//! halts, leaves to the host, and has to be brought back: some 15 µs of the 30 that a
//! message took (docs/performance.md). The kernel's interface for those who cannot
//! wait so long is PM QoS (Documentation/power/pm_qos_interface.rst).
//! May assume: one server, one [`Activity`]. Must not know what is asked for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

/// Every so many requests the clock is looked at.
const SAMPLE: u64 = 16;
/// As many as [`SAMPLE`] within this are haste.
const HASTE: Duration = Duration::from_millis(4);
/// How often is looked whether it goes on.
pub(super) const CALM: Duration = Duration::from_millis(10);
/// It is over when fewer than so many requests came within [`CALM`].
pub(super) const CALM_REQUESTS: u64 = 20;

/// A machine with more processors lets them halt.
const PROCESSORS: usize = 8;
/// The driver of idle processors in a virtual machine.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// For how many nanoseconds its processors poll before they halt.
const POLLS: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
/// While a 0 that was written here is held open, idle processors poll.
const LATENCY: &str = "/dev/cpu_dma_latency";

/// What the main thread of a server waits for.
#[derive(Debug)]
pub(super) enum Event {
    /// The session came to its end.
    Ended(io::Result<()>),
    /// Somebody wants the process to end.
    Signal,
    /// A request came after an idle time.
    Woken,
    /// Requests begin to follow one another closely. Not said again before
    /// [`Activity::calm`].
    Haste,
}

/// Counts requests: one atomic addition for each, and now and then the clock.
#[derive(Debug)]
pub(super) struct Activity {
    requests: AtomicU64,
    asleep: AtomicBool,
    haste: AtomicBool,
    begin: Instant,
    /// Microseconds from `begin` to the last look at the clock.
    looked: AtomicU64,
    wake: Sender<Event>,
}

impl Activity {
    pub(super) fn new(wake: Sender<Event>) -> Self {
        Self {
            requests: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            haste: AtomicBool::new(false),
            begin: Instant::now(),
            looked: AtomicU64::new(0),
            wake,
        }
    }

    /// A request came.
    pub(super) fn request(&self) {
        let count = 1 + self.requests.fetch_add(1, Ordering::Relaxed);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.say(Event::Woken);
        }
        if count.is_multiple_of(SAMPLE) && !self.haste.load(Ordering::Relaxed) {
            self.look(self.begin.elapsed());
        }
    }

    fn look(&self, now: Duration) {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let last = self.looked.swap(now, Ordering::Relaxed);
        if u128::from(now.saturating_sub(last)) < HASTE.as_micros()
            && !self.haste.swap(true, Ordering::Relaxed)
        {
            self.say(Event::Haste);
        }
    }

    /// Haste is over; the next one is said.
    pub(super) fn calm(&self) {
        self.haste.store(false, Ordering::Relaxed);
    }

    /// How many requests there have been.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The next request is said.
    pub(super) fn sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    fn say(&self, event: Event) {
        // Nobody listens at the very end.
        let _ = self.wake.send(event);
    }
}

/// Whether idle processors of this machine halt at once, so that a wake-up is slow. Not
/// where the driver polls first, as it does unless it is told otherwise; machines of metal have
/// drivers of their own, which know how deep a processor should sleep.
pub(crate) fn halts() -> bool {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    text(DRIVER).trim() == "haltpoll" && text(POLLS).trim() == "0"
}

/// Processors that this process may use. It is asked once: to answer, the standard library reads files of
/// control groups, a dozen system calls.
pub(crate) fn processors() -> usize {
    static ASKED: OnceLock<usize> = OnceLock::new();
    *ASKED.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Whether a server has to keep them awake: all of them stay so, not only those that
/// its messages need, and of many that is much for little.
pub(crate) fn keeps_awake() -> bool {
    (2..=PROCESSORS).contains(&processors()) && halts()
}

/// Keeps idle processors from halting as long as it lives.
#[derive(Debug)]
pub(crate) struct Awake {
    _held: File,
}

impl Awake {
    /// Nothing where this process may not (it is root's), or the kernel cannot.
    pub(crate) fn hold() -> Option<Self> {
        let open = || {
            let mut file = File::options().write(true).open(LATENCY)?;
            file.write_all(&0_i32.to_ne_bytes())?;
            io::Result::Ok(file)
        };
        match open() {
            Ok(file) => Some(Self { _held: file }),
            Err(error) => {
                log::info!("cannot use `{LATENCY}`: {error}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;

    #[test]
    fn the_first_request_after_an_idle_time_is_said_once() {
        let (wake, events) = unbounded();
        let activity = Activity::new(wake);
        activity.sleep();
        activity.request();
        activity.request();
        assert!(matches!(events.try_recv(), Ok(Event::Woken)));
        assert!(events.try_recv().is_err());
        assert_eq!(activity.requests(), 2);
    }

    #[test]
    fn haste_is_said_once_until_it_was_over() {
        let (wake, events) = unbounded();
        let activity = Activity::new(wake);
        let looks = |at: &[u64]| {
            for &at in at {
                activity.look(Duration::from_millis(at));
            }
            events.try_iter().count()
        };
        assert_eq!(looks(&[100, 104, 108, 200]), 0, "4 ms apart and more");
        assert_eq!(looks(&[201, 202, 203]), 1);
        activity.calm();
        assert_eq!(looks(&[300]), 0);
        assert_eq!(looks(&[302]), 1);
    }
}
