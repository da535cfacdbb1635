//! `IMAGE[:PATH]` on the command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::Context;
use super::report::{Exit, Failure, in_image};
use crate::node::Kind;
use crate::store::Caches;
use crate::tree_path::TreePath;
use crate::union::{Found, FsError, Union};
use crate::view;

/// An image and a path in it. The path begins with `/`: `debian:12:/etc`.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) image: String,
    pub(super) path: OsString,
}

impl Target {
    /// For clap: a path may have any bytes.
    pub(super) fn parse(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let at = bytes
            .windows(2)
            .position(|pair| pair == b":/")
            .unwrap_or(bytes.len());
        let image =
            std::str::from_utf8(&bytes[..at]).map_err(|_| "the image's name is not UTF-8")?;
        let path = bytes.get(at + 1..).unwrap_or(b"/");
        Ok(Self {
            image: image.to_owned(),
            path: OsStr::from_bytes(path).to_owned(),
        })
    }

    /// Opens the image and finds the path. One that ends as a directory's does is followed to one
    /// (path_resolution(7), "A trailing slash").
    pub(super) fn open(&self, context: &Context, follow: bool) -> Result<Opened, Failure> {
        let store = context.open()?;
        let id = store.find(&self.image)?;
        let view = view::open(&store, id, &Caches::default(), None)?;
        let name = format!("{}:{}", self.image, self.path.display());
        let path = TreePath::parse(self.path.as_bytes())
            .map_err(|error| Failure::new(Exit::Usage, format!("`{name}`: {error}")))?;
        let bytes = self.path.as_bytes();
        let of_directory = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        let found = view.union.resolve(&path, follow || of_directory);
        let found = match found {
            Ok(found) if of_directory && found.attr.kind != Kind::Dir => Err(FsError::NotDir),
            other => other,
        };
        let found = found.map_err(|error| in_image(&name, &error))?;
        Ok(Opened {
            union: view.union,
            found,
            name,
        })
    }
}

/// A target that is there.
pub(super) struct Opened {
    pub(super) union: Arc<Union>,
    pub(super) found: Found,
    pub(super) name: String,
}

/// A clap parser of [`Target`] for any bytes.
#[derive(Debug, Clone)]
pub(super) struct TargetParser;

impl clap::builder::TypedValueParser for TargetParser {
    type Value = Target;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Target, clap::Error> {
        Target::parse(value).map_err(|what| {
            command
                .clone()
                .error(clap::error::ErrorKind::InvalidUtf8, what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_at_the_first_colon_slash() {
        for (text, image, path) in [
            ("debian", "debian", "/"),
            ("debian:12", "debian:12", "/"),
            ("debian:12:/etc/a:/b", "debian:12", "/etc/a:/b"),
            ("host:5000/a/b:x:/", "host:5000/a/b:x", "/"),
        ] {
            let target = Target::parse(OsStr::new(text)).unwrap();
            assert_eq!(
                (target.image.as_str(), target.path.to_str().unwrap()),
                (image, path)
            );
        }
    }
}
