//! The last step of every import: what was staged gets its names under one lock, the
//! images' names last. Others see all of it or none. A kill in the middle of that leaves
//! whole images, some of them without their names: the same import again gives these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Got, ImportError, Imported, LayerError, Layers, Options, names};
use crate::digest::{BlobId, DiffId, Digest, ImageId};
use crate::image::{self, FoundImage};
use crate::layer::blocks::BlockCache;
use crate::layer::read::Index;
use crate::layer::{Layer, SharedLayer};
use crate::reference::Reference;
use crate::store::images::{ImageLayer, ImageRecord};
use crate::store::leases::Lease;
use crate::store::staging::{Staged, Staging};
use crate::store::{FileSource, Store, StoreError, StoreLock};
use crate::union::{Effort, FsError, Union};

/// A lease for an import, which must be able to write.
pub(super) fn lease(store: &Store) -> Result<Lease, ImportError> {
    let refused = || {
        let why = std::io::ErrorKind::PermissionDenied.into();
        StoreError::ReadOnly(store.root().to_owned(), why)
    };
    Ok(store.lease()?.ok_or_else(refused)?)
}

/// One image, ready to be published.
struct Ready {
    record: ImageRecord,
    names: Vec<Reference>,
    config: Vec<u8>,
    manifest: Option<Vec<u8>>,
    kept: usize,
}

impl Ready {
    fn imported(self) -> Imported {
        Imported {
            id: self.record.id,
            appc: None,
            names: self.names,
            layers: self.record.layers.len(),
            layers_kept: self.kept,
        }
    }
}

pub(super) fn publish(
    store: &Store,
    staging: &Staging,
    lease: &Lease,
    found: &[FoundImage],
    layers: Layers,
    options: &Options<'_>,
) -> Result<Vec<Imported>, ImportError> {
    let (mut images, mut brought) = (Vec::new(), BTreeSet::new());
    for image in found {
        let mut ready = ready(image, &layers, names(image, found.len(), options)?, options)?;
        no_dangling_links(store, staging, image, &layers, options)?;
        ready.kept = kept(store, image, &layers, &brought, options)?;
        brought.extend(ready.record.layers.iter().map(|layer| layer.diff));
        images.push(ready);
    }
    let diffs: Vec<DiffId> = layers.values().map(Got::diff).collect();
    store.pin(lease, &diffs)?;
    // Nobody finds an image before it can be used; until then it stays.
    let ids: Vec<ImageId> = images.iter().map(|ready| ready.record.id).collect();
    store.pin_images(lease, &ids)?;
    let mut files = Vec::new();
    let mut staged = BTreeSet::new();
    for got in layers.values() {
        // One member of a stream may be a layer by several names: links lead to it.
        if let Got::Staged(layer) = got
            && staged.insert(&layer.name)
        {
            files.extend(store.staged_files(staging, layer)?);
        }
    }
    let (mut records, mut written) = (Vec::new(), BTreeMap::new());
    for (number, ready) in images.iter().enumerate() {
        // An archive may list one image many times, for its names.
        if written.insert(ready.record.id, &ready.record) != Some(&ready.record) {
            let stem = format!("image-{number}");
            files.extend(stage_blobs(store, staging, ready, &stem)?);
            records.extend(store.stage_image(staging, &ready.record, &stem)?);
        }
    }
    staging.flush(files.iter().chain(&records))?;
    let named: Vec<_> = images
        .iter()
        .flat_map(|ready| ready.names.iter().map(|name| (name, ready.record.id)))
        .collect();
    let lock = store.lock()?;
    sound_names(store, &lock, options)?;
    store.publish_images(staging, &files, &records, &named, &lock)?;
    drop(lock);
    Ok(images.into_iter().map(Ready::imported).collect())
}

/// Refuses a damaged table of names before anything is published, or puts it aside if
/// everything is to be made anew.
pub(super) fn sound_names(
    store: &Store,
    lock: &StoreLock,
    options: &Options<'_>,
) -> Result<(), ImportError> {
    if options.again {
        store.set_damaged_names_aside(lock)?;
    }
    store.names()?;
    Ok(())
}

/// Config and manifest of one of the images.
fn stage_blobs(
    store: &Store,
    staging: &Staging,
    ready: &Ready,
    stem: &str,
) -> Result<Vec<Staged>, ImportError> {
    let mut files = Vec::new();
    let config = Some((BlobId(ready.record.id.0), &ready.config));
    let manifest = ready.record.manifest.zip(ready.manifest.as_ref());
    for (what, blob) in [("config", config), ("manifest", manifest)] {
        if let Some((blob, bytes)) = blob {
            files.push(Staged {
                from: staging.write(&format!("{stem}.{what}"), bytes)?,
                to: store.blob_path(blob),
            });
        }
    }
    Ok(files)
}

/// What an image's layers came to, lowest first.
fn of_image<'a>(
    image: &'a FoundImage,
    layers: &'a Layers,
) -> impl Iterator<Item = Result<&'a Got, ImportError>> {
    let missing = |file: &String| ImportError::MissingLayer(file.clone());
    image
        .layers
        .iter()
        .map(move |layer| layers.get(&layer.file).ok_or_else(|| missing(&layer.file)))
}

fn ready(
    image: &FoundImage,
    layers: &Layers,
    names: Vec<Reference>,
    options: &Options<'_>,
) -> Result<Ready, ImportError> {
    let got: Vec<&Got> = of_image(image, layers).collect::<Result<_, _>>()?;
    let diffs: Vec<DiffId> = got.iter().map(|got| got.diff()).collect();
    // One file may be named for two layers: it can only be one of them.
    for (layer, found) in image.layers.iter().zip(&diffs) {
        if let Some(declared) = layer.diff.filter(|declared| declared != found) {
            let (found, declared) = (found.0, declared.0);
            let source = LayerError::DiffId { found, declared };
            return Err(ImportError::layer(&layer.file, source));
        }
    }
    let config = match image.source {
        image::Source::DockerLegacy => image::legacy_config(image, &diffs),
        _ => image.config.clone(),
    };
    let declared = image.layers.iter().map(|layer| layer.blob);
    let record = ImageRecord {
        id: ImageId(Digest::sha256(&config)),
        source: image.source,
        manifest: image
            .manifest
            .as_ref()
            .map(|bytes| BlobId(Digest::sha256(bytes))),
        index: image.index,
        platform: image.platform.clone(),
        layers: diffs
            .iter()
            .zip(declared)
            .map(|(&diff, declared)| ImageLayer { diff, declared })
            .collect(),
        imported: options.now,
        appc: None,
    };
    Ok(Ready {
        record,
        names,
        config,
        manifest: image.manifest.clone(),
        kept: 0,
    })
}

/// How many layers of an image are nothing new. What an old archive or a pipe has must be read
/// before it is known which layer it is; and images of one archive share layers.
fn kept(
    store: &Store,
    image: &FoundImage,
    layers: &Layers,
    brought: &BTreeSet<DiffId>,
    options: &Options<'_>,
) -> Result<usize, ImportError> {
    let mut kept = 0;
    for got in of_image(image, layers) {
        let there = match got? {
            Got::Kept(_) => true,
            Got::Staged(layer) => {
                let diff = layer.record.diff;
                // What is damaged there is replaced, and so is all that is read again.
                let stored = || !options.again && matches!(store.has_layer(diff), Ok(Some(_)));
                brought.contains(&diff) || stored()
            }
        };
        kept += usize::from(there);
    }
    Ok(kept)
}

/// Refuses an image with hard links into lower layers that lead nowhere.
fn no_dangling_links(
    store: &Store,
    staging: &Staging,
    image: &FoundImage,
    layers: &Layers,
    options: &Options<'_>,
) -> Result<(), ImportError> {
    let cache = BlockCache::new(4 << 20);
    let mut stack = Vec::new();
    let mut links = 0;
    for got in of_image(image, layers) {
        let got = got?;
        let path = match got {
            Got::Staged(layer) => staging.file(&format!("{}.idx", layer.name)),
            Got::Kept(diff) => store.index_path(*diff),
        };
        let index = Index::open(Box::new(FileSource::open(path)?), Arc::clone(&cache))?;
        if index.diff_id() != got.diff() {
            // Two imports in one staging directory would have to share a name.
            return Err(StoreError::NoLayer(got.diff()).into());
        }
        links += index.summary().unresolved;
        // Only trees are looked at, so there are no contents.
        let contents = Box::new(Vec::new());
        stack.push(SharedLayer::new(Layer { index, contents }));
    }
    if links == 0 {
        return Ok(());
    }
    none_dangling(&Union::new(stack), options.stop)
}

/// Refuses a tree that has hard links that lead nowhere.
pub(super) fn none_dangling(union: &Union, stop: &AtomicBool) -> Result<(), ImportError> {
    let failed = |error| match error {
        FsError::Interrupted => ImportError::Interrupted,
        error => ImportError::Tree(error),
    };
    let effort = Effort::of_links(stop);
    let mut dangling = union.dangling_links(&effort).map_err(failed)?;
    match dangling.next().transpose().map_err(failed)? {
        Some((link, target)) => Err(ImportError::Dangling { link, target }),
        None => Ok(()),
    }
}
