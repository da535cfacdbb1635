//! One transfer of an image at a time, whoever wants it.
//!
//! `fetch/<sha256 of what is asked for, and how>.lock` is flocked by the process that fetches.
//! The others wait. Who is done writes the image's ID into the file and takes its
//! name away; who waited reads it there. If nothing is written, the first one was
//! stopped or failed, and the next one fetches. So nobody waits for a process that
//! is gone, and stopping one stops no other.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::cli::report::{Exit, Failure};
use crate::digest::{Digest, ImageId};

/// How often it is looked whether the other one is done, or somebody wants to stop.
const LOOK: Duration = Duration::from_millis(50);
/// The longest ID.
const ID_MAX: u64 = 256;

/// What came of waiting.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nobody else fetches it now.
    Ours(Held),
    /// Somebody fetched it while this process waited.
    Joined(ImageId),
}

/// The turn, until dropped.
#[derive(Debug)]
pub(super) struct Held {
    file: File,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        // While it is locked: a name that stays is locked by the next one, or swept.
        let _ = fs::remove_file(&self.path);
    }
}

impl Held {
    /// It is in the store.
    pub(super) fn done(mut self, id: ImageId) -> Result<(), Failure> {
        let written = self.file.write_all(id.to_string().as_bytes());
        written.map_err(|error| failed(&self.path, &error))
    }
}

/// Waits for the turn; nothing when `stop` ended that. `waits` is called once, if
/// there is somebody to wait for.
pub(super) fn take(
    dir: &Path,
    what: &str,
    stop: &AtomicBool,
    waits: &dyn Fn(),
) -> Result<Option<Turn>, Failure> {
    let path = dir.join(format!("{}.lock", Digest::sha256(what.as_bytes()).hex()));
    let wrong = |error: io::Error| failed(&path, &error);
    fs::create_dir_all(dir).map_err(wrong)?;
    let mut told = false;
    loop {
        let opened = crate::store::lock_options().read(true).open(&path);
        let mut file = opened.map_err(wrong)?;
        let mut waited = false;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => waited = true,
                Err(error) => return Err(wrong(error.into())),
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if !told {
                waits();
                told = true;
            }
            std::thread::sleep(LOOK);
        }
        let ours = file.metadata().map_err(wrong)?;
        let named = fs::metadata(&path);
        let named = named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
        let mut text = String::new();
        let read = (&file).take(ID_MAX).read_to_string(&mut text);
        let said = read.ok().and_then(|_| text.parse().ok());
        let held = named.then(|| path.clone());
        match (said, held) {
            // What was there before is of an earlier transfer.
            (Some(id), held) if waited => {
                if let Some(path) = held {
                    drop(Held { file, path });
                }
                return Ok(Some(Turn::Joined(id)));
            }
            (_, Some(path)) => {
                file.set_len(0).map_err(wrong)?;
                file.flush().map_err(wrong)?;
                return Ok(Some(Turn::Ours(Held { file, path })));
            }
            // The file of one who is done or gave up, or that was swept.
            (_, None) => {}
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot write `{}`: {error}", path.display());
    Failure::new(Exit::Failed, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(of: &str) -> ImageId {
        ImageId(Digest::sha256(of.as_bytes()))
    }

    fn ours(turn: Option<Turn>) -> Held {
        match turn {
            Some(Turn::Ours(held)) => held,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_waited_gets_what_the_first_one_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let go_on = AtomicBool::new(false);
        let held = ours(take(dir.path(), "a", &go_on, &|| panic!("nobody is there")).unwrap());
        // Another image has its own turn.
        drop(ours(
            take(dir.path(), "b", &go_on, &|| panic!("nobody")).unwrap(),
        ));
        let told = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiter = || {
                scope.spawn(|| {
                    let waits = || told.store(true, Ordering::Relaxed);
                    take(dir.path(), "a", &go_on, &waits).unwrap()
                })
            };
            let waiters = [waiter(), waiter()];
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(2 * LOOK);
            held.done(id("a")).unwrap();
            let mut joined = 0;
            for waiter in waiters {
                match waiter.join().unwrap() {
                    Some(Turn::Joined(got)) => {
                        assert_eq!(got, id("a"));
                        joined += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(joined, 2);
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // What was fetched before is nothing to one who comes later.
        drop(ours(take(dir.path(), "a", &go_on, &|| ()).unwrap()));
    }

    #[test]
    fn when_the_first_one_gives_up_the_next_one_fetches() {
        let dir = tempfile::tempdir().unwrap();
        let go_on = AtomicBool::new(false);
        let held = ours(take(dir.path(), "a", &go_on, &|| ()).unwrap());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| take(dir.path(), "a", &go_on, &|| ()).unwrap());
            std::thread::sleep(2 * LOOK);
            drop(held);
            drop(ours(waiter.join().unwrap()));
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_waits_can_be_stopped_and_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let (go_on, stop) = (AtomicBool::new(false), AtomicBool::new(true));
        let held = ours(take(dir.path(), "a", &go_on, &|| ()).unwrap());
        assert!(take(dir.path(), "a", &stop, &|| ()).unwrap().is_none());
        held.done(id("a")).unwrap();
    }

    #[test]
    fn a_file_that_a_crash_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let go_on = AtomicBool::new(false);
        let held = ours(take(dir.path(), "a", &go_on, &|| ()).unwrap());
        let path = held.path.clone();
        drop(held);
        fs::write(&path, id("old").to_string()).unwrap();
        let held = ours(take(dir.path(), "a", &go_on, &|| ()).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        drop(held);
    }
}
