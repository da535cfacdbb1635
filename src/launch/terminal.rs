//! The caller's terminal: whether there is one, and who has it.
//!
//! What it is for: a command that is a job of its own gets it, and it comes back from whoever has ended. Must not
//! know signals between processes ([`relay`](super::relay)).

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::{Pid, getpgrp, getpid, setpgid, test_kill_process_group};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};
use signal_hook::consts::signal::SIGTTOU;

use super::raw;

/// In a new process that is to become the command, and in a group that is no job yet.
pub(super) fn begin_job(in_front: bool, ignores_output_stop: bool) {
    // What does not succeed leaves it in the background.
    if setpgid(None, None).is_ok() && in_front {
        let _ = tcsetpgrp(io::stdin(), getpid());
    }
    // We ignore it.
    if !ignores_output_stop {
        raw::have_effect(SIGTTOU);
    }
}

/// Whether the terminal is at this group.
pub(super) fn in_front(group: Pid) -> bool {
    tcgetpgrp(io::stdin()) == Ok(group)
}

/// Whether the terminal of our session is at standard input.
#[must_use]
pub fn has_terminal() -> bool {
    is_ours(io::stdin())
}

/// Whether it is at standard output, too: else others of our group may be there to use it.
#[must_use]
pub fn has_whole_terminal() -> bool {
    has_terminal() && is_ours(io::stdout())
}

/// That of another session does not know us.
fn is_ours(end: impl AsFd) -> bool {
    isatty(&end) && tcgetpgrp(&end).is_ok()
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
