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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use lru::LruCache;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{AtFlags, CWD};

use super::FileSource;
use super::ahead::{FirstReads, Follower, Key};
use super::metrics::{Copied, Counter, Metrics};
use super::pace::Pace;
use crate::digest::BlobId;
use crate::layer::seek::{SPAN, SeekMap, SpanDecoder};
use crate::layer::{ReadError, Source};

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

/// A reader waits no longer, for each 256 KiB, for another thread that decodes the span which he
/// wants: ten times what it takes. Where more is to be done than there are processors, that thread may be
/// put aside for as long as the others take their turns.
const PATIENCE: Duration = Duration::from_millis(3);

/// The same for so many bytes.
fn patience(bytes: u64) -> Duration {
    // Spans have 4 MiB at most.
    PATIENCE * bytes.div_ceil(SPAN).clamp(1, 16) as u32
}

/// Work that waits for the thread which decodes behind readers' backs. What would be
/// more is dropped, and decoded when somebody wants it.
const WAITING: usize = 64;

/// So much waits at most when the rest of a span is left to that thread: more
/// would be finished too late.
const UNFINISHED: usize = 16;

/// Decoded spans, least recently used ones dropped first.
pub struct SpanCache {
    state: Mutex<State>,
    capacity: u64,
    /// By their numbers.
    layers: Mutex<Vec<Decodable>>,
    work: Sender<Work>,
    /// How many rests of spans are in it.
    unfinished: AtomicUsize,
    /// What readers are likely to want next; nothing if nobody wants to know.
    follower: Option<Mutex<Follower>>,
}

struct State {
    /// Each with the bytes that it is counted for: 0 until it is whole.
    slots: LruCache<Key, (Slot, u64)>,
    /// The sum of those.
    bytes: u64,
}

/// A layer; it can be decoded for as long as somebody has it open.
struct Decodable {
    id: BlobId,
    map: Weak<SeekMap>,
    blob: Weak<FileSource>,
}

/// What is decoded while no reader waits for it. Damage is found again, and told, by
/// who reads it.
enum Work {
    /// The rest of a span whose first part has answered a reader.
    Finish(Weak<SpanCache>, Key, Slot, Arc<FileSource>),
    /// A span that a reader is likely to want soon.
    Ahead(Weak<SpanCache>, Key),
}

impl Work {
    fn run(self, pace: &mut Pace) {
        match self {
            Self::Finish(cache, key, slot, blob) => {
                if let Some(cache) = cache.upgrade() {
                    cache.unfinished.fetch_sub(1, Ordering::Relaxed);
                    let mut content = slot.lock();
                    // Another reader may have finished it meanwhile.
                    if let Content::Begun(decoder) = take_begun(&mut content)
                        && let Ok(bytes) = decoder.finish(&*blob)
                    {
                        cache.keep(key, &slot, content, bytes);
                    }
                }
            }
            Self::Ahead(cache, key) => {
                if let Some(cache) = cache.upgrade()
                    && pace.may_run()
                {
                    cache.decode_ahead(key);
                    pace.has_run();
                }
            }
        }
    }
}

/// Takes out what is begun, and nothing else.
fn take_begun(content: &mut Content) -> Content {
    match content {
        Content::Begun(_) => std::mem::take(content),
        Content::Empty | Content::Whole(_) => Content::Empty,
    }
}

impl std::fmt::Debug for SpanCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpanCache")
    }
}

impl SpanCache {
    /// A cache of at most `capacity` bytes (one span at least). If it is to look `ahead`,
    /// spans that readers are likely to want next are decoded before they do.
    #[must_use]
    pub fn new(capacity: u64, ahead: bool) -> Arc<Self> {
        Self::at_pace(capacity, ahead, Pace::new)
    }

    /// The same; `pace` is asked for by the thread that decodes behind readers' backs.
    fn at_pace(capacity: u64, ahead: bool, pace: fn() -> Pace) -> Arc<Self> {
        let (work, jobs) = bounded::<Work>(WAITING);
        // Ends with the cache, which has the only sender.
        thread::spawn(move || {
            let mut pace = pace();
            jobs.into_iter().for_each(|work| work.run(&mut pace));
        });
        let state = Mutex::new(State {
            slots: LruCache::unbounded(),
            bytes: 0,
        });
        Arc::new(Self {
            state,
            capacity,
            layers: Mutex::default(),
            work,
            unfinished: AtomicUsize::new(0),
            follower: ahead.then(Mutex::default),
        })
    }

    /// A number for a layer that was opened: the one that it had before, if it is not open
    /// any more.
    fn number(&self, map: &Arc<SeekMap>, blob: &Arc<FileSource>) -> u32 {
        let opened = Decodable {
            id: map.blob(),
            map: Arc::downgrade(map),
            blob: Arc::downgrade(blob),
        };
        let mut layers = self.layers.lock();
        let closed = |had: &Decodable| had.id == opened.id && had.map.strong_count() == 0;
        let number = layers.iter().position(closed).unwrap_or(layers.len());
        // As many as there are blobs, or as a process opens files.
        let key = number as u32;
        match layers.get_mut(number) {
            Some(had) => {
                *had = opened;
                self.forget(key);
            }
            None => layers.push(opened),
        }
        key
    }

    /// Forgets the spans of a layer: the next one of its number may be cut elsewhere.
    fn forget(&self, number: u32) {
        let mut state = self.state.lock();
        let keys = state.slots.iter().map(|(key, _)| *key);
        let keys: Vec<Key> = keys.filter(|key| key.0 == number).collect();
        for key in keys {
            if let Some((_, counted)) = state.slots.pop(&key) {
                state.bytes -= counted;
            }
        }
    }

    /// From now on readers are expected to read as they did then. Spans of layers that
    /// were never opened are left out.
    pub fn expect(&self, reads: &FirstReads) {
        let Some(follower) = &self.follower else {
            return;
        };
        let blobs = self.blobs();
        let place = |blob| blobs.iter().position(|open| open == blob);
        let numbers: Vec<_> = reads.layers.iter().map(place).collect();
        let known = reads.spans.iter().filter_map(|&(layer, span)| {
            let number = (*numbers.get(layer as usize)?)?;
            Some((number as u32, span))
        });
        follower.lock().know(known.collect());
    }

    /// In which order spans were first read, once there is enough that is worth keeping;
    /// from then on nothing more is noted.
    #[must_use]
    pub fn first_reads(&self) -> Option<FirstReads> {
        let keys = self.follower.as_ref()?.lock().close()?;
        Some(FirstReads {
            layers: self.blobs(),
            spans: keys,
        })
    }

    /// Blobs of all layers by their numbers.
    fn blobs(&self) -> Vec<BlobId> {
        self.layers.lock().iter().map(|layer| layer.id).collect()
    }

    /// A reader wants a span: has others decoded that are likely to be next.
    fn look_ahead(self: &Arc<Self>, key: Key) {
        let Some(follower) = &self.follower else {
            return;
        };
        let next = follower.lock().touch(key);
        for key in next {
            // When there is too much to do, the reader is faster himself.
            let _ = self.work.try_send(Work::Ahead(Arc::downgrade(self), key));
        }
    }

    fn decode_ahead(&self, key: Key) {
        let layer = self
            .layers
            .lock()
            .get(key.0 as usize)
            .map(|layer| (layer.map.upgrade(), layer.blob.upgrade()));
        let Some((Some(map), Some(blob))) = layer else {
            return;
        };
        let follower = self.follower.as_ref();
        if !map.random_access()
            || key.1 >= map.spans()
            // The reader was faster.
            || follower.is_some_and(|follower| follower.lock().is_passed(key))
        {
            return;
        }
        let slot = self.slot(key);
        // A reader is at it.
        let Some(mut content) = slot.try_lock() else {
            return;
        };
        let bytes = match std::mem::take(&mut *content) {
            Content::Empty => map.decode(key.1, &*blob),
            Content::Begun(decoder) => decoder.finish(&*blob),
            whole @ Content::Whole(_) => {
                *content = whole;
                return;
            }
        };
        if let Ok(bytes) = bytes {
            self.keep(key, &slot, content, bytes);
        }
    }

    /// Forgets every span.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.slots.clear();
        state.bytes = 0;
        drop(state);
        if let Some(follower) = &self.follower {
            follower.lock().start_again();
        }
    }

    fn slot(&self, key: Key) -> Slot {
        let mut state = self.state.lock();
        let (slot, _) = state.slots.get_or_insert(key, || (Slot::default(), 0));
        Arc::clone(slot)
    }

    /// The span, from the cache or by `decode`. Others who want the same span
    /// meanwhile wait for this one decoding; for a while, where there is a `patience`.
    fn get(
        &self,
        key: Key,
        blob: &FileSource,
        patience: Option<Duration>,
        decode: impl FnOnce() -> Result<Vec<u8>, ReadError>,
    ) -> Result<Span, ReadError> {
        let slot = self.slot(key);
        let locked = match patience {
            Some(patience) => slot.try_lock_for(patience),
            None => Some(slot.lock()),
        };
        let Some(mut content) = locked else {
            return Ok(Arc::new(decode()?));
        };
        let bytes = match std::mem::take(&mut *content) {
            Content::Whole(bytes) => {
                *content = Content::Whole(Arc::clone(&bytes));
                return Ok(bytes);
            }
            Content::Begun(decoder) => decoder.finish(blob)?,
            Content::Empty => decode()?,
        };
        Ok(self.keep(key, &slot, content, bytes))
    }

    /// Keeps a span that was just decoded.
    fn keep(
        &self,
        key: Key,
        slot: &Slot,
        mut content: MutexGuard<'_, Content>,
        bytes: Vec<u8>,
    ) -> Span {
        let bytes = Arc::new(bytes);
        *content = Content::Whole(Arc::clone(&bytes));
        drop(content);
        self.count(key, slot, bytes.len() as u64);
        bytes
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
        let end = inside.end;
        let mut answer = |bytes: &[u8], passes: &dyn Fn(&[u8]) -> bool| {
            bytes.get(inside.clone()).is_some_and(|found| {
                to.copy_from_slice(found);
                passes(found)
            })
        };
        let slot = self.slot(key);
        let Some(mut content) = slot.try_lock_for(patience(end as u64)) else {
            return Ok(answer(start()?.advance(end, &**blob)?, check));
        };
        if let Content::Whole(bytes) = &*content {
            return Ok(answer(bytes, &|_| true));
        }
        let mut decoder = match std::mem::take(&mut *content) {
            Content::Begun(decoder) => decoder,
            _ => Box::new(start()?),
        };
        let passes = answer(decoder.advance(end, &**blob)?, check);
        if passes {
            *content = Content::Begun(decoder);
            drop(content);
            let (cache, blob) = (Arc::downgrade(self), Arc::clone(blob));
            let work = Work::Finish(cache, key, Arc::clone(&slot), blob);
            let waiting = self.unfinished.fetch_add(1, Ordering::Relaxed);
            if waiting >= UNFINISHED || self.work.try_send(work).is_err() {
                self.unfinished.fetch_sub(1, Ordering::Relaxed);
                // Half a span that nobody finishes would only take room. Another may be at it.
                drop(slot.try_lock().map(|mut content| take_begun(&mut content)));
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
        let (map, blob, expanded) = (Arc::new(map), Arc::new(blob), Mutex::new(None));
        let number = spans.number(&map, &blob);
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
        self.spans.look_ahead((self.number, span));
        // One that is decoded as a whole is decoded once.
        let patience = (self.map.random_access()).then(|| patience(range.end - range.start));
        self.spans
            .get((self.number, span), &self.blob, patience, || {
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
        self.spans.look_ahead(key);
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
        super::make_directories(directory)?;
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::digest::{DiffId, Digest};
    use crate::layer::Limits;
    use crate::layer::blocks::BlockCache;
    use crate::layer::seek::{Compression, MapWriter, Recorder, SPAN, Sink, Stopped, WindowJob};

    struct Nobody;

    impl Sink for Nobody {
        fn buffer(&mut self) -> Vec<u8> {
            Vec::new()
        }
        fn bytes(&mut self, _: Vec<u8>) -> Result<(), Stopped> {
            Ok(())
        }
        fn window(&mut self, _: WindowJob) -> Result<(), Stopped> {
            Ok(())
        }
    }

    /// One that looks ahead also where other tests keep all processors busy.
    fn cache(capacity: u64) -> Arc<SpanCache> {
        SpanCache::at_pace(capacity, true, Pace::default)
    }

    const SPANS: u32 = 20;
    const LEN: usize = SPAN as usize;

    /// A plain layer of some spans; the bytes of each are its number.
    fn layer(dir: &Path, spans: &Arc<SpanCache>) -> Contents {
        let bytes: Vec<u8> = (0..SPANS).flat_map(|n| vec![n as u8; LEN]).collect();
        let path = dir.join("blob");
        fs::write(&path, &bytes).unwrap();
        let mut recorder = Recorder::new(Compression::Plain, Limits::default());
        recorder.push(&bytes, &mut Nobody).unwrap();
        let recorded = recorder.finish(&mut Nobody).unwrap();
        let digest = Digest::sha256(&bytes);
        let map = MapWriter::new(Vec::new());
        let map = map.finish(recorded, BlobId(digest), DiffId(digest));
        let map = SeekMap::open(Box::new(map.unwrap()), BlockCache::new(1 << 20)).unwrap();
        assert_eq!(map.spans(), SPANS);
        let blob = FileSource::open(path).unwrap();
        let metrics = Metrics::new(dir.to_owned());
        Contents::new(map, blob, Arc::clone(spans), dir.join("x"), 0, metrics)
    }

    fn expect(layer: &Contents, order: &[u32]) {
        layer.spans.expect(&FirstReads {
            layers: vec![layer.map.blob()],
            spans: order.iter().map(|span| (0, *span)).collect(),
        });
    }

    fn read(layer: &Contents, span: u32) -> Result<(), ReadError> {
        let mut to = [0xff; 100];
        layer.read_at(u64::from(span) * SPAN + 77, &mut to)?;
        assert_eq!(to, [span as u8; 100]);
        Ok(())
    }

    fn is_whole(layer: &Contents, span: u32) -> bool {
        let slot = layer.spans.slot((layer.number, span));
        matches!(*slot.lock(), Content::Whole(_))
    }

    #[test]
    fn who_is_put_aside_while_he_decodes_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(dir.path(), &cache(64 << 20));
        let slot = layer.spans.slot((layer.number, 4));
        let _put_aside = slot.lock();
        read(&layer, 4).unwrap();
        let mut to = [0; 10];
        let check = |found: &[u8]| found == [4; 10];
        layer.read_checked(4 * SPAN, &mut to, &check).unwrap();
        assert_eq!(to, [4; 10]);
    }

    fn wait_for(layer: &Contents, span: u32) {
        let begin = Instant::now();
        while !is_whole(layer, span) {
            assert!(begin.elapsed() < Duration::from_secs(20), "span {span}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_was_read_next_the_last_time_is_decoded_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(dir.path(), &cache(64 << 20));
        expect(&layer, &[3, 17, 5, 11, 2, 8, 0, 19, 1, 4, 6, 7, 9]);
        read(&layer, 17).unwrap();
        wait_for(&layer, 11);
        // So few to begin with, and none that was passed over.
        assert!(![2, 8, 0, 3].iter().any(|span| is_whole(&layer, *span)));
        // What is decoded needs no blob any more.
        let blob = File::options().write(true).open(dir.path().join("blob"));
        blob.unwrap().set_len(0).unwrap();
        read(&layer, 5).unwrap();
        read(&layer, 11).unwrap();
        assert!(read(&layer, 3).is_err());
    }

    #[test]
    fn damage_that_is_met_ahead_is_told_to_who_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(dir.path(), &cache(64 << 20));
        let blob = File::options().write(true).open(dir.path().join("blob"));
        blob.unwrap().write_all_at(b"!", 5 * SPAN + 9).unwrap();
        expect(&layer, &[0, 5, 6, 7, 8]);
        read(&layer, 0).unwrap();
        // It comes behind the damaged one.
        wait_for(&layer, 6);
        assert!(matches!(read(&layer, 5), Err(ReadError::Corrupt { .. })));
        read(&layer, 7).unwrap();
    }

    #[test]
    fn what_is_decoded_ahead_fits_the_cache_and_may_be_dropped_unread() {
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(dir.path(), &cache(4 * SPAN));
        let order: Vec<u32> = (0..SPANS).map(|n| 7 * n % SPANS).collect();
        expect(&layer, &order);
        for span in order {
            read(&layer, span).unwrap();
            assert!(layer.spans.state.lock().bytes <= 5 * SPAN);
        }
    }

    #[test]
    fn a_layer_that_is_opened_again_has_the_number_that_it_had_and_nothing_of_its_spans() {
        let dir = tempfile::tempdir().unwrap();
        let spans = cache(64 << 20);
        let first = layer(dir.path(), &spans);
        read(&first, 3).unwrap();
        let second = layer(dir.path(), &spans);
        read(&second, 4).unwrap();
        let numbers = (first.number, second.number);
        assert_ne!(numbers.0, numbers.1);
        drop(first);
        let third = layer(dir.path(), &spans);
        assert_eq!(third.number, numbers.0);
        assert!(!is_whole(&third, 3) && is_whole(&second, 4));
        assert_eq!(spans.state.lock().bytes, SPAN);
        read(&third, 3).unwrap();
        assert_eq!(spans.blobs().len(), 2);
    }

    #[test]
    fn the_order_of_first_reads_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let spans = cache(64 << 20);
        let layer = layer(dir.path(), &spans);
        let blob = layer.map.blob();
        let order: Vec<u32> = (0..SPANS).map(|n| 7 * n % SPANS).collect();
        for span in &order {
            read(&layer, *span).unwrap();
            read(&layer, order[0]).unwrap();
        }
        // Also when nobody has the layer open any more.
        drop(layer);
        let told = spans.first_reads().unwrap();
        assert_eq!(told.layers, [blob]);
        assert_eq!(
            told.spans,
            order.iter().map(|n| (0, *n)).collect::<Vec<_>>()
        );
        assert_eq!(spans.first_reads(), None);
        assert_eq!(SpanCache::new(1, false).first_reads(), None);
    }
}
