//! `docker save` before 1.10: `repositories`, and one directory a layer with
//! `json` and `layer.tar` (moby, image/spec/v1.md).
//!
//! A layer names its parent, so an image is a chain. There are no digests: the
//! image gets its config, and so its ID, when the layers have been read.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::or_default;
use super::docker::few_names;
use super::documents::{Documents, parse, parse_object};
use super::{FoundImage, History, IMAGES_MAX, ImageError, LAYERS_MAX, LayerRef, Platform, Source};
use crate::digest::DiffId;

/// Where it begins: repository, tag, ID of the top layer.
pub(super) const REPOSITORIES: &str = "repositories";
/// Digits of the longest ID that is accepted; Docker's have 64.
const ID_MAX: usize = 128;
/// Keys of a layer's `json` that are about the layer and not about the image;
/// Docker drops the same ones (moby, image/v1/imagev1.go, `MakeConfigFromV1Config`).
const LAYER_KEYS: [&str; 9] = [
    "id",
    "parent",
    "parent_id",
    "layer_id",
    "Size",
    "checksum",
    "throwaway",
    "rootfs",
    "history",
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct LayerJson {
    #[serde(deserialize_with = "or_default")]
    parent: String,
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    #[serde(deserialize_with = "or_default")]
    os: String,
    #[serde(deserialize_with = "or_default")]
    variant: String,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    #[serde(deserialize_with = "or_default")]
    container_config: Made,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Made {
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
}

type Repositories = BTreeMap<String, BTreeMap<String, String>>;

/// The images of an archive.
pub(super) fn find(
    documents: &Documents<'_>,
    repositories: &[u8],
) -> Result<Vec<FoundImage>, ImageError> {
    let repositories: Repositories = parse(REPOSITORIES, repositories)?;
    let mut tops: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (repository, tags) in repositories {
        for (tag, id) in tags {
            check_id(REPOSITORIES, &id)?;
            tops.entry(id)
                .or_default()
                .push(format!("{repository}:{tag}"));
        }
    }
    if tops.len() > IMAGES_MAX {
        let limit = IMAGES_MAX as u64;
        return Err(ImageError::Limit {
            file: REPOSITORIES.to_owned(),
            what: "images",
            limit,
        });
    }
    few_names(REPOSITORIES, tops.values().map(Vec::len).sum())?;
    tops.into_iter()
        .map(|(id, names)| image(documents, &id, &names))
        .collect()
}

/// An ID names a directory, so it must be nothing but hexadecimal digits.
fn check_id(file: &str, id: &str) -> Result<(), ImageError> {
    if (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    let what = "a layer's ID has hexadecimal digits only".to_owned();
    let name = crate::tree_path::printable(id.as_bytes());
    Err(ImageError::Outside {
        file: file.to_owned(),
        name,
        what,
    })
}

fn image(documents: &Documents<'_>, top: &str, names: &[String]) -> Result<FoundImage, ImageError> {
    let mut seen = HashSet::new();
    let mut layers = Vec::new();
    let mut history = Vec::new();
    let mut config = None;
    let mut platform = Platform::new("", "");
    let mut id = top.to_owned();
    let mut child = REPOSITORIES.to_owned();
    while !id.is_empty() {
        check_id(&child, &id)?;
        if !seen.insert(id.clone()) {
            return Err(ImageError::Loop(id));
        }
        if layers.len() == LAYERS_MAX {
            let limit = LAYERS_MAX as u64;
            return Err(ImageError::Limit {
                file: format!("{top}/json"),
                what: "layers",
                limit,
            });
        }
        let file = format!("{id}/json");
        let json = documents.need(&file, &format!("a layer named by `{child}`"))?;
        let mut layer: LayerJson = parse_object(&file, &json)?;
        layers.push(layer_ref(documents, &id, &child)?);
        let parent = std::mem::take(&mut layer.parent);
        if config.is_none() {
            platform = layer.platform();
            config = Some(json);
        }
        history.push(layer.history());
        child = file;
        id = parent;
    }
    layers.reverse();
    history.reverse();
    let mut image = FoundImage {
        source: Source::DockerLegacy,
        names: Vec::new(),
        other_names: Vec::new(),
        unproven: Vec::new(),
        manifest: None,
        index: None,
        // Nothing only for an empty ID, which `check_id` has refused.
        config: config.unwrap_or_default(),
        config_digest: None,
        layers,
        platform,
        history,
    };
    for name in names {
        image.add_name(name);
    }
    Ok(image)
}

fn layer_ref(documents: &Documents<'_>, id: &str, child: &str) -> Result<LayerRef, ImageError> {
    let file = format!("{id}/layer.tar");
    if documents.size(&file)?.is_none() {
        let what = format!("a layer named by `{child}`");
        return Err(ImageError::Missing { file, what });
    }
    Ok(LayerRef {
        file,
        blob: None,
        size: None,
        diff: None,
        media_type: None,
    })
}

impl LayerJson {
    /// Docker ran on Linux on x86-64 only, before it said what it ran on.
    fn platform(&self) -> Platform {
        let or = |text: &str, other: &str| match text {
            "" => other.to_owned(),
            text => text.to_owned(),
        };
        Platform {
            os: or(&self.os, "linux"),
            architecture: or(&self.architecture, "amd64"),
            variant: Some(self.variant.clone()).filter(|variant| !variant.is_empty()),
        }
    }

    fn history(self) -> History {
        let command = self.container_config.cmd.join(" ");
        History {
            created: self.created,
            author: self.author.filter(|text| !text.is_empty()),
            created_by: Some(command).filter(|text| !text.is_empty()),
            comment: self.comment.filter(|text| !text.is_empty()),
            empty_layer: false,
        }
    }
}

/// The config that a legacy image gets, once the digests of its uncompressed
/// layers (lowest first) are known. Its SHA-256 is the ID of the image: the same
/// archive always gives the same one (keys are sorted).
#[must_use]
pub fn legacy_config(found: &FoundImage, diff_ids: &[DiffId]) -> Vec<u8> {
    let mut config: Map<String, Value> = serde_json::from_slice(&found.config).unwrap_or_default();
    for key in LAYER_KEYS {
        config.remove(key);
    }
    let mut said = |key: &str, value: &str| {
        let empty = config
            .get(key)
            .and_then(Value::as_str)
            .is_none_or(str::is_empty);
        if empty {
            config.insert(key.to_owned(), Value::from(value));
        }
    };
    said("architecture", &found.platform.architecture);
    said("os", &found.platform.os);
    let diff_ids: Vec<_> = diff_ids.iter().map(DiffId::to_string).collect();
    let rootfs = serde_json::json!({ "type": "layers", "diff_ids": diff_ids });
    config.insert("rootfs".to_owned(), rootfs);
    // Texts and truth values only: nothing in it that JSON has no form for.
    let history = serde_json::to_value(&found.history).unwrap_or_default();
    config.insert("history".to_owned(), history);
    Value::Object(config).to_string().into_bytes()
}
