//! A Docker or OCI image: one more layer; of an AppC image one layer of all that its tree has.
//!
//! The new image is written as an OCI layout in a staging directory and imported from
//! there: whatever is checked of an image that comes is checked of ours. What layers it
//! has already are hard links to the store's blobs, and are not read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value};

use super::files::TreeFiles;
use super::{CommitError, Committed, Context, appc, config, layer};
use crate::archive::Archive;
use crate::changed::Changed;
use crate::digest::{AciId, BlobId, Digest, ImageId};
use crate::export::{OCI_MARK, docker_manifest, oci_index, oci_manifest};
use crate::image::Want;
use crate::image::convert::{Lost, config_of};
use crate::import::import;
use crate::layer::Dialect;
use crate::reference::Reference;
use crate::store::StoreError;
use crate::store::layers::LayerRecord;

/// In whose words the manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Oci,
    Docker,
}

/// Commits under names.
pub(super) fn commit(
    context: &Context<'_>,
    names: &[Reference],
    kind: Kind,
) -> Result<Committed, CommitError> {
    let changed = context.open()?;
    let layout = Layout::new(context.staging.file("layout"))?;
    // Layers of an AppC image are none that others can have: paths have a prefix, names of
    // whiteouts are ordinary ones, and whitelists hide some.
    let whole = AciId::of_image(context.target.image).is_some();
    let (said, mut layers) = match whole {
        true => (changed.tree.whole()?, Vec::new()),
        false => {
            let layers = stored_layers(context, &changed, &layout)?;
            (changed.tree.layer()?, layers)
        }
    };
    let (mut lacks, mut moved, mut diff) = (Vec::new(), Vec::new(), None);
    if !said.is_empty() {
        let file = context.staging.file("layer");
        let written = layer::write(context, &changed, &said, Dialect::Docker, &[], &file)?;
        moved = layer::moved(context, &changed, whole, &said, &written.packed)?;
        layout.take(&file, written.record.blob)?;
        lacks = written.packed.lacks;
        diff = Some(written.record.diff);
        layers.push(written.record);
    }
    let (config, lost) = old_config(context, &changed)?;
    let config = config::next(config, diff, context.options.said.as_ref());
    let config = Value::Object(config).to_string().into_bytes();
    let id = ImageId(Digest::sha256(&config));
    let manifest = match kind {
        Kind::Oci => oci_manifest(id, config.len() as u64, &layers),
        Kind::Docker => {
            docker_manifest(id, config.len() as u64, &layers).ok_or(CommitError::ZstdForDocker)?
        }
    };
    layout.write_blob(&config)?;
    layout.write_blob(&manifest)?;
    layout.write("index.json", &oci_index(&manifest, None, names))?;
    layout.write("oci-layout", OCI_MARK.as_bytes())?;

    let archive = Archive::open(&layout.root, &Arc::new(AtomicBool::new(false)))?;
    import(
        context.into,
        archive,
        &context.import_options(names, &Want::host()),
    )?;
    Ok(Committed {
        id,
        members: said.len(),
        lacks,
        lost,
        moved,
    })
}

/// The config that the image has, or would have; what of it is lost.
fn old_config(
    context: &Context<'_>,
    changed: &Changed,
) -> Result<(Map<String, Value>, Vec<Lost>), CommitError> {
    if AciId::of_image(context.target.image).is_none() {
        return Ok((stored_config(context)?, Vec::new()));
    }
    let manifest = appc::stored_manifest(context, &changed.view.record)?;
    Ok(config_of(&manifest, &TreeFiles(&changed.tree))?)
}

/// The config of a Docker or OCI image.
pub(super) fn stored_config(context: &Context<'_>) -> Result<Map<String, Value>, CommitError> {
    let blob = BlobId(context.target.image.0);
    let config = context.store.small_blob(blob)?;
    let damaged = |error: serde_json::Error| StoreError::Damaged {
        path: context.store.blob_path(blob),
        what: format!("it is no config: {error}"),
    };
    Ok(serde_json::from_slice(&config).map_err(damaged)?)
}

/// The layers that the image has, all of them in the layout.
fn stored_layers(
    context: &Context<'_>,
    changed: &Changed,
    layout: &Layout,
) -> Result<Vec<LayerRecord>, CommitError> {
    let mut layers = Vec::new();
    for layer in &changed.view.record.layers {
        let stored = context.store.layer(layer.diff)?;
        let stored = stored.ok_or(StoreError::NoLayer(layer.diff))?;
        layout.link(&context.store.blob_path(stored.blob), stored.blob)?;
        layers.push(stored);
    }
    Ok(layers)
}

/// An OCI layout that is being made.
struct Layout {
    root: PathBuf,
}

impl Layout {
    /// An empty one; what an earlier try left there goes.
    fn new(root: PathBuf) -> Result<Self, CommitError> {
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CommitError::Write(root, error));
            }
            _ => {}
        }
        for algorithm in ["sha256", "sha512"] {
            let path = root.join("blobs").join(algorithm);
            fs::create_dir_all(&path).map_err(|error| CommitError::Write(path, error))?;
        }
        Ok(Self { root })
    }

    fn blob(&self, id: BlobId) -> PathBuf {
        let blobs = self.root.join("blobs");
        blobs.join(id.0.algorithm()).join(id.0.hex())
    }

    fn link(&self, from: &Path, id: BlobId) -> Result<(), CommitError> {
        let to = self.blob(id);
        match fs::hard_link(from, &to) {
            // An image may have a layer twice.
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(CommitError::Write(to, error))
            }
            _ => Ok(()),
        }
    }

    fn take(&self, from: &Path, id: BlobId) -> Result<(), CommitError> {
        let to = self.blob(id);
        fs::rename(from, &to).map_err(|error| CommitError::Write(to, error))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CommitError> {
        let path = self.root.join(name);
        fs::write(&path, bytes).map_err(|error| CommitError::Write(path, error))
    }

    fn write_blob(&self, bytes: &[u8]) -> Result<(), CommitError> {
        let path = self.blob(BlobId(Digest::sha256(bytes)));
        fs::write(&path, bytes).map_err(|error| CommitError::Write(path, error))
    }
}
