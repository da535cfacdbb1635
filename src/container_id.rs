//! What a container is called.
//!
//! What it is for: the one way from text to a container's name, so that nobody can
//! name a path that leads elsewhere. A nested container is named by all those
//! above it: `web1/helper`. Must not know what a container is.

use std::fmt;
use std::str::FromStr;

/// Longest name of one container in bytes.
pub const NAME_MAX: usize = 128;
/// Longest name with all those above it: it becomes the name of one file (255
/// bytes, the kernel's `NAME_MAX`) with a suffix of ours.
pub const ID_MAX: usize = 240;

/// The name of a container, with those above it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Vec<String>);

/// Why a text names no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerIdError {
    /// A part is empty, too long, begins wrongly or has other characters.
    #[error(
        "`{0}` is no name of a container: letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most {NAME_MAX} bytes"
    )]
    Name(String),
    /// All parts together are too long.
    #[error(
        "`{0}` is too long: with all names above it a container's name has at most {ID_MAX} bytes"
    )]
    TooLong(String),
}

impl ContainerId {
    /// The container that this one is in.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        (!above.is_empty()).then(|| Self(above.to_vec()))
    }

    /// Those that this one is in, outermost first.
    #[must_use]
    pub fn ancestors(&self) -> Vec<Self> {
        (1..self.0.len())
            .map(|depth| Self(self.0[..depth].to_vec()))
            .collect()
    }

    /// A container in this one.
    ///
    /// # Errors
    /// Together they are too long.
    pub fn child(&self, below: &Self) -> Result<Self, ContainerIdError> {
        format!("{self}/{below}").parse()
    }

    /// Its names, outermost first; at least one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// As the name of one file: `+` stands between names, which have none.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.0.join("+")
    }

    /// The way back from [`Self::file_name`].
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<Self> {
        if name.contains('/') {
            return None;
        }
        name.replace('+', "/").parse().ok()
    }
}

impl FromStr for ContainerId {
    type Err = ContainerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > ID_MAX {
            return Err(ContainerIdError::TooLong(text.to_owned()));
        }
        let part = |name: &str| {
            let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            match begins && name.len() <= NAME_MAX && name.chars().all(fits) {
                true => Ok(name.to_owned()),
                false => Err(ContainerIdError::Name(name.to_owned())),
            }
        };
        text.split('/')
            .map(part)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

impl serde::Serialize for ContainerId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ContainerId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for text in [
            "", "/", "a//b", "..", ".a", "a/..", "a/../b", "a+b", "a b", "ä", "-a", "a\0",
        ] {
            assert!(text.parse::<ContainerId>().is_err(), "{text:?}");
        }
        assert!("x".repeat(NAME_MAX).parse::<ContainerId>().is_ok());
        assert!("x".repeat(NAME_MAX + 1).parse::<ContainerId>().is_err());
        assert!(
            vec!["xxxxxxx"; 40]
                .join("/")
                .parse::<ContainerId>()
                .is_err()
        );
    }

    #[test]
    fn a_nested_one_knows_those_above_it() {
        let id: ContainerId = "a/b-1/c.2".parse().unwrap();
        let above: Vec<_> = id.ancestors().iter().map(ToString::to_string).collect();
        assert_eq!(above, ["a", "a/b-1"]);
        assert_eq!(id.parent().unwrap().to_string(), "a/b-1");
        assert_eq!(above[0].parse::<ContainerId>().unwrap().parent(), None);
        assert_eq!(id.file_name(), "a+b-1+c.2");
        assert_eq!(ContainerId::of_file_name("a+b-1+c.2"), Some(id));
        assert_eq!(ContainerId::of_file_name("a/b"), None);
    }
}
