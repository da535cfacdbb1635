//! Signals go in, the exit code comes out.
//!
//! Each process between the caller and the command waits for the next one and hands
//! signals on to it. A command that has the caller's terminal is in the caller's
//! process group, so the terminal's own signals (Ctrl-C, Ctrl-\, Ctrl-Z) reach it without us,
//! and it stops and goes on together with us; only those that somebody sends
//! are handed on. Without a terminal it has a session of its own, and all are.
//!
//! Somebody may send to the whole group (`kill %1`), which reaches the command without us,
//! too. The process between tells: it is in the group, and nobody sends to it alone. What
//! it gets from elsewhere, the command has got; what it gets from the caller's child
//! alone, was sent to that one. Process 1 is in no group with others.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgrp, getpid, kill_process, kill_process_group,
    test_kill_process_group,
};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};
use signal_hook::consts::signal::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2,
};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};

use super::raw;
use crate::fork;

/// Until a signal to a whole group has reached all of it: that is one system call.
const SPREADS: Duration = Duration::from_millis(20);
/// For how long a signal from elsewhere is taken for the one that the caller's child hands on:
/// that waits for [`SPREADS`], and for its turn on a busy machine.
const TOGETHER: Duration = Duration::from_secs(1);

/// What is handed on, and ends whoever does not care.
const ENDS: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
/// What is handed on at all; of these nothing must be lost while a process begins.
const ALL: [i32; 8] = [
    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT,
];

/// Keeps signals for a process that is about to begin: its [`Relay`] gets them.
///
/// # Errors
/// None.
pub fn hold_back() -> io::Result<()> {
    fork::hold(&ALL, true)
}

/// Lets them come.
pub(super) fn let_come() -> io::Result<()> {
    fork::hold(&ALL, false)
}

/// Tells the next process, which has just begun, what the terminal sent to all of us before
/// that and was held back: it was not there.
///
/// # Errors
/// None.
pub(super) fn tell_held_back(child: Pid) -> io::Result<()> {
    for signal in fork::held_back(&ENDS)? {
        if let Some(signal) = Signal::from_named_raw(signal) {
            // That it is gone we shall see next.
            let _ = kill_process(child, signal);
        }
    }
    Ok(())
}

/// In a new process that is to become the command: it has no relay.
pub(super) fn stand_alone() -> io::Result<()> {
    raw::forget_handlers(&ALL);
    let_come()
}

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The caller's child: it stops when the terminal says so.
    Keeper,
    /// Between the two, and who hands signals on to it.
    Outer {
        /// The caller's child.
        keeper: u32,
    },
    /// Process 1 in there: it has orphans to reap.
    Init,
}

/// From when on signals are kept for the next process.
pub struct Relay {
    signals: SignalsInfo<WithOrigin>,
    place: Place,
    terminal: bool,
    /// Signals that the whole group got, and when.
    told: Vec<(i32, Instant)>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("place", &self.place)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// From now on, and those that were held back.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn new(place: Place, terminal: bool) -> io::Result<Self> {
        let mut caught = vec![SIGCHLD];
        match terminal {
            true => caught.extend(ENDS),
            false => caught.extend(ALL),
        }
        let signals = SignalsInfo::new(caught)?;
        let_come()?;
        Ok(Self {
            signals,
            place,
            terminal,
            told: Vec::new(),
        })
    }

    /// What a command would have been ended by that has not begun: its exit code.
    pub(super) fn has_ended(&mut self) -> Option<u8> {
        let arrived = self.signals.pending().map(|origin| origin.signal);
        let ends = arrived.filter(|signal| ENDS.contains(signal)).last();
        ends.and_then(|signal| u8::try_from(128 + signal).ok())
    }

    /// Lets signals come that were held back while the next process was made. What the
    /// terminal sent to all of us may have missed that one.
    ///
    /// # Errors
    /// None.
    pub fn catch_up(&self, child: Pid) -> io::Result<()> {
        if self.terminal {
            for signal in fork::held_back(&ENDS)? {
                self.hand_on(signal, child);
            }
        }
        let_come()
    }

    /// Until the next process has ended; its exit code, 128 + N if signal N has ended it.
    ///
    /// # Errors
    /// It is no child of ours.
    pub fn until_end(&mut self, child: Pid) -> io::Result<u8> {
        loop {
            if let Some(code) = self.reap(child)? {
                return Ok(code);
            }
            let mut arrived: Vec<_> = self.signals.wait().collect();
            arrived.retain(|origin| origin.signal != SIGCHLD);
            // What the caller's child hands on came later.
            arrived.sort_by_key(|origin| self.is_handed_on(origin));
            for origin in arrived {
                if !self.terminal || self.is_news(&origin) {
                    self.hand_on(origin.signal, child);
                }
            }
        }
    }

    fn is_handed_on(&self, origin: &Origin) -> bool {
        let sender = origin
            .process
            .and_then(|sender| u32::try_from(sender.pid).ok());
        matches!(self.place, Place::Outer { keeper } if sender == Some(keeper))
    }

    /// Whether a command at a terminal has not got a signal itself.
    fn is_news(&mut self, origin: &Origin) -> bool {
        if origin.cause == Cause::Kernel && self.place != Place::Init {
            // The terminal has told it already.
            return false;
        }
        match self.place {
            Place::Keeper => {
                thread::sleep(SPREADS);
                true
            }
            Place::Outer { .. } => {
                self.told.retain(|(_, when)| when.elapsed() < TOGETHER);
                if !self.is_handed_on(origin) {
                    self.told.push((origin.signal, Instant::now()));
                    return false;
                }
                let before = self.told.len();
                self.told.retain(|(signal, _)| *signal != origin.signal);
                self.told.len() == before
            }
            // It left the command's group when that began.
            Place::Init => true,
        }
    }

    fn reap(&self, child: Pid) -> io::Result<Option<u8>> {
        loop {
            let ended = match self.place {
                Place::Init => rustix::process::wait(WaitOptions::NOHANG)?,
                _ => rustix::process::waitpid(Some(child), WaitOptions::NOHANG)?,
            };
            match ended {
                None => return Ok(None),
                Some((pid, status)) if pid == child => return Ok(Some(exit_code(status))),
                Some(_) => {}
            }
        }
    }

    fn hand_on(&self, signal: i32, child: Pid) {
        // That it is gone we shall see next.
        let _ = match (self.place, signal) {
            // The stop of an orphaned process group is not the kernel's business, but ours.
            (Place::Init, SIGTSTP) => kill_process_group(child, Signal::STOP),
            (Place::Init, SIGCONT) => kill_process_group(child, Signal::CONT),
            (Place::Keeper, SIGTSTP) => kill_process(child, Signal::TSTP)
                .and_then(|()| kill_process(getpid(), Signal::STOP)),
            _ => match Signal::from_named_raw(signal) {
                Some(signal) => kill_process(child, signal),
                None => Ok(()),
            },
        };
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = match status.terminating_signal() {
        Some(signal) => 128 + signal,
        None => status.exit_status().unwrap_or(1),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Whether the terminal of our session is at standard input.
#[must_use]
pub fn has_terminal() -> bool {
    let stdin = io::stdin();
    // That of another session does not know us.
    isatty(&stdin) && tcgetpgrp(&stdin).is_ok()
}

/// Takes the terminal back from a shell that had it in the container and has ended. Whoever else has
/// it keeps it: we may have been in the background.
pub fn take_terminal_back() {
    let stdin = io::stdin();
    let Ok(group) = tcgetpgrp(&stdin) else {
        return;
    };
    if test_kill_process_group(group) == Err(Errno::SRCH) {
        raw::ignore_terminal_output_stop();
        // The terminal may be gone.
        let _ = tcsetpgrp(&stdin, getpgrp());
    }
}
