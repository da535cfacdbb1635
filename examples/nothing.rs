//! A FUSE file system that does nothing: what a message takes, whoever serves it
//! (`scripts/bench-floors`).
//!
//! `nothing DIRECTORY` mounts it there, and ends when it is unmounted. Whoever has answered
//! looks for the next request at once, so that no time goes by until a sleeping server is awake.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use fuser::{INodeNo, ReplyStatfs, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// So long it looks, then it sleeps.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Nothing {
    device: OnceLock<RawFd>,
}

impl Nothing {
    fn look(&self) {
        let device = *self.device.get_or_init(|| device().unwrap_or(-1));
        if device < 0 {
            return;
        }
        // SAFETY: the session keeps its device open for as long as it calls this.
        #[expect(unsafe_code, reason = "fuser hands out no descriptor")]
        let device = unsafe { BorrowedFd::borrow_raw(device) };
        let begun = Instant::now();
        let mut one = [PollFd::from_borrowed_fd(device, PollFlags::IN)];
        while begun.elapsed() < LOOK {
            if poll(&mut one, Some(&Timespec::default())) != Ok(0) {
                return;
            }
        }
    }
}

/// The descriptor of the mount.
fn device() -> Option<RawFd> {
    fs::read_dir("/proc/self/fd")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let is_fuse =
                fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == "/dev/fuse");
            is_fuse.then(|| entry.file_name().to_str()?.parse().ok())?
        })
}

impl fuser::Filesystem for Nothing {
    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 512, 255, 0);
        self.look();
    }
}

fn main() -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "usage: nothing DIRECTORY");
    let directory = std::env::args_os().nth(1).ok_or_else(missing)?;
    fuser::mount(Nothing::default(), directory, &fuser::Config::default())
}
