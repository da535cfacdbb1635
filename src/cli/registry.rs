//! Settings of registries, as verbs that ask them take them.

use std::env;
use std::path::PathBuf;

use super::report::{Exit, Failure};
use super::{logins, settings::Host};
use crate::http::{Network, Proxies, Roots};
use crate::image::ImageError;
use crate::import::ImportError;
use crate::registry::{self, Credentials, Mirror};

/// How registries are asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// Hosts that are asked without TLS.
    pub(super) insecure: Vec<Host>,
    /// Who is asked before the registry.
    pub(super) mirrors: Vec<Mirror>,
    /// Certificates of authorities, besides the system's.
    pub(super) cacert: Option<PathBuf>,
    /// The only file of logins.
    pub(super) auth_file: Option<PathBuf>,
    /// Layers that are fetched at once.
    pub(super) at_once: usize,
}

impl Settings {
    /// The logins of whoever runs this.
    pub(super) fn credentials(&self) -> Credentials {
        logins::credentials(self.auth_file.as_deref())
    }

    /// What a registry's client needs, with the logins of whoever runs this.
    pub(super) fn settings(&self) -> Result<registry::Settings, Failure> {
        let proxies = Proxies::but_loopback(|name| env::var(name).ok());
        let roots = self.cacert.as_deref().map(Roots::with_file).transpose();
        let network = Network {
            proxies: proxies.map_err(|error| Failure::of(Exit::Usage, &error))?,
            roots: roots
                .map_err(|error| Failure::of(Exit::Usage, &error))?
                .unwrap_or_default(),
            ..Network::default()
        };
        Ok(registry::Settings {
            network,
            insecure: self.insecure.iter().map(ToString::to_string).collect(),
            mirrors: self.mirrors.clone(),
            credentials: self.credentials(),
        })
    }
}

/// What to try where the words of archives do not fit.
pub(super) fn hint(error: &ImportError) -> Option<String> {
    match error {
        ImportError::Image(ImageError::Schema1 { .. }) => Some(
            "have it pushed again by a tool of today, or convert it: \
             skopeo copy --format v2s2 docker://... docker-archive:FILE, then lazyroot import FILE"
                .to_owned(),
        ),
        ImportError::Image(ImageError::NoPlatform { .. }) => error.hint(),
        ImportError::Image(_) | ImportError::Layer { .. } | ImportError::Dangling { .. } => {
            Some("the same again; if it stays so, the image is damaged at the registry".to_owned())
        }
        _ => error.hint(),
    }
}
