//! What the store has of an image that is wanted, and whether that is all of it.

use std::io;

use crate::appc::Labels;
use crate::cli::report::Failure;
use crate::digest::{AciId, DiffId, ImageId};
use crate::image::Platform;
use crate::image::appc::Dependency;
use crate::image::appc::graph::{Outline, Wanted};
use crate::import::ImportError;
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// What the store has of an image.
pub(super) enum Stored {
    /// All of it.
    Whole(ImageId),
    /// Nothing.
    Not,
    /// Not all of it.
    Part,
    /// Something that is not what it must be.
    Damaged(StoreError),
}

/// A Docker image, by its name or digest, for a platform where one is asked for. Of
/// several that are asked for nobody knows whether they are there: a name is one image's.
pub(super) fn docker(
    store: &Store,
    name: &Reference,
    platforms: &[Platform],
) -> Result<Stored, StoreError> {
    if platforms.len() > 1 {
        return Ok(Stored::Not);
    }
    let found = match name.digest() {
        Some(_) => store.find(&name.to_string()),
        None => store.names().and_then(|names| {
            let id = names.get(name).copied();
            id.ok_or_else(|| StoreError::NoImage(name.familiar()))
        }),
    };
    let whole = found.and_then(|id| {
        let record = store.image(id)?;
        let fits = |asked: &Platform| asked.rank(&record.platform).is_some();
        if !platforms.iter().all(fits) {
            return Err(StoreError::NoImage(name.familiar()));
        }
        for layer in record.layers {
            if !has_layer(store, layer.diff)? {
                return Ok(None);
            }
        }
        Ok(Some(id))
    });
    match whole {
        Ok(Some(id)) => Ok(Stored::Whole(id)),
        Err(StoreError::NoImage(_)) => Ok(Stored::Not),
        Ok(None) => Ok(Stored::Part),
        Err(error) if is_gone(&error) => Ok(Stored::Part),
        Err(error @ (StoreError::Damaged { .. } | StoreError::Read(_))) => {
            Ok(Stored::Damaged(error))
        }
        Err(error) => Err(error),
    }
}

/// A file that somebody took away.
fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// Whether all files of a layer are there.
fn has_layer(store: &Store, diff: DiffId) -> Result<bool, StoreError> {
    Ok(store.has_layer(diff)?.is_some())
}

/// The AppC image that is meant.
pub(super) fn find(store: &Store, wanted: &Dependency) -> Result<Option<AciId>, Failure> {
    let Some(id) = wanted.id else {
        let known = store.appc_images()?.find(&wanted.image)?;
        return Ok(known.map(|known| known.id));
    };
    match outline(store, id)? {
        None => Ok(None),
        Some(outline) if wanted.image.fits(&outline.name, &outline.labels) => Ok(Some(id)),
        Some(outline) => Err(ImportError::WrongImage {
            found: outline.reference(),
            wanted: wanted.image.clone(),
        }
        .into()),
    }
}

/// What the manifest of an image says, if the store has that image.
fn outline(store: &Store, id: AciId) -> Result<Option<Outline>, StoreError> {
    match store.image(id.image()) {
        Err(StoreError::NoImage(_)) => Ok(None),
        other => Ok(other?.appc),
    }
}

/// The next image that must be fetched so that this one is whole: itself, or one
/// that it depends on.
pub(super) fn missing(store: &Store, top: &Wanted) -> Result<Option<Wanted>, Failure> {
    let Some(id) = find(store, &top.dependency)? else {
        return Ok(Some(top.clone()));
    };
    let stack = match store.appc_images()?.stack(id) {
        Ok(stack) => stack,
        Err(StoreError::Dependencies(error)) if error.missing().is_some() => {
            return Ok(error.missing().cloned());
        }
        Err(error) => return Err(error.into()),
    };
    for placed in stack {
        let listed = placed.lists.contains(&placed.id);
        let whole = has_layer(store, placed.id.archive())?
            && (!listed || store.whitelist_path(placed.id).try_exists()?);
        if whole {
            continue;
        }
        if placed.id == id {
            return Ok(Some(top.clone()));
        }
        let outline = outline(store, placed.id)?;
        return Ok(outline.map(|outline| Wanted {
            dependency: Dependency {
                image: outline.reference(),
                id: Some(placed.id),
                size: None,
            },
            // It is asked for by its ID.
            machine: Labels::new(),
        }));
    }
    Ok(None)
}
