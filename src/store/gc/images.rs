//! Images leave the store: their names first, then their records, and what only
//! they needed at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::throw_away;
use crate::appc::{AppcReference, SCHEME};
use crate::digest::{AciId, ImageId};
use crate::reference::Reference;
use crate::store::images::Names;
use crate::store::{Store, StoreError, StoreLock, failed, gone_is_fine, present, sync_directory};

/// What removing an image came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<Reference>,
    /// The image, when it is gone too.
    pub image: Option<ImageId>,
}

impl Store {
    /// Removes a name; and the image, when it was the last one: an AppC image's own is, as it cannot be
    /// without it. `text` may be an ID: then all its names go.
    ///
    /// # Errors
    /// No such image. Unless `force`: an image that a running process needs
    /// (that process keeps what it has open), or another image; the own name of an AppC image that has others.
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed, StoreError> {
        let lock = self.lock()?;
        let id = self.find(text)?;
        let mut all = self.names()?;
        let of_image = |names: &Names| -> Vec<Reference> {
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
            if self.pins(&lock)?.images.contains(&id) {
                return Err(StoreError::InUse(text.to_owned()));
            }
            if let Some(aci) = AciId::of_image(id) {
                let image = text.to_owned();
                let names: Vec<String> = gone.iter().map(Reference::familiar).collect();
                if !names.is_empty() && self.is_own_name(text, id) {
                    return Err(StoreError::Tagged { image, names });
                }
                let by = self.appc_images()?.dependents(aci)?;
                if !by.is_empty() {
                    let by = by.iter().map(ToString::to_string).collect();
                    return Err(StoreError::Needed { image, by });
                }
            }
        }
        all.retain(|name, _| !gone.contains(name));
        let leaves: &[ImageId] = if last { &[id] } else { &[] };
        let late = match self.take_out(Some(&all), leaves, &lock) {
            // No room for a table without it, until its record is gone.
            Err(StoreError::Full(..)) if last => {
                self.take_out(None, leaves, &lock)?;
                true
            }
            done => done.map(|()| false)?,
        };
        if last {
            self.forget_called(|there| there != id)?;
        }
        drop(lock);
        if last {
            // A small file: no need for it to wait for the next sweep.
            let path = self.trash_of(id);
            gone_is_fine(fs::remove_file(&path).map_err(failed("remove", &path)))?;
        }
        if late {
            self.forget_names(&[id])?;
        }
        Ok(Removed {
            names: gone,
            image: last.then_some(id),
        })
    }

    /// Whether an AppC image was found by what its manifest calls it. One whose record is damaged is removed
    /// like one that was named by its ID.
    fn is_own_name(&self, text: &str, id: ImageId) -> bool {
        let appc = self.image(id).ok().and_then(|record| record.appc);
        let text = text.strip_prefix(SCHEME).unwrap_or(text);
        let wanted = format!("{SCHEME}{text}").parse::<AppcReference>().ok();
        let both = appc.zip(wanted);
        both.is_some_and(|(outline, wanted)| wanted.fits(&outline.name, &outline.labels))
    }

    /// Replaces the table of names, and moves the records of images into the trash. On
    /// disk before it returns: what those images needed may go then.
    pub(super) fn take_out(
        &self,
        names: Option<&Names>,
        images: &[ImageId],
        lock: &StoreLock,
    ) -> Result<(), StoreError> {
        lock.changes_names();
        if let Some(names) = names {
            self.write_names(names, lock)?;
        }
        for id in images {
            let path = self.image_path(*id);
            // A damaged table may name an image that is not there.
            throw_away(&path, &self.trash_of(*id))?;
        }
        match images {
            [] => Ok(()),
            _ => sync_directory(&self.root().join("images-v1")),
        }
    }

    /// Removes names of images that are gone, and have not come back meanwhile.
    pub(super) fn forget_names(&self, images: &[ImageId]) -> Result<(), StoreError> {
        let lock = self.lock()?;
        let mut names = self.names()?;
        let mut gone = BTreeSet::new();
        for id in images {
            if !present(&self.image_path(*id))? {
                gone.insert(*id);
            }
        }
        names.retain(|_, id| !gone.contains(id));
        self.write_names(&names, &lock)
    }

    /// A record's place in the trash. An AppC image is called as its layer is.
    fn trash_of(&self, image: ImageId) -> PathBuf {
        let name = format!("image-{}.json", image.file_name());
        self.root().join("trash").join(name)
    }
}
