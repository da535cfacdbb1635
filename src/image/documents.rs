//! The JSON of an archive, read within limits and checked against its digest.
//!
//! Every name, length and digest that comes out of an archive passes here before
//! anything is opened by it.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::Digest as _;

use super::{Files, ImageError, JSON_MAX};
use crate::digest::Digest;
use crate::tree_path::{TreePath, printable};

/// JSON of one archive in all. A thousand images with configs of 100 KiB stay
/// below; a few kilobytes of nested indexes that make us read for ever do not.
const TOTAL_MAX: u64 = 512 << 20;
/// What a document costs at least, so that empty ones are not free.
const COST_MIN: u64 = 1 << 10;
/// The same of one that somebody has to be asked for: 8192 are the most.
const COST_REMOTE: u64 = 64 << 10;

/// The JSON files of one archive, or of a repository.
pub(super) struct Documents<'a> {
    files: &'a dyn Files,
    left: Cell<u64>,
    /// Whether files can only be asked for: what is there is known when it comes.
    remote: bool,
}

/// Whether a file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    No,
    /// With this length, where that is known before it is read.
    Yes(Option<u64>),
}

impl<'a> Documents<'a> {
    pub(super) fn new(files: &'a dyn Files) -> Self {
        Self {
            files,
            left: Cell::new(TOTAL_MAX),
            remote: false,
        }
    }

    /// Of a repository.
    pub(super) fn remote(files: &'a dyn Files) -> Self {
        Self {
            remote: true,
            ..Self::new(files)
        }
    }

    /// Whether a file is there, as far as nobody has to be asked.
    pub(super) fn there(&self, file: &str) -> Result<There, ImageError> {
        if self.remote {
            return Ok(There::Yes(None));
        }
        let size = self.size(file)?;
        Ok(size.map_or(There::No, |size| There::Yes(Some(size))))
    }

    /// Length of a file; nothing where there is none.
    pub(super) fn size(&self, file: &str) -> Result<Option<u64>, ImageError> {
        let read = |source| ImageError::Read {
            file: file.to_owned(),
            source,
        };
        self.files.size(file).map_err(read)
    }

    /// A whole file; nothing where there is none.
    pub(super) fn get(&self, file: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let read = |source| ImageError::Read {
            file: file.to_owned(),
            source,
        };
        if self.remote {
            let bytes = self.files.read(file, JSON_MAX).map_err(read)?;
            let size = bytes.as_ref().map_or(0, Vec::len) as u64;
            self.spend(file, size.max(COST_REMOTE))?;
            return Ok(bytes);
        }
        let Some(size) = self.size(file)? else {
            return Ok(None);
        };
        if size > JSON_MAX {
            return Err(ImageError::TooLarge {
                file: file.to_owned(),
                size,
            });
        }
        self.spend(file, size)?;
        self.files.read(file, JSON_MAX).map_err(read)
    }

    /// Counts what is read.
    fn spend(&self, file: &str, size: u64) -> Result<(), ImageError> {
        let left = self.left.get().checked_sub(size.max(COST_MIN));
        self.left.set(left.ok_or_else(|| ImageError::Limit {
            file: file.to_owned(),
            what: "bytes of JSON in what leads to it",
            limit: TOTAL_MAX,
        })?);
        Ok(())
    }

    /// A whole file that has to be there. `what` is what it would be.
    pub(super) fn need(&self, file: &str, what: &str) -> Result<Vec<u8>, ImageError> {
        let missing = || ImageError::Missing {
            file: file.to_owned(),
            what: what.to_owned(),
        };
        self.get(file)?.ok_or_else(missing)
    }

    /// A whole file that has to be there, with this digest and length.
    pub(super) fn verified(
        &self,
        file: &str,
        digest: &Digest,
        size: Option<u64>,
        what: &str,
    ) -> Result<Vec<u8>, ImageError> {
        let bytes = self.need(file, what)?;
        check_size(file, size, bytes.len() as u64)?;
        check_digest(file, digest, &bytes)?;
        Ok(bytes)
    }
}

/// The length of `file` is the declared one, where one was declared.
pub(super) fn check_size(file: &str, declared: Option<u64>, actual: u64) -> Result<(), ImageError> {
    match declared {
        Some(declared) if declared != actual => Err(ImageError::Size {
            file: file.to_owned(),
            declared,
            actual,
        }),
        _ => Ok(()),
    }
}

/// The bytes of `file` have the declared digest.
pub(super) fn check_digest(file: &str, declared: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    let actual = match declared {
        Digest::Sha256(_) => Digest::sha256(bytes),
        Digest::Sha512(_) => Digest::Sha512(sha2::Sha512::digest(bytes).into()),
    };
    if actual == *declared {
        return Ok(());
    }
    Err(ImageError::Digest {
        file: file.to_owned(),
        declared: declared.to_string(),
        actual: actual.to_string(),
    })
}

/// The JSON of `file`, understood. All of it must be readable, not only what is used: what is
/// kept is shown, exported and changed as a whole later.
pub(super) fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .and_then(|Readable| serde_json::from_slice(bytes))
        .map_err(|source| ImageError::Json {
            file: file.to_owned(),
            source,
        })
}

/// The same of a document that must be an object. A type with named fields would be read
/// from a list as well.
pub(super) fn parse_object<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, ImageError> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Err(ImageError::Malformed {
            file: file.to_owned(),
            what: "it is a list, not an object".to_owned(),
        }),
        _ => parse(file, bytes),
    }
}

/// JSON that can be read into a [`serde_json::Value`]; nothing of it is kept. What is merely
/// passed over may be nested to any depth and have texts that are no text.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// A file's name as `file` has it, cleaned of `./`, inside the archive.
pub(super) fn inside(file: &str, name: &str) -> Result<String, ImageError> {
    let outside = |what: String| ImageError::Outside {
        file: file.to_owned(),
        name: printable(name.as_bytes()),
        what,
    };
    let path = TreePath::parse_relative(name.as_bytes()).map_err(|e| outside(e.to_string()))?;
    if path.is_root() {
        return Err(outside("it is empty".to_owned()));
    }
    // Made of whole components of a `str`, so it is UTF-8.
    Ok(String::from_utf8_lossy(path.as_bytes()).into_owned())
}

/// The digest that a name like `blobs/sha256/HEX` declares.
pub(super) fn blob_digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// `blobs/sha256/HEX` (OCI image spec, image-layout.md, "Blobs").
pub(super) fn blob_file(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (given, clean) in [("a", "a"), ("./a//b", "a/b"), ("ä/..b", "ä/..b")] {
            assert_eq!(inside("manifest.json", given).unwrap(), clean);
        }
        for wrong in ["", ".", "./", "/etc/passwd", "../x", "a/../../x", "a\0b"] {
            let error = inside("manifest.json", wrong).unwrap_err();
            assert!(
                error.to_string().contains("points outside the archive"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_could_not_be_read_as_a_whole_later_is_refused() {
        let deep = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let texts: [(Vec<u8>, &str); 7] = [
            (deep(100).into(), ""),
            (deep(200).into(), "recursion limit"),
            (
                br#"{"a": "\u00e4", "b": [1, -1, 1.5e3, true, null, {}]}"#.to_vec(),
                "",
            ),
            (br#"{"a": "\ud800"}"#.to_vec(), "hex escape"),
            (b"{\"a\": \"\xff\"}".to_vec(), "unicode"),
            (b"{\"\xff\": 1}".to_vec(), "unicode"),
            (br#"{"a": 1e999}"#.to_vec(), "out of range"),
        ];
        for (text, wrong) in texts {
            let value = serde_json::from_slice::<serde_json::Value>(&text);
            let outcome = parse::<serde::de::IgnoredAny>("f", &text);
            assert_eq!(outcome.is_ok(), value.is_ok(), "{}", text.escape_ascii());
            assert_eq!(outcome.is_ok(), wrong.is_empty(), "{}", text.escape_ascii());
            if let Err(ImageError::Json { source, .. }) = outcome {
                assert!(source.to_string().contains(wrong), "{source}");
            }
        }
    }

    #[test]
    fn both_digests_are_checked() {
        let long = Digest::Sha512(sha2::Sha512::digest(b"a").into());
        assert!(check_digest("f", &long, b"a").is_ok());
        let error = check_digest("f", &Digest::sha256(b"a"), b"b")
            .unwrap_err()
            .to_string();
        assert!(error.contains(&Digest::sha256(b"a").to_string()), "{error}");
        assert!(error.contains(&Digest::sha256(b"b").to_string()), "{error}");
        assert_eq!(blob_digest(&blob_file(&long)), Some(long));
        assert_eq!(blob_digest("blobs/sha256/../x"), None);
    }
}
