//! The process that makes the namespaces, and stays outside of them.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::{Signal, getgid, getppid, getuid, set_parent_process_death_signal, setsid};
use rustix::thread::UnshareFlags;

use super::raw;
use super::relay::{self, Place, Relay};
use super::spec::Spec;
use super::{LaunchError, broken, failed, inside};
use crate::fork::{self, Side, fork};

/// Does what a spec says, and waits until it has ended; its exit code. The process must
/// have one thread, and be the child of the spec's keeper.
///
/// # Errors
/// Nothing was run.
pub fn launch(spec: &Spec) -> Result<u8, LaunchError> {
    let own = Path::new("/proc/self");
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("watch over", own))?;
    // Whoever starts us may ignore it; then so does the command.
    let ignored = fork::is_ignored(libc::SIGTTOU);
    if spec.job {
        // What is printed from the background, or done to the terminal there, must not stop us.
        raw::ignore_terminal_output_stop();
    }
    let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if u32::try_from(parent) != Ok(spec.keeper) {
        return Err(LaunchError::Abandoned);
    }
    if !spec.terminal {
        // Else it would be the terminal's that the keeper has.
        setsid().map_err(failed("leave the session of", own))?;
    }
    if let Some(group) = &spec.control_group {
        let file = group.join("cgroup.procs");
        fs::write(&file, "0").map_err(broken("write", file))?;
    }
    unshare(spec)?;
    // Its other end is gone as soon as we are.
    let pair = UnixStream::pair();
    let (theirs, ours) = pair.map_err(broken("make a pair of sockets in", own))?;
    // It has no handlers for a moment, and is process 1: it would miss them.
    relay::hold_back().map_err(broken("hold back signals of", own))?;
    match fork().map_err(broken("double", own))? {
        Side::Child => {
            drop(ours);
            inside::run(spec, theirs, ignored)
        }
        Side::Parent(init) => {
            drop(theirs);
            if relay::shares_group(spec) {
                relay::tell_held_back(init).map_err(broken("look at signals of", own))?;
            }
            let place = Place::Outer {
                keeper: spec.keeper,
            };
            let relay = Relay::new(place, spec, Some(ours));
            let mut relay = relay.map_err(broken("catch signals of", own))?;
            let code = relay.until_end(init);
            let code = code.map_err(broken(
                "wait for",
                format!("/proc/{}", init.as_raw_nonzero()),
            ))?;
            tell_usage(spec);
            Ok(code)
        }
    }
}

fn unshare(spec: &Spec) -> Result<(), LaunchError> {
    let mut flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if spec.own_network {
        flags |= UnshareFlags::NEWNET;
    }
    if spec.user_namespace {
        flags |= UnshareFlags::NEWUSER;
    }
    leave(flags)
}

/// Makes an ordinary user root of mounts of his own, where a writable root file system can be
/// provisioned. They are gone with the last process that can see them. The process must have
/// one thread.
///
/// # Errors
/// The machine forbids it.
pub fn enter_user_namespace() -> Result<(), LaunchError> {
    leave(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
}

fn leave(flags: UnshareFlags) -> Result<(), LaunchError> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let of_users = flags.contains(UnshareFlags::NEWUSER);
    raw::unshare(flags).map_err(|error| LaunchError::Namespaces {
        of_users,
        source: error.into(),
    })?;
    if of_users {
        // The order is the kernel's (user_namespaces(7)).
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ] {
            let file = Path::new("/proc/self").join(file);
            fs::write(&file, text).map_err(broken("write", file))?;
        }
    }
    Ok(())
}

fn tell_usage(spec: &Spec) {
    if !spec.usage.cpu && !spec.usage.memory {
        return;
    }
    let Ok((user, system, memory)) = raw::used_by_children() else {
        return;
    };
    let mut parts = Vec::new();
    if spec.usage.cpu {
        let (user, system) = (user.as_secs_f64(), system.as_secs_f64());
        parts.push(format!(
            "cpu {:.3} s (user {user:.3} s, system {system:.3} s)",
            user + system
        ));
    }
    if spec.usage.memory {
        // The sum over all of them is only known to a control group.
        let largest = memory as f64 / f64::from(1 << 20);
        parts.push(format!("memory {largest:.1} MiB (the largest process)"));
    }
    // There is nobody left to tell when standard error is gone.
    let _ = writeln!(io::stderr(), "usage: {}", parts.join(", "));
}
