//! Import from a stream that passes once: what says which members are layers
//! may come last, so every member that looks like a layer is taken as one.

use std::collections::BTreeMap;

use super::layer::{self, Expected, LayerError};
use super::publish::{lease, publish};
use super::{Context, Got, ImportError, Imported, Layers, Options};
use crate::archive::{ArchiveError, ScannedFiles, StreamArchive, Taken};
use crate::image;
use crate::layer::seek::{SNIFF, Sniffed, sniff};
use crate::store::Store;
use crate::store::layers::StagedLayer;

/// What a member that was taken as a layer came to: it may turn out to be none.
type Tried = Result<StagedLayer, LayerError>;

pub(super) fn import(
    store: &Store,
    mut archive: StreamArchive,
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
    let mut files = ScannedFiles::new();
    let mut tried = BTreeMap::new();
    pass(&mut archive, &mut files, &mut tried, &context)?;
    archive.finish()?;
    let found = super::find(&files, options)?;
    let layers = layers(&found, &files, tried)?;
    publish(store, &staging, &lease, &found, layers, options)
}

/// Lets the stream pass: keeps documents, takes what looks like a layer.
fn pass(
    archive: &mut StreamArchive,
    files: &mut ScannedFiles,
    tried: &mut BTreeMap<String, Tried>,
    context: &Context<'_>,
) -> Result<(), ImportError> {
    let mut members = archive.members()?;
    // Not the number of names: one that comes twice has files of its own twice.
    let mut taken = 0u64;
    while let Some(mut member) = members.next_member()? {
        let name = member.name().unwrap_or_default().to_owned();
        let broken = |source| ArchiveError::Read {
            archive: name.clone(),
            at: 0,
            source,
        };
        if files.take(&mut member).map_err(broken)? != Taken::Layer {
            continue;
        }
        let looks = sniff(member.peek(SNIFF).map_err(broken)?);
        if matches!(looks, Sniffed::Json | Sniffed::Unknown) {
            continue;
        }
        context.progress.layer(&name, Some(member.size()));
        let outcome = layer::take(
            &mut member,
            Expected::default(),
            &taken.to_string(),
            context,
        );
        taken += 1;
        // What is wrong with the archive or with us ends the import; what is wrong
        // with a member matters only if it is a layer of an image.
        if let Err(
            error @ (LayerError::Interrupted | LayerError::Write(..) | LayerError::Read(_)),
        ) = outcome
        {
            return Err(ImportError::layer(&name, error));
        }
        context.progress.layer_done(&name, false);
        tried.insert(name, outcome);
    }
    Ok(())
}

/// The layers that the images name, out of the members that were taken.
fn layers(
    found: &[image::FoundImage],
    files: &ScannedFiles,
    mut tried: BTreeMap<String, Tried>,
) -> Result<Layers, ImportError> {
    let mut layers = Layers::new();
    for layer in found.iter().flat_map(|image| &image.layers) {
        if layers.contains_key(&layer.file) {
            continue;
        }
        let missing = || ImportError::MissingLayer(layer.file.clone());
        let unreadable = |error| ImportError::layer(&layer.file, LayerError::Read(error));
        let member = files
            .member_of(&layer.file)
            .map_err(unreadable)?
            .ok_or_else(missing)?;
        let staged = match tried.get(member) {
            Some(Ok(staged)) => staged.clone(),
            Some(Err(_)) => {
                let error = tried
                    .remove(member)
                    .and_then(Result::err)
                    .ok_or_else(missing)?;
                return Err(ImportError::layer(&layer.file, error));
            }
            None => return Err(missing()),
        };
        let expected = Expected {
            blob: layer.blob,
            size: layer.size,
            diff: layer.diff,
        };
        expected
            .check(&staged)
            .map_err(|error| ImportError::layer(&layer.file, error))?;
        layers.insert(layer.file.clone(), Got::Staged(Box::new(staged)));
    }
    Ok(layers)
}
