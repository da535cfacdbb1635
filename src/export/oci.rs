//! An OCI layout in a tar (OCI image spec, image-layout.md).
//!
//! The manifest that came goes out as it is when it is an OCI manifest and names just
//! the blobs that the store has. Otherwise there is a new one that does; annotations
//! stay. A manifest of Docker's schema 2 is none that a layout may have.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::bytes::Watched;
use super::tarball::{Tarball, room};
use super::{ExportError, Note, Outgoing};
use crate::digest::{BlobId, Digest, ImageId};
use crate::image::Platform;
use crate::layer::seek::Compression;
use crate::reference::Reference;
use crate::store::StoreError;
use crate::store::layers::LayerRecord;

/// `oci-layout`.
pub const OCI_MARK: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
// Docker's schema 2 (distribution, docs/content/spec/manifest-v2-2.md).
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Writes the archive. Documents come first: who reads a pipe knows then what
/// the layers are.
pub(super) fn write(image: &Outgoing<'_>, to: &mut Watched<'_>) -> Result<Vec<Note>, ExportError> {
    let config = image.store.small_blob(BlobId(image.record.id.0))?;
    let (manifest, notes) = manifest(image, &config, Form::Oci)?;
    let index = index(image, &manifest);
    // The same layer may be there twice; a blob is in the archive once.
    let layers: BTreeMap<BlobId, &LayerRecord> = image
        .layers
        .iter()
        .map(|layer| (layer.blob, layer))
        .collect();
    let small = [OCI_MARK.len(), index.len(), manifest.len(), config.len()];
    let small = small.into_iter().map(|len| len as u64);
    let large = layers.values().map(|layer| layer.blob_size);
    to.expect(room(small.chain(large)));

    let mut tar = Tarball { to };
    tar.file("oci-layout", OCI_MARK.as_bytes())?;
    tar.file("index.json", &index)?;
    tar.file(&file(&Digest::sha256(&manifest)), &manifest)?;
    tar.file(&file(&image.record.id.0), &config)?;
    for layer in layers.values() {
        tar.member(&file(&layer.blob.0), layer.blob_size, |to| {
            to.blob(image.store, layer)
        })?;
    }
    tar.end()?;
    Ok(notes)
}

fn file(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Map<String, Value> {
    let all = json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size });
    match all {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn describe(layer: &LayerRecord) -> Map<String, Value> {
    let suffix = match layer.compression {
        Compression::Plain => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    descriptor(&format!("{LAYER}{suffix}"), &layer.blob.0, layer.blob_size)
}

/// What a manifest may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// OCI's only: an archive is that.
    Oci,
    /// Whatever it came as.
    Any,
}

/// The same in Docker's words; nothing for zstd, for which schema 2 has none.
fn describe_docker(layer: &LayerRecord) -> Option<Map<String, Value>> {
    let suffix = match layer.compression {
        Compression::Plain => "",
        Compression::Gzip => ".gzip",
        Compression::Zstd => return None,
    };
    let media_type = format!("{DOCKER_LAYER}{suffix}");
    Some(descriptor(&media_type, &layer.blob.0, layer.blob_size))
}

/// The manifest, and what is to be said about it.
pub(super) fn manifest(
    image: &Outgoing<'_>,
    config: &[u8],
    form: Form,
) -> Result<(Vec<u8>, Vec<Note>), ExportError> {
    let mut notes = Vec::new();
    let Some(old) = image.record.manifest else {
        return Ok((plain_manifest(image, config), notes));
    };
    let bytes = image.store.small_blob(old)?;
    let said: Value = serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged {
        path: image.store.blob_path(old),
        what: format!("it is no manifest: {error}"),
    })?;
    for (layer, said) in image.layers.iter().zip(&image.record.layers) {
        if let Some(declared) = said.declared.filter(|declared| *declared != layer.blob) {
            notes.push(Note::OtherPacking {
                diff: layer.diff,
                declared,
                blob: layer.blob,
            });
        }
    }
    // One by another algorithm names no blob that we have.
    let same = notes.is_empty() && said["config"]["digest"] == image.record.id.to_string();
    let new = match is_oci(&said) {
        oci if same && (oci || form == Form::Any) => return Ok((bytes, notes)),
        true => mended(said, image, config.len() as u64),
        false => plain_manifest(image, config),
    };
    let id = BlobId(Digest::sha256(&new));
    notes.push(Note::NewManifest { old, new: id });
    Ok((new, notes))
}

/// Whether a manifest is what an OCI layout may have: all media types are OCI's.
/// That of the manifest itself may be left out.
fn is_oci(manifest: &Value) -> bool {
    let of = |value: &Value| value["mediaType"].as_str().unwrap_or_default().to_owned();
    let layers = manifest["layers"].as_array();
    let mut layers = layers.into_iter().flatten();
    matches!(&*of(manifest), "" | MANIFEST)
        && of(&manifest["config"]) == CONFIG
        && layers.all(|layer| of(layer).starts_with("application/vnd.oci.image.layer."))
}

/// A manifest that names what the archive has, and says nothing else.
fn plain_manifest(image: &Outgoing<'_>, config: &[u8]) -> Vec<u8> {
    oci_manifest(image.record.id, config.len() as u64, &image.layers)
}

/// The OCI manifest of an image whose config has so many bytes.
#[must_use]
pub fn oci_manifest(image: ImageId, config: u64, layers: &[LayerRecord]) -> Vec<u8> {
    let layers: Vec<_> = layers.iter().map(describe).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &image.0, config),
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// The same as a manifest of Docker's schema 2; nothing where a layer is in zstd, which that
/// cannot say.
#[must_use]
pub fn docker_manifest(image: ImageId, config: u64, layers: &[LayerRecord]) -> Option<Vec<u8>> {
    let layers: Vec<_> = layers.iter().map(describe_docker).collect::<Option<_>>()?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor(DOCKER_CONFIG, &image.0, config),
        "layers": layers,
    });
    Some(manifest.to_string().into_bytes())
}

/// The manifest that came with other blobs in it.
fn mended(mut manifest: Value, image: &Outgoing<'_>, config: u64) -> Vec<u8> {
    if let Some(said) = manifest["config"].as_object_mut() {
        said.extend(descriptor(CONFIG, &image.record.id.0, config));
    }
    if let Some(layers) = manifest["layers"].as_array_mut() {
        for (said, layer) in layers.iter_mut().zip(&image.layers) {
            match said.as_object_mut() {
                Some(said) if said["digest"] != layer.blob.to_string() => {
                    said.extend(describe(layer));
                }
                _ => {}
            }
        }
    }
    manifest.to_string().into_bytes()
}

/// `index.json`: the manifest once for each name.
fn index(image: &Outgoing<'_>, manifest: &[u8]) -> Vec<u8> {
    oci_index(manifest, Some(&image.record.platform), image.names)
}

/// `index.json` of a layout with one manifest, which is there once for each name. The
/// whole name is where containerd and Docker look for it, the tag where the
/// specification has it (BuildKit, exporter/oci).
#[must_use]
pub fn oci_index(manifest: &[u8], platform: Option<&Platform>, names: &[Reference]) -> Vec<u8> {
    let digest = Digest::sha256(manifest);
    let said: Value = serde_json::from_slice(manifest).unwrap_or_default();
    // One of OCI need not say what it is (OCI image spec, manifest.md).
    let media_type = said["mediaType"].as_str().unwrap_or(MANIFEST);
    let named = |name: Option<&Reference>| {
        let mut entry = descriptor(media_type, &digest, manifest.len() as u64);
        if let Some(platform) = platform.filter(|said| said.architecture != "unknown") {
            let mut said = json!({ "os": platform.os, "architecture": platform.architecture });
            if let Some(variant) = &platform.variant {
                said["variant"] = json!(variant);
            }
            entry.insert("platform".to_owned(), said);
        }
        if let Some((name, tag)) = name.and_then(|name| Some((name, name.tag()?))) {
            let said = json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": tag,
            });
            entry.insert("annotations".to_owned(), said);
        }
        entry
    };
    let entries: Vec<_> = match names {
        [] => vec![named(None)],
        names => names.iter().map(|name| named(Some(name))).collect(),
    };
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    index.to_string().into_bytes()
}
