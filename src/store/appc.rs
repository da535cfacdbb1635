//! AppC images in the store: found by name and labels, and put on their dependencies.
//!
//! Which of several that fit is meant is fixed: one that this machine can run goes
//! before others (best platform first), then the one imported last, then the greatest ID.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::images::ImageRecord;
use super::{Caches, FileSource, Store, StoreError};
use crate::appc::AppcReference;
use crate::digest::{AciId, ImageId};
use crate::image::Platform;
use crate::image::appc::Dependency;
use crate::image::appc::graph::{self, GraphError, Known, Outline, Placed};
use crate::layer::path_set::PathSet;

/// All AppC images of a store, read once.
#[derive(Debug, Default)]
pub struct AppcImages {
    /// By name; the one that is meant first.
    by_name: HashMap<String, Vec<Known>>,
    by_id: HashMap<AciId, Known>,
}

impl AppcImages {
    /// The image that is meant.
    #[must_use]
    pub fn find(&self, wanted: &AppcReference) -> Option<&Known> {
        let named = self.by_name.get(wanted.name.as_str())?;
        let fits = |known: &&Known| wanted.fits(&known.outline.name, &known.outline.labels);
        named.iter().find(fits)
    }

    /// The image that another depends on.
    #[must_use]
    pub fn dependency(&self, wanted: &Dependency) -> Option<&Known> {
        let exact = wanted.id.and_then(|id| self.by_id.get(&id));
        exact.or_else(|| self.find(&wanted.image))
    }

    /// All of them, those of one name together and in the order of preference.
    pub fn all(&self) -> impl Iterator<Item = &Known> {
        self.by_name.values().flatten()
    }

    /// What an image is made of, lowest first.
    ///
    /// # Errors
    /// See [`GraphError`].
    pub fn stack(&self, id: AciId) -> Result<Vec<Placed>, StoreError> {
        let top = self.by_id.get(&id).cloned();
        let top = top.ok_or_else(|| StoreError::NoImage(id.to_string()))?;
        let stack = graph::stack(top, &mut |wanted| Ok(self.dependency(wanted).cloned()));
        stack.map_err(|error: GraphError<std::convert::Infallible>| StoreError::from(error))
    }
}

impl Store {
    /// Where the whitelist of an image lies, if it has one.
    #[must_use]
    pub fn whitelist_path(&self, id: AciId) -> PathBuf {
        self.root()
            .join("whitelists-v1")
            .join(format!("{id}.paths"))
    }

    /// Reads what the store has of AppC images.
    ///
    /// # Errors
    /// The store cannot be read. A damaged record is as good as missing here, and is
    /// told when that image is asked for; `damaged` hears of it.
    pub fn appc_images(
        &self,
        damaged: &mut dyn FnMut(ImageId, StoreError),
    ) -> Result<AppcImages, StoreError> {
        let host = Platform::host();
        let mut found: Vec<(AciId, ImageRecord, Arc<Outline>)> = Vec::new();
        for id in self.image_ids()? {
            let Some(aci) = AciId::of_image(id) else {
                continue;
            };
            match self.image(id) {
                Ok(mut record) => {
                    if let Some(outline) = record.appc.take() {
                        found.push((aci, record, Arc::new(outline)));
                    }
                }
                // Removed meanwhile.
                Err(StoreError::NoImage(_)) => {}
                Err(error @ (StoreError::Damaged { .. } | StoreError::Read(_))) => {
                    damaged(id, error);
                }
                Err(error) => return Err(error),
            }
        }
        found.sort_by_cached_key(|(id, record, _)| {
            let rank = host.rank(&record.platform).unwrap_or(usize::MAX);
            (rank, Reverse(record.imported), Reverse(*id))
        });
        let mut images = AppcImages::default();
        for (id, _, outline) in found {
            let known = Known { id, outline };
            images.by_id.insert(id, known.clone());
            let name = known.outline.name.as_str().to_owned();
            images.by_name.entry(name).or_default().push(known);
        }
        Ok(images)
    }

    /// Opens the whitelist of an image: constant time.
    ///
    /// # Errors
    /// Missing or damaged files.
    pub fn open_whitelist(&self, id: AciId, caches: &Caches) -> Result<Arc<PathSet>, StoreError> {
        let source = FileSource::open(self.whitelist_path(id))?;
        let set = PathSet::open(id, Box::new(source), Arc::clone(&caches.blocks))?;
        Ok(Arc::new(set))
    }
}
