//! What `docker save` writes (moby, image/tarexport), so that every generation of
//! `docker load` takes it: `manifest.json` for those since 1.10; `repositories` and
//! a directory for each layer, which says its parent, for those before.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::bytes::Watched;
use super::tarball::{Tarball, room};
use super::{ExportError, Note, Outgoing};
use crate::digest::{BlobId, DiffId, Digest};
use crate::reference::Reference;
use crate::store::StoreError;
use crate::store::layers::LayerRecord;

/// Writes the archive, layers as plain tars.
pub(super) fn write(image: &Outgoing<'_>, to: &mut Watched<'_>) -> Result<Vec<Note>, ExportError> {
    let id = BlobId(image.record.id.0);
    let config = image.store.small_blob(id)?;
    let said: Value = serde_json::from_slice(&config).map_err(|error| StoreError::Damaged {
        path: image.store.blob_path(id),
        what: format!("it is no config: {error}"),
    })?;
    let layers: BTreeMap<DiffId, &LayerRecord> = image
        .layers
        .iter()
        .map(|layer| (layer.diff, layer))
        .collect();
    let config_file = format!("{}.json", id.0.hex());
    let old = old_layers(image, &said);
    let manifest = manifest(image, &config_file);
    let large = layers.values().map(|layer| layer.tar_size);
    to.expect(room(large.chain([config.len() as u64])));

    let mut tar = Tarball { to };
    tar.file("manifest.json", &manifest)?;
    if let Some(top) = old.last()
        && !image.names.is_empty()
    {
        tar.file("repositories", &repositories(image.names, &top.id))?;
    }
    tar.file(&config_file, &config)?;
    for layer in &old {
        tar.file(&format!("{}/VERSION", layer.id), b"1.0")?;
        tar.file(&format!("{}/json", layer.id), &layer.json)?;
        let target = format!("../{}", file(layer.diff));
        tar.symlink(&format!("{}/layer.tar", layer.id), &target)?;
    }
    for layer in layers.values() {
        tar.member(&file(layer.diff), layer.tar_size, |to| {
            to.tar(image.store, layer)
        })?;
    }
    tar.end()?;
    Ok(Vec::new())
}

fn file(diff: DiffId) -> String {
    format!("{}.tar", diff.0.hex())
}

fn manifest(image: &Outgoing<'_>, config_file: &str) -> Vec<u8> {
    // In full: podman takes a short name for one of its own.
    let tags: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    let layers: Vec<String> = image.layers.iter().map(|layer| file(layer.diff)).collect();
    let manifest = json!([{ "Config": config_file, "RepoTags": tags, "Layers": layers }]);
    manifest.to_string().into_bytes()
}

/// `repositories`: name, tag, top layer.
fn repositories(names: &[Reference], top: &str) -> Vec<u8> {
    let mut all: BTreeMap<String, BTreeMap<&str, &str>> = BTreeMap::new();
    for name in names {
        if let Some(tag) = name.tag() {
            let familiar = name.familiar();
            // The tag is the end of it: names with digests are refused before.
            let repository = familiar.strip_suffix(&format!(":{tag}"));
            let repository = repository.unwrap_or(&familiar).to_owned();
            all.entry(repository).or_default().insert(tag, top);
        }
    }
    json!(all).to_string().into_bytes()
}

/// A layer as Docker before 1.10 knew it.
struct OldLayer {
    id: String,
    diff: DiffId,
    json: Vec<u8>,
}

/// Layers that name their parents. Their IDs were random then: any will do that
/// no other image has for something else.
fn old_layers(image: &Outgoing<'_>, config: &Value) -> Vec<OldLayer> {
    let created = config["created"].as_str().unwrap_or("1970-01-01T00:00:00Z");
    let mut layers: Vec<OldLayer> = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        let parent = layers.last().map(|below| below.id.clone());
        let top = number + 1 == image.layers.len();
        let mut said = match config {
            Value::Object(config) if top => {
                let of_layers = |key: &str| matches!(key, "rootfs" | "history");
                let keys = config.iter().filter(|(key, _)| !of_layers(key));
                keys.map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            }
            _ => Map::from_iter([("created".to_owned(), json!(created))]),
        };
        let of = match top {
            true => image.record.id.to_string(),
            false => String::new(),
        };
        let stack = format!("{} {} {of}", parent.as_deref().unwrap_or(""), layer.diff);
        let id = Digest::sha256(stack.as_bytes()).hex();
        said.insert("id".to_owned(), json!(id));
        if let Some(parent) = parent {
            said.insert("parent".to_owned(), json!(parent));
        }
        let json = Value::Object(said).to_string().into_bytes();
        let diff = layer.diff;
        layers.push(OldLayer { id, diff, json });
    }
    layers
}
