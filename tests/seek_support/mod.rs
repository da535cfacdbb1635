//! What the tests of seek maps share: a recording pass into memory, plain data
//! of every texture, compressors.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "skips are counted aloud")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use lazyroot::digest::{BlobId, DiffId, Digest};
use lazyroot::layer::Limits;
use lazyroot::layer::blocks::BlockCache;
use lazyroot::layer::seek::{
    Compression, DecodeError, MapWriter, Recorder, SeekMap, Sink, Stopped, WindowJob,
};

/// Takes everything.
#[derive(Default)]
struct Collect {
    plain: Vec<u8>,
    jobs: Vec<WindowJob>,
}

impl Sink for Collect {
    fn buffer(&mut self) -> Vec<u8> {
        Vec::with_capacity(100_000)
    }

    fn bytes(&mut self, bytes: Vec<u8>) -> Result<(), Stopped> {
        assert!(!bytes.is_empty());
        self.plain.extend_from_slice(&bytes);
        Ok(())
    }

    fn window(&mut self, job: WindowJob) -> Result<(), Stopped> {
        self.jobs.push(job);
        Ok(())
    }
}

/// A blob recorded: what it unpacked to, and the bytes of its map.
pub(crate) fn record(
    compression: Compression,
    blob: &[u8],
    piece: usize,
) -> Result<(Vec<u8>, Vec<u8>), DecodeError> {
    let mut recorder = Recorder::new(compression, Limits::default());
    let mut sink = Collect::default();
    for piece in blob.chunks(piece) {
        recorder.push(piece, &mut sink)?;
    }
    let recorded = recorder.finish(&mut sink)?;
    assert_eq!(recorded.blob_len(), blob.len() as u64);
    assert_eq!(recorded.tar_len(), sink.plain.len() as u64);
    let mut map = MapWriter::new(Vec::new());
    for job in sink.jobs {
        map.window(job.pack()).unwrap();
    }
    let ids = (
        BlobId(Digest::sha256(blob)),
        DiffId(Digest::sha256(&sink.plain)),
    );
    Ok((sink.plain, map.finish(recorded, ids.0, ids.1).unwrap()))
}

pub(crate) fn open(map: Vec<u8>) -> SeekMap {
    SeekMap::open(Box::new(map), BlockCache::new(1 << 20)).unwrap()
}

/// Records `blob` in pieces of `piece`, and compares every way out of it with `plain`.
pub(crate) fn every_way_agrees(
    compression: Compression,
    blob: &[u8],
    plain: &[u8],
    piece: usize,
) -> SeekMap {
    let (recorded, map) = record(compression, blob, piece).unwrap();
    assert!(recorded == plain, "the recording pass makes other bytes");
    let map = open(map);
    assert_eq!(map.compression(), compression);
    assert_eq!(map.blob(), BlobId(Digest::sha256(blob)));
    assert_eq!(map.diff_id(), DiffId(Digest::sha256(plain)));
    assert_eq!(
        (map.blob_len(), map.tar_len()),
        (blob.len() as u64, plain.len() as u64)
    );
    let blob = blob.to_vec();
    let mut end = 0;
    // Backwards, so that nothing is left over from the span before by luck.
    for span in (0..map.spans()).rev() {
        let bytes = map.decode(span, &blob).unwrap();
        let range = span_range(&map, span, &bytes);
        assert!(bytes == plain[range.clone()], "span {span} is other bytes");
        assert!(map.is_span(span, &bytes).unwrap());
        assert!(!map.is_span(span, &bytes[1..]).unwrap());
        if end > 0 {
            assert_eq!(range.end, end, "there is a gap behind span {span}");
        }
        end = range.start;
        let mut decoder = map.start(span).unwrap();
        let part = decoder.advance(bytes.len() / 3, &blob).unwrap();
        assert!(part.len() >= bytes.len() / 3 && bytes.starts_with(part));
        assert!(decoder.finish(&blob).unwrap() == bytes);
    }
    assert_eq!(end, 0);
    let mut all = Vec::new();
    let mut next = 0;
    let mut take = |span, bytes: &[u8]| {
        assert_eq!(span, next);
        next += 1;
        all.extend_from_slice(bytes);
        true
    };
    map.decode_all(&blob, &mut take).unwrap();
    assert!(all == plain, "decode_all makes other bytes");
    assert!(map.span_at(plain.len() as u64).is_err());
    map
}

fn span_range(map: &SeekMap, span: u32, bytes: &[u8]) -> std::ops::Range<usize> {
    // Spans are found by a byte in them; the first of each by bisection of the tar.
    let (mut low, mut high) = (0, map.tar_len() - 1);
    loop {
        let middle = low + (high - low) / 2;
        let (found, range) = map.span_at(middle).unwrap();
        match found.cmp(&span) {
            std::cmp::Ordering::Less => low = range.end,
            std::cmp::Ordering::Greater => high = range.start - 1,
            std::cmp::Ordering::Equal => {
                assert_eq!(range.end - range.start, bytes.len() as u64);
                return range.start as usize..range.end as usize;
            }
        }
    }
}

/// `len` bytes as layers have them: text, noise, runs, repetitions from far back.
pub(crate) fn texture(len: usize, mut seed: u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(len + 4096);
    let mut random = move || {
        // splitmix64
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    while data.len() < len {
        let size = 1 + (random() % 3000) as usize;
        match random() % 5 {
            0 => data.extend((0..size).map(|_| random() as u8)),
            1 => data.extend(std::iter::repeat_n(random() as u8, size)),
            2 if !data.is_empty() => {
                let back = 1 + (random() as usize) % data.len().min(40_000);
                let from = data.len() - back;
                (0..size).for_each(|i| data.push(data[from + i]));
            }
            _ => (0..size / 6).for_each(|_| {
                data.extend_from_slice(format!("{:x} ", random() % 500 + 0x1000).as_bytes());
            }),
        }
    }
    data.truncate(len);
    data
}

pub(crate) fn gzip(level: u32, data: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    to.write_all(data).unwrap();
    to.finish().unwrap()
}

/// `data` through a compressor's program, if it is there.
pub(crate) fn through(program: &str, args: &[&str], data: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: needs {program}");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let data = data.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&data));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success());
    Some(output.stdout)
}
