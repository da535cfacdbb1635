//! What is looked for: a reference, and what is assumed where it says nothing.
//!
//! A name is an AC identifier, so no part of it is empty or `..`: it is safe to build
//! paths and URLs from. The values of labels are not.

use std::collections::BTreeMap;
use std::fmt;

use crate::appc::{AppcReference, Identifier, Labels, VERSION};

/// What is asked for where no version is (as the AppC library does).
const DEFAULT_VERSION: &str = "latest";

/// A reference to an AppC image, and labels that are assumed to look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    image: AppcReference,
    assumed: BTreeMap<&'static str, String>,
}

impl Wanted {
    /// An image of which nothing is assumed but the version `latest`.
    #[must_use]
    pub fn new(image: AppcReference) -> Self {
        Self {
            image,
            assumed: BTreeMap::from([(VERSION, DEFAULT_VERSION.to_owned())]),
        }
    }

    /// The same, looking for images of the machine that this runs on where the
    /// labels say nothing of `os` and `arch`. An image found by this may still
    /// lack those labels: nobody asked for them.
    #[must_use]
    pub fn for_host(mut self) -> Self {
        // The words of the specification, which are not those of Rust.
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "i386",
            "arm" => "armv7l",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            other => other,
        };
        self.assumed.insert("os", std::env::consts::OS.to_owned());
        self.assumed.insert("arch", arch.to_owned());
        self
    }

    /// The same, looking for images of the machine that these labels speak of, where
    /// they do. Who depends on an image needs one that runs where he does.
    #[must_use]
    pub fn like(mut self, labels: &Labels) -> Self {
        for name in ["os", "arch"] {
            let said = labels.iter().find(|(label, _)| label.as_str() == name);
            self.assumed
                .extend(said.map(|(_, value)| (name, value.clone())));
        }
        self
    }

    /// The reference.
    #[must_use]
    pub fn image(&self) -> &AppcReference {
        &self.image
    }

    /// The image's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.image.name.as_str()
    }

    /// A label's value to look for: asked for, or assumed.
    pub(super) fn value(&self, label: &str) -> Option<&str> {
        let assumed = || self.assumed.get(label).map(String::as_str);
        self.asked(label).or_else(assumed)
    }

    /// Whether somebody asked for a version.
    pub(super) fn has_version(&self) -> bool {
        self.asked(VERSION).is_some()
    }

    fn asked(&self, label: &str) -> Option<&str> {
        let name = label.parse::<Identifier>().ok()?;
        let asked = self.image.labels.get(&name).map(String::as_str);
        // An empty version is none (as in the AppC library).
        asked.filter(|value| label != VERSION || !value.is_empty())
    }

    /// The name and those above it, longest first: `a.b/c/d`, `a.b/c`, `a.b`.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.name()), |name| {
            name.rsplit_once('/').map(|(above, _)| above)
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.image.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        Wanted::new(text.parse().unwrap())
    }

    #[test]
    fn what_nobody_asked_for_is_assumed_and_no_label() {
        let freebsd = wanted("appc:app,os=freebsd");
        assert_eq!(freebsd.value("version"), Some("latest"));
        assert_eq!(freebsd.value("arch"), None);
        assert_eq!(freebsd.value("No Label"), None);
        let host = freebsd.for_host();
        assert_eq!(host.value("os"), Some("freebsd"));
        assert!(host.value("arch").is_some());
        assert_eq!(host.image().labels.len(), 1);
        let arm = wanted("appc:b,os=linux,arch=aarch64")
            .image()
            .labels
            .clone();
        let like = wanted("appc:app,os=freebsd").for_host().like(&arm);
        let values = ["os", "arch"].map(|label| like.value(label));
        assert_eq!(values, [Some("freebsd"), Some("aarch64")]);
        assert_eq!(wanted("appc:app,version=").value("version"), Some("latest"));
        assert_eq!(wanted("appc:app:1").value("version"), Some("1"));
    }

    #[test]
    fn ancestors_end_at_the_host() {
        let deep = wanted("appc:a.b/c/d");
        assert_eq!(
            deep.ancestors().collect::<Vec<_>>(),
            ["a.b/c/d", "a.b/c", "a.b"]
        );
    }
}
