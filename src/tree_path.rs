//! A path inside a rootfs that cannot leave it.
//!
//! What it is for: the one way from bytes to a place in a tree. Bytes, not
//! UTF-8. Must not know any file system.

use std::fmt;

/// Longest name of one entry in bytes (`NAME_MAX`, the kernel's limit).
pub const NAME_MAX: usize = 255;
/// Longest path in bytes that is accepted (`PATH_MAX` with its NUL is 4096;
/// a tree may be deeper than one system call can name, so there is room).
pub const PATH_MAX: usize = 64 << 10;
/// Deepest nesting that is accepted.
pub const DEPTH_MAX: usize = 4096;

/// Names from the root downwards; none is empty, `.`, `..`, longer than
/// [`NAME_MAX`] or has a `/` or NUL in it. No names at all: the root itself.
#[derive(Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct TreePath(Vec<u8>);

/// Why bytes are not a path inside a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Has a `..` component.
    #[error("it has a `..` component")]
    DotDot,
    /// Begins with `/` where only relative paths are allowed.
    #[error("it is absolute")]
    Absolute,
    /// A NUL byte.
    #[error("it has a NUL byte")]
    Nul,
    /// A component over [`NAME_MAX`] bytes.
    #[error("a name in it is longer than 255 bytes")]
    NameTooLong,
    /// Over [`PATH_MAX`] bytes or [`DEPTH_MAX`] components.
    #[error("it is too long or too deep")]
    TooLong,
}

impl TreePath {
    /// The root: no names.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Cleans `./` and doubled slashes; a leading `/` means the root of the tree.
    ///
    /// # Errors
    /// `..`, NUL, or a limit passed.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > PATH_MAX {
            return Err(PathError::TooLong);
        }
        let mut clean = Vec::with_capacity(bytes.len());
        let mut depth = 0;
        for name in bytes.split(|&b| b == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(PathError::DotDot),
                _ if name.len() > NAME_MAX => return Err(PathError::NameTooLong),
                _ if name.contains(&0) => return Err(PathError::Nul),
                _ => {}
            }
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(PathError::TooLong);
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(name);
        }
        Ok(Self(clean))
    }

    /// As [`Self::parse`], but a leading `/` is refused.
    ///
    /// # Errors
    /// Those of [`Self::parse`], and an absolute path.
    pub fn parse_relative(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.first() == Some(&b'/') {
            return Err(PathError::Absolute);
        }
        Self::parse(bytes)
    }

    /// The names from the root downwards.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|name| !name.is_empty())
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Parent and last name; nothing for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => Some((Self(self.0[..at].to_vec()), &self.0[at + 1..])),
            None => Some((Self::root(), &self.0)),
        }
    }

    /// This path with one more name, which the caller knows to be valid.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        let mut bytes = self.0.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The path without a leading slash; empty for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes outside printable ASCII as `\xNN`: safe in a log line or a terminal.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let text = std::str::from_utf8(bytes);
    let mut out = String::with_capacity(bytes.len());
    match text {
        Ok(text) if !text.chars().any(char::is_control) => out.push_str(text),
        _ => {
            for &byte in bytes {
                if (b' '..0x7f).contains(&byte) && byte != b'\\' {
                    out.push(char::from(byte));
                } else {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\x{byte:02x}");
                }
            }
        }
    }
    out
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", printable(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_but_never_leaves_the_tree() {
        for (given, clean) in [
            ("", ""),
            (".", ""),
            ("/", ""),
            ("./a//b/", "a/b"),
            ("/a/./b", "a/b"),
        ] {
            assert_eq!(
                TreePath::parse(given.as_bytes()).unwrap().as_bytes(),
                clean.as_bytes()
            );
        }
        assert_eq!(TreePath::parse(b"a/../b"), Err(PathError::DotDot));
        assert_eq!(TreePath::parse(b"a/\0"), Err(PathError::Nul));
        assert_eq!(TreePath::parse(&[b'n'; 256]), Err(PathError::NameTooLong));
        assert_eq!(
            TreePath::parse(&b"a/".repeat(5000)),
            Err(PathError::TooLong)
        );
        assert_eq!(TreePath::parse_relative(b"/a"), Err(PathError::Absolute));
    }

    #[test]
    fn parent_and_child_are_inverse() {
        let path = TreePath::parse(b"a/b/c").unwrap();
        let (parent, name) = path.split_last().unwrap();
        assert_eq!((parent.as_bytes(), name), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(parent.child(name), path);
        assert_eq!(TreePath::root().split_last(), None);
        assert_eq!(TreePath::root().child(b"x").as_bytes(), b"x");
    }
}
