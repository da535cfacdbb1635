//! An ACI into the store: its archive is its layer, its manifest a blob beside it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::layer::{self, Expected};
use super::publish::{lease, none_dangling, sound_names};
use super::{Accept, Context, ImportError, Imported, Options};
use crate::appc::AppcReference;
use crate::archive::AciStream;
use crate::digest::{AciId, BlobId, Digest};
use crate::image::Source;
use crate::image::appc::{Dependency, Manifest};
use crate::layer::blocks::BlockCache;
use crate::layer::path_set;
use crate::layer::read::Index;
use crate::layer::{Layer, Limits, SharedLayer};
use crate::store::images::{ImageLayer, ImageRecord};
use crate::store::layers::StagedLayer;
use crate::store::staging::Staged;
use crate::store::{FileSource, Store};
use crate::union::Union;

/// Imports an image that is accepted.
///
/// # Errors
/// See [`ImportError`]; the store is then as it was.
pub(super) fn import_aci(
    store: &Store,
    mut aci: AciStream,
    accept: &Accept<'_>,
    options: &Options<'_>,
) -> Result<Vec<Imported>, ImportError> {
    let staging = store.stage()?;
    let lease = lease(store)?;
    let context = Context {
        staging: &staging,
        limits: options.limits,
        progress: options.progress,
        stop: options.stop,
    };
    let called = aci.name().to_owned();
    options.progress.layer(&called, aci.size());
    let (layer, bytes) = layer::take_aci(&mut aci, Expected::default(), "0", &context)
        .map_err(|source| ImportError::aci(&called, source))?;
    options.progress.layer_done(&called, false);
    let manifest = Manifest::parse(&bytes)?;
    let id = AciId::of_archive(layer.record.diff).expect("because ACIs are hashed by SHA-512");
    accept(id, &manifest)?;
    if layer.summary.unresolved > 0 {
        let source = FileSource::open(staging.file(&format!("{}.idx", layer.name)))?;
        let index = Index::open(Box::new(source), BlockCache::new(4 << 20))?;
        no_dangling_links(index, options.stop)?;
    }
    store.pin(&lease, &[layer.record.diff])?;
    store.pin_images(&lease, &[id.image()])?;

    let record = record(id, &layer, &manifest, &bytes, options.now);
    let mut files = store.staged_files(&staging, &layer)?;
    files.push(Staged {
        from: staging.write("manifest", &bytes)?,
        to: store.blob_path(BlobId(Digest::sha256(&bytes))),
    });
    if !manifest.whitelist.is_empty() {
        let set = path_set::write(id, &manifest.whitelist, Vec::new())?;
        files.push(Staged {
            from: staging.write("whitelist", &set)?,
            to: store.whitelist_path(id),
        });
    }
    let records = store.stage_image(&staging, &record, "image")?;
    staging.flush(files.iter().chain(&records))?;
    let named: Vec<_> = options.names.iter().map(|name| (name, record.id)).collect();
    let lock = store.lock()?;
    sound_names(store, &lock, options)?;
    store.publish_images(&staging, &files, &records, &named, &lock)?;
    drop(lock);
    Ok(vec![Imported {
        id: record.id,
        appc: Some(AppcReference {
            name: manifest.name,
            labels: manifest.labels,
        }),
        names: options.names.to_vec(),
        layers: 1,
        layers_kept: 0,
    }])
}

/// Whoever fetched it compares it with what was asked for (`spec/discovery.md`,
/// "Validation"); it is none of the server's business what is taken.
///
/// # Errors
/// It is another image.
pub fn check_wanted(
    wanted: &Dependency,
    id: AciId,
    manifest: &Manifest,
) -> Result<(), ImportError> {
    if let Some(wanted) = wanted.id.filter(|wanted| *wanted != id) {
        return Err(ImportError::WrongId { found: id, wanted });
    }
    match wanted.fits(&manifest.name, &manifest.labels) {
        true => Ok(()),
        false => Err(ImportError::WrongImage {
            found: AppcReference {
                name: manifest.name.clone(),
                labels: manifest.labels.clone(),
            },
            wanted: wanted.image.clone(),
        }),
    }
}

/// Checks an ACI to its end, and keeps nothing of it.
///
/// # Errors
/// What an import would refuse it for.
pub fn check_aci(
    mut aci: AciStream,
    limits: Limits,
    stop: &AtomicBool,
) -> Result<(AciId, Manifest), ImportError> {
    let called = aci.name().to_owned();
    let (diff, bytes, index) = layer::check_aci(&mut aci, limits, stop)
        .map_err(|source| ImportError::aci(&called, source))?;
    let manifest = Manifest::parse(&bytes)?;
    no_dangling_links(index, stop)?;
    let id = AciId::of_archive(diff).expect("because ACIs are hashed by SHA-512");
    Ok((id, manifest))
}

fn record(
    id: AciId,
    layer: &StagedLayer,
    manifest: &Manifest,
    bytes: &[u8],
    now: u64,
) -> ImageRecord {
    ImageRecord {
        id: id.image(),
        source: Source::Appc,
        manifest: Some(BlobId(Digest::sha256(bytes))),
        index: None,
        platform: manifest.platform(),
        layers: vec![ImageLayer {
            diff: layer.record.diff,
            // Of an archive that was packed again it is known what it was.
            declared: Some(layer.received.blob).filter(|blob| *blob != layer.record.blob),
        }],
        imported: now,
        appc: Some(manifest.outline()),
    }
}

/// A hard link can only lead to what the same archive has: nobody says what is
/// below, as dependencies may change.
fn no_dangling_links(index: Index, stop: &AtomicBool) -> Result<(), ImportError> {
    // Only the tree is looked at, so there are no contents.
    let contents = Box::new(Vec::new());
    let layer: SharedLayer = Arc::new(Layer { index, contents });
    none_dangling(&Union::new(vec![layer]), stop)
}
