//! An image's layers into the store.
//!
//! What it is for: one streaming pass over each layer that the store does not
//! have: blob digest, diff ID, index, digests of files, seek points; then all is
//! published at once, the image's name last. May assume images as `image` found
//! them and files as `archive` reads them. Must not know terminals.
//!
//! One layer takes four threads (see the module `layer`); several layers of one archive
//! go in pairs, so that two cores are busy whatever the shape of the image.

mod aci;
mod layer;
mod layout;
mod publish;
mod pull;
mod reframe;
mod seekable;
mod stream;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use crate::appc::AppcReference;
use crate::archive::{AciStream, Archive, ArchiveError};
use crate::digest::{AciId, DiffId, ImageId};
use crate::image::appc::{Manifest, ManifestError};
use crate::image::{self, Files, Found, FoundImage, ImageError, Want};
use crate::layer::{Limits, ReadError, path_set};
use crate::reference::Reference;
use crate::registry::RegistryError;
use crate::store::layers::StagedLayer;
use crate::store::metrics::Counter;
use crate::store::staging::Staging;
use crate::store::{Store, StoreError};
use crate::tree_path::TreePath;
use crate::union::FsError;

pub use aci::{check_aci, check_wanted};
pub use layer::LayerError;
pub use layout::LayoutError;
pub use pull::{Pull, pull};

/// Who wants to know how far an import is. All methods may be called by several threads.
pub trait Progress: Send + Sync {
    /// A layer begins; its compressed length in bytes, where that is known.
    fn layer(&self, _name: &str, _len: Option<u64>) {}
    /// So many more compressed bytes are done.
    fn advance(&self, _bytes: u64) {}
    /// A layer is complete, or was in the store already (`kept`).
    fn layer_done(&self, _name: &str, _kept: bool) {}
    /// One of several images is not taken; why.
    fn left_out(&self, _why: &str) {}
}

/// What whoever imports can say.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Names instead of those in the archive.
    pub names: &'a [Reference],
    /// Which image of several.
    pub want: &'a Want,
    /// Read layers again that the store has.
    pub again: bool,
    /// What a hostile layer may cost.
    pub limits: Limits,
    /// Seconds since 1970.
    pub now: u64,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
    /// Set from elsewhere: stop soon, leave nothing behind.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// One image that is in the store now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Its ID.
    pub id: ImageId,
    /// What its manifest calls it, if it is an AppC image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub appc: Option<AppcReference>,
    /// Names it was given.
    pub names: Vec<Reference>,
    /// Its layers.
    pub layers: usize,
    /// How many of them the store had, or an image before it in the archive brought.
    pub layers_kept: usize,
}

/// Why nothing was imported. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read, or is none.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is no sound image in it.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// One of its layers cannot be taken.
    #[error("layer `{layer}`")]
    Layer {
        /// The layer's file in the archive.
        layer: String,
        /// Why.
        source: LayerError,
    },
    /// An ACI cannot be taken.
    #[error("`{archive}` is no AppC image that can be taken")]
    Aci {
        /// The archive.
        archive: String,
        /// Why.
        source: LayerError,
    },
    /// The manifest of an ACI breaks a rule.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The whitelist of an ACI cannot be kept.
    #[error("the image's `pathWhitelist` cannot be kept")]
    Whitelist(#[from] path_set::WriteError),
    /// An ACI is not the one that it should be.
    #[error("the image is {found}, not {wanted}")]
    WrongId {
        /// What it is.
        found: AciId,
        /// What it should be.
        wanted: AciId,
    },
    /// What was fetched for an AppC image is something else.
    #[error("it is an image, but no AppC image")]
    NotAppc,
    /// An ACI is not the image that was asked for.
    #[error("the image is `{found}`, and `{wanted}` was asked for")]
    WrongImage {
        /// What it is.
        found: AppcReference,
        /// What it should be.
        wanted: AppcReference,
    },
    /// Who imports an ACI does not accept it, and knows why.
    #[error("the image is not accepted")]
    Refused,
    /// A layer that the image names is not in the archive.
    #[error("layer `{0}` is not in the archive")]
    MissingLayer(String),
    /// A hard link whose target no layer has.
    #[error("the hard link `{link}` leads to `{target}`, which no layer has")]
    Dangling {
        /// The link.
        link: TreePath,
        /// What is missing.
        target: TreePath,
    },
    /// The layers that were read make no tree.
    #[error("the layers cannot be put together")]
    Tree(#[source] FsError),
    /// `--name` with several images.
    #[error("the archive has {0} images; a name can be given to one only")]
    OneName(usize),
    /// An archive gives an image the digest of something else.
    #[error("the archive calls an image `{name}`, and does not show that it has that digest")]
    Unproven {
        /// The name.
        name: Reference,
        /// How many images the archive has.
        images: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry does not give it.
    #[error(transparent)]
    Registry(RegistryError),
    /// Somebody asked to stop.
    #[error("interrupted; the store is as it was")]
    Interrupted,
}

impl ImportError {
    /// Whether it is the store that cannot be written, whatever is imported.
    #[must_use]
    pub fn is_of_store(&self) -> bool {
        match self {
            Self::Store(StoreError::Full(..) | StoreError::ReadOnly(..)) => true,
            Self::Layer { source, .. } | Self::Aci { source, .. } => {
                matches!(source, LayerError::Write(..))
            }
            _ => false,
        }
    }

    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Archive(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::Layer { source, .. } | Self::Aci { source, .. } => {
                source.hint().map(str::to_owned)
            }
            Self::WrongId { .. } => Some("download the image again".to_owned()),
            Self::Manifest(_) | Self::Whitelist(_) | Self::WrongImage { .. } | Self::NotAppc => {
                None
            }
            Self::MissingLayer(_) | Self::Dangling { .. } => {
                Some("save or download the image again, whole".to_owned())
            }
            Self::OneName(_) => Some("import without --name, then lazyroot tag".to_owned()),
            Self::Unproven { images: 1, .. } => {
                Some("--name NAME:TAG, or lazyroot pull, which compares the digest".to_owned())
            }
            // --name would be refused, too.
            Self::Unproven { name, .. } => Some(format!(
                "lazyroot pull {}, which compares the digest, or save the images again by \
                 names without digests",
                name.familiar()
            )),
            Self::Store(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Tree(_) | Self::Refused | Self::Interrupted => None,
        }
    }

    /// Whether it is no damaged image but another one, or none at all: the wanted one may
    /// be elsewhere.
    #[must_use]
    pub fn is_other(&self) -> bool {
        match self {
            Self::WrongId { .. } | Self::WrongImage { .. } | Self::NotAppc => true,
            Self::Archive(error) => matches!(error, ArchiveError::NotAnArchive { .. }),
            Self::Image(error) => matches!(
                error,
                ImageError::NotAnImage { .. } | ImageError::OtherNames { .. }
            ),
            _ => false,
        }
    }

    fn aci(archive: &str, source: LayerError) -> Self {
        match source {
            LayerError::Interrupted => Self::Interrupted,
            source => Self::Aci {
                archive: archive.to_owned(),
                source,
            },
        }
    }

    fn layer(layer: &str, source: LayerError) -> Self {
        match source {
            LayerError::Interrupted => Self::Interrupted,
            source => Self::Layer {
                layer: layer.to_owned(),
                source,
            },
        }
    }
}

impl From<RegistryError> for ImportError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Interrupted => Self::Interrupted,
            error => Self::Registry(error),
        }
    }
}

impl From<ReadError> for ImportError {
    fn from(error: ReadError) -> Self {
        Self::Store(error.into())
    }
}

/// What one import works with.
struct Context<'a> {
    staging: &'a Staging,
    limits: Limits,
    progress: &'a dyn Progress,
    stop: &'a AtomicBool,
}

/// A layer of the images that are being imported.
#[derive(Debug)]
enum Got {
    /// Made now, waiting in the staging directory.
    Staged(Box<StagedLayer>),
    /// In the store already.
    Kept(DiffId),
}

impl Got {
    fn diff(&self) -> DiffId {
        match self {
            Self::Staged(layer) => layer.record.diff,
            Self::Kept(diff) => *diff,
        }
    }
}

/// Layers by their file in the archive.
type Layers = BTreeMap<String, Got>;

/// Whether an AppC image is taken, by its ID and what its manifest says; asked when all of it
/// was read, before anything of it is published.
pub type Accept<'a> = dyn Fn(AciId, &Manifest) -> Result<(), ImportError> + 'a;

/// Imports all images of an archive or directory.
///
/// # Errors
/// See [`ImportError`]; the store is then as it was.
pub fn import(
    store: &Store,
    archive: Archive,
    options: &Options<'_>,
) -> Result<Vec<Imported>, ImportError> {
    let imported = match archive {
        Archive::Stored(files) => seekable::import(store, &files, options),
        Archive::Stream(archive) => stream::import(store, archive, options),
        Archive::Aci(aci) => aci::import_aci(store, aci, &|_, _| Ok(()), options),
    };
    counted(store, imported)
}

/// Imports an AppC image that is accepted.
///
/// # Errors
/// See [`ImportError`]; the store is then as it was.
pub fn import_aci(
    store: &Store,
    aci: AciStream,
    accept: &Accept<'_>,
    options: &Options<'_>,
) -> Result<Vec<Imported>, ImportError> {
    counted(store, aci::import_aci(store, aci, accept, options))
}

/// Counts what came of an import.
fn counted(
    store: &Store,
    imported: Result<Vec<Imported>, ImportError>,
) -> Result<Vec<Imported>, ImportError> {
    match &imported {
        Ok(images) => store.tally(&[(Counter::Imports, images.len() as u64)]),
        // Somebody's wish is no failure, and what did not come was not imported.
        Err(ImportError::Interrupted | ImportError::Registry(_)) => {}
        Err(_) => store.count(Counter::ImportErrors),
    }
    imported
}

/// The images of an archive that are taken. Names that they cannot get are told before
/// their layers are read.
fn find(files: &dyn Files, options: &Options<'_>) -> Result<Vec<FoundImage>, ImportError> {
    let Found { images, left_out } = image::find(files, options.want)?;
    for image in &images {
        names(image, images.len(), options)?;
    }
    for why in left_out {
        options.progress.left_out(&why.to_string());
    }
    Ok(images)
}

/// The names that an image gets.
fn names(
    found: &FoundImage,
    images: usize,
    options: &Options<'_>,
) -> Result<Vec<Reference>, ImportError> {
    match options.names {
        [] => match found.unproven.first() {
            None => Ok(found.names.clone()),
            Some(name) => Err(ImportError::Unproven {
                name: name.clone(),
                images,
            }),
        },
        _ if images > 1 => Err(ImportError::OneName(images)),
        names => Ok(names.to_vec()),
    }
}
