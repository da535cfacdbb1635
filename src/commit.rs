//! What is in an upper directory becomes an image.
//!
//! What it is for: a new layer of what was changed, the image's config with one more
//! entry, and both into a store by the way that every image takes. An AppC image has no
//! whiteouts: it is one archive of all that the tree has now, and what is made of one is one
//! layer of all that. So a commit may change the kind of an image, also where
//! nothing was changed: that is how images go out in another form. May assume what
//! `changed` may. Must not know containers, nor terminals.
//!
//! * `pack`, `bytes`: members as a tar. `layer`: that tar, compressed and hashed.
//! * `config`, `change`: what the image says of itself. `layout`: what is imported.
//! * `appc`: the same for AppC images. `files`: what the tree says of users.
//!
//! **Consistent** means: every file comes as it was at one moment (it is looked at before and
//! after it is read, and read again if something happened in between), and names are
//! those of one look at each directory. Of an upper directory that no mount has, the
//! whole is of one moment: none can begin meanwhile. While a mount is at work, files may be
//! of different moments; what changed between the first and the last look is
//! [counted](Committed::moved). Whoever needs more stops the container, or pauses it.

mod appc;
mod bytes;
mod change;
mod config;
mod files;
mod layer;
mod layout;
pub mod pack;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::appc::AppcReference;
use crate::archive::ArchiveError;
use crate::changed::{self, Changed, ChangedError, Target};
use crate::digest::{AciId, ImageId};
use crate::image::appc::ManifestError;
use crate::image::convert::Lost;
use crate::image::identity::IdentityError;
use crate::import::{ImportError, Progress};
use crate::layer::Limits;
use crate::reference::Reference;
use crate::store::leases::Lease;
use crate::store::staging::Staging;
use crate::store::{Caches, Store, StoreError};
use crate::tree_path::TreePath;
use layout::Kind;
use pack::{Lacks, PackError};

pub use change::{Change, ChangeError};
pub use config::Said;
pub use layer::Packing;

/// How often all is begun again when names change while they are looked at.
const TRIES: usize = 5;

/// What kind of image it is to be, and what it is called.
#[derive(Debug, Clone)]
pub enum Form {
    /// An OCI image.
    Oci(Vec<Reference>),
    /// The same with a manifest of Docker's schema 2.
    Docker(Vec<Reference>),
    /// An AppC image: its name, and labels to be set.
    Aci(AppcReference),
}

/// What whoever commits can say.
pub struct Options<'a> {
    /// What the new image is.
    pub form: &'a Form,
    /// How the layer is packed.
    pub packing: Packing,
    /// What is said about it; nothing: the image is only to be of another kind.
    pub said: Option<Said<'a>>,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
    /// Set from elsewhere: stop soon.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("form", &self.form)
            .field("packing", &self.packing)
            .finish_non_exhaustive()
    }
}

/// A new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its ID.
    pub id: ImageId,
    /// Members of the new layer; 0: nothing was changed, and there is none.
    pub members: usize,
    /// What is not in it as it is in the tree.
    pub lacks: Vec<Lacks>,
    /// What its kind has no word for.
    pub lost: Vec<Lost>,
    /// What changed while it was read, of an upper directory that a mount was at work on.
    pub moved: Vec<TreePath>,
}

/// Why there is no new image. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The image or the changes cannot be opened.
    #[error(transparent)]
    Changed(#[from] ChangedError),
    /// What changed cannot be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Names change faster than they can be looked at.
    #[error("the upper directory changes faster than it can be read")]
    Restless,
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive that was made cannot be opened.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It was not taken into the store.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// What only other images have.
    #[error("an AppC image knows no {0}")]
    NotForAppc(&'static str),
    /// A layer in zstd, in an image of Docker's.
    #[error("a manifest of Docker's schema 2 cannot have a layer in zstd")]
    ZstdForDocker,
    /// Its manifest cannot be read.
    #[error("the manifest of {0} is damaged")]
    Manifest(AciId, #[source] ManifestError),
    /// It would run as nobody.
    #[error("a config cannot say as whom it is run")]
    Identity(#[from] IdentityError),
    /// Something cannot be written beside the store.
    #[error("cannot write `{}`", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// Somebody asked to stop.
    #[error("interrupted; the store is as it was")]
    Interrupted,
}

impl CommitError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Changed(ChangedError::Store(error)) | Self::Store(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            Self::Import(error) => error.hint(),
            Self::Restless | Self::Pack(PackError::Busy(_)) => {
                Some("stop or pause what writes there, then commit".to_owned())
            }
            Self::Pack(PackError::Whiteout(_)) => Some("rename or remove it first".to_owned()),
            Self::ZstdForDocker => Some("--format oci, or another --compression".to_owned()),
            _ => None,
        }
    }

    /// Whether trying again may help.
    fn may_be_passing(&self) -> bool {
        match self {
            Self::Changed(ChangedError::Tree(error))
            | Self::Pack(PackError::Read { source: error, .. }) => changed::may_be_passing(error),
            _ => false,
        }
    }
}

impl From<crate::union::FsError> for CommitError {
    fn from(error: crate::union::FsError) -> Self {
        Self::Changed(error.into())
    }
}

/// One commit.
struct Context<'a> {
    store: &'a Store,
    into: &'a Store,
    target: &'a Target,
    staging: &'a Staging,
    lease: Option<&'a Lease>,
    caches: Caches,
    options: &'a Options<'a>,
}

impl Context<'_> {
    fn open(&self) -> Result<Changed, CommitError> {
        let lease = self.lease;
        let changed = changed::open(self.store, self.target, &self.caches, lease);
        Ok(changed?)
    }

    fn import_options<'b>(
        &'b self,
        names: &'b [Reference],
        want: &'b crate::image::Want,
    ) -> crate::import::Options<'b> {
        crate::import::Options {
            names,
            want,
            again: false,
            limits: limits(),
            now: self.options.said.map_or(0, |said| said.now),
            progress: self.options.progress,
            stop: self.options.stop,
        }
    }
}

/// What the tree has is on a disk here: it cannot be a bomb.
fn limits() -> Limits {
    Limits {
        entries: u64::from(u32::MAX),
        unpacked: u64::MAX,
        ratio: u64::MAX,
    }
}

/// Makes an image of another with what was changed of it, in the store `into`.
///
/// # Errors
/// See [`CommitError`]; the store is then as it was.
pub fn commit(
    store: &Store,
    target: &Target,
    into: &Store,
    options: &Options<'_>,
) -> Result<Committed, CommitError> {
    let staging = into.stage()?;
    let lease = store.lease()?;
    let context = Context {
        store,
        into,
        target,
        staging: &staging,
        lease: lease.as_ref(),
        caches: Caches::default(),
        options,
    };
    for _ in 0..TRIES {
        let outcome = match options.form {
            Form::Oci(names) => layout::commit(&context, names, Kind::Oci),
            Form::Docker(names) => layout::commit(&context, names, Kind::Docker),
            Form::Aci(name) => appc::commit(&context, name),
        };
        match outcome {
            Err(error) if error.may_be_passing() => {}
            Err(CommitError::Pack(PackError::Interrupted)) => {
                return Err(CommitError::Interrupted);
            }
            Err(CommitError::Import(ImportError::Interrupted)) => {
                return Err(CommitError::Interrupted);
            }
            other => return other,
        }
    }
    Err(CommitError::Restless)
}
