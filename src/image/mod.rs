//! What an image says: names, config, layers; from the files of an archive.
//!
//! What it is for: recognising by content which of the many forms an archive
//! has, and answering with the same [`FoundImage`] for all of them. May assume:
//! a [`Files`] that answers for names in the archive. Must not know: paths,
//! descriptors, tar, the store; layers are named here and never opened.
//!
//! * [`find`]: the one way in.
//! * [`Config`]: what a config says. [`Platform`]: who can run it.
//! * [`appc`]: AppC images, which are told from others before that.
//! * [`convert`]: what one kind says, in the words of the other.
//! * [`identity`]: as whom an image is run.
//! * `oci`, `docker`, `legacy`, `dir`, `repository`: one file a form. `choose`: which of
//!   several platforms. `manifest`, `documents`: the JSON below them.
//!
//! Nothing of an archive is believed: lengths and digests are compared, names
//! stay inside, numbers are limited.

pub mod appc;
mod choose;
mod config;
pub mod convert;
mod dir;
mod docker;
mod documents;
mod error;
pub mod identity;
mod legacy;
mod manifest;
mod oci;
mod platform;
mod repository;

pub use config::{Config, History, RootFs, RunConfig};
pub use error::{ImageError, Seems};
pub use legacy::legacy_config;
pub use manifest::is_foreign;
pub use platform::{Platform, PlatformError};
pub use repository::{Named, find_in_repository};

use std::io;

use documents::Documents;

use crate::digest::{BlobId, DiffId, Digest};
use crate::reference::{DEFAULT_DOMAIN, Reference};

/// Longest JSON file that is read. Registries take manifests of 4 MiB at most
/// (distribution spec, "Pushing Manifests"); configs grow with history.
pub const JSON_MAX: u64 = 8 << 20;
/// Most layers of one image. Docker makes 127 at most; builders have no limit.
pub const LAYERS_MAX: usize = 1024;
/// Most images of one archive.
pub const IMAGES_MAX: usize = 1024;
/// Most names in one archive: each is compared with all of its image.
pub const NAMES_MAX: usize = 4096;
/// Most entries of one index, and most manifests below one name.
pub const DESCRIPTORS_MAX: usize = 4096;
/// Deepest nesting of indexes, the layout's own included. Two is usual.
pub const INDEX_DEPTH_MAX: usize = 4;

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

/// What is looked for in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The platform to choose where there are several.
    pub platform: Platform,
    /// Somebody asked for that platform, so an image that is there for another
    /// one only is refused; else it is taken, as `docker load` does.
    pub strict: bool,
    /// The one image that is taken of an archive that names images; all where nobody says
    /// one. An archive without names is taken for it.
    pub name: Option<Reference>,
}

impl Want {
    /// What suits the host.
    #[must_use]
    pub fn host() -> Self {
        Self {
            platform: Platform::host(),
            strict: false,
            name: None,
        }
    }

    /// That platform or nothing.
    #[must_use]
    pub fn only(platform: Platform) -> Self {
        Self {
            platform,
            strict: true,
            name: None,
        }
    }

    /// The same, of the image of this name.
    #[must_use]
    pub fn named(self, name: Reference) -> Self {
        Self {
            name: Some(name),
            ..self
        }
    }
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
    /// An App Container Image.
    Appc,
    /// A repository of a registry.
    Registry,
}

/// One image found in an archive; its layers not looked at yet.
#[derive(Debug, Clone)]
pub struct FoundImage {
    /// Where it came from.
    pub source: Source,
    /// Names that the archive gives it.
    pub names: Vec<Reference>,
    /// Names that are no reference by themselves, as written: mostly a bare tag
    /// (`latest`) of an OCI layout. Good for choosing one image of several.
    pub other_names: Vec<String>,
    /// Names with a digest that the archive does not show to be the image's. Whoever asks
    /// for such a name asks for those bytes and nothing else, so the image must not get it.
    pub unproven: Vec<Reference>,
    /// Its manifest, raw, digest checked; nothing for a `docker save` archive.
    pub manifest: Option<Vec<u8>>,
    /// Digest of the index of several platforms that its manifest was chosen from, if
    /// it was asked for by that.
    pub index: Option<Digest>,
    /// Its config, raw, digest checked. For a legacy archive: the JSON of the top layer.
    pub config: Vec<u8>,
    /// The declared digest of the config where there is one.
    pub config_digest: Option<Digest>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// What it is for.
    pub platform: Platform,
    /// How its layers were made, lowest first; of a legacy archive only, where no
    /// config has it. [`legacy_config`] puts it there.
    pub history: Vec<History>,
}

impl FoundImage {
    /// All names, as people write them.
    fn all_names(&self) -> impl Iterator<Item = String> {
        let names = self.names.iter().chain(&self.unproven);
        let names = names.map(Reference::familiar);
        names.chain(self.other_names.iter().cloned())
    }

    fn count_names(&self) -> usize {
        self.names.len() + self.other_names.len() + self.unproven.len()
    }

    /// By which people know it: a name, or the digest of its config.
    fn called(&self) -> String {
        let named = self.names.first().map(Reference::familiar);
        let named = named.or_else(|| self.other_names.first().cloned());
        named.unwrap_or_else(|| Digest::sha256(&self.config).to_string())
    }
}

/// What is found in an archive.
#[derive(Debug)]
pub struct Found {
    /// The images; at least one.
    pub images: Vec<FoundImage>,
    /// Why others are left out that nobody could use here.
    pub left_out: Vec<ImageError>,
}

/// The images of an archive, whatever its form.
///
/// # Errors
/// No image, none for the wanted platform, none that Linux can show, or one that is not
/// whole: a file that is missing, has another digest, length or form than the image says.
pub fn find(files: &dyn Files, want: &Want) -> Result<Found, ImageError> {
    let documents = Documents::new(files);
    let index = documents.get(oci::INDEX)?;
    let manifest = documents.get(docker::MANIFEST)?;
    let marked = documents.size(oci::MARK)?.is_some();
    let (file, found) = match (index, manifest) {
        (Some(index), Some(manifest)) if docker::is_list(&manifest) => {
            let oci = oci::find(&documents, &index, want);
            let docker = docker::find(&documents, &manifest);
            (oci::INDEX, docker::merge(oci, docker, want)?)
        }
        (Some(index), None) => (oci::INDEX, oci::find(&documents, &index, want)?),
        (Some(index), Some(_)) if marked => (oci::INDEX, oci::find(&documents, &index, want)?),
        (_, Some(manifest)) if docker::is_list(&manifest) => {
            (docker::MANIFEST, docker::find(&documents, &manifest)?)
        }
        (_, Some(manifest)) => (docker::MANIFEST, dir::find(&documents, manifest, want)?),
        (None, None) => match documents.get(legacy::REPOSITORIES)? {
            Some(repositories) => (
                legacy::REPOSITORIES,
                legacy::find(&documents, &repositories)?,
            ),
            None => {
                return Err(ImageError::NotAnImage {
                    seems: seems(&documents)?,
                });
            }
        },
    };
    if found.is_empty() {
        return Err(ImageError::Empty {
            file: file.to_owned(),
        });
    }
    if found.len() > IMAGES_MAX {
        let limit = IMAGES_MAX as u64;
        return Err(ImageError::Limit {
            file: file.to_owned(),
            what: "images",
            limit,
        });
    }
    docker::few_names(file, found.iter().map(FoundImage::count_names).sum())?;
    let found = match &want.name {
        Some(name) => named(found, name)?,
        None => found,
    };
    fitting(found, want)
}

/// The images of this name, if any has a name. What an archive says less of than that fits
/// where nothing fits better: a repository of whatever registry (as in Mesos), a bare tag, a
/// name with a digest.
fn named(found: Vec<FoundImage>, wanted: &Reference) -> Result<Vec<FoundImage>, ImageError> {
    if found.iter().all(|image| image.count_names() == 0) {
        return Ok(found);
    }
    let path = |name: &Reference| {
        let short = name.path().strip_prefix("library/");
        name.path() == wanted.path() || short == Some(wanted.path())
    };
    let bare = |name: &Reference| {
        name.domain() == DEFAULT_DOMAIN && path(name) && name.tag() == wanted.tag()
    };
    let digested = |name: &Reference| {
        let tag = name.tag();
        name.repository() == wanted.repository() && (tag.is_none() || tag == wanted.tag())
    };
    let is_tag = |name: &String| wanted.tag() == Some(name);
    let ways: [&dyn Fn(&FoundImage) -> bool; 4] = [
        &|image| image.names.contains(wanted),
        &|image| image.names.iter().any(bare),
        &|image| image.other_names.iter().any(is_tag),
        &|image| image.unproven.iter().any(digested),
    ];
    match ways.into_iter().find(|way| found.iter().any(way)) {
        Some(way) => Ok(found.into_iter().filter(way).collect()),
        None => {
            let mut there: Vec<String> = found.iter().flat_map(FoundImage::all_names).collect();
            there.sort();
            Err(ImageError::OtherNames {
                wanted: wanted.familiar(),
                there,
            })
        }
    }
}

/// Keeps what suits a platform that somebody asked for, and leaves out what no Linux can show.
fn fitting(found: Vec<FoundImage>, want: &Want) -> Result<Found, ImageError> {
    let found = match want.strict && !found.is_empty() {
        true => asked_for(found, want)?,
        false => found,
    };
    let shown = |image: &FoundImage| !image.platform.is_windows();
    let (images, others): (Vec<_>, Vec<_>) = found.into_iter().partition(shown);
    let refused = |image: FoundImage| ImageError::Windows {
        image: image.called(),
        platform: image.platform,
    };
    let mut left_out: Vec<ImageError> = others.into_iter().map(refused).collect();
    match images.is_empty() && !left_out.is_empty() {
        true => Err(left_out.swap_remove(0)),
        false => Ok(Found { images, left_out }),
    }
}

fn asked_for(found: Vec<FoundImage>, want: &Want) -> Result<Vec<FoundImage>, ImageError> {
    let runs = |image: &FoundImage| want.platform.rank(&image.platform).is_some();
    let (found, others): (Vec<_>, Vec<_>) = found.into_iter().partition(runs);
    if found.is_empty() {
        let there = others.into_iter().map(|image| image.platform).collect();
        return Err(ImageError::NoPlatform {
            wanted: want.platform.clone(),
            there,
        });
    }
    Ok(found)
}

/// What an archive without an image may be, for the message.
fn seems(documents: &Documents<'_>) -> Result<Option<Seems>, ImageError> {
    let any = |names: &[&str]| -> Result<bool, ImageError> {
        for name in names {
            if documents.size(name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if any(&[oci::MARK])? {
        return Ok(Some(Seems::Blobs));
    }
    if any(&["manifest"])? {
        return Ok(Some(Seems::AppC));
    }
    if any(&[
        "etc/os-release",
        "usr/lib/os-release",
        "etc/passwd",
        "bin/sh",
        "usr/bin/sh",
    ])? {
        return Ok(Some(Seems::RootFs));
    }
    Ok(None)
}
