//! Ways to get a rootfs.
//!
//! What it is for: starting what shows a tree, and knowing when it can be used.
//! Must not know what a container is.
//!
//! * [`fuse`]: our own program in the background, serving one FUSE mount.
//! * [`catalogue`]: the store's images by name, for a mount that shows them all.

pub mod catalogue;
pub mod fuse;

use std::fmt;
use std::str::FromStr;

/// A way to get a rootfs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A FUSE mount of its own, with its own server.
    Fuse,
    /// Kernel overlayfs above a lazy mount that all containers of the image share.
    Overlay,
    /// That lazy mount itself, read-only.
    Bind,
    /// All files, written out.
    Copy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fuse, Self::Overlay, Self::Bind, Self::Copy];

    fn word(self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::Overlay => "overlay",
            Self::Bind => "bind",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Kind {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        let named = Self::ALL.into_iter().find(|kind| kind.word() == text);
        named.ok_or_else(|| UnknownBackend(text.to_owned()))
    }
}

/// What somebody wants of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Choice {
    /// The best one that this machine can do.
    Auto,
    /// This one, or none.
    Kind(Kind),
}

/// The word that stands for [`Choice::Auto`].
const AUTO: &str = "auto";

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad(AUTO),
            Self::Kind(kind) => kind.fmt(f),
        }
    }
}

impl FromStr for Choice {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        match text {
            AUTO => Ok(Self::Auto),
            kind => kind.parse().map(Self::Kind),
        }
    }
}

impl serde::Serialize for Choice {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Choice {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A word that is no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no backend ({AUTO}, fuse, overlay, bind, copy are)")]
pub struct UnknownBackend(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_lower_case_words_everywhere() {
        let all = Kind::ALL.map(Choice::Kind);
        for choice in all.into_iter().chain([Choice::Auto]) {
            let word = choice.to_string();
            assert_eq!(word.parse(), Ok(choice));
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(json, format!("\"{word}\""));
            assert_eq!(serde_json::from_str::<Choice>(&json).unwrap(), choice);
            if let Choice::Kind(kind) = choice {
                assert_eq!(serde_json::to_string(&kind).unwrap(), json);
            }
        }
        let aufs = "aufs".parse::<Choice>().unwrap_err();
        assert!(aufs.to_string().starts_with("`aufs` is no backend"));
        assert!("auto".parse::<Kind>().is_err());
    }
}
