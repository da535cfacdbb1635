//! What no crate wraps safely: namespaces, descriptors of others, the loopback
//! interface, the sum of what children used.

#![expect(
    unsafe_code,
    reason = "unshare, execve, close_range, getrusage, signal handlers and ioctl of an interface have no safe wrapper"
)]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem;
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::time::Duration;

use crate::fork::is_ignored;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::UnshareFlags;

/// Gives signals the effect that they have in every program that does not care; those that are ignored stay so.
pub(super) fn forget_handlers(signals: &[i32]) {
    for signal in signals.iter().filter(|signal| !is_ignored(**signal)) {
        have_effect(*signal);
    }
}

/// Gives a signal its effect, also if it is ignored.
pub(super) fn have_effect(signal: i32) {
    // SAFETY: SIG_DFL is no function of ours; whoever had set handlers is not in this process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Does something while a signal has the effect that it has in every program that does not care.
pub(super) fn with_effect(signal: i32, act: impl FnOnce()) {
    // SAFETY: zeroes are SIG_DFL without flags, and an empty mask.
    let plain: libc::sigaction = unsafe { mem::zeroed() };
    let mut before = plain;
    // SAFETY: both live until the call returns, and what is put back is what was there.
    if unsafe { libc::sigaction(signal, &raw const plain, &raw mut before) } == 0 {
        act();
        // SAFETY: as above.
        unsafe { libc::sigaction(signal, &raw const before, ptr::null_mut()) };
    }
}

/// Leaves namespaces.
///
/// # Errors
/// The system does not allow it.
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: descriptors stay shared by all threads, which is what could be unsound.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// No descriptor above standard error gets to a program that is executed.
///
/// # Errors
/// A kernel before 5.11.
pub(super) fn keep_descriptors() -> io::Result<()> {
    // SAFETY: nothing is closed; the flag matters to `exec` only.
    let outcome = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Becomes another program; comes back only if it cannot. Not `execvp`, which would give a
/// shell whatever the kernel does not understand.
pub(super) fn exec(path: &CStr, argv: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        let texts = texts.iter().map(|text| text.as_ptr());
        texts.chain([ptr::null()]).collect()
    };
    let (argv, environment) = (pointers(argv), pointers(environment));
    // SAFETY: all are texts that end with a zero, and lists of such that end with a null, and
    // live until the call fails. SIG_DFL is what Rust's runtime found at SIGPIPE.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(path.as_ptr(), argv.as_ptr(), environment.as_ptr());
    }
    io::Error::last_os_error()
}

/// The terminal may be taken back by a process in the background.
pub(super) fn ignore_terminal_output_stop() {
    // SAFETY: SIG_IGN is no function of ours, and nobody else in this process uses SIGTTOU.
    unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
}

/// What children used that have ended and were waited for: in user and in system mode,
/// and the largest one's memory in bytes.
pub(super) fn used_by_children() -> io::Result<(Duration, Duration, u64)> {
    // SAFETY: a rusage is numbers only, for which zeroes are values.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: it is written to a rusage that lives until the call returns.
    match unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) } {
        0 => {}
        _ => return Err(io::Error::last_os_error()),
    }
    let time = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let micros = u64::try_from(time.tv_usec).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    // In KiB (getrusage(2)).
    let memory = u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10;
    Ok((time(usage.ru_utime), time(usage.ru_stime), memory))
}

/// Switches on the loopback interface of a new network namespace.
///
/// # Errors
/// There is none.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an ifreq is numbers and a union of numbers, for which zeroes are values.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: both calls read and write an ifreq that lives until they return; SIOCGIFFLAGS
    // makes `ifru_flags` the field of the union that is valid.
    let outcome = unsafe {
        match libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) {
            0 => {
                request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
                libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
            }
            failed => failed,
        }
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
