//! Which AppC image is wanted: a name and labels.
//!
//! A value of [`Wanted`] is safe to build paths and URLs from: its name is an AC
//! identifier, so no part of it is empty or `..`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The label that has a place of its own in the text, behind the colon.
const VERSION: &str = "version";
/// What is asked for where no version is (`discovery` of the AppC library).
const DEFAULT_VERSION: &str = "latest";
/// Longest text that is looked at; paths on Linux end there.
const TEXT_MAX: usize = 4096;

/// An AppC image's name and the labels that it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    name: String,
    labels: BTreeMap<String, String>,
    assumed: BTreeMap<String, String>,
}

/// Why a text does not say which AppC image is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WantedError {
    /// Longer than any path.
    #[error("an image name of {0} bytes is too long")]
    TooLong(usize),
    /// The name is no AC identifier.
    #[error("`{0}` is not the name of an AppC image")]
    Name(String),
    /// A label's name is no AC identifier, or is `name`.
    #[error("`{0}` cannot be the name of a label")]
    Label(String),
    /// A label without its value.
    #[error("`{0}` is not LABEL=VALUE")]
    NoValue(String),
    /// A label has two values.
    #[error("the label `{0}` is given twice")]
    Twice(String),
    /// A version that is nothing.
    #[error("a version must follow the colon in `{0}`")]
    EmptyVersion(String),
}

/// What came is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another image.
    #[error("the image is `{found}` and not `{wanted}`")]
    Name {
        /// The name that was asked for.
        wanted: String,
        /// The name in the manifest.
        found: String,
    },
    /// The same image, another version or platform.
    #[error("the image's label `{label}` is `{found}` and not `{wanted}`")]
    Label {
        /// The label.
        label: String,
        /// The value that was asked for.
        wanted: String,
        /// The value in the manifest; empty where it has none.
        found: String,
    },
}

impl WantedError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Name(_) | Self::Label(_) => {
                "such a name has a-z, 0-9 and, one at a time between those, `-`, `.`, `_`, `~` and `/`"
            }
            _ => "write NAME[:VERSION][,LABEL=VALUE...]: example.com/app:1.0,os=linux,arch=amd64",
        }
    }
}

impl Wanted {
    /// A name with labels.
    ///
    /// # Errors
    /// Names that are no AC identifiers; a label twice.
    pub fn new<'a>(
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, WantedError> {
        if name.len() > TEXT_MAX {
            return Err(WantedError::TooLong(name.len()));
        }
        if !is_identifier(name) {
            return Err(WantedError::Name(name.to_owned()));
        }
        let mut all = BTreeMap::new();
        for (label, value) in labels {
            // The specification reserves it: an image has its name outside its labels.
            if !is_identifier(label) || label == "name" {
                return Err(WantedError::Label(label.to_owned()));
            }
            if all.insert(label.to_owned(), value.to_owned()).is_some() {
                return Err(WantedError::Twice(label.to_owned()));
            }
        }
        Ok(Self {
            name: name.to_owned(),
            labels: all,
            assumed: BTreeMap::from([(VERSION.to_owned(), DEFAULT_VERSION.to_owned())]),
        })
    }

    /// The same, looking for images of the machine that this runs on where the
    /// labels say nothing of `os` and `arch`. An image found by this may still
    /// lack those labels: nobody asked for them.
    #[must_use]
    pub fn for_host(mut self) -> Self {
        // The words of the specification, which are not those of Go.
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "i386",
            "arm" => "armv7l",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            other => other,
        };
        for (label, value) in [("os", std::env::consts::OS), ("arch", arch)] {
            self.assumed.insert(label.to_owned(), value.to_owned());
        }
        self
    }

    /// The image's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The labels that were asked for.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Whether an image is the one that was asked for, by the name and labels of its
    /// manifest: labels that nobody asked for may be anything (AppC specification,
    /// discovery, "Validation").
    ///
    /// # Errors
    /// [`Mismatch`], the first that differs.
    pub fn check<'a>(
        &self,
        name: &str,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<(), Mismatch> {
        if name != self.name {
            return Err(Mismatch::Name {
                wanted: self.name.clone(),
                found: name.to_owned(),
            });
        }
        for (asked, value) in &self.labels {
            let found = label(asked);
            if found != Some(value.as_str()) {
                return Err(Mismatch::Label {
                    label: asked.clone(),
                    wanted: value.clone(),
                    found: found.unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(())
    }

    /// A label's value to look for: asked for, or assumed.
    pub(super) fn value(&self, label: &str) -> Option<&str> {
        // An empty version is none (as in the AppC library).
        let asked = (self.labels.get(label)).filter(|value| label != VERSION || !value.is_empty());
        asked
            .or_else(|| self.assumed.get(label))
            .map(String::as_str)
    }

    /// The name and those above it, longest first: `a.b/c/d`, `a.b/c`, `a.b`.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.name.as_str()), |name| {
            name.rsplit_once('/').map(|(above, _)| above)
        })
    }
}

impl FromStr for Wanted {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Self, WantedError> {
        if text.len() > TEXT_MAX {
            return Err(WantedError::TooLong(text.len()));
        }
        let mut parts = text.split(',');
        let named = parts.next().unwrap_or_default();
        let (name, version) = match named.split_once(':') {
            Some((_, "")) => return Err(WantedError::EmptyVersion(text.to_owned())),
            Some((name, version)) => (name, Some((VERSION, version))),
            None => (named, None),
        };
        let labels = parts.map(|part| {
            part.split_once('=')
                .ok_or_else(|| WantedError::NoValue(part.to_owned()))
        });
        let labels: Vec<_> = version
            .map(Ok)
            .into_iter()
            .chain(labels)
            .collect::<Result<_, _>>()?;
        Self::new(name, labels)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(version) = self.labels.get(VERSION) {
            write!(f, ":{version}")?;
        }
        let others = self.labels.iter().filter(|(label, _)| *label != VERSION);
        for (label, value) in others {
            write!(f, ",{label}={value}")?;
        }
        Ok(())
    }
}

/// `[a-z0-9]+([-._~/][a-z0-9]+)*` (AppC specification, AC Identifier).
fn is_identifier(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separator = |b: u8| matches!(b, b'-' | b'.' | b'_' | b'~' | b'/');
    text.bytes().all(|b| alnum(b) || separator(b))
        && text
            .split(|c: char| c.is_ascii() && separator(c as u8))
            .all(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_version_and_labels_is_read_and_written() {
        for text in [
            "example.com/app",
            "example.com/app:1.0.0+build",
            "example.com/app:1.0,arch=amd64,os=linux",
            "127.0.0.1/a,os=",
        ] {
            let wanted: Wanted = text.parse().unwrap();
            assert_eq!(wanted.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_wrong_part() {
        for (text, why) in [
            ("", "`` is not the name of an AppC image"),
            ("Example.com/app", "`Example.com/app` is not the name"),
            ("example.com//app", "is not the name"),
            ("../etc", "`../etc` is not the name"),
            ("a/../b", "is not the name"),
            ("/app", "is not the name"),
            ("app-", "is not the name"),
            ("a b", "is not the name"),
            ("app:", "a version must follow the colon"),
            ("app,os", "`os` is not LABEL=VALUE"),
            ("app,name=x", "`name` cannot be the name of a label"),
            ("app,O=x", "`O` cannot be"),
            ("app:1,version=2", "the label `version` is given twice"),
            ("app,os=a,os=b", "the label `os` is given twice"),
        ] {
            let error = text.parse::<Wanted>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!("a".repeat(5000).parse::<Wanted>().is_err());
    }

    #[test]
    fn what_nobody_asked_for_is_assumed_and_no_label() {
        let wanted: Wanted = "app,os=freebsd".parse().unwrap();
        assert_eq!(wanted.value("version"), Some("latest"));
        assert_eq!(wanted.value("arch"), None);
        let wanted = wanted.for_host();
        assert_eq!(wanted.value("os"), Some("freebsd"));
        assert!(wanted.value("arch").is_some());
        assert_eq!(wanted.labels().len(), 1);
        let empty = Wanted::new("app", [("version", "")]).unwrap();
        assert_eq!(empty.value("version"), Some("latest"));
    }

    #[test]
    fn an_image_that_was_not_asked_for_is_told_by_its_manifest() {
        let wanted: Wanted = "app:1,os=linux".parse().unwrap();
        let has = |labels: &'static [(&str, &str)]| {
            move |name: &str| {
                labels
                    .iter()
                    .find(|label| label.0 == name)
                    .map(|label| label.1)
            }
        };
        let all = has(&[("version", "1"), ("os", "linux"), ("arch", "amd64")]);
        assert_eq!(wanted.check("app", &all), Ok(()));
        assert_eq!(wanted.clone().for_host().check("app", &all), Ok(()));
        let name = wanted.check("app2", &all).unwrap_err().to_string();
        assert_eq!(name, "the image is `app2` and not `app`");
        let label = wanted.check("app", has(&[("version", "1")])).unwrap_err();
        assert_eq!(
            label.to_string(),
            "the image's label `os` is `` and not `linux`"
        );
    }

    #[test]
    fn ancestors_end_at_the_host() {
        let wanted: Wanted = "a.b/c/d".parse().unwrap();
        assert_eq!(
            wanted.ancestors().collect::<Vec<_>>(),
            ["a.b/c/d", "a.b/c", "a.b"]
        );
    }
}
