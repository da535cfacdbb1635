//! What an image says: names, config, layers; from the files of an archive.
//!
//! STUB: to be written. The types below are fixed, more may be added.

use std::io;

use crate::digest::{BlobId, DiffId, Digest};
use crate::reference::Reference;

/// The files of an archive, a layout or a directory, by their names in it.
pub trait Files {
    /// The whole of a small file; nothing where there is no such file.
    ///
    /// # Errors
    /// Failure to read, or a file over `limit` bytes.
    fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>>;

    /// Length of a file in bytes, links followed; nothing where there is none.
    ///
    /// # Errors
    /// Failure to look.
    fn size(&self, name: &str) -> io::Result<Option<u64>>;
}

/// The operating system and processor an image is for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, `arm` ...
    pub architecture: String,
    /// `v7` ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// One layer of an image, as the image names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRef {
    /// The file in the archive that has it.
    pub file: String,
    /// Digest of that file, where the image says one (OCI: always).
    pub blob: Option<BlobId>,
    /// Its length, where the image says one.
    pub size: Option<u64>,
    /// Digest of the uncompressed layer, where the image says one (all but legacy).
    pub diff: Option<DiffId>,
    /// Media type, where the image says one.
    pub media_type: Option<String>,
}

/// What generation of archive an image came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `repositories` and `<id>/json` (Docker before 1.10).
    DockerLegacy,
    /// `manifest.json`.
    Docker,
    /// An OCI layout.
    Oci,
    /// `skopeo`'s `dir:` layout.
    Dir,
}

/// One image found in an archive; its layers not looked at yet.
#[derive(Debug, Clone)]
pub struct FoundImage {
    /// Where it came from.
    pub source: Source,
    /// Names that the archive gives it.
    pub names: Vec<Reference>,
    /// Its manifest, raw, digest checked; nothing for a `docker save` archive.
    pub manifest: Option<Vec<u8>>,
    /// Its config, raw, digest checked. For a legacy archive: the JSON of the top layer.
    pub config: Vec<u8>,
    /// The declared digest of the config where there is one.
    pub config_digest: Option<Digest>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// What it is for.
    pub platform: Platform,
}
