//! How whiteouts are spelled in a layer (OCI image spec, layer.md, "Whiteouts";
//! the names are those of aufs).

use super::{Fault, refused};
use crate::layer::Dialect;
use crate::tree_path::printable;

/// Begins the name of everything that is no file of the image.
const WHITEOUT: &[u8] = b".wh.";
/// Begins the names that aufs keeps for itself.
const META: &[u8] = b".wh..wh.";
/// Hides all that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a clean path says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// The root itself.
    Root,
    /// An object of this layer.
    Plain { dir: &'a [u8], name: &'a [u8] },
    /// `name` of lower layers is hidden.
    Whiteout { dir: &'a [u8], name: &'a [u8] },
    /// All of lower layers is hidden in `dir`.
    Opaque { dir: &'a [u8] },
    /// Bookkeeping of aufs, or something below it.
    Hidden,
}

/// What the clean path `path` says in `dialect`.
pub(super) fn meaning(dialect: Dialect, path: &[u8]) -> Result<Meaning<'_>, Fault> {
    let (dir, name) = split(path);
    if name.is_empty() {
        return Ok(Meaning::Root);
    }
    if dialect == Dialect::AppC {
        return Ok(Meaning::Plain { dir, name });
    }
    for above in dir.split(|&byte| byte == b'/') {
        if above.starts_with(META) && above != OPAQUE {
            return Ok(Meaning::Hidden);
        }
        if above.starts_with(WHITEOUT) {
            return refused(format!("it lies below the whiteout `{}`", printable(above)));
        }
    }
    if name == OPAQUE {
        return Ok(Meaning::Opaque { dir });
    }
    if name.starts_with(META) {
        return Ok(Meaning::Hidden);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Meaning::Plain { dir, name }),
        Some(b"" | b"." | b"..") => refused("it is a whiteout of no name"),
        Some(name) => Ok(Meaning::Whiteout { dir, name }),
    }
}

/// Directory and last name of a clean path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => {
            let (dir, rest) = path.split_at(at);
            (dir, rest.get(1..).unwrap_or_default())
        }
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docker(path: &[u8]) -> Option<Meaning<'_>> {
        meaning(Dialect::Docker, path).ok()
    }

    #[test]
    fn whiteouts_are_told_by_their_names() {
        assert_eq!(docker(b""), Some(Meaning::Root));
        assert_eq!(
            docker(b"a/b/c"),
            Some(Meaning::Plain {
                dir: b"a/b",
                name: b"c"
            })
        );
        assert_eq!(
            docker(b"a/.wh.c"),
            Some(Meaning::Whiteout {
                dir: b"a",
                name: b"c"
            })
        );
        assert_eq!(
            docker(b".wh..c"),
            Some(Meaning::Whiteout {
                dir: b"",
                name: b".c"
            })
        );
        assert_eq!(
            docker(b".wh..wh"),
            Some(Meaning::Whiteout {
                dir: b"",
                name: b".wh"
            })
        );
        assert_eq!(
            docker(b"a/.wh..wh..opq"),
            Some(Meaning::Opaque { dir: b"a" })
        );
        assert_eq!(docker(b".wh..wh.plnk/1.2"), Some(Meaning::Hidden));
        assert_eq!(docker(b"a/.wh..wh.aufs"), Some(Meaning::Hidden));
        assert_eq!(docker(b".wh..wh."), Some(Meaning::Hidden));
        assert_eq!(
            docker(b"a.wh.b"),
            Some(Meaning::Plain {
                dir: b"",
                name: b"a.wh.b"
            })
        );
    }

    #[test]
    fn a_whiteout_of_no_name_or_something_below_one_is_refused() {
        for path in [
            &b".wh."[..],
            b"a/.wh..",
            b".wh...",
            b".wh.a/b",
            b".wh..wh..opq/b",
        ] {
            assert_eq!(docker(path), None, "{}", printable(path));
        }
    }

    #[test]
    fn appc_knows_no_whiteouts() {
        for path in [&b".wh.a"[..], b".wh..wh..opq", b".wh."] {
            let plain = Meaning::Plain {
                dir: b"",
                name: path,
            };
            assert_eq!(meaning(Dialect::AppC, path).ok(), Some(plain));
        }
    }
}
