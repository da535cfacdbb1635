//! An AppC image: one archive of all that the tree has now.
//!
//! AppC layers know no whiteouts, so what was removed could not be said by an image that
//! depends on the old one. The new image depends on none, and shows all of its paths.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value, json};

use super::files::TreeFiles;
use super::{CommitError, Committed, Context, Packing, config, layer, layout, pack};
use crate::appc::{AppcReference, Identifier};
use crate::archive::Archive;
use crate::changed::Changed;
use crate::digest::{AciId, BlobId};
use crate::image::Want;
use crate::image::appc::Manifest;
use crate::image::convert::{Lost, manifest_of};
use crate::import::import;
use crate::layer::Dialect;
use crate::layer::tar::{Member, MemberKind, header, padding};
use crate::store::StoreError;
use crate::store::images::ImageRecord;

/// Commits under a name.
pub(super) fn commit(
    context: &Context<'_>,
    name: &AppcReference,
) -> Result<Committed, CommitError> {
    if context.options.packing == Packing::Zstd {
        // spec/aci.md, "Image Archives": gzip, bzip2 and xz.
        return Err(CommitError::NotForAppc("zstd"));
    }
    let changed = context.open()?;
    let (manifest, lost) = manifest(context, &changed, name)?;
    let manifest = Value::Object(manifest).to_string().into_bytes();
    let member = Member {
        size: manifest.len() as u64,
        stored: manifest.len() as u64,
        ..pack::blank(b"manifest".to_vec(), MemberKind::File)
    };
    let (mut before, _) = header(&member);
    before.extend_from_slice(&manifest);
    before.extend_from_slice(padding(manifest.len() as u64));

    let said = changed.tree.whole()?;
    let file = context.staging.file("layer");
    let written = layer::write(context, &changed, &said, Dialect::AppC, &before, &file)?;
    let moved = layer::moved(context, &changed, true, &said, &written.packed)?;
    let id = AciId::of_archive(written.record.diff).expect("because it was hashed by SHA-512");
    let opened = File::open(&file).map_err(|error| CommitError::Write(file.clone(), error))?;
    let stop = Arc::new(AtomicBool::new(false));
    let archive = Archive::from_file(name.to_string(), opened, &stop)?;
    import(
        context.into,
        archive,
        &context.import_options(&[], &Want::host()),
    )?;
    Ok(Committed {
        id: id.image(),
        members: said.len(),
        lacks: written.packed.lacks,
        lost,
        moved,
    })
}

/// The manifest of the new image, and what it cannot say.
fn manifest(
    context: &Context<'_>,
    changed: &Changed,
    name: &AppcReference,
) -> Result<(Map<String, Value>, Vec<Lost>), CommitError> {
    let asked = &context.options.said;
    let (mut manifest, lost) = match AciId::of_image(context.target.image) {
        Some(_) if asked.is_some_and(|said| !said.changes.is_empty()) => {
            return Err(CommitError::NotForAppc("--change"));
        }
        Some(_) => (renamed(context, &changed.view.record, name)?, Vec::new()),
        None => {
            let config = config::next(layout::stored_config(context)?, None, asked.as_ref());
            let made = manifest_of(&config, name, &TreeFiles(&changed.tree));
            made.map_err(|error| StoreError::Damaged {
                path: context.store.blob_path(BlobId(context.target.image.0)),
                what: format!("it is no config: {error}"),
            })?
        }
    };
    let texts = [
        ("authors", asked.and_then(|said| said.author)),
        ("lazyroot.message", asked.and_then(|said| said.message)),
    ];
    for (key, text) in texts {
        let Some(text) = text else { continue };
        let all = manifest.entry("annotations").or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.retain(|annotation| annotation["name"] != key);
            all.push(json!({ "name": key, "value": text }));
        }
    }
    Ok((manifest, lost))
}

/// The manifest of an AppC image, as it was checked when it came.
pub(super) fn stored_manifest(
    context: &Context<'_>,
    record: &ImageRecord,
) -> Result<Manifest, CommitError> {
    let bytes = context.store.small_blob(blob(context, record)?)?;
    let id = AciId::of_image(record.id).expect("because it is the record of an AppC image");
    Manifest::parse(&bytes).map_err(|error| CommitError::Manifest(id, error))
}

fn blob(context: &Context<'_>, record: &ImageRecord) -> Result<BlobId, StoreError> {
    record.manifest.ok_or_else(|| StoreError::Damaged {
        path: context.store.image_path(record.id),
        what: "it names no manifest".to_owned(),
    })
}

/// An AppC image's manifest with another name, without dependencies and whitelist.
fn renamed(
    context: &Context<'_>,
    record: &ImageRecord,
    name: &AppcReference,
) -> Result<Map<String, Value>, CommitError> {
    let blob = blob(context, record)?;
    let bytes = context.store.small_blob(blob)?;
    let mut said: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
            path: context.store.blob_path(blob),
            what: format!("it is no manifest: {error}"),
        })?;
    said.remove("dependencies");
    said.remove("pathWhitelist");
    said.insert("name".to_owned(), json!(name.name));
    let labels = said.entry("labels").or_insert_with(|| json!([]));
    if let Some(labels) = labels.as_array_mut() {
        labels.retain(|label| {
            let known = |key: &Identifier| label["name"] == key.as_str();
            !name.labels.keys().any(known)
        });
        let new = name.labels.iter();
        labels.extend(new.map(|(key, value)| json!({ "name": key, "value": value })));
    }
    Ok(said)
}
