//! From manifests and indexes to the images that are wanted.
//!
//! Shared by the OCI layout, skopeo's directory and repositories, which differ only in
//! how a blob's file is called.

use super::documents::{Documents, There, check_size, parse_object};
use super::manifest::{Descriptor, Document, Manifest};
use super::{
    Config, DESCRIPTORS_MAX, FoundImage, INDEX_DEPTH_MAX, ImageError, LayerRef, Platform, Source,
    Want,
};
use crate::digest::{BlobId, Digest};

/// How files are called that are known by digest.
pub(super) struct Layout {
    pub(super) source: Source,
    pub(super) blob: fn(&Digest) -> String,
    pub(super) manifest: fn(&Digest) -> String,
}

/// Follows descriptors through one archive.
pub(super) struct Chooser<'a> {
    pub(super) documents: &'a Documents<'a>,
    pub(super) layout: Layout,
    pub(super) want: &'a Want,
}

/// A manifest to choose from.
pub(super) struct Leaf {
    descriptor: Descriptor,
    platform: Option<Platform>,
}

/// How many of the manifests that fit equally well.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// The first, as from an image index, where all of them are one image.
    First,
    /// All, as from a list of several images.
    All,
}

impl Chooser<'_> {
    /// All manifests below `descriptors`, indexes in them followed.
    pub(super) fn leaves(
        &self,
        file: &str,
        descriptors: &[Descriptor],
    ) -> Result<Vec<Leaf>, ImageError> {
        let mut leaves = Vec::new();
        self.collect(file, descriptors, None, 1, &mut leaves)?;
        Ok(leaves)
    }

    fn collect(
        &self,
        file: &str,
        descriptors: &[Descriptor],
        above: Option<&Platform>,
        depth: usize,
        to: &mut Vec<Leaf>,
    ) -> Result<(), ImageError> {
        if depth > INDEX_DEPTH_MAX {
            return Err(ImageError::Nested {
                file: file.to_owned(),
            });
        }
        for descriptor in descriptors
            .iter()
            .filter(|descriptor| !descriptor.is_attestation())
        {
            let platform = descriptor.platform().or_else(|| above.cloned());
            // Only a look into it tells what has no media type.
            if descriptor.is_index() || descriptor.media_type.is_empty() {
                let name = (self.layout.manifest)(&descriptor.digest);
                let document = match self.documents.there(&name)? {
                    There::No if descriptor.is_index() => {
                        let what = format!("an index named by `{file}`");
                        return Err(ImageError::Missing { file: name, what });
                    }
                    There::No => None,
                    There::Yes(_) => Some(self.document(file, descriptor)?.1),
                };
                match document {
                    Some(Document::Index(below)) => {
                        self.collect(&name, &below, platform.as_ref(), depth + 1, to)?;
                        continue;
                    }
                    Some(Document::Other) => continue,
                    Some(Document::Manifest(_)) | None => {}
                }
            } else if !descriptor.may_be_manifest() {
                // "Implementations SHOULD ignore unknown media types" (OCI image
                // spec, image-index.md).
                continue;
            }
            if to.len() >= DESCRIPTORS_MAX {
                let limit = DESCRIPTORS_MAX as u64;
                return Err(ImageError::Limit {
                    file: file.to_owned(),
                    what: "manifests",
                    limit,
                });
            }
            to.push(Leaf {
                descriptor: descriptor.clone(),
                platform,
            });
        }
        Ok(())
    }

    fn document(
        &self,
        file: &str,
        descriptor: &Descriptor,
    ) -> Result<(Vec<u8>, Document), ImageError> {
        let name = (self.layout.manifest)(&descriptor.digest);
        let what = format!("a manifest named by `{file}`");
        let bytes = self
            .documents
            .verified(&name, &descriptor.digest, descriptor.size, &what)?;
        let document = Document::parse(&name, &bytes)?;
        Ok((bytes, document))
    }

    /// The image of one leaf whatever it is for; nothing for an artifact.
    pub(super) fn image(&self, file: &str, leaf: &Leaf) -> Result<Option<FoundImage>, ImageError> {
        let (bytes, document) = self.document(file, &leaf.descriptor)?;
        let Document::Manifest(manifest) = document else {
            return Ok(None);
        };
        let name = (self.layout.manifest)(&leaf.descriptor.digest);
        let Some(mut image) = self.load(&name, bytes, &manifest)? else {
            return Ok(None);
        };
        // Builders put the variant into the index and forget it in the config.
        if let Some(said) = &leaf.platform {
            let arch = image.platform.normal().architecture;
            let silent = image.platform.variant.is_none() && said.normal().architecture == arch;
            if arch == "unknown" || silent {
                image.platform = said.clone();
            }
        }
        Ok(Some(image))
    }

    /// Those leaves that fit best; an error where there are images and none fits.
    pub(super) fn choose(
        &self,
        file: &str,
        leaves: &[Leaf],
        take: Take,
    ) -> Result<Vec<FoundImage>, ImageError> {
        let mut there = Vec::new();
        let mut fitting = Vec::new();
        let mut absent = None;
        for leaf in leaves {
            let name = (self.layout.manifest)(&leaf.descriptor.digest);
            let is_there = self.documents.there(&name)? != There::No;
            let (platform, image) = match &leaf.platform {
                Some(platform) => (platform.clone(), None),
                None if !is_there => {
                    absent.get_or_insert(name);
                    continue;
                }
                // Not said in the index, so the config has to say it.
                None => match self.image(file, leaf)? {
                    Some(image) => (image.platform.clone(), Some(image)),
                    None => continue,
                },
            };
            if let Some(rank) = self.want.platform.rank(&platform) {
                // Archives of one platform may keep the index of all.
                if is_there {
                    fitting.push((rank, leaf, image));
                } else {
                    absent.get_or_insert(name);
                }
            }
            if !there.contains(&platform) {
                there.push(platform);
            }
        }
        fitting.sort_by_key(|(rank, ..)| *rank);
        let mut found = Vec::new();
        let mut best = None;
        for (rank, leaf, image) in fitting {
            if best.is_some_and(|best| best < rank || take == Take::First) {
                break;
            }
            let image = match image {
                Some(image) => Some(image),
                None => self.image(file, leaf)?,
            };
            if let Some(image) = image {
                best = Some(rank);
                found.push(image);
            }
        }
        match (found.is_empty(), absent) {
            (false, _) => Ok(found),
            (true, Some(name)) => {
                let what = format!("a manifest for `{}` named by `{file}`", self.want.platform);
                Err(ImageError::Missing { file: name, what })
            }
            (true, None) if there.is_empty() => Ok(found),
            (true, None) => Err(ImageError::NoPlatform {
                wanted: self.want.platform.clone(),
                there,
            }),
        }
    }

    /// The image of a manifest; nothing for an artifact.
    pub(super) fn load(
        &self,
        file: &str,
        bytes: Vec<u8>,
        manifest: &Manifest,
    ) -> Result<Option<FoundImage>, ImageError> {
        if !manifest.is_image() {
            return Ok(None);
        }
        let said = &manifest.config;
        let config_file = (self.layout.blob)(&said.digest);
        let what = format!("the config named by `{file}`");
        let config = self
            .documents
            .verified(&config_file, &said.digest, said.size, &what)?;
        let parsed: Config = parse_object(&config_file, &config)?;
        let layers = self.layers(file, manifest, &config_file, &parsed)?;
        Ok(Some(FoundImage {
            source: self.layout.source,
            names: Vec::new(),
            other_names: Vec::new(),
            unproven: Vec::new(),
            manifest: Some(bytes),
            index: None,
            config,
            config_digest: Some(said.digest),
            layers,
            platform: parsed.platform(),
            history: Vec::new(),
        }))
    }

    fn layers(
        &self,
        file: &str,
        manifest: &Manifest,
        config_file: &str,
        config: &Config,
    ) -> Result<Vec<LayerRef>, ImageError> {
        let diffs = &config.rootfs.diff_ids;
        if diffs.len() != manifest.layers.len() {
            return Err(ImageError::LayerCount {
                file: file.to_owned(),
                config: config_file.to_owned(),
                layers: manifest.layers.len(),
                diff_ids: diffs.len(),
            });
        }
        let mut layers = Vec::with_capacity(diffs.len());
        for (layer, diff) in manifest.layers.iter().zip(diffs) {
            let name = (self.layout.blob)(&layer.digest);
            match self.documents.there(&name)? {
                There::Yes(Some(size)) => check_size(&name, layer.size, size)?,
                There::Yes(None) => {}
                There::No if layer.is_foreign() => {
                    let digest = layer.digest.to_string();
                    return Err(ImageError::Foreign {
                        digest,
                        url: layer.urls.first().cloned(),
                    });
                }
                There::No => {
                    let what = format!("a layer named by `{file}`");
                    return Err(ImageError::Missing { file: name, what });
                }
            }
            layers.push(LayerRef {
                file: name,
                blob: Some(BlobId(layer.digest)),
                size: layer.size,
                diff: Some(*diff),
                media_type: Some(layer.media_type.clone()).filter(|said| !said.is_empty()),
            });
        }
        Ok(layers)
    }
}
