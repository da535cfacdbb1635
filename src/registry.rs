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
//! | `upload` | a blob, a manifest on its way there |
//! | `check` | whether a login is taken |
//! | `credentials` | who somebody is: files of logins, helpers |
//! | `error` | what went wrong |
//!
//! Rules: the OCI distribution specification; tokens as in Docker's "Token
//! authentication specification" (distribution/distribution, docs/spec/auth).

mod blob;
mod challenge;
mod check;
pub mod credentials;
mod endpoint;
mod error;
mod repository;
mod session;
mod upload;

use std::sync::atomic::AtomicBool;

pub use blob::{Coming, Reader, Room};
pub use credentials::{Credentials, CredentialsError, Login, Secret};
pub use endpoint::{Mirror, MirrorError};
pub use error::RegistryError;
pub use repository::{Document, Halt, Kind, Repository};
pub use upload::Arrival;

use crate::digest::Digest;
use crate::http::{Client, Network};
use crate::reference::Reference;
use session::Known;

/// What is needed to ask registries. `network.allow_http` does not count: whoever may be
/// asked without TLS is named here.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// How requests are made.
    pub network: Network,
    /// Hosts that are asked without TLS: `host`, `host:port`. This machine's own are,
    /// where they speak no TLS.
    pub insecure: Vec<String>,
    /// Who is asked before the registry, in this order.
    pub mirrors: Vec<Mirror>,
    /// Who somebody is.
    pub credentials: Credentials,
}

/// Who wants to know how far a transfer is. All methods may be called by several threads.
pub trait Progress: Send + Sync {
    /// A blob begins, or goes on: bytes that are there, and all, if known.
    fn begin(&self, _blob: &Digest, _there: u64, _len: Option<u64>) {}
    /// So many more bytes came.
    fn advance(&self, _blob: &Digest, _bytes: u64) {}
    /// A server is asked again after a pause, as something went wrong.
    fn again(&self, _server: &str, _why: &str) {}
    /// A mirror does not have something, or not as it should; another place is asked.
    fn passed_over(&self, _mirror: &str, _why: &str) {}
}

/// Tells nobody.
struct Silent;

impl Progress for Silent {}

/// What is to be done, which a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only ask whether one is let in.
    Nothing,
    /// Only read.
    Pull,
    /// Read and write.
    Push,
}

/// Asks registries. Tokens and logins are kept as long as this lives. Its `send` (in
/// `session`) is one request, for whatever is to be done.
#[derive(Debug)]
pub struct Registry {
    client: Client,
    settings: Settings,
    known: Known,
}

impl Registry {
    /// With these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        // Which servers may be asked so is decided here, server by server.
        let network = Network {
            allow_http: true,
            ..settings.network.clone()
        };
        Self {
            client: Client::new(network),
            settings,
            known: Known::default(),
        }
    }

    /// The repository of an image.
    #[must_use]
    pub fn repository(&self, name: &Reference) -> Repository<'_> {
        Repository::new(self, name)
    }

    /// Runs something that asks; when somebody wants to stop, all connections are
    /// closed, and this value is of no use any more.
    pub fn guarded<T>(&self, stop: &AtomicBool, work: impl FnOnce() -> T) -> T {
        self.client.guarded(stop, work)
    }

    /// Closes all connections. This value is of no use any more.
    pub fn shutdown(&self) {
        self.client.shutdown();
    }
}
