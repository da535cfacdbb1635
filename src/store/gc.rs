//! Removing what nothing needs.
//!
//! Under the short lock: pins are read, what no image and no lease needs is
//! renamed into `trash/`. Outside it: the trash is deleted. A crash in between
//! leaves trash, which the next run deletes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::staging::sweep;
use super::uppers::KeptUpper;
use super::{Store, StoreError, failed, gone_is_fine};
use crate::digest::{AciId, BlobId, DiffId, ImageId};
use crate::reference::Reference;
use crate::remove;

/// What a sweep removed, and what it left.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Swept {
    /// Files removed.
    pub files: u64,
    /// The bytes on disk that are free now.
    pub bytes: u64,
    /// Upper directories with changes whose mounts ended by a crash: they stay
    /// until somebody says that they may go.
    pub uppers: Vec<KeptUpper>,
}

/// What removing an image came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<Reference>,
    /// The image, when it is gone too.
    pub image: Option<ImageId>,
}

impl Store {
    /// Removes a name; and the image, when it was the last one (a Docker image's). `text` may be an
    /// ID: then all its names go.
    ///
    /// # Errors
    /// No such image; an image that a running process needs, unless `force`
    /// (that process keeps what it has open).
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed, StoreError> {
        let lock = self.lock()?;
        let id = self.find(text)?;
        let mut all = self.names()?;
        let of_image = |names: &super::images::Names| -> Vec<Reference> {
            names
                .iter()
                .filter(|(_, to)| **to == id)
                .map(|(name, _)| name.clone())
                .collect()
        };
        let tag = text.parse().ok().filter(|name| all.get(name) == Some(&id));
        // An AppC image has a name of its own, which no tag takes away with it.
        let only_a_tag = tag.is_some() && AciId::of_image(id).is_some();
        let gone = tag.map_or_else(|| of_image(&all), |name| vec![name]);
        let last = !only_a_tag && of_image(&all).len() == gone.len();
        if last && !force {
            let pins = self.pinned(&lock)?;
            // A damaged record pins nothing: it must be possible to remove it.
            let needed = self.image(id).map(|image| image.layers).unwrap_or_default();
            if !needed.is_empty() && needed.iter().all(|layer| pins.contains(&layer.diff)) {
                return Err(StoreError::InUse(text.to_owned()));
            }
        }
        all.retain(|name, _| !gone.contains(name));
        self.write_names(&all, &lock)?;
        if last {
            let path = self.image_path(id);
            // A damaged table may name an image that is not there.
            gone_is_fine(fs::remove_file(&path).map_err(failed("remove", &path)))?;
            self.forget_called(|there| there != id)?;
        }
        drop(lock);
        Ok(Removed {
            names: gone,
            image: last.then_some(id),
        })
    }

    /// Removes every layer and blob that no image and no running process needs,
    /// and upper directories of mounts that are gone: those without changes, with
    /// `uppers` also those with.
    ///
    /// # Errors
    /// A damaged image record: what it needs cannot be known, so nothing goes.
    pub fn gc(&self, uppers: bool) -> Result<Swept, StoreError> {
        let lock = self.lock()?;
        let mut layers: BTreeSet<DiffId> = self.pinned(&lock)?;
        let mut keep: BTreeSet<PathBuf> = BTreeSet::new();
        let lists = self.container_lists()?.into_iter();
        keep.extend(lists.map(|list| self.whitelist_path(list)));
        for id in self.image_ids()? {
            let image = self.image(id)?;
            layers.extend(image.layers.iter().map(|layer| layer.diff));
            keep.insert(self.blob_path(BlobId(id.0)));
            keep.extend(image.manifest.map(|manifest| self.blob_path(manifest)));
            keep.extend(AciId::of_image(id).map(|aci| self.whitelist_path(aci)));
        }
        for diff in layers {
            keep.extend([
                self.layer_path(diff),
                self.index_path(diff),
                self.expanded_path(diff),
            ]);
            // A layer that a running import has pinned but not published has no record.
            if let Some(record) = self.layer(diff)? {
                keep.extend([self.blob_path(record.blob), self.map_path(record.blob)]);
            }
        }
        sweep(&self.root().join("staging"))?;
        let there = self.image_ids()?;
        self.forget_called(|id| there.contains(&id))?;
        let trash = self.root().join("trash");
        // The record of a layer goes before its files: *no record without files*.
        for directory in [
            "layers-v1",
            "seek-v1",
            "whitelists-v1",
            "blobs/sha256",
            "blobs/sha512",
            "expanded-v1",
        ] {
            let directory = self.root().join(directory);
            let mut names = list(&directory)?;
            names.sort_by_key(|name| Path::new(name).extension().is_none_or(|e| e != "json"));
            for name in names {
                let path = directory.join(&name);
                if !keep.contains(&path) {
                    let to = trash.join(&name);
                    // Copies of layers may be dropped by their readers at any time.
                    gone_is_fine(fs::rename(&path, &to).map_err(failed("rename", &path)))?;
                }
            }
        }
        let stay = self.sweep_uppers(uppers, &lock)?;
        drop(lock);
        let stay = stay.into_iter().map(KeptUpper::measured);
        Ok(Swept {
            uppers: stay.collect::<Result<_, _>>()?,
            ..empty(&trash)?
        })
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
fn empty(trash: &Path) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    let mut failure = None;
    for name in list(trash)? {
        match remove::remove(&trash.join(name)) {
            Ok(removed) => {
                swept.files += removed.files;
                swept.bytes += removed.bytes;
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(swept),
    }
}
