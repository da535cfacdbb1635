//! Manifests and indexes, of OCI and of Docker's schema 2 alike.
//!
//! The two have the same keys (OCI image spec, manifest.md and image-index.md;
//! Docker's "image manifest version 2, schema 2"), and tools mix their media
//! types; so what a document is, its content decides.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::{or_default, texts};
use super::documents::{parse, parse_object};
use super::{DESCRIPTORS_MAX, ImageError, LAYERS_MAX, Platform};
use crate::digest::Digest;

/// What something is, and by which bytes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    #[serde(default)]
    pub(super) size: Option<u64>,
    #[serde(default)]
    platform: Option<SaidPlatform>,
    #[serde(default, deserialize_with = "texts")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) urls: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct SaidPlatform {
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    variant: String,
}

impl Descriptor {
    /// What the manifest is for, where the index says it.
    pub(super) fn platform(&self) -> Option<Platform> {
        let said = self.platform.as_ref()?;
        let platform = Platform {
            os: said.os.clone(),
            architecture: said.architecture.clone(),
            variant: Some(said.variant.clone()).filter(|variant| !variant.is_empty()),
        };
        (!said.architecture.is_empty()).then_some(platform)
    }

    /// Whether it is about an image instead of one: BuildKit's attestations have
    /// platform `unknown/unknown` and an annotation (BuildKit,
    /// docs/attestations/attestation-storage.md).
    pub(super) fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self
                .platform()
                .is_some_and(|platform| platform.is_unknown())
    }

    pub(super) fn is_index(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "application/vnd.oci.image.index.v1+json"
                | "application/vnd.docker.distribution.manifest.list.v2+json"
        )
    }

    /// Whether it can be a manifest; by media type, which may be left out.
    pub(super) fn may_be_manifest(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "" | "application/vnd.oci.image.manifest.v1+json"
                | "application/vnd.docker.distribution.manifest.v2+json"
                | "application/vnd.docker.distribution.manifest.v1+json"
                | "application/vnd.docker.distribution.manifest.v1+prettyjws"
        )
    }

    /// Whether the layer is one that archives leave out (OCI image spec,
    /// layer.md, "Non-Distributable Layers").
    pub(super) fn is_foreign(&self) -> bool {
        is_foreign(&self.media_type) || !self.urls.is_empty()
    }
}

/// Whether a media type is that of a layer that archives leave out.
#[must_use]
pub fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
}

/// The manifest of one image.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Manifest {
    /// Whether it is an image. Artifacts (Helm charts, signatures) use manifests
    /// too, with a config of another media type (OCI image spec, manifest.md,
    /// "Guidelines for Artifact Usage").
    pub(super) fn is_image(&self) -> bool {
        matches!(
            self.config.media_type.as_str(),
            // Left out, or not said by registries that did not know better.
            "" | "application/octet-stream"
                | "application/vnd.oci.image.config.v1+json"
                | "application/vnd.docker.container.image.v1+json"
        )
    }
}

/// A document that a descriptor can lead to.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub(super) enum Document {
    /// Several manifests.
    Index(Vec<Descriptor>),
    /// One image, or an artifact in its clothes.
    Manifest(Manifest),
    /// Nothing that leads to an image.
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default, deserialize_with = "or_default")]
    media_type: String,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index.
    pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let malformed = |what: &str| {
            Err(ImageError::Malformed {
                file: file.to_owned(),
                what: what.to_owned(),
            })
        };
        let limit = |what, limit: usize| {
            Err(ImageError::Limit {
                file: file.to_owned(),
                what,
                limit: limit as u64,
            })
        };
        // Asked first, because the entries of the other lists of schema 1 are
        // no descriptors.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            #[serde(default)]
            schema_version: Option<IgnoredAny>,
            #[serde(default)]
            fs_layers: Option<IgnoredAny>,
        }
        let version: Version = parse_object(file, bytes)?;
        if version.schema_version.is_some() && version.fs_layers.is_some() {
            return Err(ImageError::Schema1 {
                file: file.to_owned(),
            });
        }
        let raw: Raw = parse(file, bytes)?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(ImageError::Schema1 {
                file: file.to_owned(),
            });
        }
        match (raw.manifests, raw.config, raw.layers) {
            // One document that is two things has two meanings under one digest
            // (CVE-2021-41190).
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                malformed("it is an index and a manifest at once")
            }
            (Some(manifests), None, None) if manifests.len() > DESCRIPTORS_MAX => {
                limit("manifests", DESCRIPTORS_MAX)
            }
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), layers) => {
                let layers = layers.unwrap_or_default();
                if layers.len() > LAYERS_MAX {
                    return limit("layers", LAYERS_MAX);
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            (None, None, None) if !raw.media_type.is_empty() => Ok(Self::Other),
            (None, None, _) => malformed("it has neither `manifests` nor `config`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(json: &str) -> Result<Document, ImageError> {
        Document::parse("m", json.replace("$D", &format!("sha256:{HEX}")).as_bytes())
    }

    #[test]
    fn content_decides_what_a_document_is() {
        assert!(matches!(
            parse(r#"{"manifests":[]}"#),
            Ok(Document::Index(_))
        ));
        let manifest = r#"{"config":{"digest":"$D","annotations":null},"layers":null,"x":{}}"#;
        assert!(matches!(parse(manifest), Ok(Document::Manifest(_))));
        assert!(matches!(
            parse(r#"{"mediaType":"x/y","blobs":[]}"#),
            Ok(Document::Other)
        ));
    }

    #[test]
    fn what_is_ambiguous_old_or_too_much_is_refused() {
        let both = parse(r#"{"manifests":[],"layers":[]}"#)
            .unwrap_err()
            .to_string();
        assert!(both.contains("at once"), "{both}");
        for old in [
            r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"$D"}],"history":[]}"#,
            r#"{"schemaVersion":1,"config":{"digest":"$D"}}"#,
        ] {
            assert!(matches!(parse(old), Err(ImageError::Schema1 { .. })));
        }
        let many = format!(
            r#"{{"manifests":[{}]}}"#,
            vec![r#"{"digest":"$D"}"#; 4097].join(",")
        );
        assert!(matches!(parse(&many), Err(ImageError::Limit { .. })));
        let layers = vec![r#"{"digest":"$D"}"#; 1025].join(",");
        let many = format!(r#"{{"config":{{"digest":"$D"}},"layers":[{layers}]}}"#);
        assert!(matches!(parse(&many), Err(ImageError::Limit { .. })));
        for wrong in [
            "",
            "[]",
            "{}",
            "null",
            r#"{"manifests":[{"digest":"sha256:../x"}]}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_about_an_image_is_none() {
        let said = |json: &str| -> Descriptor {
            serde_json::from_str(&json.replace("$D", &format!("sha256:{HEX}"))).unwrap()
        };
        let unknown = r#"{"digest":"$D","platform":{"os":"unknown","architecture":"unknown"}}"#;
        assert!(said(unknown).is_attestation());
        let noted = r#"{"digest":"$D","annotations":{"vnd.docker.reference.type":"x"}}"#;
        assert!(said(noted).is_attestation());
        assert!(!said(r#"{"digest":"$D","platform":null}"#).is_attestation());
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert!(is_foreign(foreign));
        assert!(!is_foreign("application/vnd.oci.image.layer.v1.tar+gzip"));
    }
}
