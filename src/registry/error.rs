//! Why a registry does not give, or take, what it should.

use std::time::Duration;

use super::credentials::CredentialsError;
use crate::digest::Digest;
use crate::http::FetchError;

/// Why something did not come from a registry, or did not go there.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such thing.
    #[error("{what} is not at `{registry}`{}", words(.said))]
    NotFound {
        /// What was asked for.
        what: String,
        /// The registry.
        registry: String,
        /// What the registry says.
        said: Option<String>,
    },
    /// Whoever asked may not have it.
    #[error("`{registry}` does not let {} have `{repository}`{}", who(.known), words(.said))]
    Refused {
        /// The registry.
        registry: String,
        /// The repository there.
        repository: String,
        /// Whether there was a login to send.
        known: bool,
        /// What the registry says.
        said: Option<String>,
    },
    /// A login that was to be looked at is none.
    #[error("`{registry}` does not take this login{}", words(.said))]
    NoLogin {
        /// The registry.
        registry: String,
        /// What the registry says.
        said: Option<String>,
    },
    /// Too many requests, by its own count.
    #[error("`{registry}` takes no more requests now{}", words(.said))]
    TooMany {
        /// The registry.
        registry: String,
        /// When it will again, if it says so.
        wait: Option<Duration>,
        /// What the registry says.
        said: Option<String>,
    },
    /// Another answer than the thing.
    #[error("`{url}` was answered with {status}{}", words(.said))]
    Status {
        /// What was asked for, without its query.
        url: String,
        /// The answer.
        status: u16,
        /// When to ask again, if it says so.
        wait: Option<Duration>,
        /// What the registry says.
        said: Option<String>,
    },
    /// No answer, or one that is none.
    #[error("cannot fetch `{url}`")]
    Fetch {
        /// What was asked for, without its query.
        url: String,
        /// Why.
        source: FetchError,
    },
    /// A demand for a login that cannot be met.
    #[error("`{registry}` demands a login in a way that cannot be met: {what}")]
    Challenge {
        /// The registry.
        registry: String,
        /// What is wrong.
        what: String,
    },
    /// What somebody is known by cannot be found.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Other bytes than those that were asked for.
    #[error("{what} from `{registry}` has digest {found}, and {wanted} was asked for")]
    Digest {
        /// What was asked for.
        what: String,
        /// The registry.
        registry: String,
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// A length that is not the one that the image says.
    #[error("`{registry}` gives {found} bytes for blob {blob}, but the image says {wanted}")]
    Size {
        /// The blob.
        blob: Digest,
        /// The registry.
        registry: String,
        /// By the image's manifest.
        wanted: u64,
        /// By the registry; there may be more.
        found: u64,
    },
    /// A file that blobs come into.
    #[error(transparent)]
    File {
        /// Which, and why.
        source: FetchError,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

fn words(said: &Option<String>) -> String {
    said.as_ref()
        .map_or_else(String::new, |said| format!(" (it says: {said})"))
}

fn who(known: &bool) -> &'static str {
    match known {
        true => "you",
        false => "strangers",
    }
}

impl RegistryError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TooMany { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 500 | 502..=504),
            Self::Fetch { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Credentials(error) => return error.hint(),
            Self::NoLogin { .. } => {
                "another user or password; some registries want a token in its place"
            }
            Self::Refused {
                registry, known, ..
            } => {
                return Some(match known {
                    true => format!("lazyroot login {registry}, as somebody who may"),
                    false => {
                        format!("lazyroot login {registry}, if it exists and is not for everybody")
                    }
                });
            }
            Self::TooMany { wait, .. } => match wait {
                Some(wait) => {
                    return Some(format!("the same again in {} s", wait.as_secs().max(1)));
                }
                None => "the same again later, or a mirror (--mirror)",
            },
            Self::Fetch {
                source: FetchError::TooLarge { .. },
                ..
            } => "--max-size raises the limit",
            Self::Fetch {
                source: FetchError::Stalled(_) | FetchError::Cut { .. },
                ..
            } => "the same again: what was fetched is kept",
            Self::Fetch { source, .. } | Self::File { source } if source.is_full() => {
                "lazyroot gc, or a store on a larger disk with --store DIR"
            }
            Self::Fetch { source, .. } if source.is_about_tls() => {
                "--insecure HOST for a registry without TLS, --cacert FILE for one with a \
                 certificate of your own"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}
