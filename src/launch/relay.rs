//! Signals go in, the exit code comes out.
//!
//! Each process between the caller and the command waits for the next one and hands
//! signals on to it. Without a terminal the command has a session of its own, and all are handed on.
//!
//! A command with a terminal at both ends is a *job* of its own, as below any shell: it has a process group,
//! which gets the terminal when the caller has it. Else a shell in there could not even ask whose
//! the terminal is: groups from outside have no number in its PID namespace (pid_namespaces(7)). When the job stops, process 1
//! tells the process outside, which stops, too; so does the caller's child, and with it
//! his job, as if the terminal had told them. When that is continued, so is the command, and if it is in the
//! foreground, the terminal is the command's again. Who stops the caller's child stops the command that way.
//!
//! What the caller ignores (nohup(1)) is ignored by all.
//!
//! With a terminal at standard input alone, somebody else of the caller's group may be there to use it
//! (`run ... | less`). There the command is in the caller's
//! process group, so the terminal's own signals (Ctrl-C, Ctrl-\, Ctrl-Z) reach it without us,
//! and it stops and goes on together with us; only those that somebody sends
//! are handed on.
//!
//! Somebody may send to the whole group (`kill %1`), which reaches the command without us,
//! too. The process between tells: it is in the group, and nobody sends to it alone. What
//! it gets from elsewhere, the command has got; what it gets from the caller's child
//! alone, was sent to that one. Process 1 is in no group with others.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgid, getpgrp, getpid, kill_process,
    kill_process_group,
};
use rustix::termios::tcsetpgrp;
use signal_hook::consts::signal::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};

use super::raw;
use super::spec::Spec;
use super::terminal::in_front;
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

/// Process 1 asks whether the caller is in the foreground: no signal. And the answers, which are not what is said
/// when it is continued there.
const ASKS: u8 = 0;
const CONTINUED: u8 = 1;
const IS_IN_FRONT: u8 = 2;
const IS_NOT: u8 = 3;

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
    signals: SignalDelivery<UnixStream, WithOrigin>,
    place: Place,
    /// The command is in the caller's process group.
    shared: bool,
    /// It is a job of its own.
    job: bool,
    /// Between the process outside and process 1: from there the signals by which the job stops, and
    /// from here a byte whenever it is continued in the foreground, and what process 1 asks.
    other: Option<UnixStream>,
    /// The job wanted a terminal that is gone, and was told.
    hung_up: bool,
    /// Signals that the whole group got, and when.
    told: Vec<(i32, Instant)>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("place", &self.place)
            .field("shared", &self.shared)
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// From now on, and those that were held back.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn new(place: Place, spec: &Spec, other: Option<UnixStream>) -> io::Result<Self> {
        let (shared, job) = (shares_group(spec), spec.job);
        let mut caught = match shared {
            true => ENDS.to_vec(),
            false => ALL.to_vec(),
        };
        caught.retain(|signal| !fork::is_ignored(*signal));
        caught.push(SIGCHLD);
        let (arrive, write) = UnixStream::pair()?;
        let signals = SignalDelivery::with_pipe(arrive, write, WithOrigin::default(), caught)?;
        if let Some(other) = &other {
            other.set_nonblocking(true)?;
        }
        let_come()?;
        Ok(Self {
            signals,
            place,
            shared,
            job,
            other,
            hung_up: false,
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
    pub fn catch_up(&mut self, child: Pid) -> io::Result<()> {
        if self.shared {
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
            self.wait()?;
            let mut arrived: Vec<_> = self.signals.pending().collect();
            arrived.retain(|origin| origin.signal != SIGCHLD);
            // What the caller's child hands on came later.
            arrived.sort_by_key(|origin| self.is_handed_on(origin));
            for origin in arrived {
                if !self.shared || self.is_news(&origin) {
                    self.hand_on(origin.signal, child);
                }
            }
        }
    }

    /// Until there is a signal. The process outside stops meanwhile as it is told: process 1 cannot itself.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            let outer = matches!(self.place, Place::Outer { .. });
            let other = self.other.as_ref().filter(|_| outer && self.job);
            let mut ends = vec![PollFd::new(self.signals.get_read(), PollFlags::IN)];
            ends.extend(other.map(|other| PollFd::new(other, PollFlags::IN)));
            match poll(&mut ends, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let told = ends.get(1).is_some_and(|end| !end.revents().is_empty());
            if !ends[0].revents().is_empty() {
                return Ok(());
            }
            let mut signal = [0];
            match self
                .other
                .as_mut()
                .filter(|_| told)
                .map(|other| other.read(&mut signal))
            {
                None => {}
                Some(Ok(1)) if signal[0] == ASKS => {
                    let answer = match self.is_keeper_in_front() {
                        true => [IS_IN_FRONT],
                        false => [IS_NOT],
                    };
                    if let Some(other) = &mut self.other {
                        other.write_all(&answer)?;
                    }
                }
                Some(Ok(1)) => {
                    // The caller's child is to see whether it wants the terminal, for which SIGTTIN stands here; SIGTSTP
                    // is caught. Who ignores it stops in any case.
                    if [SIGTTIN, SIGTTOU].contains(&i32::from(signal[0])) {
                        raw::with_effect(SIGTTIN, || {
                            let _ = kill_process(getpid(), Signal::TTIN);
                        });
                    } else {
                        kill_process(getpid(), Signal::STOP)?;
                    }
                }
                // It has ended.
                Some(_) => self.other = None,
            }
        }
    }

    /// The next process has stopped, as a job does.
    fn stopped(&mut self, child: Pid, signal: i32) {
        match (self.place, &mut self.other) {
            (Place::Init, Some(other)) => {
                // Whoever is gone needs not be told.
                let _ = other.write_all(&[u8::try_from(signal).unwrap_or_default()]);
            }
            (Place::Keeper, _) => {
                let wants_terminal = signal == SIGTTIN;
                if wants_terminal && in_front(getpgrp()) {
                    // It was in the background when the caller was brought to the foreground.
                    self.hand_on(SIGCONT, child);
                    return;
                }
                // What the terminal, or the kernel, would have done to all of the caller's job.
                raw::with_effect(SIGTSTP, || {
                    let _ = kill_process_group(getpgrp(), Signal::TSTP);
                });
                let arrived: Vec<_> = self.signals.pending().map(|origin| origin.signal).collect();
                if !arrived.contains(&SIGCONT) {
                    // Nothing stops where nobody would ever continue it (an orphaned process group). There
                    // whoever wants the terminal is told that it is gone, and ended if he does not listen.
                    if wants_terminal && self.hung_up {
                        let _ = kill_process(child, Signal::KILL);
                    } else if wants_terminal {
                        self.hung_up = true;
                        self.hand_on(SIGHUP, child);
                    }
                    self.hand_on(SIGCONT, child);
                }
                for signal in arrived.into_iter().filter(|signal| *signal != SIGCHLD) {
                    self.hand_on(signal, child);
                }
            }
            _ => {}
        }
    }

    /// In the process outside: whether the terminal is at the caller's group.
    fn is_keeper_in_front(&self) -> bool {
        let Place::Outer { keeper } = self.place else {
            return false;
        };
        let keeper = i32::try_from(keeper).ok().and_then(Pid::from_raw);
        getpgid(keeper).is_ok_and(in_front)
    }

    /// In process 1: asks the process outside the same.
    ///
    /// # Errors
    /// That one is gone.
    pub(super) fn is_caller_in_front(&mut self) -> io::Result<bool> {
        let Some(other) = &mut self.other else {
            return Ok(false);
        };
        other.write_all(&[ASKS])?;
        other.set_nonblocking(false)?;
        let mut answer = [0];
        // It may have been continued, too.
        while ![IS_IN_FRONT, IS_NOT].contains(&answer[0]) {
            other.read_exact(&mut answer)?;
        }
        other.set_nonblocking(true)?;
        Ok(answer == [IS_IN_FRONT])
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

    fn reap(&mut self, child: Pid) -> io::Result<Option<u8>> {
        let mut how = WaitOptions::NOHANG;
        how.set(WaitOptions::UNTRACED, self.job);
        loop {
            let ended = match self.place {
                Place::Init => rustix::process::wait(how)?,
                _ => rustix::process::waitpid(Some(child), how)?,
            };
            match ended {
                None => return Ok(None),
                Some((pid, status)) if pid == child => match status.stopping_signal() {
                    Some(signal) => self.stopped(child, signal),
                    None => return Ok(Some(exit_code(status))),
                },
                Some(_) => {}
            }
        }
    }

    fn hand_on(&mut self, signal: i32, child: Pid) {
        if self.job && signal == SIGCONT {
            match self.place {
                Place::Outer { .. } => {
                    if self.is_keeper_in_front()
                        && let Some(other) = &mut self.other
                    {
                        let _ = other.write_all(&[CONTINUED]);
                    }
                }
                Place::Init => {
                    let mut said = [0; 16];
                    let other = self.other.as_mut();
                    // It does not block: there may be nothing.
                    other.and_then(|other| other.read(&mut said).ok());
                    if said.contains(&CONTINUED) {
                        // It may be gone, or the terminal.
                        let _ = tcsetpgrp(io::stdin(), child);
                    }
                }
                Place::Keeper => {}
            }
        }
        // That it is gone we shall see next.
        let _ = match (self.place, signal) {
            // The stop of an orphaned process group is not the kernel's business, but ours.
            (Place::Init, SIGTSTP) => kill_process_group(child, Signal::STOP),
            (Place::Init, SIGCONT) => kill_process_group(child, Signal::CONT),
            // Keys reach all of a job. The caller's child gets them when it was brought to the foreground
            // while the command was running in the background.
            (Place::Init, SIGINT) if self.job => kill_process_group(child, Signal::INT),
            (Place::Init, SIGQUIT) if self.job => kill_process_group(child, Signal::QUIT),
            (Place::Keeper, SIGTSTP) if !self.job => kill_process(child, Signal::TSTP)
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

/// Whether the command is in the caller's process group.
pub(super) fn shares_group(spec: &Spec) -> bool {
    spec.terminal && !spec.job
}
