//! Decoded spans that memory has no room for.
//!
//! What it is for: who reads many files in an order that is not the archive's comes back to each
//! span many times, and what is decoded may be larger than the cache. A file without a name
//! takes what the cache drops: its pages are the kernel's, which takes them back when memory is
//! short. May assume: whoever reads from it checks what he gets. Must not know what a span is made of.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::ahead::Key;
use super::room::must_have_room;

/// The file, made when there is something to put into it.
#[derive(Debug)]
pub(super) struct Aside {
    directory: PathBuf,
    quota: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    file: Option<Arc<File>>,
    /// Where each span begins, and how long it is.
    places: HashMap<Key, (u64, usize)>,
    /// Bytes that are written or being written.
    end: u64,
    /// It could not be made or written, or the disk has become tight: not tried again until all
    /// is forgotten.
    refused: bool,
}

impl Aside {
    /// A file in `directory` of at most `quota` bytes.
    pub(super) fn new(directory: PathBuf, quota: u64) -> Self {
        let kept = Mutex::default();
        Self {
            directory,
            quota,
            kept,
        }
    }

    /// Takes a span, if there is room.
    pub(super) fn keep(&self, key: Key, bytes: &[u8]) {
        let written = self.place(key, bytes.len()).and_then(|place| {
            let Some((file, at)) = place else {
                return Ok(());
            };
            file.write_all_at(bytes, at)?;
            let mut kept = self.kept.lock();
            // Meanwhile all may have been forgotten.
            if kept
                .file
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, &file))
            {
                kept.places.insert(key, (at, bytes.len()));
            }
            Ok(())
        });
        if let Err(error) = written {
            // It only was to be faster.
            let directory = self.directory.display();
            log::info!("decoded spans are not kept in `{directory}`: {error}");
            *self.kept.lock() = Kept {
                refused: true,
                ..Kept::default()
            };
        }
    }

    /// Where a span is to be written; nothing when it is there already, or there is no room.
    fn place(&self, key: Key, len: usize) -> io::Result<Option<(Arc<File>, u64)>> {
        let mut kept = self.kept.lock();
        if kept.refused || kept.places.contains_key(&key) {
            return Ok(None);
        }
        let file = match &kept.file {
            Some(file) => Arc::clone(file),
            None => {
                super::make_directories(&self.directory)?;
                let file = Arc::new(tempfile::tempfile_in(&self.directory)?);
                Arc::clone(kept.file.insert(file))
            }
        };
        let (at, end) = (kept.end, kept.end + len as u64);
        if end > self.quota {
            return Ok(None);
        }
        must_have_room(&file, end)?;
        kept.end = end;
        Ok(Some((file, at)))
    }

    /// Fills `to` with what lies `inside` a span; false when it is not there. Not checked.
    pub(super) fn read(&self, key: Key, inside: Range<usize>, to: &mut [u8]) -> bool {
        let Some((file, at, len)) = self.find(key) else {
            return false;
        };
        // What cannot be read is decoded.
        inside.end <= len
            && inside.len() == to.len()
            && file.read_exact_at(to, at + inside.start as u64).is_ok()
    }

    /// All of a span. Not checked.
    pub(super) fn whole(&self, key: Key) -> Option<Vec<u8>> {
        let (file, at, len) = self.find(key)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }

    /// Whether a span is there.
    pub(super) fn has(&self, key: Key) -> bool {
        self.kept.lock().places.contains_key(&key)
    }

    fn find(&self, key: Key) -> Option<(Arc<File>, u64, usize)> {
        let kept = self.kept.lock();
        let (at, len) = *kept.places.get(&key)?;
        Some((Arc::clone(kept.file.as_ref()?), at, len))
    }

    /// A span was found damaged.
    pub(super) fn forget(&self, key: Key) {
        self.kept.lock().places.remove(&key);
    }

    /// The spans of a layer are not its own any more. Their room is not given back.
    pub(super) fn forget_layer(&self, number: u32) {
        self.kept.lock().places.retain(|key, _| key.0 != number);
    }

    /// Gives all room back.
    pub(super) fn clear(&self) {
        *self.kept.lock() = Kept::default();
    }

    /// The file, for tests that damage it.
    #[cfg(test)]
    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.kept.lock().file.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_aside_comes_back_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let aside = Aside::new(dir.path().join("made/when/needed"), 1000);
        assert_eq!(aside.whole((0, 1)), None);
        aside.keep((0, 1), &[1; 300]);
        aside.keep((7, 1), &[2; 400]);
        // Once is enough.
        aside.keep((0, 1), &[3; 300]);
        assert_eq!(aside.whole((0, 1)).unwrap(), [1; 300]);
        let mut to = [0; 10];
        assert!(aside.read((7, 1), 390..400, &mut to));
        assert_eq!(to, [2; 10]);
        assert!(!aside.read((7, 1), 391..401, &mut to));
        // No room is left for this one, but for that one.
        aside.keep((0, 2), &[4; 301]);
        aside.keep((0, 3), &[5; 300]);
        assert!(!aside.has((0, 2)) && aside.has((0, 3)));
        aside.forget((0, 3));
        assert!(!aside.has((0, 3)));
        aside.clear();
        assert_eq!(aside.whole((0, 1)), None);
        aside.keep((0, 2), &[4; 301]);
        assert_eq!(aside.whole((0, 2)).unwrap(), [4; 301]);
        // It has no name that somebody would have to remove.
        let left = std::fs::read_dir(dir.path().join("made/when/needed"));
        assert_eq!(left.unwrap().count(), 0);
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a file");
        std::fs::write(&file, "").unwrap();
        let aside = Aside::new(file, 1000);
        aside.keep((0, 1), &[1; 300]);
        assert_eq!(aside.whole((0, 1)), None);
    }
}
