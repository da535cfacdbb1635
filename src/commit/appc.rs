//! An AppC image: one archive of all that the tree has now.
//!
//! AppC layers know no whiteouts, so what was removed could not be said by an image that
//! depends on the old one. The new image depends on none, and shows all of its paths.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value, json};

use super::{CommitError, Committed, Context, Packing, layer, pack};
use crate::appc::AppcReference;
use crate::archive::Archive;
use crate::digest::AciId;
use crate::image::Want;
use crate::import::import;
use crate::layer::Dialect;
use crate::layer::tar::{Member, MemberKind, header, padding};
use crate::store::StoreError;

/// Commits under a name.
pub(super) fn commit(
    context: &Context<'_>,
    name: &AppcReference,
) -> Result<Committed, CommitError> {
    if !context.options.said.changes.is_empty() {
        return Err(CommitError::NotForAppc("--change"));
    }
    if context.options.packing == Packing::Zstd {
        // spec/aci.md, "Image Archives": gzip, bzip2 and xz.
        return Err(CommitError::NotForAppc("zstd"));
    }
    let changed = context.open()?;
    let manifest = manifest(context, &changed.view.record, name)?;
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
        context.store,
        archive,
        &context.import_options(&[], &Want::host()),
    )?;
    Ok(Committed {
        id: id.image(),
        members: said.len(),
        lacks: written.packed.lacks,
        moved,
    })
}

/// The image's manifest with another name, without dependencies and whitelist.
fn manifest(
    context: &Context<'_>,
    record: &crate::store::images::ImageRecord,
    name: &AppcReference,
) -> Result<Vec<u8>, CommitError> {
    let blob = record.manifest.ok_or_else(|| StoreError::Damaged {
        path: context.store.image_path(record.id),
        what: "it names no manifest".to_owned(),
    })?;
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
            let known = |key: &crate::appc::Identifier| label["name"] == key.as_str();
            !name.labels.keys().any(known)
        });
        let new = name.labels.iter();
        labels.extend(new.map(|(key, value)| json!({ "name": key, "value": value })));
    }
    let said_now = &context.options.said;
    let texts = [
        ("authors", said_now.author),
        ("lazyroot.message", said_now.message),
    ];
    for (key, text) in texts {
        let Some(text) = text else { continue };
        let all = said.entry("annotations").or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.retain(|annotation| annotation["name"] != key);
            all.push(json!({ "name": key, "value": text }));
        }
    }
    Ok(Value::Object(said).to_string().into_bytes())
}
