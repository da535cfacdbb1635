//! Import from a stream that passes once: what says which members are layers
//! may come last, so every member that looks like a layer is taken as one.

use std::collections::BTreeMap;
use std::io::Read;

use super::layer::{self, Expected, LayerError};
use super::publish::{lease, publish};
use super::{Context, Got, ImportError, Imported, Layers, Options};
use crate::archive::{ScannedFiles, StreamArchive};
use crate::image::{self, Want};
use crate::layer::seek::{SNIFF, Sniffed, sniff};
use crate::store::Store;
use crate::store::layers::StagedLayer;

/// Members up to this length are kept in memory when they are no layers: JSON
/// documents of images are read up to the same length.
const SMALL: u64 = image::JSON_MAX;

/// Imports all images of an archive that can be read once, from front to back.
///
/// # Errors
/// See [`ImportError`]; the store is then as it was.
pub fn import(
    store: &Store,
    from: &mut (dyn Read + Send),
    options: &Options<'_>,
) -> Result<Vec<Imported>, ImportError> {
    members(store, &mut StreamArchive::new(from)?, options)
}

/// A member that was taken as a layer: it may turn out to be none.
type Taken = Result<StagedLayer, LayerError>;

pub(super) fn members(
    store: &Store,
    archive: &mut StreamArchive<'_>,
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
    let mut files = ScannedFiles::default();
    let mut taken: BTreeMap<String, Taken> = BTreeMap::new();
    archive.each(&mut |member| {
        let number = taken.len().to_string();
        let mut head = Vec::with_capacity(SNIFF);
        (&mut *member.reader).take(SNIFF as u64).read_to_end(&mut head).map_err(unreadable)?;
        let looks_like_layer = matches!(
            sniff(&head),
            Sniffed::Tar | Sniffed::Compressed(_) | Sniffed::Bzip2 | Sniffed::Xz
        );
        let name = member.name.to_owned();
        if looks_like_layer {
            context.progress.layer(&name, Some(member.size));
            let mut all = head.chain(&mut *member.reader);
            let outcome = layer::take(&mut all, Expected::default(), &number, &context);
            if let Err(error @ (LayerError::Interrupted | LayerError::Write(..))) = outcome {
                return Err(ImportError::layer(&name, error));
            }
            context.progress.layer_done(&name, false);
            files.add(name.clone(), member.size, None);
            taken.insert(name, outcome);
        } else if member.size <= SMALL {
            let mut bytes = head;
            member.reader.read_to_end(&mut bytes).map_err(unreadable)?;
            files.add(name, member.size, Some(bytes));
        } else {
            files.add(name, member.size, None);
        }
        Ok(())
    })?;
    files.link(archive.links());
    let found = image::find(&files, &Want { platform: options.platform.clone() })?;
    let mut layers = Layers::new();
    for layer in found.iter().flat_map(|image| &image.layers) {
        let missing = || ImportError::MissingLayer(layer.file.clone());
        let member = files.resolve(&layer.file).ok_or_else(missing)?;
        if layers.contains_key(&layer.file) {
            continue;
        }
        let staged = match taken.get(member) {
            Some(Ok(staged)) => staged.clone(),
            Some(Err(_)) => {
                let error = taken.remove(member).and_then(Result::err).ok_or_else(missing)?;
                return Err(ImportError::layer(&layer.file, error));
            }
            None => return Err(missing()),
        };
        let expected = Expected { blob: layer.blob, size: layer.size, diff: layer.diff };
        expected.check(&staged.record).map_err(|error| ImportError::layer(&layer.file, error))?;
        layers.insert(layer.file.clone(), Got::Staged(staged));
    }
    publish(store, &staging, &lease, &found, layers, options)
}

fn unreadable(error: std::io::Error) -> ImportError {
    ImportError::Archive(error.into())
}
