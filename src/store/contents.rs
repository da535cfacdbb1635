//! The uncompressed tar of a layer, readable anywhere.
//!
//! What it is for: a [`Source`] over a blob and its seek map. Bytes are decoded
//! span by span, checked, and kept in a [`SpanCache`]. A layer that no random access can
//! serve (zstd in one frame) is decoded once from front to back into a file of
//! the cache, answering readers as it passes what they want; what is read back
//! from that file is checked like everything else.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, CWD};

use super::FileSource;
use super::kept::{self, Kept};
use super::metrics::{Copied, Counter, Metrics};
use super::room::make_room;
use super::spans::{Span, SpanCache, patience};
use crate::layer::seek::SeekMap;
use crate::layer::{ReadError, Source};

/// The tar of one layer.
#[derive(Debug)]
pub struct Contents {
    map: Arc<SeekMap>,
    blob: Arc<FileSource>,
    spans: Arc<SpanCache>,
    number: u32,
    /// Spans that more than one mount has read.
    kept: Arc<Kept>,
    expanded: Mutex<Option<Arc<Expanded>>>,
    expanded_path: PathBuf,
    quota: u64,
    metrics: Metrics,
}

impl Contents {
    /// Over a map and its blob. Uncompressed copies of it are at `expanded_path` if it is
    /// decoded as a whole, beside it if not; all in that directory have `quota` bytes at most.
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
        let kept = Kept::new(expanded_path.with_extension(kept::EXTENSION), quota);
        let kept = Arc::new(kept);
        let number = spans.number(&map, &blob, &kept);
        Self {
            map,
            blob,
            spans,
            number,
            kept,
            expanded,
            expanded_path,
            quota,
            metrics,
        }
    }

    fn span(&self, span: u32, range: Range<u64>) -> Result<Span, ReadError> {
        self.spans.look_ahead((self.number, span), false);
        // One that is decoded as a whole is decoded once.
        let patience = (self.map.random_access()).then(|| patience(range.end - range.start));
        self.spans
            .get((self.number, span), &self.blob, patience, || {
                if !self.map.random_access() {
                    return self.read_expanded(span, range);
                }
                match self.copied(span, &range)? {
                    Some(bytes) => Ok(bytes),
                    None => self.map.decode(span, &*self.blob),
                }
            })
    }

    /// A span that was decoded before, and kept or put aside.
    fn copied(&self, span: u32, range: &Range<u64>) -> Result<Option<Vec<u8>>, ReadError> {
        let key = (self.number, span);
        if let Some(bytes) = self.spans.whole_aside(key) {
            if self.map.is_span(span, &bytes)? {
                return Ok(Some(bytes));
            }
            self.forget_aside(span);
        }
        if let Some(bytes) = self.kept.whole(range) {
            if self.map.is_span(span, &bytes)? {
                return Ok(Some(bytes));
            }
            self.forget_kept(span, range);
        }
        Ok(None)
    }

    /// What was put aside failed a check: it is decoded again.
    fn forget_aside(&self, span: u32) {
        log::warn!(
            "span {span} of `{}` was put aside and is damaged now",
            self.name()
        );
        self.spans.forget_aside((self.number, span));
    }

    /// The same of one that was kept: another process may be writing it, or was killed at that.
    fn forget_kept(&self, span: u32, range: &Range<u64>) {
        let blob = self.name();
        log::info!("the kept copy of span {span} of `{blob}` is cut or damaged: decoded again");
        self.kept.forget(range);
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
        self.spans.look_ahead(key, true);
        if self.spans.read_aside(key, inside.clone(), to) {
            if check(to) {
                return Ok(());
            }
            self.forget_aside(span);
        }
        if self.kept.read(&range, offset, to) {
            if check(to) {
                return Ok(());
            }
            self.forget_kept(span, &range);
        }
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
        make_room(directory, len, quota, None)?;
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::ahead::FirstReads;
    use super::super::aside::Aside;
    use super::super::pace::Pace;
    use super::super::spans::Content;
    use super::*;
    use crate::digest::{BlobId, DiffId, Digest};
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
        SpanCache::at_pace(capacity, true, None, Pace::default)
    }

    const SPANS: u32 = 20;
    const LEN: usize = SPAN as usize;

    /// A plain layer of some spans; the bytes of each are its number.
    fn layer(dir: &Path, spans: &Arc<SpanCache>) -> Contents {
        made(dir, spans, Compression::Plain)
    }

    /// The same, plain or as zstd in frames.
    fn made(dir: &Path, spans: &Arc<SpanCache>, compression: Compression) -> Contents {
        let tar: Vec<u8> = (0..SPANS).flat_map(|n| vec![n as u8; LEN]).collect();
        let blob = match compression {
            Compression::Plain => tar.clone(),
            _ => {
                let frames = tar.chunks(LEN).map(|part| zstd::bulk::compress(part, 1));
                frames.flat_map(Result::unwrap).collect()
            }
        };
        let path = dir.join("blob");
        fs::write(&path, &blob).unwrap();
        let mut recorder = Recorder::new(compression, Limits::default());
        recorder.push(&blob, &mut Nobody).unwrap();
        let recorded = recorder.finish(&mut Nobody).unwrap();
        let digests = [&blob, &tar].map(|bytes| Digest::sha256(bytes));
        let map = MapWriter::new(Vec::new());
        let map = map.finish(recorded, BlobId(digests[0]), DiffId(digests[1]));
        let map = SeekMap::open(Box::new(map.unwrap()), BlockCache::new(1 << 20)).unwrap();
        assert_eq!(map.spans(), SPANS);
        let blob = FileSource::open(path).unwrap();
        let (metrics, copies) = (Metrics::new(dir.to_owned()), dir.join("copies/x.tar"));
        Contents::new(map, blob, Arc::clone(spans), copies, 1 << 30, metrics)
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
            let [used, unread] = layer.spans.used();
            assert!(used <= 5 * SPAN && unread <= 2 * SPAN);
        }
    }

    #[test]
    fn what_is_decoded_ahead_and_not_read_yet_takes_half_of_the_cache_and_is_not_dropped_for_more()
    {
        // The bug: as many spans were decoded ahead whatever their size, so that large ones dropped
        // each other before anybody read them.
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(dir.path(), &cache(6 * SPAN));
        let order: Vec<u32> = (0..SPANS).map(|n| 7 * n % SPANS).collect();
        expect(&layer, &order);
        for (place, &span) in order.iter().enumerate() {
            read(&layer, span).unwrap();
            let Some(&next) = order.get(place + 1) else {
                break;
            };
            wait_for(&layer, next);
            assert!(layer.spans.used()[1] <= 3 * SPAN);
        }
    }

    fn read_small(layer: &Contents, span: u32) -> Result<(), ReadError> {
        let mut to = [0xff; 10];
        let check = |found: &[u8]| found == [span as u8; 10];
        layer.read_checked(u64::from(span) * SPAN + 5, &mut to, &check)
    }

    #[test]
    fn who_reads_small_files_from_span_to_span_has_the_next_ones_decoded() {
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(dir.path(), &cache(64 << 20));
        for span in 0..4 {
            read_small(&layer, span).unwrap();
            read_small(&layer, span).unwrap();
        }
        wait_for(&layer, 5);
        // Nobody knows where he stops, and of a large file the kernel does.
        (10..16).for_each(|span| read(&layer, span).unwrap());
        let ahead = [4, 5, 6, 7, 8, 9, 16, 17, 18, 19];
        let whole = ahead.map(|span| is_whole(&layer, span));
        assert_eq!(whole.iter().filter(|whole| **whole).count(), 2);
    }

    #[test]
    fn what_comes_back_too_often_is_put_aside_and_checked_when_it_is_read_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let aside = Aside::new(dir.path().join("aside"), 1 << 30);
        let spans = SpanCache::at_pace(2 * SPAN, false, Some(aside), Pace::default);
        let layer = layer(dir.path(), &spans);
        // Three times the same, with room for two: all of the second round come back, and are put aside in the third.
        let begin = Instant::now();
        let is_aside = |span| spans.aside().has((layer.number, span));
        (0..SPANS).for_each(|span| read(&layer, span).unwrap());
        assert!(!(0..SPANS).any(is_aside));
        while !(0..SPANS - 2).all(is_aside) {
            (0..SPANS).for_each(|span| read(&layer, span).unwrap());
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        // From now on nothing needs the blob.
        let path = dir.path().join("blob");
        let bytes = fs::read(&path).unwrap();
        let blob = File::options().write(true).open(&path).unwrap();
        blob.set_len(0).unwrap();
        let small = |span| read_small(&layer, span);
        for span in 0..SPANS - 2 {
            read(&layer, span).unwrap();
            small((span + 7) % (SPANS - 2)).unwrap();
        }
        // It is no more believed than any other copy.
        let file = spans.aside().file().unwrap();
        let len = file.metadata().unwrap().len() as usize;
        file.write_all_at(&vec![0xee; len], 0).unwrap();
        assert!(read(&layer, 0).is_err() && small(1).is_err());
        blob.write_all_at(&bytes, 0).unwrap();
        (0..SPANS).for_each(|span| read(&layer, span).unwrap());
        (0..SPANS).for_each(|span| small(span).unwrap());
        // An idle process has neither.
        spans.clear();
        assert_eq!(spans.used(), [0, 0]);
        assert!(spans.aside().file().is_none());
    }

    #[test]
    fn what_is_known_to_be_read_first_is_kept_for_all_and_checked_when_it_is_read_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let first = made(dir.path(), &cache(64 << 20), Compression::Zstd);
        // Nothing is known, so nothing is kept.
        (0..SPANS).for_each(|span| read(&first, span).unwrap());
        assert!(!dir.path().join("copies").try_exists().unwrap());
        let order = [3, 17, 5, 11, 2, 8];
        let second = made(dir.path(), &cache(64 << 20), Compression::Zstd);
        expect(&second, &order);
        let begin = Instant::now();
        let range = |span| second.map.range(span).unwrap();
        while !order.iter().all(|&span| second.kept.has(&range(span))) {
            order.iter().for_each(|&span| read(&second, span).unwrap());
            second.spans.clear();
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        assert!(!second.kept.has(&range(4)));
        // Another process needs no blob for those.
        let third = made(dir.path(), &cache(64 << 20), Compression::Zstd);
        let path = dir.path().join("blob");
        let bytes = fs::read(&path).unwrap();
        let blob = File::options().write(true).open(&path).unwrap();
        blob.set_len(0).unwrap();
        for span in order {
            read_small(&third, span).unwrap();
            read(&third, span).unwrap();
        }
        assert!(read(&third, 4).is_err());
        // Damaged, cut or empty, it is decoded.
        let copies = dir.path().join("copies/x.spans");
        let kept = File::options().write(true).open(&copies).unwrap();
        kept.write_all_at(&vec![0xee; LEN / 2], 3 * SPAN).unwrap();
        third.spans.clear();
        assert!(read(&third, 3).is_err() && read_small(&third, 3).is_err());
        kept.set_len(17 * SPAN + SPAN / 2).unwrap();
        assert!(read(&third, 17).is_err());
        read(&third, 11).unwrap();
        blob.write_all_at(&bytes, 0).unwrap();
        kept.set_len(0).unwrap();
        third.spans.clear();
        (0..SPANS).for_each(|span| read(&third, span).unwrap());
        (0..SPANS).for_each(|span| read_small(&third, span).unwrap());
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
        read(&third, 3).unwrap();
        assert!(is_whole(&third, 3));
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
        assert_eq!(SpanCache::new(1, false, None).first_reads(), None);
    }
}
