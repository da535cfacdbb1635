//! What ways to get a rootfs are called.
//!
//! What it is for: one list for those who make them, count them, and write them down.
//! Must not know how any of them works: see `backend`.

use std::fmt;
use std::str::FromStr;

/// The word for the best one that a machine can do.
pub const AUTO: &str = "auto";

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

    /// What it is called.
    #[must_use]
    pub fn word(self) -> &'static str {
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

/// A word that is no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no backend ({AUTO}, fuse, overlay, bind, copy are)")]
pub struct UnknownBackend(String);
