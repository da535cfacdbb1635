//! Registries: images over the distribution API, version 2.
//!
//! What it is for: from a [`Reference`] to the bytes of manifests and blobs, whoever has
//! them (a mirror first, the registry itself else), whatever it takes to be let in, and
//! however often the connection breaks. May assume nothing of what a registry says:
//! digests are computed, lengths compared. Must not know the store, nor what is in a
//! manifest: it is given digests.
//!
//! Secrets go to the registry that they are for, and to where that one has tokens made;
//! never along a redirect to another server, never from TLS to none.
//!
//! | file | what it knows |
//! |---|---|
//! | `endpoint` | who is asked: the registry's host, mirrors, with TLS or without |
//! | `challenge` | what a 401 demands |
//! | `session` | one request: token, redirects, what an answer means |
//! | `blob` | a blob while it comes; going on where it was cut |
//! | `credentials` | who somebody is: files of logins, helpers |
//! | `error` | what went wrong |
//!
//! Rules: the OCI distribution specification; tokens as in Docker's "Token
//! authentication specification" (distribution/distribution, docs/spec/auth).

pub mod credentials;
mod error;

pub use credentials::{Credentials, CredentialsError, Login, Secret};
pub use error::RegistryError;

use crate::http::Network;
use crate::reference::Reference;

/// What is needed to ask registries. `network.allow_http` does not count: whoever may be
/// asked without TLS is named here.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// How requests are made.
    pub network: Network,
    /// Hosts that are asked without TLS: `host`, `host:port`.
    pub insecure: Vec<String>,
    /// Who is asked before the registry.
    pub mirrors: Vec<Mirror>,
    /// Who somebody is.
    pub credentials: Credentials,
}

/// A server that has images of a registry: `[REGISTRY=][http://]HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    registry: String,
    host: String,
    prefix: String,
    plain: bool,
}

/// What is to be done, which a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Pull,
    /// Read and write.
    Push,
}

/// Asks registries. `send` (crate-private, in `session`) is what push builds on:
///
/// ```text
/// fn origin(&self, name: &Reference) -> Endpoint
/// fn send(&self, to: &Endpoint, call: Call<'_>) -> Result<Answer, RegistryError>
/// Call { method, target: "blobs/uploads/" | a whole URL of that registry (Location),
///        headers, payload: Nothing | Bytes(&[u8]) | File(&File, offset, len), access, mount_from: Option<&str> }
/// ```
///
/// A 401 is answered with a token (once), redirects of GET and HEAD are followed, any other
/// status is returned for the caller to look at (`session::refused` makes an error of it).
#[derive(Debug)]
pub struct Registry {
    _settings: Settings,
}

impl Registry {
    /// With these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            _settings: settings,
        }
    }

    /// What a registry is called in credentials: the reference's domain.
    #[must_use]
    pub fn key(name: &Reference) -> &str {
        name.domain()
    }
}
