//! Layers in the store: record, index, map and blob become a [`Layer`].

use std::path::PathBuf;
use std::sync::Arc;

use super::contents::Contents;
use super::staging::{Staged, Staging};
use super::{Caches, FileSource, Store, StoreError, failed, gone_is_fine, present, read_small};
use crate::digest::{BlobId, DiffId};
use crate::layer::read::{Index, Summary};
use crate::layer::seek::{Compression, SeekMap};
use crate::layer::{Layer, ReadError, SharedLayer, Source as _};

/// What the store says of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LayerRecord {
    /// The layer.
    pub diff: DiffId,
    /// The blob it is read from.
    pub blob: BlobId,
    /// How that is compressed.
    pub compression: Compression,
    /// Length of that blob in bytes.
    pub blob_size: u64,
    /// Length of the uncompressed tar in bytes.
    pub tar_size: u64,
}

/// A blob as it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its digest.
    pub blob: BlobId,
    /// Its length in bytes.
    pub size: u64,
}

/// A layer that was made in a staging directory.
#[derive(Debug, Clone)]
pub struct StagedLayer {
    /// What the store will say of it.
    pub record: LayerRecord,
    /// What came; the record may have another blob that was made of it.
    pub received: Received,
    /// What it adds.
    pub summary: Summary,
    /// The files' common name in the staging directory.
    pub name: String,
    /// Where its blob is, if that is not in the staging directory.
    pub blob: Option<PathBuf>,
}

impl Store {
    /// What the store has of a layer; nothing when it is not complete.
    ///
    /// # Errors
    /// A record that cannot be read or is not one.
    pub fn layer(&self, diff: DiffId) -> Result<Option<LayerRecord>, StoreError> {
        let path = self.layer_path(diff);
        let Some(bytes) = gone_is_fine(read_small(&path))? else {
            return Ok(None);
        };
        let record: LayerRecord =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
                path: path.clone(),
                what: error.to_string(),
            })?;
        if record.diff != diff {
            return Err(StoreError::Damaged {
                path,
                what: format!("it is about {}", record.diff),
            });
        }
        Ok(Some(record))
    }

    /// Whether a layer is complete and its files are all there.
    ///
    /// # Errors
    /// Files that cannot be looked for.
    pub fn has_layer(&self, diff: DiffId) -> Result<Option<LayerRecord>, StoreError> {
        let record = match self.layer(diff) {
            Ok(Some(record)) => record,
            Ok(None) | Err(StoreError::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        for path in [
            self.index_path(diff),
            self.map_path(record.blob),
            self.blob_path(record.blob),
        ] {
            if !present(&path)? {
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    /// Opens a layer: constant time, keeps its files open.
    ///
    /// # Errors
    /// Missing or damaged files.
    pub fn open_layer(&self, diff: DiffId, caches: &Caches) -> Result<SharedLayer, StoreError> {
        let record = self.layer(diff)?.ok_or(StoreError::NoLayer(diff))?;
        let index = FileSource::open(self.index_path(diff))?;
        let index = Index::open(Box::new(index), Arc::clone(&caches.blocks))?;
        let map_path = self.map_path(record.blob);
        let map = FileSource::open(map_path.clone())?;
        let map = SeekMap::open(Box::new(map), Arc::clone(&caches.blocks))?;
        let blob = FileSource::open(self.blob_path(record.blob))?;
        let agrees = index.diff_id() == diff
            && map.diff_id() == diff
            && map.blob() == record.blob
            && index.tar_len() == map.tar_len();
        if !agrees {
            return Err(StoreError::Damaged {
                path: map_path,
                what: format!("map, index and record of layer {diff} are not of one layer"),
            });
        }
        if blob.len() != map.blob_len() {
            return Err(StoreError::Read(ReadError::Corrupt {
                file: blob.name(),
                offset: blob.len().min(map.blob_len()),
                what: format!("it has {} bytes, not {}", blob.len(), map.blob_len()),
            }));
        }
        let contents = Contents::new(
            map,
            blob,
            Arc::clone(&caches.spans),
            self.expanded_path(diff),
            self.cache_quota,
            self.metrics(),
        );
        Ok(Arc::new(Layer {
            index,
            contents: Box::new(contents),
        }))
    }

    /// The files of a staged layer in the order in which they must be published.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn staged_files(
        &self,
        staging: &Staging,
        layer: &StagedLayer,
    ) -> Result<Vec<Staged>, StoreError> {
        let record = &layer.record;
        let path = self.layer_path(record.diff);
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| failed("write", &path)(error.into()))?;
        let json = staging.write(&format!("{}.json", layer.name), &text)?;
        let file = |suffix: &str| staging.file(&format!("{}.{suffix}", layer.name));
        Ok(vec![
            Staged {
                from: layer.blob.clone().unwrap_or_else(|| file("blob")),
                to: self.blob_path(record.blob),
            },
            Staged {
                from: file("map"),
                to: self.map_path(record.blob),
            },
            Staged {
                from: file("idx"),
                to: self.index_path(record.diff),
            },
            Staged {
                from: json,
                to: path,
            },
        ])
    }
}
