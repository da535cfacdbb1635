//! Who is asked for an image.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::reference::{DEFAULT_DOMAIN, Reference};

/// Where the registry of the default domain is; that name itself answers people.
const DEFAULT_HOST: &str = "registry-1.docker.io";

/// Whether a server is asked without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    /// Never.
    Never,
    /// Always: somebody named it.
    Always,
    /// If it speaks none. This machine's own servers only, as Docker has it.
    Loopback,
}

/// One server that has the repository of an image, or should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// What it is called in credentials and messages.
    pub(super) registry: String,
    /// Who is connected to.
    pub(super) host: String,
    /// The repository there.
    pub(super) path: String,
    pub(super) plain: Plain,
    /// It is another one than the image's name says.
    pub(super) mirror: bool,
}

impl Endpoint {
    /// The registry that the name says.
    pub(super) fn origin(name: &Reference, insecure: &[String]) -> Self {
        let registry = name.domain();
        let host = match registry {
            DEFAULT_DOMAIN => DEFAULT_HOST,
            other => other,
        };
        let named = insecure
            .iter()
            .any(|other| other == registry || other == host);
        Self {
            registry: registry.to_owned(),
            host: host.to_owned(),
            path: name.path().to_owned(),
            plain: plain(host, named),
            mirror: false,
        }
    }

    /// What is below `/v2/`.
    pub(super) fn url(&self, https: bool, target: &str) -> String {
        let scheme = if https { "https" } else { "http" };
        format!("{scheme}://{}/v2/{}/{target}", self.host, self.path)
    }

    /// What says whether there is a registry.
    pub(super) fn root(&self, https: bool) -> String {
        let scheme = if https { "https" } else { "http" };
        format!("{scheme}://{}/v2/", self.host)
    }
}

fn plain(host: &str, named: bool) -> Plain {
    match (named, is_loopback(host)) {
        (true, _) => Plain::Always,
        (false, true) => Plain::Loopback,
        (false, false) => Plain::Never,
    }
}

/// Whether a host, with or without a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(inside) => inside.split(']').next().unwrap_or(inside),
        None => host.split(':').next().unwrap_or(host),
    };
    let address: Option<IpAddr> = bare.parse().ok();
    bare.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

/// A server that has images of a registry: `[REGISTRY=][http://|https://]HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    registry: String,
    host: String,
    prefix: String,
    plain: bool,
}

/// A text that names no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mirror: [REGISTRY=][http://]HOST[:PORT][/PREFIX]")]
pub struct MirrorError(String);

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let wrong = || MirrorError(text.to_owned());
        let (registry, place) = text.split_once('=').unwrap_or((DEFAULT_DOMAIN, text));
        let (plain, place) = match place.split_once("://") {
            None => (false, place),
            Some(("https", rest)) => (false, rest),
            Some(("http", rest)) => (true, rest),
            Some(_) => return Err(wrong()),
        };
        let (host, prefix) = place.split_once('/').unwrap_or((place, ""));
        // Whatever may be the registry, or the beginning of the repository, of a name.
        let is_host = |host: &str| {
            let as_name: Option<Reference> = format!("{host}/a").parse().ok();
            // A word alone would be part of a repository: a host of the local network.
            as_name.is_some_and(|name| name.domain() == host)
                || format!("{host}:1/a").parse::<Reference>().is_ok()
        };
        let prefix = prefix.trim_end_matches('/');
        let is_prefix = prefix.is_empty() || format!("h:1/{prefix}/a").parse::<Reference>().is_ok();
        if !is_host(registry) || !is_host(host) || !is_prefix {
            return Err(wrong());
        }
        Ok(Self {
            registry: registry.to_owned(),
            host: host.to_owned(),
            prefix: prefix.to_owned(),
            plain,
        })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.registry != DEFAULT_DOMAIN {
            write!(f, "{}=", self.registry)?;
        }
        let scheme = if self.plain { "http://" } else { "" };
        write!(f, "{scheme}{}", self.host)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl Mirror {
    /// The mirror of an image, if it is one of its registry.
    pub(super) fn of(&self, name: &Reference, insecure: &[String]) -> Option<Endpoint> {
        if name.domain() != self.registry {
            return None;
        }
        let path = match self.prefix.as_str() {
            "" => name.path().to_owned(),
            prefix => format!("{prefix}/{}", name.path()),
        };
        Some(Endpoint {
            registry: self.host.clone(),
            host: self.host.clone(),
            path,
            plain: plain(&self.host, self.plain || insecure.contains(&self.host)),
            mirror: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn names_lead_to_registries() {
        for (text, url) in [
            ("debian", "https://registry-1.docker.io/v2/library/debian/x"),
            ("a/b", "https://registry-1.docker.io/v2/a/b/x"),
            ("quay.io/a/b:1", "https://quay.io/v2/a/b/x"),
            ("host:443/a", "https://host:443/v2/a/x"),
            ("[::1]:5000/a", "https://[::1]:5000/v2/a/x"),
        ] {
            let endpoint = Endpoint::origin(&name(text), &[]);
            assert_eq!(endpoint.url(true, "x"), url, "{text}");
        }
    }

    #[test]
    fn only_named_hosts_and_this_machine_are_asked_without_tls() {
        let insecure = ["lab:5000".to_owned()];
        for (text, plain) in [
            ("lab:5000/a", Plain::Always),
            ("lab:5001/a", Plain::Never),
            ("quay.io/a", Plain::Never),
            ("localhost/a", Plain::Loopback),
            ("localhost:80/a", Plain::Loopback),
            ("127.0.0.1:1234/a", Plain::Loopback),
            ("127.9.9.9:1/a", Plain::Loopback),
            ("[::1]:5000/a", Plain::Loopback),
            ("localhost.example.com/a", Plain::Never),
            ("127.0.0.1.example.com/a", Plain::Never),
            ("debian", Plain::Never),
        ] {
            assert_eq!(
                Endpoint::origin(&name(text), &insecure).plain,
                plain,
                "{text}"
            );
        }
    }

    #[test]
    fn a_mirror_is_for_one_registry() {
        let mirror: Mirror = "mirror.lan:5000/hub".parse().unwrap();
        let found = mirror.of(&name("debian"), &[]).unwrap();
        assert_eq!(
            (found.host.as_str(), found.path.as_str(), found.mirror),
            ("mirror.lan:5000", "hub/library/debian", true)
        );
        assert_eq!(mirror.of(&name("quay.io/a/b"), &[]), None);
        let of_quay: Mirror = "quay.io=http://lab".parse().unwrap();
        let found = of_quay.of(&name("quay.io/a/b"), &[]).unwrap();
        assert_eq!((found.plain, found.path.as_str()), (Plain::Always, "a/b"));
        for text in [
            "mirror.lan:5000/hub",
            "quay.io=http://lab",
            "quay.io=lab/x/y",
        ] {
            assert_eq!(text.parse::<Mirror>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "ftp://a.b",
            "a b",
            "=x.y",
            "a.b/UP",
            "a.b=",
            "a.b/../c",
            "u@h.b",
        ] {
            assert!(wrong.parse::<Mirror>().is_err(), "{wrong}");
        }
    }
}
