//! Decoded spans that more than one mount reads, on disk.
//!
//! What it is for: programs read the same when they start, in every mount of an image. Such
//! spans are decoded once more, and lie from then on in a file of the layer, with holes, at the places that they have in
//! its tar: for all processes, which share its pages. May assume: whoever reads from it checks what
//! he gets. So nothing is locked, synced or believed: processes write the same bytes to
//! the same places, and what a crash cuts in half fails its check. Must not know which
//! spans are worth it.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustix::fs::{Advice, SeekFrom};

use super::room::{make_room, must_have_room, taken};

/// Of the names of such files.
pub(super) const EXTENSION: &str = "spans";

/// Blocks of file systems are not larger. A span is there when one lies in it that is no hole: those at
/// its ends may be its neighbours'. Shorter spans are decoded.
const BLOCK: u64 = 64 << 10;

/// After so many bytes room is made again, and others' is given back that removed the file.
const ROOM: u64 = 8 << 20;

/// Bytes on the disk for a layer, at most: what programs need to start, never all of a large layer.
const MOST: u64 = 128 << 20;

/// The file of one layer.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// Bytes that all files of the directory may take.
    quota: u64,
    state: Mutex<State>,
    writing: Mutex<Writing>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    /// It was looked for.
    looked: bool,
    /// Where spans begin that are there.
    there: HashSet<u64>,
    /// Where spans begin that failed their check; they may be written again.
    damaged: HashSet<u64>,
}

/// Apart from the rest, so that readers need not wait for room to be made.
#[derive(Debug, Default)]
struct Writing {
    /// Bytes that may be written until room is made.
    room: u64,
    /// It could not be written, or is full: not tried again.
    refused: bool,
}

impl Kept {
    /// A file at `path`, made with the first span.
    pub(super) fn new(path: PathBuf, quota: u64) -> Self {
        Self {
            path,
            quota,
            state: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    /// Fills `to` with the bytes at `offset`, which lie in `span`; false when it is not there. Not checked.
    pub(super) fn read(&self, span: &Range<u64>, offset: u64, to: &mut [u8]) -> bool {
        // What cannot be read is decoded.
        self.find(span)
            .is_some_and(|file| file.read_exact_at(to, offset).is_ok())
    }

    /// All of a span. Not checked.
    pub(super) fn whole(&self, span: &Range<u64>) -> Option<Vec<u8>> {
        let file = self.find(span)?;
        let mut bytes = vec![0; usize::try_from(span.end - span.start).ok()?];
        file.read_exact_at(&mut bytes, span.start).ok()?;
        Some(bytes)
    }

    /// Whether a span is there.
    pub(super) fn has(&self, span: &Range<u64>) -> bool {
        self.find(span).is_some()
    }

    /// A span is going to be read soon; false when it is not there.
    pub(super) fn will_need(&self, span: &Range<u64>) -> bool {
        let Some(file) = self.find(span) else {
            return false;
        };
        let len = std::num::NonZeroU64::new(span.end - span.start);
        // Only a hint.
        let _ = rustix::fs::fadvise(&*file, span.start, len, Advice::WillNeed);
        true
    }

    /// A span failed its check.
    pub(super) fn forget(&self, span: &Range<u64>) {
        let mut state = self.state.lock();
        state.there.remove(&span.start);
        state.damaged.insert(span.start);
    }

    /// Takes a span that passed its check.
    pub(super) fn keep(&self, span: &Range<u64>, bytes: &[u8]) {
        let fits = bytes.len() as u64 == span.end - span.start;
        let mut writing = self.writing.lock();
        if writing.refused || !fits || block_inside(span).is_none() || self.has(span) {
            return;
        }
        match self.write(&mut writing, span, bytes) {
            Ok(true) => {}
            Ok(false) => writing.refused = true,
            Err(error) => {
                // It only was to be faster.
                let path = self.path.display();
                log::info!("decoded spans are not kept in `{path}`: {error}");
                writing.refused = true;
            }
        }
    }

    /// False: the file is full.
    fn write(&self, writing: &mut Writing, span: &Range<u64>, bytes: &[u8]) -> io::Result<bool> {
        let len = bytes.len() as u64;
        let mut file = self.state.lock().file.clone();
        if writing.room < len || file.is_none() {
            let room = ROOM.max(len);
            let directory = self.path.parent().unwrap_or(Path::new("/"));
            super::make_directories(directory)?;
            make_room(directory, room, self.quota, Some(&self.path))?;
            // Others make room, too, maybe of this one.
            let there = file.filter(|file| file.metadata().is_ok_and(|meta| meta.nlink() > 0));
            let new = there.is_none();
            let opened = match there {
                Some(file) => file,
                None => Arc::new(self.open(true)?),
            };
            let there = taken(&opened.metadata()?);
            if new {
                *self.state.lock() = State {
                    file: Some(Arc::clone(&opened)),
                    looked: true,
                    ..State::default()
                };
            }
            if there + room > MOST {
                return Ok(false);
            }
            must_have_room(&opened, there + room)?;
            writing.room = room;
            file = Some(opened);
        }
        let Some(file) = file else {
            return Ok(false);
        };
        writing.room -= len;
        file.write_all_at(bytes, span.start)?;
        let mut state = self.state.lock();
        state.damaged.remove(&span.start);
        state.there.insert(span.start);
        Ok(true)
    }

    /// The file, if a span is in it.
    fn find(&self, span: &Range<u64>) -> Option<Arc<File>> {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.looked, true) {
            state.file = self.open(false).ok().map(Arc::new);
            if let Some(file) = &state.file {
                // Its time is when it was last of use.
                let _ = file.set_modified(SystemTime::now());
            }
        }
        let file = state.file.clone()?;
        if !state.there.contains(&span.start) {
            if state.damaged.contains(&span.start) || !has_data(&file, span) {
                return None;
            }
            state.there.insert(span.start);
        }
        Some(file)
    }

    fn open(&self, create: bool) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).mode(0o600);
        let all = options.clone().write(true).create(create).open(&self.path);
        match all {
            // Of another user, or on a disk that nobody may write.
            Err(error) if !create && error.kind() != io::ErrorKind::NotFound => {
                options.open(&self.path)
            }
            other => other,
        }
    }
}

/// Where a block begins that is a span's alone.
fn block_inside(span: &Range<u64>) -> Option<u64> {
    let at = span.start.checked_next_multiple_of(BLOCK)?;
    (at.checked_add(BLOCK)? <= span.end).then_some(at)
}

fn has_data(file: &File, span: &Range<u64>) -> bool {
    block_inside(span).is_some_and(|at| rustix::fs::seek(file, SeekFrom::Data(at)) == Ok(at))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const QUOTA: u64 = 64 << 20;
    const SPAN: u64 = 256 << 10;

    /// They do not begin where blocks do.
    fn span(number: u64) -> Range<u64> {
        let start = 1000 + number * SPAN;
        start..start + SPAN
    }

    fn bytes(byte: u8) -> Vec<u8> {
        vec![byte; SPAN as usize]
    }

    #[test]
    fn what_one_process_keeps_others_find() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/when needed");
        let [one, other] = [(); 2].map(|()| Kept::new(path.clone(), QUOTA));
        assert!(!one.has(&span(3)) && !path.try_exists().unwrap());
        one.keep(&span(3), &bytes(3));
        one.keep(&span(5), &bytes(5));
        assert!(other.will_need(&span(3)) && other.has(&span(5)));
        // Its neighbours have parts of their first and last blocks.
        for neighbour in [2, 4, 6] {
            assert!(!one.has(&span(neighbour)) && !other.has(&span(neighbour)));
        }
        assert_eq!(other.whole(&span(5)).unwrap(), bytes(5));
        let mut to = [0; 10];
        assert!(other.read(&span(3), span(3).end - 10, &mut to));
        assert_eq!(to, [3; 10]);
        other.keep(&span(4), &bytes(4));
        assert!(one.has(&span(4)));
        // As short as that it is sooner decoded.
        one.keep(&(7..7 + BLOCK), &bytes(1)[..BLOCK as usize]);
        assert!(!one.has(&(7..7 + BLOCK)));
        let meta = fs::metadata(&path).unwrap();
        assert!(meta.len() > 5 * SPAN && taken(&meta) < 5 * SPAN);
    }

    #[test]
    fn what_fails_its_check_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let kept = Kept::new(path.clone(), QUOTA);
        kept.keep(&span(1), &bytes(1));
        kept.forget(&span(1));
        assert!(!kept.has(&span(1)));
        kept.keep(&span(1), &bytes(2));
        assert_eq!(kept.whole(&span(1)).unwrap(), bytes(2));
        // Became shorter: not there, and no harm.
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(span(1).start + 10)
            .unwrap();
        assert_eq!(kept.whole(&span(1)), None);
    }

    #[test]
    fn room_is_made_and_a_removed_file_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| {
            let path = dir.path().join(name);
            Kept::new(path, ROOM + 8 * SPAN)
        });
        (0..9).for_each(|number| first.keep(&span(number), &bytes(1)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        second.keep(&span(0), &bytes(2));
        // The older one was removed; who has it open goes on with it, for a while.
        assert!(!first.path.try_exists().unwrap() && second.path.try_exists().unwrap());
        assert_eq!(first.whole(&span(8)).unwrap(), bytes(1));
        let many = ROOM / SPAN + 1;
        (9..9 + many).for_each(|number| first.keep(&span(number), &bytes(3)));
        assert!(first.path.try_exists().unwrap());
        // Its own file is not what it makes room of.
        (100..200).for_each(|number| first.keep(&span(number), &bytes(3)));
        let there = taken(&fs::metadata(&first.path).unwrap());
        assert!((SPAN..=ROOM + 9 * SPAN).contains(&there), "{there}");
        assert!(first.has(&span(8 + many)));
        // As much as there may be of one layer.
        let path = dir.path().join("large");
        let large = Kept::new(path, 4 * MOST);
        let all = MOST / SPAN + 10;
        (0..all).for_each(|number| large.keep(&span(number), &bytes(4)));
        let there = (0..all).filter(|number| large.has(&span(*number))).count() as u64;
        assert!((MOST - ROOM..=MOST).contains(&(there * SPAN)), "{there}");
        // More than there may be in all: nothing.
        let small = Kept::new(dir.path().join("small"), ROOM - 1);
        small.keep(&span(0), &bytes(1));
        assert!(!small.has(&span(0)) && !small.path.try_exists().unwrap());
    }
}
