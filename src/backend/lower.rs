//! Read-only lazy mounts that several containers share.
//!
//! What it is for: `overlay` and `bind` stand on one mount for each stack of layers,
//! so that its dentries and pages are there once. It is made with the first
//! container that needs it and ends with the last. May assume: mounts that stand on it
//! are made while its lock is held. Must not know containers.
//!
//! ```text
//! lowers/KEY.lock         flocked by whoever makes or undoes one, or mounts above it
//! lowers/KEY-N/tree       the mount
//! lowers/KEY-N/server     flocked by the server
//! lowers/KEY-N.gone       one that is being undone
//! ```
//!
//! KEY is made of the stack, N is never used again: what stands on a mount whose server
//! died is told from what stands on its successor by the path in the mount table.
//! Who uses it is read from that table as well, so nothing has to be counted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::fuse::{ServeCommand, start};
use super::hold::{holder, is_elsewhere};
use super::{BackendError, Task, failed};
use crate::digest::Digest;
use crate::mounts::{self, Mount};
use crate::store::named_lock::{Hold, NamedLock};
use crate::store::{Store, StoreError, private_directory};
use crate::view::Stack;

/// Hexadecimal digits of a key: enough for no two stacks to meet.
const KEY_DIGITS: usize = 32;
/// What the name of one ends in that is being undone.
const GONE: &str = ".gone";
/// Somebody mounts there again so often at most: a server that is just ending.
const ROUNDS: usize = 20;

/// Without links, as the mount table names it.
fn directory(store: &Store) -> PathBuf {
    let path = store.root().join("lowers");
    mounts::resolve(&path).unwrap_or(path)
}

fn key(stack: &Stack) -> String {
    let mut hex = Digest::sha256(stack.identity.as_bytes()).hex();
    hex.truncate(KEY_DIGITS);
    hex
}

/// A shared mount as the disk and the mount table have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lower {
    /// `KEY-N`.
    pub name: String,
    /// Its mount is there, and its server lives.
    pub lives: bool,
    /// Its server lives, and has it mounted in another mount namespace than ours.
    pub elsewhere: bool,
    /// The device of its mount.
    pub device: Option<(u32, u32)>,
    /// Where mounts are that stand on it.
    pub users: Vec<PathBuf>,
}

/// All of them, also what is left of dead ones.
///
/// # Errors
/// They cannot be read.
pub fn all(store: &Store, mounts: &[Mount]) -> Result<Vec<Lower>, BackendError> {
    let directory = directory(store);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("read", &directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", &directory))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.contains('-') {
            found.push(look(&directory, name, mounts)?);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn look(directory: &Path, name: String, mounts: &[Mount]) -> Result<Lower, BackendError> {
    let tree = directory.join(&name).join("tree");
    let server = tree.with_file_name("server");
    let held = holder(&server).map_err(failed("read", &server))?;
    let mount = mounts::uppermost(mounts, &tree);
    let users = mounts.iter().filter(|m| stands_on(m, &tree, mount));
    Ok(Lower {
        elsewhere: mount.is_none() && held.is_some_and(|pid| is_elsewhere(pid, &tree)),
        lives: held.is_some() && mount.is_some_and(Mount::is_ours) && !name.ends_with(GONE),
        device: mount.map(|mount| mount.device),
        users: users.map(|user| user.at.clone()).collect(),
        name,
    })
}

/// Whether a mount is a part of the shared one, or overlayfs above it.
fn stands_on(other: &Mount, tree: &Path, mount: Option<&Mount>) -> bool {
    let bound = mount.is_some_and(|mount| other.device == mount.device && other.at != mount.at);
    let option = other.fs_options.split(',').find_map(|option| {
        // The backend refuses paths with a comma in them.
        option.strip_prefix("lowerdir=").map(Path::new)
    });
    bound || (other.fs_type == "overlay" && option == Some(tree))
}

/// Runs `mount` above the shared mount of a stack, which is made if it is missing; the
/// name of the shared one. It stays for as long as that mount does.
///
/// # Errors
/// The shared mount cannot be made, or `mount` fails.
pub fn stand_on(
    task: &Task<'_>,
    mount: impl FnOnce(&Path) -> Result<(), BackendError>,
) -> Result<String, BackendError> {
    let key = key(task.stack);
    let lock = lock(task.store, &key, task.stop)?;
    let stood = living_or_made(task, &key).and_then(|name| {
        let mounted = mount(&directory(task.store).join(&name).join("tree"));
        // Its error is the one that counts, here and below.
        mounted
            .inspect_err(|_| drop(drop_unused(task.store, &name)))
            .map(|()| name)
    });
    if stood.is_err() {
        let _ = forget(task.store, &key, lock);
    }
    stood
}

/// The shared mount of a stack.
fn living_or_made(task: &Task<'_>, key: &str) -> Result<String, BackendError> {
    let mounts = mounts::all()?;
    let own = |lower: &Lower| lower.lives && lower.name.starts_with(key);
    match all(task.store, &mounts)?.into_iter().find(own) {
        Some(lower) => Ok(lower.name),
        None => make(task, key),
    }
}

fn lock(store: &Store, key: &str, stop: &AtomicBool) -> Result<NamedLock, BackendError> {
    let directory = directory(store);
    fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
    let path = directory.join(format!("{key}.lock"));
    let lock = NamedLock::take(&path, Hold::Alone, stop, &|| ())?;
    lock.ok_or(BackendError::Interrupted)
}

fn make(task: &Task<'_>, key: &str) -> Result<String, BackendError> {
    let directory = directory(task.store);
    let made =
        private_directory(&directory, &format!("{key}-")).map_err(failed("create", &directory))?;
    let tree = made.path().join("tree");
    fs::create_dir(&tree).map_err(failed("create", &tree))?;
    let command = ServeCommand {
        read_only: true,
        hold: Some(made.path().join("server")),
        at: tree,
        ..task.command()
    };
    start(&command.words(), None)?;
    let path = made.keep();
    let name = path.file_name().unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// Undoes a shared mount unless something stands on it; whether it is gone.
///
/// # Errors
/// What the system says.
pub fn release(store: &Store, name: &str, stop: &AtomicBool) -> Result<bool, BackendError> {
    let key = name.split('-').next().unwrap_or(name);
    let lock = lock(store, key, stop)?;
    let gone = drop_unused(store, name)?;
    forget(store, key, lock)?;
    Ok(gone)
}

/// Removes a lock that stands for nothing any more.
fn forget(store: &Store, key: &str, lock: NamedLock) -> Result<(), BackendError> {
    let others = all(store, &mounts::all()?)?;
    if !others.iter().any(|lower| lower.name.starts_with(key)) {
        lock.remove()?;
    }
    Ok(())
}

/// Removes locks that killed processes left.
///
/// # Errors
/// What the system says.
pub fn sweep_locks(store: &Store) -> Result<(), BackendError> {
    let directory = directory(store);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("read", &directory))?,
    };
    for entry in entries {
        let path = entry.map_err(failed("read", &directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(key) = name.and_then(|name| name.strip_suffix(".lock")) else {
            continue;
        };
        // Whoever has it is at work.
        if let Some(lock) = NamedLock::try_take(&path, Hold::Alone)? {
            forget(store, key, lock)?;
        }
    }
    Ok(())
}

fn drop_unused(store: &Store, name: &str) -> Result<bool, BackendError> {
    let directory = directory(store);
    let lower = look(&directory, name.to_owned(), &mounts::all()?)?;
    // Who stands on it in another namespace cannot be seen.
    if !lower.users.is_empty() || lower.elsewhere {
        return Ok(false);
    }
    let gone = match name.ends_with(GONE) {
        true => directory.join(name),
        false => directory.join(format!("{name}{GONE}")),
    };
    let here = directory.join(name);
    // A server that begins at this moment, its starter killed, finds nothing here any more.
    match fs::rename(&here, &gone) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("rename", &here)(error));
        }
        _ => {}
    }
    remove_all_of(&gone)?;
    Ok(true)
}

fn remove_all_of(gone: &Path) -> Result<(), BackendError> {
    mounts::detach_below(gone)?;
    let mut rounds = 0;
    for path in [gone.join("server"), gone.join("tree"), gone.to_owned()] {
        loop {
            let removed = match path.ends_with("server") {
                true => fs::remove_file(&path),
                // Empty, or there is something in it that we do not know.
                false => fs::remove_dir(&path),
            };
            match removed {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                // It was on its way to the mount when the directory got its other name.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && rounds < ROUNDS => {
                    rounds += 1;
                    mounts::detach_below(gone)?;
                }
                Err(error) => return Err(failed("remove", &path)(error)),
            }
        }
    }
    Ok(())
}

impl From<StoreError> for BackendError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_on_a_shared_mount_is_seen_in_the_table() {
        let table = b"\
40 22 0:50 / /s/lowers/k-1/tree ro - fuse.lazyroot app ro\n\
41 22 0:50 / /c/a/rootfs ro - fuse.lazyroot app ro\n\
42 22 0:51 / /c/b/rootfs rw - overlay overlay rw,lowerdir=/s/lowers/k-1/tree,upperdir=/u\n\
43 22 0:52 / /c/c/rootfs rw - overlay overlay rw,lowerdir=/s/lowers/k-2/tree,upperdir=/u\n";
        let mounts = mounts::parse(table);
        let tree = Path::new("/s/lowers/k-1/tree");
        let own = mounts::uppermost(&mounts, tree);
        let on: Vec<bool> = mounts.iter().map(|m| stands_on(m, tree, own)).collect();
        assert_eq!(on, [false, true, true, false]);
        // Also when it is gone itself.
        assert!(stands_on(&mounts[2], tree, None));
    }
}
