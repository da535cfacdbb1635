//! Marks: what each of them looks like as an extended attribute.
//!
//! What it is for: between [`Marks`] and the attributes of overlayfs. May assume
//! nothing about values: whoever wrote them, what makes no sense is `InvalidData`.
//! Must not know when a mark is needed.

use std::io;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::reach::Opened;
use super::xattrs::{self, Of, Prefix};
use crate::node::Kind;
use crate::union::upper::{Mark, Marks};

const OPAQUE: &str = "opaque";
const REDIRECT: &str = "redirect";
const METACOPY: &str = "metacopy";
const IMPURE: &str = "impure";
/// Short, so that it fits beside the inode (ext4 has about 90 bytes there).
const ORIGIN: &str = "lazyroot";
/// What `opaque` and `impure` are set to (`x` for `opaque` says that there may be
/// whiteouts in the form of attributes inside, not that the directory is opaque).
const YES: &[u8] = b"y";

/// Reads the marks of an object.
///
/// # Errors
/// `InvalidData`; as listxattr(2), getxattr(2).
pub(super) fn read(of: Of<'_>, prefix: Prefix) -> io::Result<Marks> {
    let mut marks = Marks::default();
    for stored in xattrs::names(&of.list()?) {
        let mark = match prefix.mark_of(stored).map(str::from_utf8) {
            Some(Ok(mark @ (OPAQUE | REDIRECT | METACOPY | IMPURE | ORIGIN))) => mark,
            _ => continue,
        };
        let Some(value) = of.get(stored)? else {
            continue;
        };
        match mark {
            OPAQUE => marks.opaque = value == YES,
            REDIRECT => marks.redirect = Some(redirect(value)?),
            METACOPY => marks.metacopy = metacopy(&value)?,
            IMPURE => marks.impure = value == YES,
            _ => marks.origin = Some(value),
        }
    }
    Ok(marks)
}

/// Checks where an object is redirected to: a name, or a path from the root,
/// nothing that climbs.
fn redirect(value: Vec<u8>) -> io::Result<Vec<u8>> {
    let is_name = |part: &[u8]| {
        !matches!(part, b"" | b"." | b"..") && !part.iter().any(|byte| matches!(byte, b'/' | 0))
    };
    let good = match value.strip_prefix(b"/") {
        Some(path) => path.split(|&byte| byte == b'/').all(is_name),
        None => is_name(&value),
    };
    if good {
        Ok(value)
    } else {
        Err(damaged("a redirect that is no path"))
    }
}

/// Checks the value of `metacopy`: nothing, or a header (fs/overlayfs/overlayfs.h,
/// `struct ovl_metacopy`) of version 0, its own length, flags, and the algorithm
/// of a digest that follows. The digest is for fs-verity, which layers here have
/// no need of: they carry digests of their own.
fn metacopy(value: &[u8]) -> io::Result<bool> {
    match value {
        [] => Ok(true),
        [0, len, _, _, ..] if usize::from(*len) == value.len() => Ok(true),
        _ => Err(damaged("a metacopy of an unknown form")),
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Sets the marks that `marks` has on an object that has none.
///
/// # Errors
/// As setxattr(2).
pub(super) fn write(object: &Opened, kind: Kind, marks: &Marks, prefix: Prefix) -> io::Result<()> {
    let set = |mark: &str, value: &[u8]| {
        let name = prefix.mark(mark);
        xattrs::set(object, name.as_bytes(), value, XattrFlags::empty())
    };
    if marks.opaque {
        set(OPAQUE, YES)?;
    }
    if let Some(to) = &marks.redirect {
        set(REDIRECT, to)?;
    }
    if marks.metacopy {
        set(METACOPY, b"")?;
    }
    if marks.impure {
        set(IMPURE, YES)?;
    }
    match &marks.origin {
        Some(origin) if keeps_origin(kind, prefix) => set(ORIGIN, origin),
        _ => Ok(()),
    }
}

/// Only files and directories can have attributes below `user.` (xattr(7)).
fn keeps_origin(kind: Kind, prefix: Prefix) -> bool {
    prefix == Prefix::Trusted || matches!(kind, Kind::File | Kind::Dir)
}

/// Sets one mark. `kind` is the kind that the system sees.
///
/// # Errors
/// As setxattr(2).
pub(super) fn set(object: &Opened, kind: Kind, mark: Mark<'_>, prefix: Prefix) -> io::Result<()> {
    let mut marks = Marks::default();
    match mark {
        Mark::Opaque => marks.opaque = true,
        Mark::Redirect(to) => marks.redirect = Some(redirect(to.to_vec())?),
        Mark::Impure => marks.impure = true,
        Mark::Origin(origin) => marks.origin = Some(origin.to_vec()),
        Mark::Complete => {
            // In this order: a redirect without a metacopy means nothing for a
            // file, a metacopy without its redirect would mean another file.
            clear(object, METACOPY, prefix)?;
            return clear(object, REDIRECT, prefix);
        }
    }
    write(object, kind, &marks, prefix)
}

fn clear(object: &Opened, mark: &str, prefix: Prefix) -> io::Result<()> {
    match xattrs::remove(object, prefix.mark(mark).as_bytes()) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODATA) => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod values_are_checked {
    use super::*;

    #[test]
    fn a_redirect_is_a_name_or_a_path_from_the_root_and_never_climbs() {
        for good in ["a", "/a", "/a/b.c/...", "a b"] {
            assert_eq!(redirect(good.into()).unwrap(), good.as_bytes());
        }
        for bad in [
            "", "/", ".", "..", "a/b", "/a/", "/a//b", "/a/../b", "/.", "a\0",
        ] {
            let error = redirect(bad.into()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad}");
        }
    }

    #[test]
    fn a_metacopy_is_empty_or_a_header_that_knows_its_length() {
        for good in [&b""[..], &[0, 4, 0, 0], &[0, 6, 0, 1, 9, 9]] {
            assert!(metacopy(good).unwrap());
        }
        for bad in [&b"y"[..], &[1, 4, 0, 0], &[0, 5, 0, 0], &[0, 3, 0]] {
            assert!(metacopy(bad).is_err(), "{bad:?}");
        }
    }
}
