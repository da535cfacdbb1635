//! Damage, forgery, and the format's golden bytes. Round trips are in
//! `tests/seek_roundtrip.rs`.

use std::io::Write as _;

use proptest::prelude::*;

use super::bytes::{Kind, SEAL, Span};
use super::*;
use crate::digest::{BlobId, DiffId, Digest};
use crate::layer::blocks::{BlockCache, BlockFile, BlockWriter};
use crate::layer::{Limits, ReadError};

#[derive(Default)]
struct Collect {
    plain: Vec<u8>,
    jobs: Vec<WindowJob>,
}

impl Sink for Collect {
    fn buffer(&mut self) -> Vec<u8> {
        Vec::with_capacity(SPAN as usize)
    }

    fn bytes(&mut self, bytes: Vec<u8>) -> Result<(), Stopped> {
        self.plain.extend_from_slice(&bytes);
        Ok(())
    }

    fn window(&mut self, job: WindowJob) -> Result<(), Stopped> {
        self.jobs.push(job);
        Ok(())
    }
}

fn record(compression: Compression, blob: &[u8]) -> Result<(Vec<u8>, Vec<u8>), DecodeError> {
    let mut recorder = Recorder::new(compression, Limits::default());
    let mut sink = Collect::default();
    for piece in blob.chunks(50_000) {
        recorder.push(piece, &mut sink)?;
    }
    let recorded = recorder.finish(&mut sink)?;
    let mut map = MapWriter::new(Vec::new());
    for job in sink.jobs {
        map.window(job.pack()).unwrap();
    }
    let digest = Digest::sha256(b"");
    Ok((
        sink.plain,
        map.finish(recorded, BlobId(digest), DiffId(digest))
            .unwrap(),
    ))
}

fn open(map: Vec<u8>) -> Result<SeekMap, ReadError> {
    SeekMap::open(Box::new(map), BlockCache::new(1 << 20))
}

fn data(len: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut data = Vec::with_capacity(len + 16);
    while data.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        data.extend_from_slice(format!("word{:x} ", (state >> 16) % 5000).as_bytes());
    }
    data.truncate(len);
    data
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    to.write_all(data).unwrap();
    to.finish().unwrap()
}

fn samples() -> Vec<(Compression, Vec<u8>, Vec<u8>)> {
    let plain = data(900_000);
    let frames = plain
        .chunks(150_000)
        .flat_map(|c| zstd::bulk::compress(c, 1).unwrap());
    vec![
        (Compression::Gzip, gzip(&plain), plain.clone()),
        (Compression::Zstd, frames.collect(), plain.clone()),
        (Compression::Plain, plain.clone(), plain),
    ]
}

#[test]
fn a_cut_stream_is_damage() {
    for (compression, blob, _) in samples().into_iter().take(2) {
        for cut in [0, 1, 5, 17, blob.len() / 2, blob.len() - 5, blob.len() - 1] {
            let outcome = record(compression, &blob[..cut]);
            assert!(
                matches!(outcome, Err(DecodeError::Damaged { .. })),
                "{compression:?} {cut}"
            );
        }
    }
}

#[test]
fn a_flipped_byte_of_the_blob_is_found_by_recording_and_by_decoding() {
    for (compression, blob, plain) in samples() {
        let (_, map) = record(compression, &blob).unwrap();
        let map = open(map).unwrap();
        for at in (20..blob.len()).step_by(blob.len() / 40) {
            let mut bad = blob.clone();
            bad[at] ^= 0x41;
            if compression == Compression::Gzip {
                let outcome = record(compression, &bad);
                assert!(
                    matches!(outcome, Err(DecodeError::Damaged { .. })),
                    "byte {at}"
                );
            } else if let Ok((other, _)) = record(compression, &bad) {
                // These frames have no check of their own, the caller's digest is it.
                assert!(other != plain);
            }
            let mut start = 0;
            let mut failures = 0;
            for span in 0..map.spans() {
                let end = map.span_at(start as u64).unwrap().1.end as usize;
                match map.decode(span, &bad) {
                    Ok(bytes) => assert!(bytes == plain[start..end], "wrong bytes from byte {at}"),
                    Err(ReadError::Corrupt { file, .. }) => {
                        assert_eq!(file, "memory");
                        failures += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
                start = end;
            }
            // A flip in a trailer or a header's name harms nothing.
            assert!(
                failures <= 2 && (failures > 0 || at + 9 > blob.len()),
                "byte {at}"
            );
        }
    }
}

#[test]
fn a_shorter_or_another_blob_is_an_error() {
    for (compression, blob, _) in samples() {
        let (_, map) = record(compression, &blob).unwrap();
        let map = open(map).unwrap();
        let cut = blob[..blob.len() / 2].to_vec();
        assert!(map.decode(map.spans() - 1, &cut).is_err());
        assert!(map.decode_all(&cut, &mut |_, _| true).is_err());
        let zeros = vec![0; blob.len()];
        assert!(map.decode(1, &zeros).is_err());
        assert!(map.decode_all(&zeros, &mut |_, _| true).is_err());
    }
}

#[test]
fn decode_all_stops_when_nobody_wants_more() {
    let (compression, blob, _) = samples().remove(0);
    let map = open(record(compression, &blob).unwrap().1).unwrap();
    let mut seen = 0;
    let mut take = |_, _: &[u8]| {
        seen += 1;
        seen < 2
    };
    map.decode_all(&blob, &mut take).unwrap();
    assert_eq!(seen, 2);
}

#[test]
fn windows_that_would_outgrow_the_blob_are_left_out_and_their_spans_continued() {
    let plain = data(900_000);
    let blob = gzip(&plain);
    let mut recorder = Recorder::new(Compression::Gzip, Limits::default());
    let mut sink = Collect::default();
    recorder.push(&blob, &mut sink).unwrap();
    let recorded = recorder.finish(&mut sink).unwrap();
    let spans = recorded.spans.len() as u32;
    let mut map = MapWriter::new(Vec::new());
    for job in sink.jobs {
        let mut packed = job.pack();
        packed.bytes.resize(40 << 10, 0);
        map.window(packed).unwrap();
    }
    let digest = Digest::sha256(b"");
    let map = open(
        map.finish(recorded, BlobId(digest), DiffId(digest))
            .unwrap(),
    )
    .unwrap();
    assert!(spans > 2 && map.spans() == spans && map.random_access());
    let decoded: Vec<u8> = (0..spans)
        .flat_map(|s| map.decode(s, &blob).unwrap())
        .collect();
    assert!(decoded == plain);
}

#[test]
fn fewer_windows_than_jobs_are_refused() {
    let mut recorder = Recorder::new(Compression::Gzip, Limits::default());
    let mut sink = Collect::default();
    recorder.push(&gzip(&data(900_000)), &mut sink).unwrap();
    let recorded = recorder.finish(&mut sink).unwrap();
    let digest = Digest::sha256(b"");
    let map = MapWriter::new(Vec::new()).finish(recorded, BlobId(digest), DiffId(digest));
    assert_eq!(map.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

/// A map of three spans, of each kind, with a window written by hand.
fn tiny() -> Vec<u8> {
    let block = Kind::Block {
        bits: 3,
        byte: 0xa5,
    };
    let span = |out, at, restart, kind| Span {
        out,
        at,
        check: 0x0101 * out,
        restart,
        kind,
    };
    let recorded = Recorded {
        compression: Compression::Gzip,
        spans: vec![
            span(0, 0, 0, Kind::Unit),
            span(300_000, 90_000, 1, block),
            span(600_000, 180_000, 1, Kind::Continued),
        ],
        blob_len: 200_008,
        tar_len: 700_000,
        used_until: 200_000,
    };
    let mut map = MapWriter::new(Vec::new());
    // One raw block (RFC 8878, 3.1.1.2), so that no compressor's version matters.
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 6, 6 << 3 | 1, 0, 0];
    bytes.extend_from_slice(b"window");
    map.window(PackedWindow {
        at: 90_000,
        len: 6,
        bytes,
    })
    .unwrap();
    let (blob, diff) = (Digest::sha256(b"blob"), Digest::Sha512([0x5c; 64]));
    map.finish(recorded, BlobId(blob), DiffId(diff)).unwrap()
}

#[test]
fn the_golden_map_is_written_and_read_as_ever() {
    let golden = include_bytes!("../../../fixtures/seek-v1.map");
    assert_eq!(tiny(), golden);
    let map = open(golden.to_vec()).unwrap();
    assert_eq!(map.blob(), BlobId(Digest::sha256(b"blob")));
    assert_eq!(map.diff_id(), DiffId(Digest::Sha512([0x5c; 64])));
    assert_eq!(
        (map.blob_len(), map.tar_len(), map.spans()),
        (200_008, 700_000, 3)
    );
    assert_eq!(map.compression(), Compression::Gzip);
    assert!(map.random_access());
    assert_eq!(map.span_at(0).unwrap(), (0, 0..300_000));
    assert_eq!(map.span_at(300_000).unwrap(), (1, 300_000..600_000));
    assert_eq!(map.span_at(699_999).unwrap(), (2, 600_000..700_000));
    assert!(map.span_at(700_000).is_err());
    assert_eq!(map.start(1).unwrap().len(), 300_000);
    assert_eq!(map.start(2).unwrap().len(), 100_000);
}

/// The payload of a map, changed and sealed again: damage that no check finds.
fn forged(map: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let file = BlockFile::open(Box::new(map.to_vec()), SEAL, BlockCache::new(1 << 20)).unwrap();
    let mut payload = vec![0; file.len() as usize];
    file.read(0, &mut payload).unwrap();
    change(&mut payload);
    let mut writer = BlockWriter::new(Vec::new(), SEAL);
    writer.write(&payload).unwrap();
    writer.finish().unwrap()
}

/// Does all that a map can be asked for; answers must be right or an error.
fn ask(map: Vec<u8>, blob: &Vec<u8>, plain: &[u8]) {
    let Ok(map) = open(map) else { return };
    for offset in [0, 1, 300_000, 899_999, u64::MAX] {
        let _ = map.span_at(offset);
    }
    for span in (0..map.spans().min(8)).chain([u32::MAX]) {
        let _ = map.is_span(span, &plain[..10]);
        let _ = map
            .decode(span, blob)
            .map(|bytes| assert!(bytes.len() as u64 <= SPAN_MAX));
    }
    let _ = map.decode_all(blob, &mut |_, _| true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_forged_map_makes_errors_and_no_panic(
        which in 0usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (compression, blob, plain) = samples().swap_remove(which);
        let (_, map) = record(compression, &blob).unwrap();
        let map = forged(&map, |payload| {
            // Mostly in the table and the header, which are few bytes at the end.
            let from = payload.len().saturating_sub(48 * 8 + 168);
            for (at, byte) in &changes {
                let at = from + at.index(payload.len() - from);
                payload[at] = *byte;
            }
            if let Some(cut) = cut {
                payload.drain(..cut.index(payload.len()));
            }
        });
        ask(map, &blob, &plain);
    }

    #[test]
    fn a_flipped_byte_of_a_map_never_makes_wrong_bytes(
        at in any::<prop::sample::Index>(),
        flip in 1u8..=255,
    ) {
        let (compression, blob, plain) = samples().swap_remove(0);
        let (_, mut map) = record(compression, &blob).unwrap();
        let at = at.index(map.len());
        map[at] ^= flip;
        let Ok(map) = open(map) else { return Ok(()) };
        for span in 0..map.spans() {
            let Ok(range) = map.span_at(u64::from(span) * SPAN) else { continue };
            if let Ok(bytes) = map.decode(range.0, &blob) {
                let (start, end) = (range.1.start as usize, range.1.end as usize);
                prop_assert!(bytes == plain[start..end]);
            }
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..3000), magic in 0usize..3) {
        let head: &[u8] = [&b""[..], b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x28\xb5\x2f\xfd"][magic];
        let blob = [head, &noise].concat();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let _ = record(compression, &blob);
        }
        let _ = open(blob);
    }
}
