//! Decoded spans of layers, in one bounded cache per process.
//!
//! What it is for: a span is decoded once even if many threads want it, and some are
//! before anybody does. May assume: maps and blobs of layers are given to it as they are opened. Must not
//! know what lies in a span.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};

use super::FileSource;
use super::ahead::{Ahead, FirstReads, Key};
use super::aside::Aside;
use super::kept::Kept;
use super::pace::Pace;
use crate::digest::BlobId;
use crate::layer::ReadError;
use crate::layer::seek::{SPAN, SeekMap, SpanDecoder};

pub(super) type Span = Arc<Vec<u8>>;
pub(super) type Slot = Arc<Mutex<Content>>;

/// What is there of a span.
#[derive(Debug, Default)]
pub(super) enum Content {
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
pub(super) fn patience(bytes: u64) -> Duration {
    // Spans have 4 MiB at most.
    PATIENCE * bytes.div_ceil(SPAN).clamp(1, 16) as u32
}

/// Work that waits for the thread which decodes behind readers' backs. What would be
/// more is dropped, and decoded when somebody wants it.
const WAITING: usize = 64;

/// So much waits at most when the rest of a span is left to that thread, or a span is to be
/// copied to the disk: more would be done too late.
const UNFINISHED: usize = 16;

/// From so many spans on that were decoded again because the cache had dropped them, what it drops
/// is put aside: who reads in the order of the archive never comes there, nor do most programs.
const AGAIN: u32 = 16;
/// Dropped spans that are remembered: 16 GiB of layers.
const DROPPED: usize = 1 << 16;

/// Decoded spans, least recently used ones dropped first.
pub struct SpanCache {
    this: Weak<SpanCache>,
    state: Mutex<State>,
    capacity: u64,
    /// By their numbers.
    layers: Mutex<Vec<Decodable>>,
    /// Its thread is made with the first work for it.
    work: OnceLock<Sender<Work>>,
    /// What that thread keeps to.
    pace: fn() -> Pace,
    /// How many rests of spans, and spans to be copied by [`weight`], are in it.
    unfinished: AtomicUsize,
    /// What readers are likely to want next; nothing if nobody wants to know.
    ahead: Option<Mutex<Ahead>>,
    /// The thread was told that there is something to decode ahead, and has not looked yet.
    told: AtomicBool,
    /// Where spans go that were dropped and may come back.
    aside: Option<Arc<Aside>>,
}

struct State {
    slots: LruCache<Key, Entry>,
    /// The sum of what they are counted for.
    bytes: u64,
    /// The part of it that was decoded ahead, and that nobody has read yet.
    unread: u64,
    /// Spans that were whole and had to go.
    dropped: HashSet<Key>,
    /// How many of those were decoded again.
    again: u32,
}

#[derive(Default)]
struct Entry {
    slot: Slot,
    /// Bytes that it is counted for: 0 until it is whole.
    counted: u64,
    /// Decoded ahead of readers, none of whom was there yet.
    unread: bool,
}

impl State {
    fn new() -> Self {
        Self {
            slots: LruCache::unbounded(),
            bytes: 0,
            unread: 0,
            dropped: HashSet::new(),
            again: 0,
        }
    }

    /// Takes out what was not used for the longest time.
    fn drop_one(&mut self) -> Option<(Key, Entry)> {
        let (&key, _) = self.slots.peek_lru()?;
        Some((key, self.take(key)?))
    }

    fn take(&mut self, key: Key) -> Option<Entry> {
        let entry = self.slots.pop(&key)?;
        self.bytes -= entry.counted;
        if entry.unread {
            self.unread -= entry.counted;
        }
        Some(entry)
    }
}

/// A layer; it can be decoded for as long as somebody has it open.
struct Decodable {
    id: BlobId,
    map: Weak<SeekMap>,
    blob: Weak<FileSource>,
    kept: Weak<Kept>,
}

/// Where a span is copied to that is likely to be wanted again.
enum Copy {
    /// It was dropped, and may come back.
    Aside(Arc<Aside>, Key),
    /// More than one mount has read it: these bytes of the tar.
    Kept(Arc<Kept>, Range<u64>),
}

impl Copy {
    fn write(&self, bytes: &[u8]) {
        match self {
            Self::Aside(aside, key) => aside.keep(*key, bytes),
            Self::Kept(kept, span) => kept.keep(span, bytes),
        }
    }
}

/// What is done while no reader waits for it. Damage is found again, and told, by
/// who reads it.
enum Work {
    /// The rest of a span whose first part has answered a reader.
    Finish(Weak<SpanCache>, Key, Slot, Arc<FileSource>),
    /// What readers are likely to want soon.
    Ahead(Weak<SpanCache>),
    /// A span that is to be on disk, too.
    Copy(Weak<SpanCache>, Copy, Span),
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
            Self::Ahead(cache) => {
                if let Some(cache) = cache.upgrade() {
                    cache.told.store(false, Ordering::Relaxed);
                    cache.decode_ahead(pace);
                }
            }
            Self::Copy(cache, copy, bytes) => {
                copy.write(&bytes);
                if let Some(cache) = cache.upgrade() {
                    cache
                        .unfinished
                        .fetch_sub(weight(&bytes), Ordering::Relaxed);
                }
            }
        }
    }
}

/// How much of [`UNFINISHED`] a span takes that is to be copied: it is in memory meanwhile.
fn weight(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(SPAN as usize)
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
    /// What is dropped goes `aside` when it comes back too often.
    pub(super) fn new(capacity: u64, ahead: bool, aside: Option<Aside>) -> Arc<Self> {
        Self::at_pace(capacity, ahead, aside, Pace::new)
    }

    /// The same; `pace` is asked for by the thread that decodes behind readers' backs.
    pub(super) fn at_pace(
        capacity: u64,
        ahead: bool,
        aside: Option<Aside>,
        pace: fn() -> Pace,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            state: Mutex::new(State::new()),
            capacity,
            layers: Mutex::default(),
            work: OnceLock::new(),
            pace,
            unfinished: AtomicUsize::new(0),
            ahead: ahead.then(Mutex::default),
            told: AtomicBool::new(false),
            aside: aside.map(Arc::new),
        })
    }

    fn work(&self) -> &Sender<Work> {
        self.work.get_or_init(|| {
            let (work, jobs) = bounded::<Work>(WAITING);
            let pace = self.pace;
            // Ends with the cache, which has the only sender. Where the system is out of
            // threads all work is refused, and readers do it.
            let _ = thread::Builder::new().spawn(move || {
                let mut pace = pace();
                jobs.into_iter().for_each(|work| work.run(&mut pace));
            });
            work
        })
    }

    /// A number for a layer that was opened: the one that it had before, if it is not open
    /// any more.
    pub(super) fn number(
        &self,
        map: &Arc<SeekMap>,
        blob: &Arc<FileSource>,
        kept: &Arc<Kept>,
    ) -> u32 {
        let opened = Decodable {
            id: map.blob(),
            map: Arc::downgrade(map),
            blob: Arc::downgrade(blob),
            kept: Arc::downgrade(kept),
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
            state.take(key);
        }
        state.dropped.retain(|key| key.0 != number);
        drop(state);
        if let Some(aside) = &self.aside {
            aside.forget_layer(number);
        }
    }

    /// From now on readers are expected to read as they did then. Spans of layers that
    /// were never opened are left out.
    pub fn expect(&self, reads: &FirstReads) {
        let Some(ahead) = &self.ahead else {
            return;
        };
        let blobs = self.blobs();
        let place = |blob| blobs.iter().position(|open| open == blob);
        let numbers: Vec<_> = reads.layers.iter().map(place).collect();
        let known = reads.spans.iter().filter_map(|&(layer, span)| {
            let number = (*numbers.get(layer as usize)?)?;
            Some((number as u32, span))
        });
        ahead.lock().follower.know(known.collect());
    }

    /// In which order spans were first read, once there is enough that is worth keeping;
    /// from then on nothing more is noted.
    #[must_use]
    pub fn first_reads(&self) -> Option<FirstReads> {
        let keys = self.ahead.as_ref()?.lock().follower.close()?;
        Some(FirstReads {
            layers: self.blobs(),
            spans: keys,
        })
    }

    /// Blobs of all layers by their numbers.
    fn blobs(&self) -> Vec<BlobId> {
        self.layers.lock().iter().map(|layer| layer.id).collect()
    }

    /// A reader wants a span, or a `small` file in it: has others decoded that are likely to be next.
    pub(super) fn look_ahead(&self, key: Key, small: bool) {
        if let Some(ahead) = &self.ahead
            && ahead.lock().touch(key, small)
            && self.state.lock().unread + SPAN <= self.capacity / 2
        {
            self.tell();
        }
    }

    /// Has the thread look for what is to be decoded ahead.
    fn tell(&self) {
        if !self.told.swap(true, Ordering::Relaxed)
            && self
                .work()
                .try_send(Work::Ahead(Weak::clone(&self.this)))
                .is_err()
        {
            // When there is too much to do, the reader is faster himself.
            self.told.store(false, Ordering::Relaxed);
        }
    }

    /// Decodes the most urgent span that a reader is likely to want, if there is room for what
    /// nobody has read yet.
    fn decode_ahead(&self, pace: &mut Pace) {
        let Some(ahead) = &self.ahead else {
            return;
        };
        if !pace.may_run() {
            ahead.lock().give_up();
            return;
        }
        let next = ahead.lock().next();
        let Some(key) = next else {
            return;
        };
        if !self.decode_unread(key) {
            // Whoever reads something makes room.
            ahead.lock().later(key);
            return;
        }
        pace.has_run();
        // After what others have given to the thread meanwhile.
        self.tell();
    }

    /// A layer that is still open.
    fn layer(&self, number: u32) -> Option<(Arc<SeekMap>, Arc<FileSource>, Arc<Kept>)> {
        let layers = self.layers.lock();
        let layer = layers.get(number as usize)?;
        Some((
            layer.map.upgrade()?,
            layer.blob.upgrade()?,
            layer.kept.upgrade()?,
        ))
    }

    /// Decodes a span that nobody has asked for; false if there is no room yet.
    fn decode_unread(&self, key: Key) -> bool {
        let Some((map, blob, kept)) = self.layer(key.0) else {
            return true;
        };
        if !map.random_access()
            || key.1 >= map.spans()
            || self.aside.as_ref().is_some_and(|aside| aside.has(key))
        {
            return true;
        }
        let Ok(range) = map.range(key.1) else {
            return true;
        };
        // Sooner read than decoded.
        if kept.will_need(&range) {
            return true;
        }
        let Some(slot) = self.slot_unread(key, range.end - range.start) else {
            return false;
        };
        // A reader is at it.
        let Some(mut content) = slot.try_lock() else {
            return true;
        };
        let bytes = match std::mem::take(&mut *content) {
            Content::Empty => map.decode(key.1, &*blob),
            Content::Begun(decoder) => decoder.finish(&*blob),
            whole @ Content::Whole(_) => {
                *content = whole;
                return true;
            }
        };
        if let Ok(bytes) = bytes {
            self.keep(key, &slot, content, bytes);
        }
        true
    }

    /// Forgets every span.
    pub fn clear(&self) {
        *self.state.lock() = State::new();
        if let Some(ahead) = &self.ahead {
            ahead.lock().start_again();
        }
        if let Some(aside) = &self.aside {
            aside.clear();
        }
    }

    /// The slot of a span that a reader wants.
    pub(super) fn slot(&self, key: Key) -> Slot {
        let mut state = self.state.lock();
        let entry = state.slots.get_or_insert_mut(key, Entry::default);
        let (slot, counted) = (Arc::clone(&entry.slot), entry.counted);
        if std::mem::take(&mut entry.unread) {
            state.unread -= counted;
        }
        slot
    }

    /// The slot of a span of `len` bytes that no reader wants yet; nothing if there is no room for
    /// another one of those: half of the cache is for what readers have come to.
    fn slot_unread(&self, key: Key, len: u64) -> Option<Slot> {
        let mut state = self.state.lock();
        if state.unread + len > self.capacity / 2 && !state.slots.contains(&key) {
            return None;
        }
        let entry = state.slots.get_or_insert_mut(key, || Entry {
            unread: true,
            ..Entry::default()
        });
        Some(Arc::clone(&entry.slot))
    }

    /// Bytes `inside` a span that was put aside; false: they are not there. Not checked.
    pub(super) fn read_aside(&self, key: Key, inside: Range<usize>, to: &mut [u8]) -> bool {
        let aside = self.aside.as_ref();
        aside.is_some_and(|aside| aside.read(key, inside, to))
    }

    /// A span that was put aside. Not checked.
    pub(super) fn whole_aside(&self, key: Key) -> Option<Vec<u8>> {
        self.aside.as_ref()?.whole(key)
    }

    /// What was put aside has other bytes now.
    pub(super) fn forget_aside(&self, key: Key) {
        if let Some(aside) = &self.aside {
            aside.forget(key);
        }
    }

    /// The span, from the cache or by `decode`. Others who want the same span
    /// meanwhile wait for this one decoding; for a while, where there is a `patience`.
    pub(super) fn get(
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
        self.keep_known(key, &bytes);
        bytes
    }

    /// Has a span kept for later mounts that an earlier one has read, too.
    fn keep_known(&self, key: Key, bytes: &Span) {
        let known = |ahead: &Mutex<Ahead>| ahead.lock().follower.knows(key);
        if self.ahead.as_ref().is_some_and(known)
            && let Some((map, _, kept)) = self.layer(key.0)
            && map.is_compressed()
            && map.random_access()
            && let Ok(range) = map.range(key.1)
            && !kept.has(&range)
        {
            self.copy(Copy::Kept(kept, range), Arc::clone(bytes));
        }
    }

    /// Copies a part of a span as soon as it is decoded and passes `check`; the
    /// rest is decoded behind the reader's back. False: it did not pass.
    pub(super) fn begin(
        &self,
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
            let (cache, blob) = (Weak::clone(&self.this), Arc::clone(blob));
            let work = Work::Finish(cache, key, Arc::clone(&slot), blob);
            let waiting = self.unfinished.fetch_add(1, Ordering::Relaxed);
            if waiting >= UNFINISHED || self.work().try_send(work).is_err() {
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
        let unread = match state.slots.peek_mut(&key) {
            Some(entry) if Arc::ptr_eq(&entry.slot, slot) && entry.counted == 0 => {
                entry.counted = len;
                entry.unread
            }
            _ => return,
        };
        state.bytes += len;
        if unread {
            state.unread += len;
        }
        if state.dropped.contains(&key) {
            state.again = state.again.saturating_add(1);
        }
        let often = state.again >= AGAIN;
        let mut gone = Vec::new();
        while state.bytes > self.capacity && state.slots.len() > 1 {
            let Some((key, entry)) = state.drop_one() else {
                break;
            };
            if entry.counted > 0 && often {
                gone.push((key, entry.slot));
            } else if entry.counted > 0 && state.dropped.len() < DROPPED {
                state.dropped.insert(key);
            }
        }
        drop(state);
        for (key, slot) in gone {
            self.put_aside(key, &slot);
        }
    }

    /// Has a dropped span put aside.
    fn put_aside(&self, key: Key, slot: &Slot) {
        let Some(aside) = self.aside.as_ref().filter(|aside| !aside.has(key)) else {
            return;
        };
        let bytes = match slot.try_lock().as_deref() {
            Some(Content::Whole(bytes)) => Arc::clone(bytes),
            _ => return,
        };
        self.copy(Copy::Aside(Arc::clone(aside), key), bytes);
    }

    /// Has a span copied to the disk, if there is somebody who has the time.
    fn copy(&self, copy: Copy, bytes: Span) {
        let weight = weight(&bytes);
        let work = Work::Copy(Weak::clone(&self.this), copy, bytes);
        let waiting = self.unfinished.fetch_add(weight, Ordering::Relaxed);
        if waiting >= UNFINISHED || self.work().try_send(work).is_err() {
            self.unfinished.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// Bytes of decoded spans, and those of them that nobody has read yet.
    #[cfg(test)]
    pub(super) fn used(&self) -> [u64; 2] {
        let state = self.state.lock();
        [state.bytes, state.unread]
    }

    /// The file of what was put aside, and whether a span is in it.
    #[cfg(test)]
    pub(super) fn aside(&self) -> &Aside {
        self.aside.as_ref().expect("because the test has one")
    }
}
