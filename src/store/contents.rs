//! The uncompressed tar of a layer, readable anywhere.
//!
//! What it is for: a [`Source`] over a blob and its seek map. Bytes are decoded
//! span by span, checked, and kept in one bounded cache per process; a span is
//! decoded once even if many threads want it. A layer that no random access can
//! serve (zstd in one frame) is decoded once from front to back into a file of
//! the cache, answering readers as it passes what they want; what is read back
//! from that file is checked like everything else.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use crossbeam_channel::{Sender, bounded};
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, CWD};

use super::FileSource;
use super::metrics::{Copied, Counter, Metrics};
use crate::layer::seek::{SeekMap, SpanDecoder};
use crate::layer::{ReadError, Source};

type Key = (u32, u32);
type Span = Arc<Vec<u8>>;
type Slot = Arc<Mutex<Content>>;

/// What is there of a span.
#[derive(Debug, Default)]
enum Content {
    /// Nothing.
    #[default]
    Empty,
    /// Its first part, not checked yet; whoever needs more goes on here.
    Begun(Box<SpanDecoder>),
    /// All of it, checked.
    Whole(Span),
}

/// Spans that wait for the thread that finishes what was begun. More are dropped
/// and decoded anew when somebody wants them.
const UNFINISHED: usize = 16;

/// Decoded spans, least recently used ones dropped first.
pub struct SpanCache {
    state: Mutex<State>,
    capacity: u64,
    layers: AtomicU32,
    unfinished: Sender<Unfinished>,
}

struct State {
    /// Each with the bytes that it is counted for: 0 until it is whole.
    slots: LruCache<Key, (Slot, u64)>,
    /// The sum of those.
    bytes: u64,
}

/// A span whose first part has answered a reader.
struct Unfinished {
    cache: Weak<SpanCache>,
    key: Key,
    slot: Slot,
    blob: Arc<FileSource>,
}

impl Unfinished {
    /// Decodes the rest. Damage is found again, and told, by who reads it.
    fn finish(self) {
        let Some(cache) = self.cache.upgrade() else {
            return;
        };
        let mut content = self.slot.lock();
        // Another reader may have finished it meanwhile.
        if !matches!(*content, Content::Begun(_)) {
            return;
        }
        if let Content::Begun(decoder) = std::mem::take(&mut *content)
            && let Ok(bytes) = decoder.finish(&*self.blob)
        {
            let len = bytes.len() as u64;
            *content = Content::Whole(Arc::new(bytes));
            drop(content);
            cache.count(self.key, &self.slot, len);
        }
    }
}

impl std::fmt::Debug for SpanCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpanCache")
    }
}

impl SpanCache {
    /// A cache of at most `capacity` bytes (one span at least).
    #[must_use]
    pub fn new(capacity: u64) -> Arc<Self> {
        let (unfinished, work) = bounded::<Unfinished>(UNFINISHED);
        // Ends with the cache, which has the only sender.
        thread::spawn(move || work.into_iter().for_each(Unfinished::finish));
        let state = Mutex::new(State {
            slots: LruCache::unbounded(),
            bytes: 0,
        });
        Arc::new(Self {
            state,
            capacity,
            layers: AtomicU32::new(0),
            unfinished,
        })
    }

    /// Forgets every span.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.slots.clear();
        state.bytes = 0;
    }

    fn slot(&self, key: Key) -> Slot {
        let mut state = self.state.lock();
        let (slot, _) = state.slots.get_or_insert(key, || (Slot::default(), 0));
        Arc::clone(slot)
    }

    /// The span, from the cache or by `decode`. Others who want the same span
    /// meanwhile wait for this one decoding.
    fn get(
        &self,
        key: Key,
        blob: &FileSource,
        decode: impl FnOnce() -> Result<Vec<u8>, ReadError>,
    ) -> Result<Span, ReadError> {
        let slot = self.slot(key);
        let mut content = slot.lock();
        let bytes = match std::mem::take(&mut *content) {
            Content::Whole(bytes) => {
                *content = Content::Whole(Arc::clone(&bytes));
                return Ok(bytes);
            }
            Content::Begun(decoder) => decoder.finish(blob)?,
            Content::Empty => decode()?,
        };
        let bytes = Arc::new(bytes);
        *content = Content::Whole(Arc::clone(&bytes));
        drop(content);
        self.count(key, &slot, bytes.len() as u64);
        Ok(bytes)
    }

    /// Copies a part of a span as soon as it is decoded and passes `check`; the
    /// rest is decoded behind the reader's back. False: it did not pass.
    fn begin(
        self: &Arc<Self>,
        key: Key,
        blob: &Arc<FileSource>,
        start: impl FnOnce() -> Result<SpanDecoder, ReadError>,
        inside: Range<usize>,
        to: &mut [u8],
        check: &dyn Fn(&[u8]) -> bool,
    ) -> Result<bool, ReadError> {
        let slot = self.slot(key);
        let mut content = slot.lock();
        if let Content::Whole(bytes) = &*content {
            return Ok(bytes.get(inside).is_some_and(|found| {
                to.copy_from_slice(found);
                true
            }));
        }
        let mut decoder = match std::mem::take(&mut *content) {
            Content::Begun(decoder) => decoder,
            _ => Box::new(start()?),
        };
        let begun = decoder.advance(inside.end, &**blob)?;
        let passes = begun.get(inside).is_some_and(|found| {
            to.copy_from_slice(found);
            check(found)
        });
        if passes {
            *content = Content::Begun(decoder);
            drop(content);
            let (cache, blob) = (Arc::downgrade(self), Arc::clone(blob));
            let work = Unfinished {
                cache,
                key,
                slot,
                blob,
            };
            if let Err(refused) = self.unfinished.try_send(work) {
                // Too many wait: half a span that nobody finishes would only take room.
                let slot = refused.into_inner().slot;
                let mut content = slot.lock();
                if matches!(*content, Content::Begun(_)) {
                    *content = Content::Empty;
                }
            }
        }
        Ok(passes)
    }

    /// Counts a span that was just decoded, and makes room.
    fn count(&self, key: Key, slot: &Slot, len: u64) {
        let mut state = self.state.lock();
        // While it was decoded it may have been dropped, or made anew.
        match state.slots.peek_mut(&key) {
            Some((now, counted)) if Arc::ptr_eq(now, slot) && *counted == 0 => *counted = len,
            _ => return,
        }
        state.bytes += len;
        while state.bytes > self.capacity && state.slots.len() > 1 {
            let Some((_, (_, counted))) = state.slots.pop_lru() else {
                break;
            };
            state.bytes -= counted;
        }
    }
}

/// The tar of one layer.
#[derive(Debug)]
pub struct Contents {
    map: Arc<SeekMap>,
    blob: Arc<FileSource>,
    spans: Arc<SpanCache>,
    number: u32,
    expanded: Mutex<Option<Arc<Expanded>>>,
    expanded_path: PathBuf,
    quota: u64,
    metrics: Metrics,
}

impl Contents {
    /// Over a map and its blob.
    #[must_use]
    pub fn new(
        map: SeekMap,
        blob: FileSource,
        spans: Arc<SpanCache>,
        expanded_path: PathBuf,
        quota: u64,
        metrics: Metrics,
    ) -> Self {
        let number = spans.layers.fetch_add(1, Ordering::Relaxed);
        let (map, blob, expanded) = (Arc::new(map), Arc::new(blob), Mutex::new(None));
        Self {
            map,
            blob,
            spans,
            number,
            expanded,
            expanded_path,
            quota,
            metrics,
        }
    }

    fn span(&self, span: u32, range: Range<u64>) -> Result<Span, ReadError> {
        self.spans.get((self.number, span), &self.blob, || {
            if self.map.random_access() {
                self.map.decode(span, &*self.blob)
            } else {
                self.read_expanded(span, range)
            }
        })
    }

    /// A span of a layer that is only decoded as a whole. The copy on disk is a
    /// cache that nobody has to trust: where it is damaged it is made again.
    fn read_expanded(&self, span: u32, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
        for _ in 0..2 {
            let expanded = self.expanded()?;
            expanded.begin(&self.map, &self.blob, &self.metrics);
            let forget = || {
                let mut now = self.expanded.lock();
                now.take_if(|now| Arc::ptr_eq(now, &expanded));
            };
            if let Err(error) = expanded.wait(range.end) {
                // The next reader tries anew: what failed may have been mended.
                forget();
                return Err(error);
            }
            let size = usize::try_from(range.end - range.start);
            let mut bytes = vec![0; size.map_err(|_| too_large(&self.expanded_path))?];
            let read = expanded.file.read_exact_at(&mut bytes, range.start);
            // One that became shorter is as damaged as one with other bytes.
            if read.is_ok() && self.map.is_span(span, &bytes)? {
                return Ok(bytes);
            }
            let path = self.expanded_path.display();
            log::warn!("`{path}` is damaged in span {span}: dropped, and made again");
            forget();
            let _ = fs::remove_file(&self.expanded_path);
        }
        Err(ReadError::Corrupt {
            file: self.expanded_path.display().to_string(),
            offset: range.start,
            what: format!("span {span} fails its check, also after the copy was made again"),
        })
    }

    fn expanded(&self) -> Result<Arc<Expanded>, ReadError> {
        let mut expanded = self.expanded.lock();
        if let Some(expanded) = &*expanded {
            return Ok(Arc::clone(expanded));
        }
        let opened = Expanded::open(&self.expanded_path, self.map.tar_len(), self.quota)
            .map_err(io_error(&self.expanded_path))?;
        Ok(Arc::clone(expanded.insert(Arc::new(opened))))
    }
}

fn too_large(path: &Path) -> ReadError {
    ReadError::Corrupt {
        file: path.display().to_string(),
        offset: 0,
        what: "a span is too large for this machine".to_owned(),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
    let file = path.display().to_string();
    move |source| ReadError::Io { file, source }
}

impl Source for Contents {
    fn name(&self) -> String {
        self.blob.name()
    }

    fn len(&self) -> u64 {
        self.map.tar_len()
    }

    fn read_at(&self, mut offset: u64, mut to: &mut [u8]) -> Result<(), ReadError> {
        while !to.is_empty() {
            let (span, range) = self.map.span_at(offset)?;
            let bytes = self.span(span, range.clone())?;
            // `offset` lies in `range`, whose length fits memory: it was decoded.
            let inside = (offset - range.start) as usize;
            let found = bytes.get(inside..).filter(|found| !found.is_empty());
            let found = found.ok_or_else(|| ReadError::Corrupt {
                file: self.name(),
                offset,
                what: format!("span {span} is shorter than its map says"),
            })?;
            let take = found.len().min(to.len());
            let (now, later) = to.split_at_mut(take);
            now.copy_from_slice(&found[..take]);
            offset += take as u64;
            to = later;
        }
        Ok(())
    }

    fn read_checked(
        &self,
        offset: u64,
        to: &mut [u8],
        check: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(), ReadError> {
        if to.is_empty() || !self.map.random_access() {
            return self.read_at(offset, to);
        }
        let (span, range) = self.map.span_at(offset)?;
        let end = offset.saturating_add(to.len() as u64);
        if end > range.end {
            return self.read_at(offset, to);
        }
        // Spans are at most `SPAN_MAX` long, so both fit memory.
        let inside = (offset - range.start) as usize..(end - range.start) as usize;
        let (key, start) = ((self.number, span), || self.map.start(span));
        if self
            .spans
            .begin(key, &self.blob, start, inside, to, check)?
        {
            return Ok(());
        }
        // The file's digest failed: the span's own check says where the damage is.
        self.read_at(offset, to)
    }
}

/// A layer on disk, uncompressed: whole from an earlier time, or being made.
#[derive(Debug)]
struct Expanded {
    file: File,
    progress: Mutex<Progress>,
    moved: Condvar,
    /// What it will be called when all of it is there. Until then it has no name,
    /// so that whoever ends early (`lazyroot cat` of one file) leaves nothing behind.
    making: Option<PathBuf>,
}

#[derive(Debug)]
enum Progress {
    /// Nobody has begun.
    Idle,
    /// A thread decodes; bytes below this are there.
    Until(u64),
    /// All of it is there.
    Whole,
    /// It ended early; bytes below this are there.
    Failed(u64, ReadError),
}

impl Expanded {
    fn open(path: &Path, len: u64, quota: u64) -> io::Result<Self> {
        match File::open(path) {
            Ok(file) if file.metadata()?.len() == len => {
                // Its time is when it was last of use; the quota drops the oldest.
                let _ = file.set_modified(std::time::SystemTime::now());
                let progress = Mutex::new(Progress::Whole);
                return Ok(Self {
                    file,
                    progress,
                    moved: Condvar::new(),
                    making: None,
                });
            }
            Ok(_) => {
                // Not whole: nobody can use it. Another may have removed it already.
                let _ = fs::remove_file(path);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        make_room(directory, len, quota)?;
        Ok(Self {
            file: tempfile::tempfile_in(directory)?,
            progress: Mutex::new(Progress::Idle),
            moved: Condvar::new(),
            making: Some(path.to_owned()),
        })
    }

    /// Starts the thread that decodes the layer, unless that was done.
    fn begin(self: &Arc<Self>, map: &Arc<SeekMap>, blob: &Arc<FileSource>, metrics: &Metrics) {
        let mut progress = self.progress.lock();
        if !matches!(*progress, Progress::Idle) {
            return;
        }
        *progress = Progress::Until(0);
        drop(progress);
        let (this, map, blob) = (Arc::clone(self), Arc::clone(map), Arc::clone(blob));
        let metrics = metrics.clone();
        let making = thread::Builder::new().name("expand".to_owned());
        let spawned = making.spawn(move || {
            let outcome = this.fill(&map, &blob);
            let whole = outcome.is_ok();
            this.end(outcome);
            if whole {
                let what = Counter::MaterialisedBytes(Copied::Layer);
                metrics.tally(&[(what, map.tar_len())]);
            }
        });
        if let Err(error) = spawned {
            self.end(Err(io_error(Path::new("a thread"))(error)));
        }
    }

    /// The decoding ended, and those who wait may know how.
    fn end(&self, outcome: Result<(), ReadError>) {
        let mut progress = self.progress.lock();
        let there = match *progress {
            Progress::Until(there) => there,
            _ => 0,
        };
        *progress = match outcome {
            Ok(()) => Progress::Whole,
            Err(error) => Progress::Failed(there, error),
        };
        self.moved.notify_all();
    }

    /// Waits until all bytes below `end` are in the file.
    fn wait(&self, end: u64) -> Result<(), ReadError> {
        let mut progress = self.progress.lock();
        loop {
            match &*progress {
                Progress::Whole => return Ok(()),
                Progress::Until(there) | Progress::Failed(there, _) if end <= *there => {
                    return Ok(());
                }
                Progress::Failed(_, error) => return Err(again(error)),
                Progress::Until(_) | Progress::Idle => self.moved.wait(&mut progress),
            }
        }
    }

    fn fill(&self, map: &SeekMap, blob: &FileSource) -> Result<(), ReadError> {
        let Some(to) = &self.making else {
            return Ok(());
        };
        let mut at = 0;
        let mut written = Ok(());
        map.decode_all(blob, &mut |_, bytes| {
            written = self.file.write_all_at(bytes, at);
            at += bytes.len() as u64;
            if written.is_ok() {
                *self.progress.lock() = Progress::Until(at);
                self.moved.notify_all();
            }
            written.is_ok()
        })?;
        written.map_err(io_error(to))?;
        // How a file without a name gets one (open(2), O_TMPFILE). Where that cannot
        // be, or another was faster, this one serves its own process alone.
        let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let _ = rustix::fs::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW);
        Ok(())
    }
}

/// The same error for one more reader.
fn again(error: &ReadError) -> ReadError {
    match error {
        ReadError::Corrupt { file, offset, what } => ReadError::Corrupt {
            file: file.clone(),
            offset: *offset,
            what: what.clone(),
        },
        ReadError::Io { file, source } => ReadError::Io {
            file: file.clone(),
            source: io::Error::new(source.kind(), source.to_string()),
        },
    }
}

/// Drops the copies that were not used for the longest time until `wanted` more
/// bytes fit below `quota`. Readers keep their files open, so none is disturbed.
fn make_room(directory: &Path, wanted: u64, quota: u64) -> io::Result<()> {
    if wanted > quota {
        return Err(io::Error::other(format!(
            "a layer of {wanted} bytes does not fit the cache of {quota} bytes (--cache-size)"
        )));
    }
    // Others make room too: what they have removed is gone for us as well.
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut files = Vec::new();
    let mut total = wanted;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let meta = match entry.metadata() {
            Err(error) if gone(&error) => continue,
            other => other?,
        };
        total += meta.len();
        files.push((meta.modified()?, meta.len(), entry.path()));
    }
    files.sort();
    for (_, len, path) in files {
        if total <= quota {
            break;
        }
        match fs::remove_file(&path) {
            Err(error) if !gone(&error) => return Err(error),
            _ => total -= len,
        }
    }
    Ok(())
}
