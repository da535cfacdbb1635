//! An image into a registry.
//!
//! Blobs go as they are stored. The manifest that came goes out as it is when it names
//! just the blobs that the store has, whatever its form; otherwise there is a new one,
//! as in an OCI archive. A blob that is damaged here is refused by the registry, and then
//! looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use serde_json::Value;

use super::oci::{self, Form, MANIFEST};
use super::{ExportError, Note, Outgoing};
use crate::digest::{self, AciId, BlobId, Digest, Hasher, ImageId};
use crate::reference::{DEFAULT_TAG, Reference};
use crate::registry::{Arrival, Registry, RegistryError, Repository};
use crate::store::images::ImageRecord;
use crate::store::{Store, StoreError};

/// Blobs that are sent at once.
const AT_ONCE: usize = 4;

/// Who wants to know how far it is. Called by several threads.
pub trait Progress: Sync {
    /// So many bytes are to be there in the end.
    fn begin(&self, _bytes: u64) {}
    /// So many more are; fewer, if some have to be sent again.
    fn moved(&self, _bytes: i64) {}
    /// A blob is there.
    fn arrived(&self, _blob: &Digest, _arrival: Arrival) {}
}

/// What whoever pushes can say.
#[derive(Clone, Copy)]
pub struct Push<'a> {
    /// What the image is called there.
    pub to: &'a Reference,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
    /// Set from elsewhere: stop soon.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Push<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push")
            .field("to", self.to)
            .finish_non_exhaustive()
    }
}

/// One blob of an image that was pushed.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PushedBlob {
    /// The blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// How it got there.
    pub arrival: Arrival,
}

/// An image that was pushed.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Pushed {
    /// The image.
    pub id: ImageId,
    /// What it is called there.
    pub name: Reference,
    /// The digest of its manifest: what everybody can pull it by.
    pub digest: Digest,
    /// Config first, then the layers, each once.
    pub blobs: Vec<PushedBlob>,
    /// What somebody may not expect.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

/// A blob that is to be there.
struct Wanted {
    digest: Digest,
    size: u64,
}

/// Brings an image into a registry.
///
/// # Errors
/// See [`ExportError`]. What was sent by then may stay in the registry, without a name.
pub fn push(
    store: &Store,
    id: ImageId,
    registry: &Registry,
    push: &Push<'_>,
) -> Result<Pushed, ExportError> {
    if let Some(id) = AciId::of_image(id) {
        return Err(ExportError::AppcPush(id));
    }
    let record = store.image(id)?;
    let image = Outgoing::new(store, record, &[])?;
    let config = store.small_blob(BlobId(id.0))?;
    let (manifest, notes) = oci::manifest(&image, &config, Form::Any)?;
    let digest = Digest::sha256(&manifest);
    if let Some(wanted) = push.to.digest().filter(|wanted| *wanted != digest) {
        return Err(ExportError::OtherDigest {
            wanted,
            found: digest,
        });
    }
    let mut blobs = vec![Wanted {
        digest: id.0,
        size: config.len() as u64,
    }];
    // The same layer may be there twice.
    for layer in &image.layers {
        if blobs.iter().all(|blob| blob.digest != layer.blob.0) {
            blobs.push(Wanted {
                digest: layer.blob.0,
                size: layer.blob_size,
            });
        }
    }
    push.progress
        .begin(blobs.iter().map(|blob| blob.size).sum());
    let neighbours = neighbours(store, push.to)?;
    let repository = registry.repository(push.to);
    let blobs = registry.guarded(push.stop, || {
        send(store, registry, &blobs, &neighbours, push)
    })?;
    let kind = media_type(&manifest);
    let by_digest = digest.to_string();
    let name = match push.to.digest() {
        Some(_) => &by_digest,
        None => push.to.tag().unwrap_or(DEFAULT_TAG),
    };
    let halt = || push.stop.load(Ordering::Relaxed);
    registry.guarded(push.stop, || {
        repository.put_manifest(&kind, &manifest, name, &halt)
    })?;
    Ok(Pushed {
        id,
        name: push.to.clone(),
        digest,
        blobs,
        notes,
    })
}

/// Sends all blobs, several at once. The first error ends it.
fn send(
    store: &Store,
    registry: &Registry,
    blobs: &[Wanted],
    neighbours: &BTreeMap<Digest, String>,
    push: &Push<'_>,
) -> Result<Vec<PushedBlob>, ExportError> {
    let repository = registry.repository(push.to);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let (done, first) = (Mutex::new(Vec::new()), Mutex::new(None));
    let halt = || push.stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(blob) = blobs.get(at).filter(|_| !halt()) else {
                    return;
                };
                match send_one(store, &repository, blob, neighbours, push, &halt) {
                    Ok(arrival) => done.lock().push((at, arrival)),
                    Err(error) => {
                        first.lock().get_or_insert(error);
                        if !failed.swap(true, Ordering::Relaxed) {
                            // Nobody needs what the others send.
                            registry.shutdown();
                        }
                    }
                }
            }
        };
        for _ in 1..AT_ONCE.min(blobs.len()) {
            // The system may have no more threads: then fewer do it.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    if push.stop.load(Ordering::Relaxed) {
        return Err(ExportError::Interrupted);
    }
    if let Some(error) = first.into_inner() {
        return Err(error);
    }
    let mut done = done.into_inner();
    done.sort_by_key(|(at, _)| *at);
    let pushed = blobs.iter().zip(done);
    let pushed = pushed.map(|(blob, (_, arrival))| PushedBlob {
        digest: blob.digest,
        size: blob.size,
        arrival,
    });
    Ok(pushed.collect())
}

fn send_one(
    store: &Store,
    repository: &Repository<'_>,
    blob: &Wanted,
    neighbours: &BTreeMap<Digest, String>,
    push: &Push<'_>,
    halt: &(dyn Fn() -> bool + Sync),
) -> Result<Arrival, ExportError> {
    let path = store.blob_path(BlobId(blob.digest));
    let failed = |source| StoreError::Io {
        what: "read",
        path: path.clone(),
        source,
    };
    let damaged = |what: String| StoreError::Damaged {
        path: path.clone(),
        what,
    };
    let file = File::open(&path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    if len != blob.size {
        return Err(damaged(format!("it has {len} bytes, and not {}", blob.size)).into());
    }
    let from = neighbours.get(&blob.digest).map(String::as_str);
    let told = |bytes| push.progress.moved(bytes);
    let outcome = repository.upload(&blob.digest, &file, len, from, &told, halt);
    match outcome {
        Ok(arrival) => {
            if arrival != Arrival::Sent {
                push.progress.moved(i64::try_from(len).unwrap_or(0));
            }
            push.progress.arrived(&blob.digest, arrival);
            Ok(arrival)
        }
        // It says that these are other bytes: perhaps they are.
        Err(error @ RegistryError::Status { status: 400, .. }) => {
            let again = File::open(&path).map_err(failed)?;
            let (found, _) =
                digest::of_reader_by(Hasher::like(&blob.digest), again).map_err(failed)?;
            match found == blob.digest {
                true => Err(error.into()),
                false => Err(damaged(format!("it gives {found}, not {}", blob.digest)).into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Blobs that other repositories of the same registry have, by what the store knows:
/// whatever was pulled from there or pushed to there has a name of there.
fn neighbours(store: &Store, to: &Reference) -> Result<BTreeMap<Digest, String>, StoreError> {
    let mut found = BTreeMap::new();
    for (name, id) in store.names()? {
        if name.domain() != to.domain() || name.path() == to.path() {
            continue;
        }
        // An image that is damaged is no reason not to push another.
        let Ok(ImageRecord { id, layers, .. }) = store.image(id) else {
            continue;
        };
        let layers = layers.iter().filter_map(|layer| layer.declared);
        for blob in layers.map(|blob| blob.0).chain([id.0]) {
            found.entry(blob).or_insert_with(|| name.path().to_owned());
        }
    }
    Ok(found)
}

/// What a manifest says it is; one of OCI may leave it out.
fn media_type(manifest: &[u8]) -> String {
    let said: Option<Value> = serde_json::from_slice(manifest).ok();
    let said = said.and_then(|said| Some(said.get("mediaType")?.as_str()?.to_owned()));
    said.unwrap_or_else(|| MANIFEST.to_owned())
}
