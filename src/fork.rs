//! Doubling a process.
//!
//! What it is for: a process that goes on from here in two, where that saves the start of a
//! program or where there is none to start. May assume: whoever calls knows which of its descriptors
//! the copy may have. Must not know what either does then.

#![expect(
    unsafe_code,
    reason = "fork, dup2 to a standard descriptor and signal masks have no safe wrapper"
)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr;

use rustix::process::Pid;

/// The two that go on after [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It has this child.
    Parent(Pid),
    /// It is the child.
    Child,
}

/// Whether this process has one thread only.
fn is_alone() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}

/// Doubles this process, which must have one thread.
///
/// # Errors
/// It has more, or the system is out of processes.
pub fn fork() -> io::Result<Side> {
    if !is_alone()? {
        return Err(io::Error::other("this process has threads"));
    }
    // SAFETY: with a single thread nobody else can hold a lock in the child's copy of
    // the memory, so the child may do all that the parent may (signal-safety(7)).
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Side::Child),
        pid => (Pid::from_raw(pid).filter(|_| pid > 0))
            .map(Side::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Makes one descriptor standard input, and another standard output and standard error.
///
/// # Errors
/// What the system says.
pub fn stand_at_standard(input: impl AsFd, output: impl AsFd) -> io::Result<()> {
    let (input, output) = (input.as_fd().as_raw_fd(), output.as_fd().as_raw_fd());
    for (from, to) in [
        (input, libc::STDIN_FILENO),
        (output, libc::STDOUT_FILENO),
        (output, libc::STDERR_FILENO),
    ] {
        // SAFETY: nobody owns the standard descriptors; whoever uses them means what stands there.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Holds signals back from this thread, or lets them come. What is held back is not lost,
/// also by process 1 of a namespace, which the kernel spares what it has no handler for.
///
/// # Errors
/// None of these is a signal.
pub fn hold(signals: &[i32], back: bool) -> io::Result<()> {
    let how = match back {
        true => libc::SIG_BLOCK,
        false => libc::SIG_UNBLOCK,
    };
    let set = set_of(signals)?;
    // SAFETY: the set lives until the call returns, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Which of these signals have come while they were held back.
///
/// # Errors
/// None of these is a signal.
pub fn held_back(signals: &[i32]) -> io::Result<Vec<i32>> {
    let mut set = set_of(&[])?;
    // SAFETY: it is written to a set that lives until the call returns.
    if unsafe { libc::sigpending(&raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the set was filled, and is only read.
    let is_in = |signal: &&i32| unsafe { libc::sigismember(&raw const set, **signal) } == 1;
    Ok(signals.iter().filter(is_in).copied().collect())
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    // SAFETY: a set is numbers only, for which zeroes are values.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: all calls write to a set that lives until they return.
    let outcome = unsafe {
        libc::sigemptyset(&raw mut set);
        let mut added = signals
            .iter()
            .map(|signal| libc::sigaddset(&raw mut set, *signal));
        added.find(|outcome| *outcome != 0)
    };
    match outcome {
        None => Ok(set),
        Some(_) => Err(io::Error::last_os_error()),
    }
}
