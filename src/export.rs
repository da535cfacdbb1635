//! A stored image for other programs: as an archive, or in a registry.
//!
//! What it is for: the way out of the store, as OCI archive, `docker save` archive or
//! ACI, or to a registry. Blobs that came in go out byte for byte; everything that is read is
//! compared with its digest while it is written. The same image makes the same archive:
//! times are 0, the order is fixed. May assume: what the store says of an image. Must not
//! know terminals.
//!
//! * `oci`, `docker`, `aci`: one file a format;
//! * [`push`]: to a registry;
//! * `bytes`: stored bytes on their way out, checked;
//! * `tarball`: members of the archive;
//! * `place`: the file that is written: all of it or nothing.

mod aci;
mod bytes;
mod docker;
mod oci;
mod place;
pub mod push;
mod tarball;

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::AtomicBool;

use crate::appc::AppcReference;
use crate::digest::{AciId, BlobId, DiffId, Digest, ImageId};
use crate::layer::ReadError;
use crate::reference::Reference;
use crate::registry::RegistryError;
use crate::store::images::ImageRecord;
use crate::store::layers::LayerRecord;
use crate::store::leases::Lease;
use crate::store::{Store, StoreError};
use bytes::Watched;

pub use oci::{OCI_MARK, docker_manifest, oci_index, oci_manifest};
pub use place::{Place, PlaceError};

/// What an archive is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A tar of an OCI layout (OCI image spec, image-layout.md).
    Oci,
    /// What `docker save` writes: `manifest.json`, `repositories`, layers as plain tars.
    Docker,
    /// An App Container Image.
    Aci,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oci => "OCI archive",
            Self::Docker => "docker archive",
            Self::Aci => "ACI",
        })
    }
}

/// Who wants to know how far an export is.
pub trait Progress {
    /// So many bytes are to be written, about.
    fn begin(&self, _bytes: u64) {}
    /// So many more bytes are written.
    fn advance(&self, _bytes: u64) {}
}

/// What whoever exports can say.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What the archive is to be.
    pub format: Format,
    /// Names that the image gets in it.
    pub names: &'a [Reference],
    /// Told how far it is.
    pub progress: &'a dyn Progress,
    /// Set from elsewhere: stop soon.
    pub stop: &'a AtomicBool,
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("format", &self.format)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// What somebody may not expect of an archive that is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A layer goes out in another packing than it came in.
    OtherPacking {
        /// The layer.
        diff: DiffId,
        /// The blob that the image's manifest names.
        declared: BlobId,
        /// The blob that goes out.
        blob: BlobId,
    },
    /// The manifest is not the one that came.
    NewManifest {
        /// The one that came.
        old: BlobId,
        /// The one that goes out.
        new: BlobId,
    },
    /// An ACI that came in a packing of which the store keeps none.
    Unpacked,
    /// An ACI that is nothing without others.
    Needs(Vec<AppcReference>),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPacking {
                diff,
                declared,
                blob,
            } => write!(
                f,
                "layer {diff} goes out as {blob}: the store has it in that packing, not as {declared}"
            ),
            Self::NewManifest { old, new } => write!(
                f,
                "the manifest is a new one, {new} instead of {old}; config and diff IDs are the same"
            ),
            Self::Unpacked => f.write_str(
                "the archive goes out uncompressed: it came as bzip2 or xz, which the store does not keep",
            ),
            Self::Needs(images) => {
                f.write_str("the archive has this image alone; it depends on")?;
                for image in images {
                    write!(f, " {image}")?;
                }
                Ok(())
            }
        }
    }
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be read, or has no such image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// An AppC image in the form of others.
    #[error("{id} is an AppC image: it goes out as ACI, not as {format}")]
    Appc {
        /// The image.
        id: AciId,
        /// What it was to be.
        format: Format,
    },
    /// Another image as ACI.
    #[error("{0} is no AppC image: its layers cannot go out as one ACI")]
    NotAppc(ImageId),
    /// A name without a tag.
    #[error("the name `{0}` has no tag, and archives know images by tags")]
    NoTag(Reference),
    /// Names for an ACI.
    #[error("an ACI is called what its manifest says, so it cannot get a name")]
    Named,
    /// An AppC image to a registry.
    #[error("{0} is an AppC image, which registries do not take")]
    AppcPush(AciId),
    /// A name with the digest of another manifest.
    #[error("the image's manifest is {found}, and not {wanted}")]
    OtherDigest {
        /// By the name.
        wanted: Digest,
        /// By the image.
        found: Digest,
    },
    /// The registry does not take it.
    #[error(transparent)]
    Registry(RegistryError),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<RegistryError> for ExportError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Interrupted => Self::Interrupted,
            error => Self::Registry(error),
        }
    }
}

impl ExportError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Write(error) if is_full(error) => {
                Some("remove something there, or write to a larger disk".to_owned())
            }
            Self::Appc { .. } => Some("--format aci".to_owned()),
            Self::NotAppc(_) => Some("--format oci or --format docker".to_owned()),
            Self::NoTag(_) => Some("--name NAME:TAG".to_owned()),
            Self::Named => Some("export without --name".to_owned()),
            Self::AppcPush(_) => {
                Some("lazyroot export writes an ACI, which any web server can give".to_owned())
            }
            Self::OtherDigest { .. } => Some("name it by a tag, or without `@`".to_owned()),
            Self::Registry(error) => error.hint(),
            Self::Write(_) | Self::Interrupted => None,
        }
    }
}

impl From<ReadError> for ExportError {
    fn from(error: ReadError) -> Self {
        Self::Store(error.into())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// An image that is about to go out.
struct Outgoing<'a> {
    store: &'a Store,
    record: ImageRecord,
    /// Where its layers are read from, lowest first.
    layers: Vec<LayerRecord>,
    names: &'a [Reference],
    /// Keeps them; nothing where this user may not write to the store.
    _lease: Option<Lease>,
}

impl<'a> Outgoing<'a> {
    fn new(
        store: &'a Store,
        record: ImageRecord,
        names: &'a [Reference],
    ) -> Result<Self, StoreError> {
        // Pinned first, looked at second. Who may not write here keeps nothing from being
        // removed, and is told of a layer that went.
        let lease = store.lease()?;
        if let Some(lease) = &lease {
            let diffs: Vec<_> = record.layers.iter().map(|layer| layer.diff).collect();
            store.pin(lease, &diffs)?;
        }
        let layers = record.layers.iter().map(|layer| {
            let stored = store.layer(layer.diff)?;
            stored.ok_or(StoreError::NoLayer(layer.diff))
        });
        Ok(Self {
            store,
            layers: layers.collect::<Result<_, _>>()?,
            record,
            names,
            _lease: lease,
        })
    }
}

/// Writes an image as an archive. `to` is buffered by whoever gives it.
///
/// # Errors
/// See [`ExportError`]; what was written by then is no archive.
pub fn export(
    store: &Store,
    id: ImageId,
    to: &mut dyn Write,
    options: &Options<'_>,
) -> Result<Vec<Note>, ExportError> {
    if let Some(name) = options.names.iter().find(|name| name.tag().is_none()) {
        return Err(ExportError::NoTag(name.clone()));
    }
    let record = store.image(id)?;
    match (AciId::of_image(id), options.format) {
        (Some(_), Format::Aci) if !options.names.is_empty() => return Err(ExportError::Named),
        (Some(id), format @ (Format::Oci | Format::Docker)) => {
            return Err(ExportError::Appc { id, format });
        }
        (None, Format::Aci) => return Err(ExportError::NotAppc(id)),
        _ => {}
    }
    let image = Outgoing::new(store, record, options.names)?;
    let mut to = Watched::new(to, options);
    let notes = match options.format {
        Format::Oci => oci::write(&image, &mut to)?,
        Format::Docker => docker::write(&image, &mut to)?,
        Format::Aci => aci::write(&image, &mut to)?,
    };
    to.flush()?;
    Ok(notes)
}
