//! Removing what nothing needs.
//!
//! Under the short lock: pins are read, images are chosen that go (rules of an operator;
//! without one all stay), and what neither an image that stays nor a pin needs is
//! renamed into `trash/`: names and records of images before layers, and those before
//! blobs. Outside it: the trash is deleted. A crash in between leaves files that no
//! record names, or trash; the next run deletes both.
//!
//! An image whose record is damaged stops all: what it needs cannot be known.

pub mod choose;
pub mod exclude;
pub mod headroom;
mod images;
mod plan;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::metrics::Counter;
use super::staging::{left, sweep};
use super::uppers::KeptUpper;
use super::{Store, StoreError, failed};
use crate::appc::AppcReference;
use crate::digest::ImageId;
use crate::reference::Reference;
use crate::remove::{self, Removed as Removal};
use choose::Why;
use exclude::Exclusion;
use headroom::{Disk, Headroom};
pub use images::Removed;

/// What an operator wants to be removed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// Upper directories with changes whose mounts ended by a crash.
    pub uppers: bool,
    /// Images that nothing uses.
    pub all: bool,
    /// Of those the ones without a name.
    pub unnamed: bool,
    /// Of those the ones that were not used for so long.
    pub older_than: Option<Duration>,
    /// The least recently used until the store has no more bytes.
    pub max_size: Option<u64>,
    /// The least recently used until so much of the disk is free.
    pub headroom: Option<Headroom>,
    /// Images that stay.
    pub keep: Vec<Exclusion>,
    /// Only say what would go.
    pub dry_run: bool,
    /// Since 1970.
    pub now: Duration,
}

/// What a sweep removed, and what it left.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Swept {
    /// Files removed.
    pub files: u64,
    /// The bytes on disk that are free now.
    pub bytes: u64,
    /// Images removed, in this order.
    pub images: Vec<Gone>,
    /// Bytes that are missing to the size or the headroom that was asked for: what is
    /// left is in use, excluded, or no image.
    pub short: u64,
    /// Nothing was done: the disk has as much room as was asked for.
    pub idle: bool,
    /// What was to stay, and is not there.
    pub unknown: Vec<String>,
    /// How full the disk was, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// Upper directories with changes whose mounts ended by a crash: they stay
    /// until somebody says that they may go.
    pub uppers: Vec<KeptUpper>,
}

/// An image that was removed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Gone {
    /// Its ID.
    pub id: ImageId,
    /// Its names.
    pub names: Vec<Reference>,
    /// Name and labels of an AppC image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub appc: Option<AppcReference>,
    /// Seconds since 1970.
    pub last_used: u64,
    /// Bytes that only it needed, when those before it were gone.
    pub bytes: u64,
    /// By which rule.
    pub why: Why,
}

/// Removed before others: *no record without files*.
const DIRECTORIES: [&str; 7] = [
    "layers-v1",
    "seek-v1",
    "whitelists-v1",
    "blobs/sha256",
    "blobs/sha512",
    "expanded-v1",
    "first-reads-v1",
];

impl Store {
    /// Removes every layer and blob that no image and no running process needs,
    /// and upper directories of mounts that are gone: those without changes, with
    /// `uppers` also those with. All images stay.
    ///
    /// # Errors
    /// See [`Store::collect`].
    pub fn gc(&self, uppers: bool) -> Result<Swept, StoreError> {
        self.collect(&Request {
            uppers,
            ..Request::default()
        })
    }

    /// Removes images by rules, and what [`Store::gc`] does.
    ///
    /// # Errors
    /// A damaged image record: what it needs cannot be known, so nothing goes.
    pub fn collect(&self, request: &Request) -> Result<Swept, StoreError> {
        let swept = self.sweep_by(request);
        match &swept {
            _ if request.dry_run => {}
            Ok(swept) if swept.idle => {}
            Ok(swept) => self.tally(&[
                (Counter::GcRuns, 1),
                (Counter::GcFreedBytes, swept.bytes),
                (Counter::GcFreedImages, swept.images.len() as u64),
            ]),
            Err(_) => self.count(Counter::GcErrors),
        }
        swept
    }

    fn sweep_by(&self, request: &Request) -> Result<Swept, StoreError> {
        let lock = self.lock()?;
        let (plan, mut swept) = self.plan(request, &lock)?;
        if swept.idle {
            return Ok(swept);
        }
        let uppers = self.fates_of_uppers(request.uppers)?;
        let (staging, trash) = (self.root().join("staging"), self.root().join("trash"));
        if request.dry_run {
            let others = [uppers.go, left(&staging)?].concat();
            let (files, bytes) = plan.count(&trash, &others)?;
            drop(lock);
            (swept.files, swept.bytes) = (files, bytes);
        } else {
            let late = match self.take_out(plan.names.as_ref(), &plan.images, &lock) {
                // A full disk has no room for a table, and is why we are here.
                Err(StoreError::Full(..)) => {
                    self.take_out(None, &plan.images, &lock)?;
                    true
                }
                done => done.map(|()| false)?,
            };
            let there = self.image_ids()?;
            self.forget_called(|id| there.contains(&id))?;
            let mut removed = sweep(&staging)?;
            for path in plan.files.iter().chain(&uppers.go) {
                let name = path.file_name().unwrap_or_default();
                // Copies of layers may be dropped by their readers at any time.
                removed += throw_away(path, &trash.join(name))?;
            }
            drop(lock);
            removed += empty(&trash)?;
            if late {
                self.forget_names(&plan.images)?;
            }
            (swept.files, swept.bytes) = (removed.files, removed.bytes);
        }
        let stay = uppers.stay.into_iter().map(KeptUpper::measured);
        swept.uppers = stay.collect::<Result<_, _>>()?;
        Ok(swept)
    }
}

/// Renames what nothing needs into the trash, so that the store's lock, which is held, need not be for long.
/// Where that cannot be, because a full disk has no room for one more name there, it is removed where it
/// is. Tells what was removed: nothing where there is nothing.
fn throw_away(path: &Path, to: &Path) -> Result<Removal, StoreError> {
    match fs::rename(path, to) {
        Ok(()) => Ok(Removal::default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removal::default()),
        Err(_) => Ok(remove::remove(path)?),
    }
}

fn list(directory: &Path) -> Result<Vec<OsString>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("read", directory))?,
    };
    entries
        .map(|entry| Ok(entry.map_err(failed("read", directory))?.file_name()))
        .collect()
}

/// Deletes what is in the trash; others may be doing the same. What cannot be deleted
/// does not keep the rest from it.
fn empty(trash: &Path) -> Result<Removal, StoreError> {
    let mut all = Removal::default();
    let mut failure = None;
    for name in list(trash)? {
        match remove::remove(&trash.join(name)) {
            Ok(removed) => all += removed,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_in_the_trash_is_removed_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let no_trash = dir.path().join("file");
        fs::write(&no_trash, "").unwrap();
        let (file, tree) = (dir.path().join("blob"), dir.path().join("upper"));
        fs::write(&file, "bytes").unwrap();
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("in it"), "bytes").unwrap();
        for path in [&file, &tree] {
            let removed = throw_away(path, &no_trash.join("x")).unwrap();
            assert_eq!(removed.files, 1);
            assert!(!path.try_exists().unwrap());
            assert_eq!(throw_away(path, &no_trash).unwrap(), Removal::default());
        }
        fs::write(&file, "bytes").unwrap();
        let removed = throw_away(&file, &dir.path().join("trashed")).unwrap();
        assert_eq!(removed, Removal::default());
        assert!(dir.path().join("trashed").try_exists().unwrap());
    }
}
