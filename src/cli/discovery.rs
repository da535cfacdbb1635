//! Settings of discovery, as verbs that may fetch images take them.

use std::env;
use std::path::PathBuf;

use super::report::{Exit, Failure};
use crate::discovery::{
    self, Discovery, DiscoveryError, Keyring, Method, Place, Prefix, Signature,
};
use crate::http::{Network, Proxies};

/// How images are looked for that the store does not have.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// By which way.
    pub(super) how: How,
    /// The directory of local discovery.
    pub(super) local_dir: PathBuf,
    /// Where simple discovery begins.
    pub(super) prefix: Prefix,
    /// Ask also without TLS.
    pub(super) allow_http: bool,
    /// Public keys whose signatures count.
    pub(super) keyring: Option<PathBuf>,
    /// Refuse images that have no signature.
    pub(super) require_signature: bool,
    /// Largest image that is fetched, in bytes.
    pub(super) max_size: u64,
}

/// A way to find images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum How {
    /// In a directory of archives.
    Local,
    /// By a fixed template below a prefix.
    Simple,
    /// By what the host in the image's name says.
    Meta,
    /// From registries, where Docker images are; AppC images as with meta.
    Registry,
}

impl How {
    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Simple => "simple",
            Self::Meta => "meta",
            Self::Registry => "registry",
        }
    }
}

impl Settings {
    /// Discovery of AppC images as the settings have it.
    pub(super) fn appc(&self) -> Result<Discovery, Failure> {
        self.open(match self.how {
            How::Local => Method::Local(self.local_dir.clone()),
            How::Simple => Method::Simple(self.prefix.clone()),
            How::Meta | How::Registry => Method::Meta,
        })
    }

    /// The directory that Docker images are looked for in, if they are in any.
    pub(super) fn docker(&self) -> Result<Option<Discovery>, Failure> {
        match self.how {
            How::Registry => Ok(None),
            _ => self.open(Method::Local(self.local_dir.clone())).map(Some),
        }
    }

    /// Whether registries are asked for Docker images that are in no directory. Who
    /// names a directory and nothing else does not expect that.
    pub(super) fn asks_registries(&self) -> bool {
        self.how != How::Local
    }

    fn open(&self, method: Method) -> Result<Discovery, Failure> {
        let proxies = Proxies::from_variables(|name| env::var(name).ok());
        let keyring = self.keyring.as_deref().map(Keyring::read).transpose();
        let network = Network {
            allow_http: self.allow_http,
            proxies: proxies.map_err(|error| Failure::of(Exit::Usage, &error))?,
            ..Network::default()
        };
        Ok(Discovery::new(discovery::Settings {
            method,
            network,
            keyring: keyring.map_err(|error| {
                Failure::of(Exit::Failed, &error)
                    .hint("a keyring is a directory of files of public keys (gpg --armor --export)")
            })?,
            require_signature: self.require_signature,
            max_size: self.max_size,
        })?)
    }
}

/// What is known of who made an image.
pub(super) fn note(from: &Place, signature: &Signature) -> Option<String> {
    match signature {
        Signature::Good(signer) => {
            let user = signer.user.as_deref().unwrap_or("a key without a name");
            Some(format!(
                "`{from}` is signed by {user} ({})",
                signer.fingerprint
            ))
        }
        Signature::Missing => Some(format!("note: `{from}` has no signature")),
        Signature::Unchecked => None,
    }
}

impl From<DiscoveryError> for Failure {
    fn from(error: DiscoveryError) -> Self {
        let exit = match &error {
            DiscoveryError::NotFound { .. } => Exit::NotFound,
            DiscoveryError::Template { .. }
            | DiscoveryError::NoKeyring
            | DiscoveryError::NotAppc(_) => Exit::Usage,
            DiscoveryError::Interrupted => Exit::Interrupted,
            DiscoveryError::NotFetched { .. } | DiscoveryError::Signature { .. } => Exit::Failed,
        };
        let failure = Self::of(exit, &error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
