//! A set of paths that is asked one name at a time: `whitelists-v1/`.
//!
//! What it is for: the whitelist of an AppC image may have 100 000 paths, and a
//! mount may have dozens of them. So it is written once, at import, in a form that is opened in
//! constant time and asked without reading it all. May assume a [`Source`]. Must not
//! know what a manifest is, nor which layer is asked about.
//!
//! A path is known by its *key*: that of the root is zero, that of a name in a
//! directory is the first 16 bytes of the SHA-256 of the directory's key and the name, the
//! lowest bit cleared. (Two paths of one key would take 2^63 tries to find.) So who walks
//! down a tree hashes one name a step, and all sets use the same key.
//!
//! The file is sealed ([`super::blocks`]) with the magic `lr-paths` and version 1:
//!
//! ```text
//!   0  keys      u64, their number, little-endian
//!   8  zero      8 bytes
//!  16  owner     64 bytes, the ID of the image whose whitelist it is
//!  80  keys      16 bytes each, sorted, no two alike but for the lowest bit of the
//!                last byte, which is 1 if the path is in the set, and 0 if it only
//!                leads to one that is; the root is not among them
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use sha2::Digest as _;

use super::blocks::{BLOCK, BlockCache, BlockFile, BlockWriter, Seal};
use super::{ReadError, Source};
use crate::digest::AciId;
use crate::tree_path::TreePath;

const SEAL: Seal = Seal {
    magic: *b"lr-paths",
    version: 1,
};
/// Bytes before the keys.
const HEADER: u64 = 80;
/// Bytes of a key.
const WIDTH: u64 = 16;
/// Most keys of a set: what the longest manifest can make, and 64 MiB.
pub const KEYS_MAX: usize = 4 << 20;
/// Guesses from the size of the key before the middle is taken instead: keys are
/// evenly spread unless somebody chose them.
const GUESSES: u32 = 4;

/// Stands for a path in every [`PathSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PathKey(u128);

impl PathKey {
    /// The root.
    pub const ROOT: Self = Self(0);

    /// A name in this directory.
    #[must_use]
    pub fn child(self, name: &[u8]) -> Self {
        let hash = sha2::Sha256::new()
            .chain_update(self.0.to_be_bytes())
            .chain_update(name)
            .finalize();
        let first = hash.iter().take(16);
        let value = first.fold(0u128, |value, &byte| value << 8 | u128::from(byte));
        Self(value & !1)
    }

    /// A path from the root.
    #[must_use]
    pub fn of(path: &TreePath) -> Self {
        path.names().fold(Self::ROOT, Self::child)
    }
}

/// What a set says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// It is in the set.
    Yes,
    /// It is not, and a path below it is.
    Above,
    /// Neither.
    No,
}

/// More paths than are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the paths and the directories that they are in are more than {KEYS_MAX}")]
pub struct TooMany;

/// The keys of some paths and of all that is above them, in order.
///
/// # Errors
/// More than [`KEYS_MAX`].
fn keys(paths: &[TreePath]) -> Result<BTreeMap<PathKey, bool>, TooMany> {
    let mut keys = BTreeMap::new();
    for path in paths {
        let mut key = PathKey::ROOT;
        let mut names = path.names().peekable();
        while let Some(name) = names.next() {
            key = key.child(name);
            let listed = keys.entry(key).or_insert(false);
            *listed |= names.peek().is_none();
        }
        if keys.len() > KEYS_MAX {
            return Err(TooMany);
        }
    }
    Ok(keys)
}

/// Why a set cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// See [`TooMany`].
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The writer below failed.
    #[error("cannot write the set of paths")]
    Io(#[from] std::io::Error),
}

/// Writes the whitelist of an image and hands the writer back.
///
/// # Errors
/// Too many, or what the writer answers.
pub fn write<W: Write>(owner: AciId, paths: &[TreePath], to: W) -> Result<W, WriteError> {
    let keys = keys(paths)?;
    let mut writer = BlockWriter::new(to, SEAL);
    writer.write(&(keys.len() as u64).to_le_bytes())?;
    writer.write(&[0; 8])?;
    writer.write(owner.as_bytes())?;
    for (key, listed) in keys {
        writer.write(&(key.0 | u128::from(listed)).to_be_bytes())?;
    }
    Ok(writer.finish()?)
}

/// A set of paths, opened.
#[derive(Debug)]
pub struct PathSet {
    file: BlockFile,
    keys: u64,
}

impl PathSet {
    /// Opens the whitelist of an image: constant time but for the checks, of which
    /// there is one per 16 KiB.
    ///
    /// # Errors
    /// Damage, a file that is none, or that of another image.
    pub fn open(
        owner: AciId,
        source: Box<dyn Source>,
        cache: Arc<BlockCache>,
    ) -> Result<Self, ReadError> {
        let file = BlockFile::open(source, SEAL, cache)?;
        let mut count = [0; 8];
        file.read(0, &mut count)?;
        let mut found = [0; 64];
        file.read(16, &mut found)?;
        if found != *owner.as_bytes() {
            return Err(file.corrupt(16, format!("it is not the whitelist of {owner}")));
        }
        let keys = u64::from_le_bytes(count);
        if keys > KEYS_MAX as u64 || HEADER + keys * WIDTH != file.len() {
            return Err(file.corrupt(0, "the number of keys is not the file's"));
        }
        Ok(Self { file, keys })
    }

    /// What the set says of a path.
    ///
    /// # Errors
    /// Damage, or failure to read.
    pub fn get(&self, key: PathKey) -> Result<Listed, ReadError> {
        if key == PathKey::ROOT {
            return Ok(Listed::Above);
        }
        let (mut low, mut high) = (0, self.keys);
        for guess in 0.. {
            if low >= high {
                break;
            }
            let middle = match guess < GUESSES {
                // Where it lies if all are evenly spread.
                true => (((key.0 >> 64) * u128::from(self.keys)) >> 64) as u64,
                false => low + (high - low) / 2,
            };
            let middle = middle.clamp(low, high - 1);
            // All keys of its block, so that one block is looked at, not two.
            let block = (HEADER + middle * WIDTH) / BLOCK * BLOCK;
            let first = block.saturating_sub(HEADER) / WIDTH;
            let behind = (block + BLOCK - HEADER) / WIDTH;
            let (start, end) = (first.max(low), behind.min(high));
            match self.within(start, end, key)? {
                Side::Here(listed) => return Ok(listed),
                Side::Before => high = start,
                Side::Behind => low = end,
            }
        }
        Ok(Listed::No)
    }

    /// Looks for a key among some.
    fn within(&self, start: u64, end: u64, wanted: PathKey) -> Result<Side, ReadError> {
        // At most a block.
        let len = ((end - start) * WIDTH) as usize;
        self.file.with(HEADER + start * WIDTH, len, |bytes| {
            let (keys, _) = bytes.as_chunks::<16>();
            let value = |bytes: &[u8; 16]| u128::from_be_bytes(*bytes);
            let at = keys.partition_point(|key| value(key) & !1 < wanted.0);
            match keys.get(at).map(value) {
                Some(found) if found & !1 == wanted.0 => Side::Here(match found & 1 {
                    1 => Listed::Yes,
                    _ => Listed::Above,
                }),
                Some(_) if at > 0 => Side::Here(Listed::No),
                Some(_) => Side::Before,
                None => Side::Behind,
            }
        })
    }

    /// Checks all of it.
    ///
    /// # Errors
    /// The first damage.
    pub fn verify(&self) -> Result<(), ReadError> {
        self.file.verify()?;
        let mut before = 0;
        for number in 0..self.keys {
            let at = HEADER + number * WIDTH;
            let mut bytes = [0; 16];
            self.file.read(at, &mut bytes)?;
            let key = u128::from_be_bytes(bytes) & !1;
            if key <= before {
                return Err(self.file.corrupt(at, "the keys are not in order"));
            }
            before = key;
        }
        Ok(())
    }
}

/// Where a key lies.
enum Side {
    Here(Listed),
    Before,
    Behind,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> AciId {
        format!("{}{}", AciId::PREFIX, "ab".repeat(64))
            .parse()
            .unwrap()
    }

    fn open(sealed: Vec<u8>, cache: u64) -> Result<PathSet, ReadError> {
        PathSet::open(owner(), Box::new(sealed), BlockCache::new(cache))
    }

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn set(paths: &[TreePath]) -> PathSet {
        open(write(owner(), paths, Vec::new()).unwrap(), 1 << 20).unwrap()
    }

    #[test]
    fn a_path_is_in_it_or_above_one_or_neither() {
        let set = set(&["etc/passwd", "etc", "a/b/c", "a/b/c", ""].map(path));
        for (text, listed) in [
            ("etc", Listed::Yes),
            ("etc/passwd", Listed::Yes),
            ("a", Listed::Above),
            ("a/b", Listed::Above),
            ("a/b/c", Listed::Yes),
            ("a/b/c/d", Listed::No),
            ("b", Listed::No),
            ("etc/group", Listed::No),
            ("", Listed::Above),
        ] {
            assert_eq!(set.get(PathKey::of(&path(text))).unwrap(), listed, "{text}");
        }
        set.verify().unwrap();
    }

    /// Made by another program (Python's `hashlib`) from the text above.
    #[test]
    fn a_written_set_has_the_bytes_that_the_format_says() {
        let golden = "02000000000000000000000000000000775a95491882162acdd97186d305dd65e764fa65a1cc55eb3289265a7b0263a2";
        let golden = format!("{}{}{}", &golden[..32], "ab".repeat(64), &golden[32..]);
        let sealed = write(owner(), &[path("etc/passwd")], Vec::new()).unwrap();
        let hex: String = sealed[..112].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(&sealed[120..132], b"lr-paths\x01\0\0\0");
    }

    #[test]
    fn every_one_of_many_is_found_and_no_other() {
        for many in [0, 1, 1018, 1019, 1020, 5000] {
            let paths: Vec<_> = (0..many)
                .map(|n| path(&format!("d{}/f{n}", n % 7)))
                .collect();
            let set = set(&paths);
            for n in 0..many + 500 {
                let key = PathKey::of(&path(&format!("d{}/f{n}", n % 7)));
                let listed = if n < many { Listed::Yes } else { Listed::No };
                assert_eq!(set.get(key).unwrap(), listed, "{n} of {many}");
            }
            set.verify().unwrap();
        }
    }

    #[test]
    fn keys_that_are_not_spread_are_found_too() {
        // As somebody could choose them: all at one end.
        let mut writer = BlockWriter::new(Vec::new(), SEAL);
        writer.write(&3000u64.to_le_bytes()).unwrap();
        writer.write(&[0; 8]).unwrap();
        writer.write(owner().as_bytes()).unwrap();
        for n in 1..=3000u128 {
            writer.write(&(n << 1 | 1).to_be_bytes()).unwrap();
        }
        let sealed = writer.finish().unwrap();
        let set = open(sealed, 1 << 20).unwrap();
        for n in 1..=3000 {
            assert_eq!(set.get(PathKey(n << 1)).unwrap(), Listed::Yes, "{n}");
        }
        assert_eq!(set.get(PathKey(6002)).unwrap(), Listed::No);
        assert_eq!(set.get(PathKey(!1)).unwrap(), Listed::No);
    }

    #[test]
    fn damage_is_an_error_and_never_an_answer() {
        let paths = ["a/b", "c"].map(path);
        let sealed = write(owner(), &paths, Vec::new()).unwrap();
        let (listed, absent) = (PathKey::of(&path("a/b")), PathKey::of(&path("x")));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 4;
            let Ok(set) = open(flipped, 1) else {
                continue;
            };
            for key in [listed, absent] {
                assert!(set.get(key).is_err(), "byte {at}");
            }
        }
        for len in 0..sealed.len() {
            assert!(open(sealed[..len].to_vec(), 1).is_err());
        }
        let other = format!("{}{}", AciId::PREFIX, "00".repeat(64))
            .parse()
            .unwrap();
        assert!(PathSet::open(other, Box::new(sealed), BlockCache::new(1)).is_err());
    }
}
