//! Doubling a process.
//!
//! What it is for: a process that goes on from here in two, where that saves the start of a
//! program or where there is none to start. May assume: whoever calls knows which of its descriptors
//! the copy may have. Must not know what either does then.

#![expect(
    unsafe_code,
    reason = "fork, dup2 to a standard descriptor, signals' effects and masks, and prctl have no safe wrapper"
)]

use std::ffi::OsString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::ptr;
use std::sync::OnceLock;

use rustix::fs::Mode;
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

/// A umask by which only the owner can write.
const CLOSED: Mode = Mode::WGRP.union(Mode::WOTH);

/// Descriptors that this process was started with, beside the standard ones.
static INHERITED: OnceLock<Vec<RawFd>> = OnceLock::new();

/// Keeps the descriptors that this process was started with from programs that it starts, and notes
/// them for [`close_inherited`]: a lock or the end of a pipe that somebody happened to have open would be a
/// server's for as long as it lives. To be called before any other is opened.
pub fn note_inherited() {
    // Without /proc there is nothing to mount either.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let open = open.flatten().filter_map(|entry| {
        let number: RawFd = entry.file_name().to_str()?.parse().ok()?;
        (number > libc::STDERR_FILENO).then_some(number)
    });
    // That of the directory is gone by now.
    let inherited = open.collect::<Vec<_>>().into_iter().filter(|&number| {
        // SAFETY: the descriptor is not used, only what `exec` does with it.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) >= 0 }
    });
    let _ = INHERITED.set(inherited.collect());
}

/// Closes the descriptors that [`note_inherited`] has noted, in a copy of the process that noted them.
pub fn close_inherited() {
    for &number in INHERITED.get().into_iter().flatten() {
        // SAFETY: it was open before this program opened anything, so nothing in here owns it.
        unsafe { libc::close(number) };
    }
}

/// The umask that this process was started with.
static UMASK: OnceLock<u32> = OnceLock::new();

/// Sets the umask to 022 where it would let everybody write to what is made, as that of many a daemon does: a
/// store that anyone can write to is anyone's.
pub fn close_umask() {
    let callers = rustix::process::umask(CLOSED);
    if callers.contains(Mode::WOTH) {
        rustix::process::umask(callers);
    }
    let _ = UMASK.set(callers.as_raw_mode());
}

/// The umask that this process was started with, for a program that is to have it.
#[must_use]
pub fn callers_umask() -> u32 {
    UMASK.get().copied().unwrap_or(CLOSED.as_raw_mode())
}

/// Lets this process wait for its children, whatever it was told by whoever started it, which `exec` does not
/// change: where SIGCHLD is ignored, the kernel keeps nothing of those that end (wait(2), `ECHILD`), and where it is
/// blocked, nobody hears of them.
pub fn wait_for_children() {
    // SAFETY: SIG_DFL is no function of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    // It fails for what is no signal.
    let _ = hold(&[libc::SIGCHLD], false);
}

/// Whether this process ignores a signal, as whoever started it may have wanted (nohup(1)).
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: zeroes are values of all its fields.
    let mut now: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: nothing is set, and what is written to lives until the call returns.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut now) };
    asked == 0 && now.sa_sigaction == libc::SIG_IGN
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

/// What `PR_SET_MM_MAP` changes of a process (`struct prctl_mm_map`, kernel include/uapi/linux/prctl.h).
#[repr(C)]
struct MemoryMap {
    code: [u64; 2],
    data: [u64; 2],
    heap: [u64; 2],
    stack: u64,
    arguments: [u64; 2],
    environment: [u64; 2],
    auxiliary: u64,
    auxiliary_len: u32,
    program: u32,
}

/// Has /proc tell these words as the command line of this process, for good, instead of what
/// somebody has typed, which may have secrets in it that are not to be seen for as long as a
/// copy lives. The process has one thread.
///
/// # Errors
/// The kernel has no `PR_SET_MM_MAP` (prctl(2)), or /proc is not there.
pub fn be_called(words: &[OsString]) -> io::Result<()> {
    let line: Vec<u8> = (words.iter())
        .flat_map(|word| word.as_bytes().iter().copied().chain([0]))
        .collect();
    let line = line.leak().as_ptr_range();
    // As it is, but for the command line (proc_pid_stat(5); the name may have spaces in it).
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let fields: Vec<u64> = (fields.split_whitespace())
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let from = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    let pair = |number| [from(number), from(number + 1)];
    // SAFETY: the end of the heap is asked for, and stays.
    let heap_end = unsafe { libc::syscall(libc::SYS_brk, 0) };
    let map = MemoryMap {
        code: pair(26),
        data: pair(45),
        heap: [from(47), heap_end.cast_unsigned()],
        stack: from(28),
        arguments: [line.start.addr() as u64, line.end.addr() as u64],
        environment: pair(50),
        auxiliary: 0,
        auxiliary_len: 0,
        // None: it stays.
        program: u32::MAX,
    };
    // SAFETY: the kernel reads the map, and keeps of it where /proc reads: in the line, which is never freed. The
    // rest is what it told.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            &raw const map,
            mem::size_of::<MemoryMap>(),
            0,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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
