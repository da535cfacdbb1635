//! Process 1 in the container.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal, setpgid,
};
use rustix::time::Timespec;

use super::raw;
use super::relay::{self, Place, Relay};
use super::spec::Spec;
use super::{LaunchError, broken, capabilities, failed, program, root, terminal};
use crate::fork::{Side, fork};

/// Builds the root, starts the command, reaps until it has ended, and ends with its exit
/// code: with it end all processes in there. At the other end of `outer` is the process outside; `ignores_output_stop`:
/// the command is to ignore SIGTTOU.
pub(super) fn run(spec: &Spec, outer: UnixStream, ignores_output_stop: bool) -> ! {
    let code = outcome(spec, outer, ignores_output_stop).unwrap_or_else(|error| report(&error));
    std::process::exit(i32::from(code))
}

/// Says what went wrong; the exit code for it.
fn report(error: &LaunchError) -> u8 {
    let mut text = format!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\ntry: {hint}"));
    }
    // There is nobody left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "{text}");
    error.exit_code()
}

fn outcome(spec: &Spec, outer: UnixStream, ignores_output_stop: bool) -> Result<u8, LaunchError> {
    let own = "/proc/self";
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("watch over", own))?;
    // It may have died before it was watched over. Only its end counts (poll(2)).
    let mut ends = [PollFd::new(&outer, PollFlags::empty())];
    let gone = poll(
        &mut ends,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    );
    if gone.map_err(failed("watch over", own))? > 0 {
        return Err(LaunchError::Abandoned);
    }
    let relay = Relay::new(Place::Init, spec, Some(outer));
    let mut relay = relay.map_err(broken("catch signals of", own))?;
    root::build(spec)?;
    rustix::system::sethostname(spec.hostname.as_bytes())
        .map_err(failed("name", &spec.hostname))?;
    if spec.own_network {
        raw::loopback_up().map_err(broken("switch on", "lo"))?;
    }
    // Nobody in there reaches out through `/proc/1`.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("close", own))?;
    relay::hold_back().map_err(broken("hold back signals of", own))?;
    if let Some(code) = relay.has_ended() {
        return Ok(code);
    }
    // At the last moment: the caller may have been stopped meanwhile.
    let in_front = spec.job
        && relay
            .is_caller_in_front()
            .map_err(broken("ask from", own))?;
    match fork().map_err(broken("double", own))? {
        Side::Child => {
            if spec.job {
                terminal::begin_job(in_front, ignores_output_stop);
            }
            if let Err(error) = relay::stand_alone() {
                std::process::exit(i32::from(report(&broken("let signals come to", own)(
                    error,
                ))));
            }
            let code = report(&program::run(spec));
            std::process::exit(i32::from(code))
        }
        Side::Parent(command) => {
            if spec.terminal {
                // What is sent to the command's group, or to that of the process outside,
                // reaches us by that one alone.
                setpgid(None, None).map_err(failed("leave the process group of", own))?;
            }
            if spec.job {
                // Whoever of us is first: signals go to the group. That it has ended is seen below.
                let _ = setpgid(Some(command), Some(command));
            }
            relay::let_come().map_err(broken("let signals come to", own))?;
            capabilities::keep_kill_only().map_err(failed("confine", own))?;
            relay.until_end(command).map_err(broken("wait for", own))
        }
    }
}
