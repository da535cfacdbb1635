//! What AppC calls things: identifiers, labels, references; parsed once.
//!
//! What it is for: nobody below asks again whether a text is a name. May assume
//! nothing. Must not know manifests, nor where images are kept or fetched from.
//!
//! Grammar of the App Container specification (`spec/types.md`), which is the
//! strict one: the reference code takes `a--b` as well.
//!
//! ```text
//! identifier = alnum {alnum | sep alnum}       sep: one of - . _ ~ /
//! name       = alnum {alnum | "-" alnum}
//! reference  = "appc:" identifier [":" version] {"," label "=" value}
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How a reference to an AppC image begins on the command line.
pub const SCHEME: &str = "appc:";
/// The label that `:VERSION` stands for.
pub const VERSION: &str = "version";
/// Longest identifier. The specification has no limit; host and path of the URL that it
/// becomes have (RFC 9110, section 4.1, advises to accept 8000 bytes of URL).
pub const IDENTIFIER_MAX: usize = 1024;
/// Longest reference: an identifier and labels.
const REFERENCE_MAX: usize = 16 << 10;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppcError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Longer than any.
    #[error("it has {0} bytes, which is too long")]
    TooLong(usize),
    /// A character that none may have.
    #[error("`{0}` cannot be in it (a-z, 0-9 and single {1} between them can)")]
    Character(char, &'static str),
    /// A separator at an end, or next to another.
    #[error("`{0}` must stand between letters or digits")]
    Separator(char),
    /// `appc:` is missing.
    #[error("it does not begin with `appc:`")]
    Scheme,
    /// A second `:` in the name, or one behind a comma.
    #[error("it has more than one `:` behind the name")]
    Colon,
    /// Behind a comma there is no `label=value`.
    #[error("`{0}` is not of the form label=value")]
    Label(String),
    /// The same label again (`:VERSION` is the label `version`).
    #[error("it has the label `{0}` twice")]
    Twice(String),
    /// The label `name`, which the format keeps for the image's name.
    #[error("a label cannot be called `name`")]
    NameLabel,
}

/// An AC Identifier: `example.com/app`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identifier(String);

/// An AC Name, of something within an image: `data-dir`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcName(String);

/// Labels of an image: `version`, `os`, `arch` and others. Values are free.
pub type Labels = BTreeMap<Identifier, String>;

fn check(text: &str, separators: &'static str) -> Result<(), AppcError> {
    if text.is_empty() {
        return Err(AppcError::Empty);
    }
    if text.len() > IDENTIFIER_MAX {
        return Err(AppcError::TooLong(text.len()));
    }
    // What stands before the first counts as a separator, so that it is no letter.
    let mut before = None;
    for c in text.chars() {
        let letter = matches!(c, 'a'..='z' | '0'..='9');
        if !letter && !separators.contains(c) {
            return Err(AppcError::Character(c, separators));
        }
        if !letter && before != Some(true) {
            return Err(AppcError::Separator(c));
        }
        before = Some(letter);
    }
    match text.chars().next_back() {
        Some(last) if before == Some(false) => Err(AppcError::Separator(last)),
        _ => Ok(()),
    }
}

macro_rules! word {
    ($name:ident, $separators:literal) => {
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = AppcError;
            fn from_str(text: &str) -> Result<Self, AppcError> {
                check(text, $separators).map(|()| Self(text.to_owned()))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse()
                    .map_err(|error| serde::de::Error::custom(format!("`{text}`: {error}")))
            }
        }
    };
}

word!(Identifier, "-._~/");
word!(AcName, "-");

/// An image by name and labels. An image that has more labels fits too.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct AppcReference {
    /// The image's name.
    pub name: Identifier,
    /// Labels that it must have, with these values.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl AppcReference {
    /// Whether an image of this name and these labels is meant: the same name, and
    /// every wanted label with its value (`spec/aci.md`, "Dependency Matching").
    #[must_use]
    pub fn fits(&self, name: &Identifier, labels: &Labels) -> bool {
        let has = |(label, value): (&Identifier, &String)| labels.get(label) == Some(value);
        self.name == *name && self.labels.iter().all(has)
    }

    /// What people call it: name and version.
    #[must_use]
    pub fn called(&self) -> String {
        match self.version() {
            Some(version) => format!("{}:{version}", self.name),
            None => self.name.to_string(),
        }
    }

    /// The version that is asked for.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        let version = self.labels.iter().find(|(label, _)| label.0 == VERSION);
        version.map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for AppcReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{SCHEME}{}", self.name);
        if let Some(version) = self.version() {
            text = format!("{text}:{version}");
        }
        for (label, value) in &self.labels {
            if label.0 != VERSION {
                text = format!("{text},{label}={value}");
            }
        }
        f.pad(&text)
    }
}

impl FromStr for AppcReference {
    type Err = AppcError;

    fn from_str(text: &str) -> Result<Self, AppcError> {
        if text.len() > REFERENCE_MAX {
            return Err(AppcError::TooLong(text.len()));
        }
        let text = text.strip_prefix(SCHEME).ok_or(AppcError::Scheme)?;
        let mut parts = text.split(',');
        let named = parts.next().unwrap_or_default();
        let mut labels = Labels::new();
        let (name, version) = match named.split_once(':') {
            None => (named, None),
            Some((_, version)) if version.contains(':') => return Err(AppcError::Colon),
            Some((name, version)) => (name, Some(version)),
        };
        if let Some(version) = version {
            if version.is_empty() {
                return Err(AppcError::Label(format!("{VERSION}=")));
            }
            labels.insert(Identifier(VERSION.to_owned()), version.to_owned());
        }
        for part in parts {
            let (label, value) = part
                .split_once('=')
                .ok_or_else(|| AppcError::Label(part.to_owned()))?;
            if label == "name" {
                return Err(AppcError::NameLabel);
            }
            if labels.insert(label.parse()?, value.to_owned()).is_some() {
                return Err(AppcError::Twice(label.to_owned()));
            }
        }
        Ok(Self {
            name: name.parse()?,
            labels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_those_of_the_specification() {
        for good in [
            "asdf",
            "foo-bar-baz",
            "example.com",
            "example/database",
            "a/b",
            "0",
            "a.b_c~d/e-f",
        ] {
            assert_eq!(good.parse::<Identifier>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "BAR",
            "foo#",
            "EXAMPLE.com",
            "foo.com/BAR",
            "/app",
            "app/",
            "-app",
            "app-",
            ".app",
            "app.",
            "_app",
            "app_",
            "~app",
            "app~",
            "a--b",
            "a//b",
            "a b",
            "\u{e9}",
        ] {
            assert!(bad.parse::<Identifier>().is_err(), "{bad}");
        }
        let long = "a".repeat(IDENTIFIER_MAX + 1);
        assert_eq!(long.parse::<Identifier>(), Err(AppcError::TooLong(1025)));
    }

    #[test]
    fn names_have_no_separator_but_the_dash() {
        assert!("data-dir".parse::<AcName>().is_ok());
        for bad in ["", "a.b", "a/b", "a_b", "-a", "a-", "a--b", "A"] {
            assert!(bad.parse::<AcName>().is_err(), "{bad}");
        }
    }

    fn parse(text: &str) -> AppcReference {
        text.parse().unwrap()
    }

    #[test]
    fn a_reference_survives_printing_and_parsing() {
        for (text, printed) in [
            ("appc:example.org/a", "appc:example.org/a"),
            ("appc:a:1.0", "appc:a:1.0"),
            ("appc:a,version=1.0", "appc:a:1.0"),
            (
                "appc:a:1.0,os=linux,arch=amd64",
                "appc:a:1.0,arch=amd64,os=linux",
            ),
            ("appc:a,channel=", "appc:a,channel="),
        ] {
            let reference = parse(text);
            assert_eq!(reference.to_string(), printed);
            assert_eq!(parse(printed), reference);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_by_its_reason() {
        for (text, error) in [
            ("a", AppcError::Scheme),
            ("appc:", AppcError::Empty),
            ("appc:a:1:2", AppcError::Colon),
            ("appc:a:", AppcError::Label("version=".into())),
            ("appc:a,os", AppcError::Label("os".into())),
            ("appc:a,os=linux,os=linux", AppcError::Twice("os".into())),
            ("appc:a:1,version=1", AppcError::Twice("version".into())),
            ("appc:a,name=b", AppcError::NameLabel),
            ("appc:a,Os=linux", AppcError::Character('O', "-._~/")),
        ] {
            assert_eq!(text.parse::<AppcReference>(), Err(error), "{text}");
        }
    }

    #[test]
    fn wanted_labels_are_a_subset() {
        let has = parse("appc:a:1,os=linux,arch=amd64");
        for fits in [
            "appc:a",
            "appc:a:1",
            "appc:a,os=linux",
            "appc:a:1,arch=amd64,os=linux",
        ] {
            assert!(parse(fits).fits(&has.name, &has.labels), "{fits}");
        }
        for other in [
            "appc:b",
            "appc:a:2",
            "appc:a,channel=x",
            "appc:a:1,os=freebsd",
        ] {
            assert!(!parse(other).fits(&has.name, &has.labels), "{other}");
        }
    }
}
