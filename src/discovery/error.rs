//! Why there is no image, told with every place that was asked.

use std::io;

use super::Place;
use super::keyring::SignatureError;
use super::template::TemplateError;
use crate::causes::chain;
use crate::http::FetchError;

/// A place that did not have it, and why.
#[derive(Debug)]
pub struct Tried {
    /// The place.
    pub place: Place,
    /// What happened there.
    pub why: String,
    /// Whether it said that there is nothing, and did not just fail.
    pub absent: bool,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Nowhere.
    #[error("`{wanted}` was not found{}", told(.tried))]
    NotFound {
        /// What was looked for.
        wanted: String,
        /// Where.
        tried: Vec<Tried>,
    },
    /// It may be somewhere, and could not be fetched from there.
    #[error("`{wanted}` could not be fetched{}", told(.tried))]
    NotFetched {
        /// What was looked for.
        wanted: String,
        /// From where, and why not.
        tried: Vec<Tried>,
        /// What may help with the last of them.
        hint: Option<&'static str>,
    },
    /// The name and labels lead nowhere.
    #[error("`{wanted}` cannot be looked for")]
    Template {
        /// What was looked for.
        wanted: String,
        /// Why.
        source: TemplateError,
    },
    /// It was fetched or found, and is not to be trusted.
    #[error("the signature of `{place}` is not accepted")]
    Signature {
        /// The image.
        place: Place,
        /// Why.
        source: SignatureError,
        /// Where the publisher's keys are said to be.
        keys: Vec<String>,
    },
    /// Signatures are required, and there is nothing to verify them with.
    #[error("signatures are required, and there is no keyring")]
    NoKeyring,
    /// Only a local directory has Docker archives.
    #[error("`{0}` is a Docker image, which only local discovery finds")]
    NotAppc(String),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// The places of an error, one after the other.
fn told(tried: &[Tried]) -> String {
    let places: Vec<String> = (tried.iter())
        .map(|tried| format!("`{}`: {}", tried.place, tried.why))
        .collect();
    match places.is_empty() {
        true => String::new(),
        false => format!(" ({})", places.join("; ")),
    }
}

impl DiscoveryError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some(
                "look at name, version and labels; --discovery says where images are looked for"
                    .to_owned(),
            ),
            Self::NotFetched { hint, .. } => hint.map(str::to_owned),
            Self::Template { .. } => {
                Some("add what is missing: appc:NAME:VERSION,os=linux,arch=amd64".to_owned())
            }
            Self::Signature {
                source: SignatureError::Unknown(_),
                keys,
                ..
            } => Some(match keys.as_slice() {
                [] => "put the publisher's public key into the keyring, if you trust it".to_owned(),
                keys => format!(
                    "put the publisher's public key into the keyring, if you trust it; it is said to be at {}",
                    keys.join(", ")
                ),
            }),
            Self::NoKeyring => Some("--keyring DIR".to_owned()),
            Self::NotAppc(_) => Some("--discovery local --local-dir DIR".to_owned()),
            Self::Signature { .. } | Self::Interrupted => None,
        }
    }
}

impl Tried {
    pub(super) fn new(place: Place, error: &FetchError) -> Self {
        let why = match (error, &place) {
            // It is said where.
            (FetchError::File { path, source }, Place::File(at))
                if at.display().to_string() == *path =>
            {
                chain(source)
            }
            _ => chain(error),
        };
        Self {
            place,
            why,
            absent: is_absent(error),
        }
    }
}

pub(super) fn is_absent(error: &FetchError) -> bool {
    match error {
        FetchError::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
        other => other.is_absent(),
    }
}

/// Nothing was there; or something failed that might have had it.
pub(super) fn missed(
    wanted: String,
    mut tried: Vec<Tried>,
    hint: Option<&'static str>,
) -> DiscoveryError {
    if tried.iter().all(|tried| tried.absent) {
        return DiscoveryError::NotFound { wanted, tried };
    }
    // Files that are not there say nothing beside one that is.
    tried.retain(|tried| !tried.absent || matches!(tried.place, Place::Url(_)));
    DiscoveryError::NotFetched {
        wanted,
        tried,
        hint,
    }
}
