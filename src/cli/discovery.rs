//! Settings of discovery, as verbs that may fetch images take them.

use std::env;
use std::path::PathBuf;

use super::Context;
use super::report::{Exit, Failure};
use crate::discovery::{
    Discovery, DiscoveryError, Keyring, Method, Network, Prefix, Proxies, Settings,
};

/// How images are looked for that the store does not have.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Discovery")]
#[group(skip)]
pub(super) struct Args {
    /// Where images are looked for. Default: local where --local-dir is given, else meta.
    #[arg(
        long,
        alias = "provisioner_discovery",
        env = "LAZYROOT_DISCOVERY",
        value_name = "HOW",
        value_enum
    )]
    discovery: Option<How>,
    /// The directory of local discovery.
    ///
    /// It has NAME-VERSION-OS-ARCH.aci, NAME:TAG.tar and NAME.tar; the slashes of a
    /// name are directories. Default: /var/lib/lazyroot/images for root,
    /// $XDG_DATA_HOME/lazyroot/images for others.
    #[arg(
        long,
        alias = "provisioner_local_dir",
        env = "LAZYROOT_LOCAL_DIR",
        value_name = "DIR"
    )]
    local_dir: Option<PathBuf>,
    /// Where simple discovery begins: a URL or a directory, followed by
    /// NAME-VERSION-OS-ARCH.aci.
    #[arg(
        long,
        env = "LAZYROOT_DISCOVERY_PREFIX",
        value_name = "PREFIX",
        default_value = "https://"
    )]
    discovery_prefix: Prefix,
    /// Ask also without TLS. Whoever is on the way can then exchange what comes.
    #[arg(long)]
    allow_http: bool,
    /// Directory of public OpenPGP keys whose signatures count.
    ///
    /// Files in it and in root.d count for every image, those in prefix.d/NAME for
    /// the image NAME and all below it. Without a keyring no signature is looked at.
    #[arg(long, env = "LAZYROOT_KEYRING", value_name = "DIR")]
    keyring: Option<PathBuf>,
    /// Refuse images that have no signature (AppC images only have them).
    #[arg(long)]
    require_signature: bool,
    /// Largest image that is fetched, or taken from a directory.
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = super::parse_size)]
    max_size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum How {
    /// In a directory of archives.
    Local,
    /// By a fixed template below a prefix.
    Simple,
    /// By what the host in the image's name says.
    Meta,
}

impl Args {
    /// Discovery as the arguments and the environment have it.
    pub(super) fn resolve(&self, context: &Context) -> Result<Discovery, Failure> {
        let default = match self.local_dir {
            // Who names a directory does not expect the network to be asked.
            Some(_) => How::Local,
            None => How::Meta,
        };
        let method = match self.discovery.unwrap_or(default) {
            How::Local => Method::Local(match &self.local_dir {
                Some(dir) => dir.clone(),
                // Beside the store, wherever that is by default.
                None => context.store.with_file_name("images"),
            }),
            How::Simple => Method::Simple(self.discovery_prefix.clone()),
            How::Meta => Method::Meta,
        };
        let proxies = Proxies::from_variables(|name| env::var(name).ok());
        let keyring = self.keyring.as_deref().map(Keyring::read).transpose();
        let network = Network {
            allow_http: self.allow_http,
            proxies: proxies.map_err(|error| Failure::of(Exit::Usage, &error))?,
            ..Network::default()
        };
        Ok(Discovery::new(Settings {
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
