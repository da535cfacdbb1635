//! Import from files that can be read in any order: layers that the store has
//! are not read, others go two at a time, the longest first.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::thread;

use parking_lot::Mutex;

use super::layer::{self, Expected, LayerError};
use super::publish::publish;
use super::{Context, Got, ImportError, Imported, Layers, Options};
use crate::archive::StoredFiles;
use crate::image::{Files as _, FoundImage, LayerRef};
use crate::store::Store;
use crate::store::leases::Lease;

/// Layers that are taken at once. Each keeps about a core and a half busy; a
/// third would only wait for memory.
pub(super) const AT_ONCE: usize = 2;
/// Blobs over this length (8 MiB) go to the disk while other layers are decoded.
pub(super) const FLUSH_EARLY: u64 = 8 << 20;

pub(super) fn import(
    store: &Store,
    files: &StoredFiles,
    options: &Options<'_>,
) -> Result<Vec<Imported>, ImportError> {
    let found = super::find(files, options)?;
    let staging = store.stage()?;
    let lease = super::publish::lease(store)?;
    let context = Context {
        staging: &staging,
        limits: options.limits,
        progress: options.progress,
        stop: options.stop,
    };
    let (mut layers, mut wanted) = plan(store, &lease, files, &found, options)?;
    wanted.sort_by_key(|(layer, size)| (*size, layer.file.clone()));
    let queue = Mutex::new(wanted.into_iter().enumerate().collect::<Vec<_>>());
    let taken = Mutex::new(Ok(BTreeMap::new()));
    thread::scope(|scope| {
        let work = || {
            loop {
                let Some((number, (layer, size))) = queue.lock().pop() else {
                    return;
                };
                match take(files, &layer, size, number, &context) {
                    Ok(got) => {
                        // On its way to the disk while others are decoded.
                        if size > FLUSH_EARLY {
                            let blob = staging.file(&format!("{number}.blob"));
                            let (taken, queue) = (&taken, &queue);
                            let flushed = move || stop_at(flush(blob), taken, queue);
                            // Without a thread it gets there when it is published.
                            let _ = thread::Builder::new().spawn_scoped(scope, flushed);
                        }
                        if let Ok(all) = &mut *taken.lock() {
                            all.insert(layer.file, got);
                        }
                    }
                    failed => stop_at(failed.map(|_| ()), &taken, &queue),
                }
            }
        };
        for _ in 1..AT_ONCE {
            // The system may have no more threads: then fewer do it.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    layers.extend(taken.into_inner()?);
    publish(store, &staging, &lease, &found, layers, options)
}

/// Keeps the first error, and lets no further layer begin.
fn stop_at(
    outcome: Result<(), ImportError>,
    taken: &Mutex<Result<Layers, ImportError>>,
    queue: &Mutex<Vec<(usize, (LayerRef, u64))>>,
) {
    let mut taken = taken.lock();
    if let (Err(error), true) = (outcome, taken.is_ok()) {
        *taken = Err(error);
        queue.lock().clear();
    }
}

/// Brings a staged blob to the disk.
pub(super) fn flush(blob: PathBuf) -> Result<(), ImportError> {
    File::open(&blob)
        .and_then(|file| file.sync_data())
        .map_err(|error| {
            ImportError::layer(
                &blob.display().to_string(),
                LayerError::Write(blob.clone(), error),
            )
        })
}

pub(super) fn expected(layer: &LayerRef) -> Expected {
    Expected {
        blob: layer.blob,
        size: layer.size,
        diff: layer.diff,
    }
}

/// Divides the layers into those that the store has and those to be read.
type Wanted = Vec<(LayerRef, u64)>;
fn plan(
    store: &Store,
    lease: &Lease,
    files: &StoredFiles,
    found: &[FoundImage],
    options: &Options<'_>,
) -> Result<(Layers, Wanted), ImportError> {
    let (kept, missing) = divide(store, lease, found, options)?;
    let mut wanted = Wanted::new();
    for layer in missing {
        let size = files
            .size(&layer.file)
            .map_err(|error| unreadable(layer, error))?;
        let size = size.ok_or_else(|| ImportError::MissingLayer(layer.file.clone()))?;
        wanted.push((layer.clone(), size));
    }
    Ok((kept, wanted))
}

/// The layers that the store has, and those that it has not; each once.
pub(super) fn divide<'a>(
    store: &Store,
    lease: &Lease,
    found: &'a [FoundImage],
    options: &Options<'_>,
) -> Result<(Layers, Vec<&'a LayerRef>), ImportError> {
    let all: BTreeMap<&str, &LayerRef> = found
        .iter()
        .flat_map(|image| &image.layers)
        .map(|layer| (layer.file.as_str(), layer))
        .collect();
    // Pin first, look second.
    let known: Vec<_> = all.values().filter_map(|layer| layer.diff).collect();
    store.pin(lease, &known)?;
    let (mut kept, mut missing) = (Layers::new(), Vec::new());
    for layer in all.into_values() {
        let have = match layer.diff.filter(|_| !options.again) {
            Some(diff) => store.has_layer(diff)?,
            None => None,
        };
        match have {
            Some(record) => {
                options.progress.layer_done(&layer.file, true);
                kept.insert(layer.file.clone(), Got::Kept(record.diff));
            }
            None => missing.push(layer),
        }
    }
    Ok((kept, missing))
}

fn unreadable(layer: &LayerRef, error: std::io::Error) -> ImportError {
    ImportError::layer(&layer.file, LayerError::Read(error))
}

fn take(
    files: &StoredFiles,
    layer: &LayerRef,
    size: u64,
    number: usize,
    context: &Context<'_>,
) -> Result<Got, ImportError> {
    context.progress.layer(&layer.file, Some(size));
    let reader = files
        .reader(&layer.file)
        .map_err(|error| unreadable(layer, error))?;
    let mut reader = reader.ok_or_else(|| ImportError::MissingLayer(layer.file.clone()))?;
    let staged = layer::take(&mut *reader, expected(layer), &number.to_string(), context)
        .map_err(|error| ImportError::layer(&layer.file, error))?;
    context.progress.layer_done(&layer.file, false);
    Ok(Got::Staged(Box::new(staged)))
}
