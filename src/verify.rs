//! Reading all of an image again, to find damage.
//!
//! What it is for: a second opinion on the store that trusts none of its own
//! checks: digests are computed from the bytes anew. Floor 3: it joins store,
//! index and union.

use std::fs::File;
use std::sync::Arc;

use crate::digest::{self, AciId, BlobId, DiffId, Hasher, ImageId};
use crate::image::appc::Manifest;
use crate::layer::blocks::BlockCache;
use crate::layer::path_set::{self, PathSet};
use crate::layer::read::Index;
use crate::layer::seek::SeekMap;
use crate::store::images::ImageRecord;
use crate::store::{FileSource, Store, StoreError};

/// Checks that every name stands for an image that is there.
///
/// # Errors
/// The first damage.
pub fn names(store: &Store) -> Result<(), StoreError> {
    // An image comes before its names and goes after them, so a name of before
    // and after that has no image in between is nobody's work in progress.
    let before = store.names()?;
    let ids = store.image_ids()?;
    let after = store.names()?;
    let mut names = before.iter();
    let lost = names.find(|(name, id)| !ids.contains(id) && after.get(*name) == Some(*id));
    match lost {
        None => Ok(()),
        Some((name, id)) => Err(StoreError::Damaged {
            path: store.names_path(),
            what: format!("`{name}` stands for image {id}, which is not there"),
        }),
    }
}

/// Checks an image's record, config and manifest; returns its layers.
///
/// # Errors
/// The first damage.
pub fn image(store: &Store, id: ImageId) -> Result<Vec<DiffId>, StoreError> {
    let record = store.image(id)?;
    if let Some(blob) = record.manifest {
        let manifest = store.small_blob(blob)?;
        if let Some(aci) = AciId::of_image(id) {
            appc(store, aci, &record, &manifest)?;
        }
    }
    Ok(record.layers.iter().map(|layer| layer.diff).collect())
}

/// Checks that record and whitelist of an AppC image say what its manifest says.
fn appc(store: &Store, id: AciId, record: &ImageRecord, bytes: &[u8]) -> Result<(), StoreError> {
    let damaged = |path, what: String| StoreError::Damaged { path, what };
    let manifest = Manifest::parse(bytes);
    let manifest =
        manifest.map_err(|error| damaged(store.image_path(record.id), error.to_string()))?;
    if record.appc != Some(manifest.outline()) {
        let what = "it does not agree with the image's manifest".to_owned();
        return Err(damaged(store.image_path(record.id), what));
    }
    store.check_told(id, &manifest.outline().reference())?;
    if manifest.whitelist.is_empty() {
        return Ok(());
    }
    let path = store.whitelist_path(id);
    let source = FileSource::open(path.clone())?;
    let set = PathSet::open(id, Box::new(source), BlockCache::new(1 << 20))?;
    set.verify()?;
    let expected = path_set::write(id, &manifest.whitelist, Vec::new());
    let found = std::fs::read(&path).map_err(|source| StoreError::Io {
        what: "read",
        path: path.clone(),
        source,
    })?;
    match expected {
        Ok(expected) if expected == found => Ok(()),
        _ => Err(damaged(path, "it is not the manifest's".to_owned())),
    }
}

/// Checks a layer: the rules of index and map, the blob's digest, every span,
/// and the digest of the uncompressed tar.
///
/// # Errors
/// The first damage.
pub fn layer(store: &Store, diff: DiffId) -> Result<(), StoreError> {
    let record = store.layer(diff)?.ok_or(StoreError::NoLayer(diff))?;
    let cache = BlockCache::new(1 << 20);
    let index = FileSource::open(store.index_path(diff))?;
    Index::open(Box::new(index), Arc::clone(&cache))?.verify()?;

    let path = store.blob_path(record.blob);
    let (found, len) = File::open(&path)
        .and_then(|file| digest::of_reader_by(Hasher::like(&record.blob.0), file))
        .map_err(|source| StoreError::Io {
            what: "read",
            path: path.clone(),
            source,
        })?;
    if BlobId(found) != record.blob {
        return Err(StoreError::Damaged {
            path,
            what: format!("its digest is {found}"),
        });
    }

    let map_path = store.map_path(record.blob);
    let map = SeekMap::open(Box::new(FileSource::open(map_path.clone())?), cache)?;
    if (record.blob_size, record.tar_size) != (len, map.tar_len()) {
        return Err(StoreError::Damaged {
            path: store.layer_path(diff),
            what: "it has other sizes than its blob and its map".to_owned(),
        });
    }
    let blob = FileSource::open(path)?;
    let mut hasher = Hasher::like(&diff.0);
    map.decode_all(&blob, &mut |_, bytes| {
        hasher.update(bytes);
        true
    })?;
    if map.random_access() {
        // What readers do: every span on its own, from its point.
        for span in 0..map.spans() {
            map.decode(span, &blob)?;
        }
    }
    let found = hasher.finish();
    if found != diff.0 {
        return Err(StoreError::Damaged {
            path: map_path,
            what: format!("it unpacks to {found}"),
        });
    }
    Ok(())
}
