//! A stored image with the changes of an upper directory, to be looked at.
//!
//! What it is for: joining `view` and `upper`, which do not know each other, for who
//! asks what was changed. Nothing is written, and a mount may be at work on the upper
//! directory meanwhile.

use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::ImageId;
use crate::store::leases::Lease;
use crate::store::{Caches, Store, StoreError};
use crate::union::FsError;
use crate::union::writable::Writable;
use crate::upper::{Seen, UpperError};
use crate::view::{Stack, View};

/// Why it cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ChangedError {
    /// The image cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The upper directory cannot be opened.
    #[error(transparent)]
    Upper(#[from] UpperError),
    /// The two make no tree.
    #[error("the changes cannot be read")]
    Tree(#[from] FsError),
}

/// What was changed, and where the changes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The image.
    pub image: ImageId,
    /// What it was made of when the changes began.
    pub stack: Stack,
    /// The upper directory; nothing: all is as the image has it.
    pub upper: Option<PathBuf>,
}

/// An image and its changes.
#[derive(Debug)]
pub struct Changed {
    /// The image.
    pub view: View,
    /// Its tree as it is now.
    pub tree: Writable,
    /// A mount of ours is at work on the upper directory.
    pub live: bool,
}

/// Opens an image, and an upper directory that was begun with it.
///
/// # Errors
/// See [`ChangedError`].
pub fn open(
    store: &Store,
    target: &Target,
    caches: &Caches,
    lease: Option<&Lease>,
) -> Result<Changed, ChangedError> {
    let view = View {
        record: store.image(target.image)?,
        union: target.stack.open(store, caches, lease)?,
        identity: target.stack.identity.clone(),
        stack: target.stack.identity.clone(),
    };
    let union = Arc::clone(&view.union);
    let Some(upper) = &target.upper else {
        let tree = Writable::unchanged(union)?;
        let live = false;
        return Ok(Changed { view, tree, live });
    };
    let seen = Seen::open(upper, &view.stack)?;
    let live = seen.is_live();
    let tree = Writable::frozen(union, Arc::new(seen))?;
    Ok(Changed { view, tree, live })
}

/// Whether an error may only mean that somebody changes the directory at the moment.
#[must_use]
pub fn may_be_passing(error: &FsError) -> bool {
    use rustix::io::Errno;
    match error {
        FsError::Stale | FsError::NotFound | FsError::NotDir => true,
        FsError::Upper(error) => matches!(
            Errno::from_io_error(error),
            Some(Errno::STALE | Errno::NOENT | Errno::NOTDIR)
        ),
        // A mark and the name that it belongs to are two system calls.
        FsError::UpperDamaged(_) => true,
        _ => false,
    }
}
