//! Image references as Docker writes them, parsed once.
//!
//! What it is for: [`Reference::from_str`] is the only way from text to a name,
//! so that nobody below asks again whether `debian` means
//! `docker.io/library/debian:latest`. May assume nothing. Must not know where
//! images are kept or fetched from.
//!
//! Grammar and defaults are those of `distribution/reference` (`regexp.go`,
//! `normalize.go`), which Docker, containerd and podman share:
//!
//! ```text
//! reference  = [domain "/"] component {"/" component} [":" tag] ["@" digest]
//! domain     = (label {"." label} | "[" IPv6 "]") [":" port]
//! label      = letters, digits, and "-" except at both ends
//! component  = alnum {("." | "_" | "__" | "-"...) alnum}      lower case only
//! tag        = (letter | digit | "_") up to 127 x (letter | digit | "_" | "." | "-")
//! ```

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// Where a name without a domain lives.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// What the default domain was called in the first Docker; the same place.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where names of one component live on the default domain.
const OFFICIAL: &str = "library/";
/// Longest path of a repository, and longest domain (`NameTotalLengthMax` of
/// `distribution/reference`; 255 is also what DNS allows).
const NAME_MAX: usize = 255;
/// Longest tag (`distribution/reference`, `TagRegexp`).
const TAG_MAX: usize = 128;
/// Longest text that is looked at: domain, path, tag and a SHA-512 with room.
const TEXT_MAX: usize = 1024;

/// `[domain/]path[:tag][@digest]`, with Docker's defaults filled in.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("an image reference is empty")]
    Empty,
    /// Longer than any reference can be.
    #[error("an image reference of {0} bytes is too long")]
    TooLong(usize),
    /// A URL or a transport of another tool.
    #[error("`{0}` has a scheme; an image reference has none")]
    Scheme(String),
    /// 64 hexadecimal digits, which Docker reserves for image IDs.
    #[error("`{0}` is an image ID and not a name (64 hexadecimal digits cannot be a name)")]
    LooksLikeId(String),
    /// The part before the first slash is meant as a registry and is not one.
    #[error("`{domain}` is not a registry: {what}")]
    Domain {
        /// The part before the first slash.
        domain: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Upper case in the repository's name.
    #[error("repository name `{0}` must be lower case")]
    Uppercase(String),
    /// The repository's name is not one.
    #[error("repository name `{path}` is malformed: {what}")]
    Path {
        /// The name without domain, tag and digest.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The repository's name is longer than registries accept.
    #[error("repository name is longer than 255 bytes ({0})")]
    NameTooLong(usize),
    /// The part behind the colon is not a tag.
    #[error("`{tag}` is not a tag: {what}")]
    Tag {
        /// The part behind the colon.
        tag: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The part behind the at sign is not a digest.
    #[error("image reference `{text}` has a malformed digest")]
    Digest {
        /// All of it.
        text: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// Two at signs.
    #[error("image reference `{0}` has more than one `@`")]
    SecondDigest(String),
}

impl Reference {
    /// The registry: `docker.io`, `localhost:5000` ...
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in its registry: `library/debian`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag: `latest` by default, nothing where there is only a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of a manifest, which wins over the tag.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Domain and path: `docker.io/library/debian`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`].
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag)?;
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// As people write it: `debian:12` for `docker.io/library/debian:12`. Parsing
    /// it gives the same reference again.
    #[must_use]
    pub fn familiar(&self) -> String {
        let official = self
            .path
            .strip_prefix(OFFICIAL)
            .filter(|name| !name.contains('/'));
        let short = official.unwrap_or(&self.path);
        // `docker.io/a.b/c` is not `a.b/c`: that would be registry `a.b`.
        let clear = split_domain(short) == (DEFAULT_DOMAIN, short) && !is_id(short);
        let mut text = match self.domain == DEFAULT_DOMAIN && clear {
            true => short.to_owned(),
            false => self.repository(),
        };
        self.push_ending(&mut text);
        text
    }

    fn push_ending(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.repository();
        self.push_ending(&mut text);
        f.pad(&text)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > TEXT_MAX {
            return Err(ReferenceError::TooLong(text.len()));
        }
        if text.contains("://") {
            return Err(ReferenceError::Scheme(text.to_owned()));
        }
        let (named, digest) = match text.split_once('@') {
            None => (text, None),
            Some((_, behind)) if behind.contains('@') => {
                return Err(ReferenceError::SecondDigest(text.to_owned()));
            }
            Some((named, digest)) => {
                let source = |source| ReferenceError::Digest {
                    text: text.to_owned(),
                    source,
                };
                (named, Some(digest.parse().map_err(source)?))
            }
        };
        if is_id(named) {
            return Err(ReferenceError::LooksLikeId(named.to_owned()));
        }
        let (domain, rest) = split_domain(named);
        // A colon before a slash would be a port, and a port belongs to a domain,
        // which is cut off already: what is left can only be a tag.
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        check_domain(domain)?;
        check_path(path)?;
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if path.len() > NAME_MAX {
            return Err(ReferenceError::NameTooLong(path.len()));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => {
                check_tag(tag)?;
                Some(tag.to_owned())
            }
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag,
            digest,
        })
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// 64 lower-case hexadecimal digits (`anchoredIdentifierRegexp`).
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Which registry, and what is left (`splitDockerDomain` of `normalize.go`).
fn split_domain(named: &str) -> (&str, &str) {
    let Some((first, rest)) = named.split_once('/') else {
        return (DEFAULT_DOMAIN, named);
    };
    match first {
        LEGACY_DOMAIN => (DEFAULT_DOMAIN, rest),
        "localhost" => (first, rest),
        // A repository cannot have these, so it must be a registry.
        _ if first.contains(['.', ':']) => (first, rest),
        _ if first.bytes().any(|b| b.is_ascii_uppercase()) => (first, rest),
        _ => (DEFAULT_DOMAIN, named),
    }
}

fn check_domain(domain: &str) -> Result<(), ReferenceError> {
    let wrong = |what| {
        Err(ReferenceError::Domain {
            domain: domain.to_owned(),
            what,
        })
    };
    if domain.len() > NAME_MAX {
        return wrong("it is longer than 255 bytes");
    }
    let (host, port) = if let Some(inside) = domain.strip_prefix('[') {
        let Some((address, behind)) = inside.split_once(']') else {
            return wrong("a `]` is missing");
        };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return wrong("what is in the brackets is no IPv6 address");
        }
        match behind.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if behind.is_empty() => (None, None),
            None => return wrong("only a port may follow the address"),
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    for label in host.iter().flat_map(|host| host.split('.')) {
        if label.is_empty() {
            return wrong("a part of its name is empty");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong("a part of its name begins or ends with `-`");
        }
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return wrong("only letters, digits, `-` and `.` may be in it");
        }
    }
    match port {
        None => Ok(()),
        Some(port) if !port.bytes().all(|b| b.is_ascii_digit()) => wrong("the port is no number"),
        Some(port) if port.parse::<u16>().is_err() => wrong("the port is not within 0 to 65535"),
        Some(_) => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase(path.to_owned()));
    }
    let wrong = |what| {
        Err(ReferenceError::Path {
            path: path.to_owned(),
            what,
        })
    };
    for component in path.split('/') {
        if component.is_empty() {
            return wrong("a part of it is empty");
        }
        let ends = |b: Option<&u8>| b.is_some_and(|&b| is_lower_alnum(b));
        if !component
            .bytes()
            .all(|b| is_lower_alnum(b) || matches!(b, b'.' | b'_' | b'-'))
        {
            return wrong("only a-z, 0-9, `.`, `_`, `-` and `/` may be in it");
        }
        let bytes = component.as_bytes();
        if !ends(bytes.first()) || !ends(bytes.last()) {
            return wrong("each part must begin and end with a letter or a digit");
        }
        let separators = bytes
            .split(|&b| is_lower_alnum(b))
            .filter(|between| !between.is_empty());
        for between in separators {
            let dashes = between.iter().all(|&b| b == b'-');
            if !dashes && !matches!(between, b"." | b"_" | b"__") {
                return wrong(
                    "between letters may be one `.`, one or two `_`, or any number of `-`",
                );
            }
        }
    }
    Ok(())
}

fn is_lower_alnum(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9')
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let wrong = |what| {
        Err(ReferenceError::Tag {
            tag: tag.to_owned(),
            what,
        })
    };
    let Some(first) = tag.bytes().next() else {
        return wrong("it is empty");
    };
    if tag.len() > TAG_MAX {
        return wrong("it is longer than 128 bytes");
    }
    if !first.is_ascii_alphanumeric() && first != b'_' {
        return wrong("it must begin with a letter, a digit or `_`");
    }
    if !tag
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    {
        return wrong("only letters, digits, `_`, `.` and `-` may be in it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Reference {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn defaults_are_dockers() {
        let at = format!("@sha256:{HEX}");
        for (given, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            (
                "library/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "index.docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
            (
                "docker/docker",
                "docker.io/docker/docker:latest",
                "docker/docker:latest",
            ),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000/x",
                "localhost:5000/x:latest",
                "localhost:5000/x:latest",
            ),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "localhost:5000",
            ),
            (
                "127.0.0.1:5000/a/b:c",
                "127.0.0.1:5000/a/b:c",
                "127.0.0.1:5000/a/b:c",
            ),
            (
                "[fc00::1]:5000/a:b",
                "[fc00::1]:5000/a:b",
                "[fc00::1]:5000/a:b",
            ),
            ("Uppercase/x", "Uppercase/x:latest", "Uppercase/x:latest"),
            (
                "docker.io/a.b/c",
                "docker.io/a.b/c:latest",
                "docker.io/a.b/c:latest",
            ),
            (
                "docker.io/localhost/c:1",
                "docker.io/localhost/c:1",
                "docker.io/localhost/c:1",
            ),
            (
                "a__b/c--d.e_f",
                "docker.io/a__b/c--d.e_f:latest",
                "a__b/c--d.e_f:latest",
            ),
            (
                "xn--n3h.com/myimage:v1",
                "xn--n3h.com/myimage:v1",
                "xn--n3h.com/myimage:v1",
            ),
        ] {
            assert_eq!(parse(given).to_string(), full, "{given}");
            assert_eq!(parse(given).familiar(), familiar, "{given}");
            assert_eq!(parse(familiar), parse(given));
        }
        let both = parse(&format!("debian:12{at}"));
        assert_eq!(
            (both.tag(), both.digest()),
            (Some("12"), Some(Digest::sha256(b"")))
        );
        let only = parse(&format!("debian{at}"));
        assert_eq!(
            (only.tag(), only.digest()),
            (None, Some(Digest::sha256(b"")))
        );
        assert_eq!(only.to_string(), format!("docker.io/library/debian{at}"));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_reason() {
        for (given, why) in [
            ("", "an image reference is empty"),
            ("https://github.com/docker/docker", "has a scheme"),
            ("docker://debian", "has a scheme"),
            (HEX, "is an image ID and not a name"),
            ("Docker", "repository name `Docker` must be lower case"),
            (
                "docker/Docker",
                "repository name `docker/Docker` must be lower case",
            ),
            ("-docker", "must begin and end with a letter or a digit"),
            ("docker///docker", "a part of it is empty"),
            ("a..b", "one `.`, one or two `_`"),
            ("a___b", "one `.`, one or two `_`"),
            ("a_-b", "one `.`, one or two `_`"),
            ("a/", "a part of it is empty"),
            ("/a", "a part of it is empty"),
            ("../x", "is not a registry: a part of its name is empty"),
            ("ex ample", "only a-z"),
            ("bücher", "only a-z"),
            ("b_d.com/x", "is not a registry: only letters"),
            ("-a.com/x", "begins or ends with `-`"),
            ("a.com:port/x", "the port is no number"),
            ("a.com:70000/x", "the port is not within"),
            ("a.com:/x", "the port is not within"),
            ("[fe80::1%eth0]/x", "no IPv6 address"),
            ("[fe80::1/x:y", "a `]` is missing"),
            ("debian:", "`` is not a tag: it is empty"),
            ("debian:-1", "it must begin with"),
            ("debian:a:b", "only letters"),
            ("debian:a/b", "the port is no number"),
            ("debian@sha256:00", "has a malformed digest"),
            ("debian@md5:00", "has a malformed digest"),
            ("debian@", "has a malformed digest"),
            ("a@sha256:0@sha256:0", "has more than one `@`"),
        ] {
            let error = given.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(why), "{given}: {error}");
        }
    }

    #[test]
    fn lengths_are_limited() {
        assert!(
            format!("{}a", "a/".repeat(127))
                .parse::<Reference>()
                .is_ok()
        );
        let long = format!("{}a:tag", "a/".repeat(128)).parse::<Reference>();
        assert_eq!(long, Err(ReferenceError::NameTooLong(257)));
        assert!(
            format!("a:{}", "t".repeat(128))
                .parse::<Reference>()
                .is_ok()
        );
        assert!(
            format!("a:{}", "t".repeat(129))
                .parse::<Reference>()
                .is_err()
        );
        assert!("a".repeat(2000).parse::<Reference>().is_err());
    }

    #[test]
    fn tag_and_digest_can_be_exchanged() {
        let debian = parse("debian:12");
        assert_eq!(debian.with_tag("13").unwrap(), parse("debian:13"));
        assert!(debian.with_tag("a b").is_err());
        let exact = debian.with_digest(Digest::sha256(b""));
        assert_eq!(
            exact.to_string(),
            format!("docker.io/library/debian@sha256:{HEX}")
        );
        assert_eq!(debian.repository(), "docker.io/library/debian");
    }

    #[test]
    fn json_has_the_full_name() {
        let json = serde_json::to_string(&parse("debian:12")).unwrap();
        assert_eq!(json, r#""docker.io/library/debian:12""#);
        assert_eq!(
            serde_json::from_str::<Reference>(&json).unwrap(),
            parse("debian:12")
        );
        assert!(serde_json::from_str::<Reference>(r#""A""#).is_err());
    }

    proptest! {
        #[test]
        fn what_was_parsed_is_parsed_again_from_either_spelling(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
                prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,60}") {
            let _ = text.parse::<Reference>();
        }
    }
}
