//! Why an archive's image cannot be taken, and what to try.

use std::io;

use super::{INDEX_DEPTH_MAX, JSON_MAX, Platform};

/// Why an image cannot be found or taken.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// None of the files is there by which an image is recognised.
    #[error("there is no image in it")]
    NotAnImage {
        /// What it seems to be, where that can be told.
        seems: Option<Seems>,
    },
    /// An image's files are there, and no image is in them.
    #[error("`{file}` lists no image")]
    Empty {
        /// The file that lists.
        file: String,
    },
    /// There are images, but none that fits.
    #[error("there is no image for `{wanted}`, only for {}", list(.there))]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        there: Vec<Platform>,
    },
    /// There are images of other names.
    #[error("the archive has no `{wanted}`, only {}", some(.there))]
    OtherNames {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// What Linux cannot show.
    #[error("the image `{image}` is for `{platform}`, whose layers are no root file system here")]
    Windows {
        /// Its name or ID.
        image: String,
        /// What it is for.
        platform: Platform,
    },
    /// A file could not be read.
    #[error("cannot read `{file}`")]
    Read {
        /// Its name in the archive.
        file: String,
        /// What was answered.
        source: io::Error,
    },
    /// A file is named and not there.
    #[error("`{file}` is missing ({what})")]
    Missing {
        /// Its name in the archive.
        file: String,
        /// What it would be, and who names it.
        what: String,
    },
    /// A layer that the archive leaves to be fetched from elsewhere.
    #[error("layer `{digest}` is not in the archive: it is a non-distributable layer")]
    Foreign {
        /// Its name.
        digest: String,
        /// Where the image says it can be had.
        url: Option<String>,
    },
    /// A name that leads out of the archive.
    #[error("`{name}` in `{file}` points outside the archive: {what}")]
    Outside {
        /// The file that names it.
        file: String,
        /// The name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A JSON file over [`JSON_MAX`].
    #[error("`{file}` has {size} bytes: over {limit} is not read as JSON", limit = JSON_MAX)]
    TooLarge {
        /// Its name in the archive.
        file: String,
        /// Its length in bytes.
        size: u64,
    },
    /// A number beyond what is accepted.
    #[error("`{file}` has more than {limit} {what}")]
    Limit {
        /// The file that has them.
        file: String,
        /// What there are too many of.
        what: &'static str,
        /// How many are accepted.
        limit: u64,
    },
    /// Not JSON, or not of the expected form.
    #[error("`{file}` cannot be understood")]
    Json {
        /// Its name in the archive.
        file: String,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// Well-formed JSON that makes no sense.
    #[error("`{file}` makes no sense: {what}")]
    Malformed {
        /// Its name in the archive.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// Content that is not what its name says.
    #[error("`{file}` should have digest `{declared}` and has `{actual}`")]
    Digest {
        /// Its name in the archive.
        file: String,
        /// What it should be.
        declared: String,
        /// What it is.
        actual: String,
    },
    /// Another length than its descriptor says.
    #[error("`{file}` should have {declared} bytes and has {actual}")]
    Size {
        /// Its name in the archive.
        file: String,
        /// What it should be.
        declared: u64,
        /// What it is.
        actual: u64,
    },
    /// Manifest and config disagree.
    #[error("`{file}` has {layers} layers, its config `{config}` has {diff_ids}")]
    LayerCount {
        /// The manifest.
        file: String,
        /// The config.
        config: String,
        /// Layers of the manifest.
        layers: usize,
        /// Entries of `rootfs.diff_ids`.
        diff_ids: usize,
    },
    /// Docker's manifest version 2, schema 1.
    #[error("`{file}` is a Docker manifest of schema 1, which is not supported")]
    Schema1 {
        /// Its name in the archive.
        file: String,
    },
    /// A layout of a later version than 1.
    #[error("`oci-layout` says version `{0}`: only 1 is understood")]
    LayoutVersion(String),
    /// Indexes in indexes without end.
    #[error("`{file}` is nested deeper than {limit} indexes", limit = INDEX_DEPTH_MAX)]
    Nested {
        /// The index that is one too many.
        file: String,
    },
    /// A legacy layer that is its own ancestor.
    #[error("layer `{0}` is its own ancestor")]
    Loop(String),
}

/// What an archive without an image seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seems {
    /// The tree of a root file system.
    RootFs,
    /// An App Container Image.
    AppC,
    /// A directory that has an OCI layout's blobs and not its index.
    Blobs,
}

fn list(there: &[Platform]) -> String {
    if there.is_empty() {
        return "unknown platforms".to_owned();
    }
    there
        .iter()
        .map(|platform| format!("`{platform}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The first of them: an archive may have thousands.
fn some(there: &[String]) -> String {
    const SHOWN: usize = 8;
    let first = there.iter().take(SHOWN).map(|name| format!("`{name}`"));
    let more = there.len().saturating_sub(SHOWN);
    let more = (more > 0).then(|| format!("{more} more"));
    first.chain(more).collect::<Vec<_>>().join(", ")
}

impl ImageError {
    /// What to try, where something can be tried.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotAnImage {
                seems: Some(Seems::RootFs),
            } => {
                "this looks like a root file system: wrap it with `docker import` or `buildah` first"
            }
            Self::NotAnImage {
                seems: Some(Seems::AppC),
            } => {
                "this looks like an App Container Image: those begin with `manifest` or `rootfs`, \
                 and have nothing else; pack it again so"
            }
            Self::NotAnImage {
                seems: Some(Seems::Blobs),
            } => "`index.json` is missing beside `blobs`: was it copied whole?",
            Self::NotAnImage { seems: None } => {
                "an image has `index.json`, `manifest.json` or `repositories` at its top: make one \
                 with `docker save` or `skopeo copy`"
            }
            Self::NoPlatform { there, .. } => {
                let first = there.iter().find(|platform| !platform.is_windows())?;
                return Some(format!("`--platform {first}`"));
            }
            Self::Windows { .. } => "an image of the same program for Linux, if there is one",
            Self::Missing { .. } | Self::Size { .. } => {
                "was the archive cut short? save the image again"
            }
            Self::Digest { .. } => "the archive is damaged: save or copy the image again",
            Self::Foreign { url: Some(url), .. } => {
                return Some(format!("the image says that it can be had from {url}"));
            }
            Self::Schema1 { .. } => "convert it: `skopeo copy --format v2s2 ...`",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
