//! `docker save` since 1.10: `manifest.json` lists configs and layers (moby,
//! image/tarexport/tarexport.go, `manifestItem`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::config::or_default;
use super::documents::{Documents, blob_digest, check_digest, inside, parse, parse_object};
use super::manifest::{Descriptor, is_foreign};
use super::{
    Config, FoundImage, IMAGES_MAX, ImageError, LAYERS_MAX, LayerRef, NAMES_MAX, Source, Want,
};
use crate::digest::{BlobId, Digest};
use crate::reference::Reference;

/// Where it begins.
pub(super) const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default, deserialize_with = "or_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    layers: Vec<String>,
    /// By diff ID; says more of layers that are not in the archive.
    #[serde(default, deserialize_with = "or_default")]
    layer_sources: BTreeMap<String, Descriptor>,
}

/// The images of an archive.
pub(super) fn find(
    documents: &Documents<'_>,
    manifest: &[u8],
) -> Result<Vec<FoundImage>, ImageError> {
    let items: Vec<Item> = parse(MANIFEST, manifest)?;
    if items.len() > IMAGES_MAX {
        let limit = IMAGES_MAX as u64;
        return Err(ImageError::Limit {
            file: MANIFEST.to_owned(),
            what: "images",
            limit,
        });
    }
    few_names(
        MANIFEST,
        items.iter().map(|item| item.repo_tags.len()).sum(),
    )?;
    items.iter().map(|item| item.image(documents)).collect()
}

impl Item {
    fn image(&self, documents: &Documents<'_>) -> Result<FoundImage, ImageError> {
        let file = inside(MANIFEST, &self.config)?;
        let config = documents.need(&file, "a config named by `manifest.json`")?;
        let declared = config_digest(&file);
        if let Some(digest) = &declared {
            check_digest(&file, digest, &config)?;
        }
        let parsed: Config = parse_object(&file, &config)?;
        let layers = self.layers(documents, &file, &parsed)?;
        let mut image = FoundImage {
            source: Source::Docker,
            names: Vec::new(),
            other_names: Vec::new(),
            unproven: Vec::new(),
            manifest: None,
            index: None,
            config,
            config_digest: declared,
            layers,
            platform: parsed.platform(),
            history: Vec::new(),
        };
        for tag in &self.repo_tags {
            image.add_name(tag);
        }
        Ok(image)
    }

    fn layers(
        &self,
        documents: &Documents<'_>,
        config_file: &str,
        config: &Config,
    ) -> Result<Vec<LayerRef>, ImageError> {
        let diffs = &config.rootfs.diff_ids;
        if self.layers.len() > LAYERS_MAX {
            let limit = LAYERS_MAX as u64;
            return Err(ImageError::Limit {
                file: MANIFEST.to_owned(),
                what: "layers",
                limit,
            });
        }
        if diffs.len() != self.layers.len() {
            return Err(ImageError::LayerCount {
                file: MANIFEST.to_owned(),
                config: config_file.to_owned(),
                layers: self.layers.len(),
                diff_ids: diffs.len(),
            });
        }
        let mut layers = Vec::with_capacity(diffs.len());
        for (name, diff) in self.layers.iter().zip(diffs) {
            let file = inside(MANIFEST, name)?;
            let said = self.layer_sources.get(&diff.to_string());
            let media_type = said
                .map(|said| said.media_type.clone())
                .filter(|said| !said.is_empty());
            let size = documents.size(&file)?;
            if size.is_none() {
                if media_type.as_deref().is_some_and(is_foreign) {
                    let url = said.and_then(|said| said.urls.first().cloned());
                    return Err(ImageError::Foreign {
                        digest: diff.to_string(),
                        url,
                    });
                }
                let what = "a layer named by `manifest.json`".to_owned();
                return Err(ImageError::Missing { file, what });
            }
            // A layer's length is said nowhere here, and a name like `HEX.tar`
            // may be of the layer or of the blob: nothing is claimed by it.
            let blob = blob_digest(&file).map(BlobId);
            layers.push(LayerRef {
                file,
                blob,
                size: None,
                diff: Some(*diff),
                media_type,
            });
        }
        Ok(layers)
    }
}

/// The digest that a config's name declares: `HEX.json`, `sha256:HEX` or
/// `blobs/sha256/HEX`, by the tool that wrote it.
fn config_digest(file: &str) -> Option<Digest> {
    if let Some(digest) = blob_digest(file) {
        return Some(digest);
    }
    let name = file.strip_suffix(".json").unwrap_or(file);
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    format!("sha256:{hex}").parse().ok()
}

/// Joins what both indexes of one archive say (`docker save` since 25 writes
/// `index.json` beside `manifest.json`): digests are known from the first, names
/// from the second.
pub(super) fn merge(
    oci: Result<Vec<FoundImage>, ImageError>,
    docker: Result<Vec<FoundImage>, ImageError>,
    want: &Want,
) -> Result<Vec<FoundImage>, ImageError> {
    let (mut found, docker) = match (oci, docker) {
        (Ok(oci), Ok(docker)) => (oci, docker),
        (Ok(oci), Err(error)) if oci.is_empty() => return Err(error),
        // The image is whole as OCI; what more is said of it does not matter.
        (Ok(oci), Err(_)) => (oci, Vec::new()),
        // Docker may keep the index of all platforms and the files of one, which
        // is then the one in `manifest.json`.
        (Err(error @ (ImageError::NoPlatform { .. } | ImageError::Missing { .. })), Ok(docker))
            if docker.is_empty() || want.strict =>
        {
            return Err(error);
        }
        (Err(ImageError::NoPlatform { .. } | ImageError::Missing { .. }), Ok(docker)) => {
            (Vec::new(), docker)
        }
        (Err(error), _) => return Err(error),
    };
    for image in docker {
        // Names with a digest are shown by `index.json` alone; here they are unproven.
        let names = || image.names.iter().chain(&image.unproven);
        let named = |known: &&mut FoundImage| names().any(|name| known.names.contains(name));
        let digest = image
            .config_digest
            .unwrap_or_else(|| Digest::sha256(&image.config));
        let same = found
            .iter_mut()
            .find(|known| known.config_digest == Some(digest));
        if let Some(known) = same {
            known.source = Source::Oci;
            known.add_names(image.names);
            known.add_other_names(image.other_names);
            known.add_unproven(image.unproven);
        } else if found.iter_mut().find(named).is_none() {
            found.push(image);
        }
        // Else it is the same image for another platform than the wanted one.
    }
    for image in &mut found {
        image.drop_known_tags();
        image.drop_proven();
    }
    Ok(found)
}

/// Whether it is the list that is meant here; skopeo's directory has an object
/// under the same name.
pub(super) fn is_list(manifest: &[u8]) -> bool {
    manifest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// Whether `tag` is `<none>:<none>`, by which Docker says that there is no name.
pub(super) fn is_no_name(tag: &str) -> bool {
    tag.starts_with("<none>")
}

impl FoundImage {
    /// Adds a name as an archive spells it, which says nothing of the digests of
    /// manifests.
    pub(super) fn add_name(&mut self, name: &str) {
        match name.parse::<Reference>() {
            Ok(name) if name.digest().is_some() => self.add_unproven(vec![name]),
            Ok(name) => self.add_names(vec![name]),
            Err(_) if is_no_name(name) => {}
            Err(_) => self.add_other_names(vec![name.to_owned()]),
        }
    }

    pub(super) fn add_names(&mut self, names: Vec<Reference>) {
        for name in names {
            if !self.names.contains(&name) {
                self.names.push(name);
            }
        }
    }

    pub(super) fn add_other_names(&mut self, names: Vec<String>) {
        for name in names {
            if !self.other_names.contains(&name) {
                self.other_names.push(name);
            }
        }
    }

    pub(super) fn add_unproven(&mut self, names: Vec<Reference>) {
        for name in names {
            if !self.unproven.contains(&name) {
                self.unproven.push(name);
            }
        }
    }

    /// What `manifest.json` repeats of `index.json`, which has shown it (containerd
    /// exports images by the names that it has).
    fn drop_proven(&mut self) {
        let Self {
            names, unproven, ..
        } = self;
        unproven.retain(|name| !names.contains(name));
    }

    /// A bare tag says nothing more once a whole name has it.
    fn drop_known_tags(&mut self) {
        let Self {
            names, other_names, ..
        } = self;
        other_names.retain(|tag| !names.iter().any(|name| name.tag() == Some(tag)));
    }
}

/// Refuses a document that gives more names than anybody needs.
pub(super) fn few_names(file: &str, names: usize) -> Result<(), ImageError> {
    if names <= NAMES_MAX {
        return Ok(());
    }
    Err(ImageError::Limit {
        file: file.to_owned(),
        what: "names",
        limit: NAMES_MAX as u64,
    })
}
