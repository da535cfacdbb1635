//! What AppC images are called, told by files beside their records.
//!
//! What it is for: an image is found by its name without reading the records of all the
//! others, and a record that is damaged is known by what it was the record of. May assume
//! nothing of what is in the directory. Must not know which of several images is meant.
//!
//! `images-v1/sha512-HEX.KEY.name` says that image `sha512-HEX` has a name whose SHA-256 is
//! KEY; in it are name and labels, with a check of their own. It is published before the record and
//! removed after it. A record without it (a store of before, a file that was lost) is
//! still found: it is read for every name. So nothing depends on it but time, and
//! what is known of a damaged record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use super::images::Checked;
use super::{Store, StoreError, failed, gone_is_fine, read_small};
use crate::appc::{AppcReference, Identifier};
use crate::digest::{AciId, Digest, ImageId};

/// How such a file ends.
const ENDING: &str = ".name";

/// What stands for a name in the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn of(name: &Identifier) -> Self {
        Self(Digest::sha256(name.as_str().as_bytes()).hex())
    }
}

/// The AppC images of which there is a record, and the names they are filed under.
pub(super) type Called = BTreeMap<AciId, BTreeSet<Key>>;

fn split(file: &str) -> Option<(AciId, Key)> {
    let (id, key) = file.strip_suffix(ENDING)?.split_once('.')?;
    Some((id.parse().ok()?, Key(key.to_owned())))
}

impl Store {
    fn called_path(&self, id: AciId, key: &Key) -> PathBuf {
        let file = format!("{id}.{}{ENDING}", key.0);
        self.root().join("images-v1").join(file)
    }

    /// Where it is told that an image has this name.
    #[must_use]
    pub fn name_path(&self, id: AciId, name: &Identifier) -> PathBuf {
        self.called_path(id, &Key::of(name))
    }

    /// What there is, from one look at the directory.
    pub(super) fn called(&self) -> Result<Called, StoreError> {
        let mut called = Called::new();
        let mut filed = Vec::new();
        self.each_image_file(|file| {
            if let Some(told) = split(file) {
                filed.push(told);
            } else if let Some(id) = super::images::image_of(file).and_then(AciId::of_image) {
                called.insert(id, BTreeSet::new());
            }
        })?;
        for (id, key) in filed {
            if let Some(keys) = called.get_mut(&id) {
                keys.insert(key);
            }
        }
        Ok(called)
    }

    /// Name and labels of an image, where its record cannot be read. Nothing where
    /// that file is not sound either, or is filed under another name.
    pub(super) fn told(&self, id: AciId, keys: &BTreeSet<Key>) -> Option<AppcReference> {
        keys.iter().find_map(|key| {
            let bytes = read_small(&self.called_path(id, key)).ok()?;
            let told: AppcReference = Checked::open(&bytes).ok()?;
            (Key::of(&told.name) == *key).then_some(told)
        })
    }

    /// Compares what is told of an image's name with its manifest.
    ///
    /// # Errors
    /// Damage. A file that is not there is none.
    pub fn check_told(&self, id: AciId, right: &AppcReference) -> Result<(), StoreError> {
        for key in self.called()?.remove(&id).unwrap_or_default() {
            let path = self.called_path(id, &key);
            let Some(bytes) = gone_is_fine(read_small(&path))? else {
                continue;
            };
            let told = Checked::<AppcReference>::open(&bytes);
            if told.as_ref() != Ok(right) || key != Key::of(&right.name) {
                let what = "it does not agree with the image's manifest".to_owned();
                return Err(StoreError::Damaged { path, what });
            }
        }
        Ok(())
    }

    /// Removes what is told of images that are not there.
    pub(super) fn forget_called(&self, there: impl Fn(ImageId) -> bool) -> Result<(), StoreError> {
        let mut needless = Vec::new();
        self.each_image_file(|file| {
            needless.extend(split(file).filter(|(id, _)| !there(id.image())));
        })?;
        for (id, key) in needless {
            let path = self.called_path(id, &key);
            gone_is_fine(fs::remove_file(&path).map_err(failed("remove", &path)))?;
        }
        Ok(())
    }

    /// The names of all files beside the images' records.
    pub(super) fn each_image_file(&self, mut to: impl FnMut(&str)) -> Result<(), StoreError> {
        let directory = self.root().join("images-v1");
        let entries = fs::read_dir(&directory);
        for entry in entries.map_err(failed("read", &directory))? {
            let entry: io::Result<fs::DirEntry> = entry;
            let name = entry.map_err(failed("read", &directory))?.file_name();
            name.to_str().into_iter().for_each(&mut to);
        }
        Ok(())
    }
}
