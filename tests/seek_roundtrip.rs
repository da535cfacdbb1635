//! Whatever compresses a tar and however its bytes arrive: every way out of the
//! blob gives the same bytes.

mod seek_support;

use proptest::prelude::*;

use lazyroot::layer::Limits;
use lazyroot::layer::seek::{Compression, DecodeError, Recorder, SPAN_MAX};
use seek_support::{every_way_agrees, gzip, texture, through};

const MIB: usize = 1 << 20;

#[test]
fn gzip_of_every_level_is_cut_into_spans() {
    let data = texture(3 * MIB, 1);
    for level in [0, 1, 6, 9] {
        let map = every_way_agrees(Compression::Gzip, &gzip(level, &data), &data, 64 << 10);
        // This library's level 1 (zlib-ng's "quick") never ends a block: 3 MiB are still
        // within reach of the one point.
        assert!(map.random_access());
        let expected = if level == 1 { 1..=2 } else { 8..=12 };
        assert!(
            expected.contains(&map.spans()),
            "level {level}: {} spans",
            map.spans()
        );
    }
}

#[test]
fn programs_that_compress_are_understood() {
    let data = texture(2 * MIB + 77, 2);
    for (program, args) in [
        ("gzip", &["-1"][..]),
        ("gzip", &["-9"]),
        ("pigz", &["-p2"]),
        ("pigz", &["-i", "-p2"]),
        ("pigz", &["-R", "-p2"]),
        ("pigz", &["-11", "-b", "512"]),
        ("pigz", &["-0"]),
    ] {
        if let Some(blob) = through(program, args, &data) {
            let map = every_way_agrees(Compression::Gzip, &blob, &data, 100_000);
            assert!(map.random_access(), "{program} {args:?}");
            assert!(
                map.spans() >= 6,
                "{program} {args:?}: {} spans",
                map.spans()
            );
        }
    }
    for args in [
        &["-19"][..],
        &["-1"],
        &["-3", "--long=27"],
        &["-T2", "-B1MiB"],
    ] {
        if let Some(blob) = through("zstd", args, &data) {
            every_way_agrees(Compression::Zstd, &blob, &data, 100_000);
        }
    }
}

#[test]
fn pushes_may_be_cut_anywhere() {
    let data = texture(700_000, 3);
    for blob in [
        gzip(6, &data),
        [gzip(1, &data[..300_000]), gzip(9, &data[300_000..])].concat(),
    ] {
        for piece in [1, 7, 4093] {
            every_way_agrees(Compression::Gzip, &blob, &data, piece);
        }
    }
    let blob = zstd::bulk::compress(&data, 3).unwrap();
    for piece in [1, 7, 4093] {
        every_way_agrees(Compression::Zstd, &blob, &data, piece);
    }
}

#[test]
fn headers_may_have_every_field_and_padding_may_follow() {
    let data = texture(1000, 4);
    let plain = gzip(6, &data);
    let mut head = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 1, 2, 3, 4, 0, 255];
    head.extend_from_slice(b"\x05\0extra");
    head.extend_from_slice(b"a name\0a comment\0");
    let mut crc = flate2::Crc::new();
    crc.update(&head);
    let crc16 = (crc.sum() as u16).to_le_bytes();
    let full = [&head[..], &crc16, &plain[10..], &[0; 700]].concat();
    every_way_agrees(Compression::Gzip, &full, &data, 5);
    // FEXTRA of no length, and nothing else.
    let bare = [&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 0, 0], &plain[10..]].concat();
    every_way_agrees(Compression::Gzip, &bare, &data, 1);

    let refused = |blob: &[u8], what: &str| {
        let error = seek_support::record(Compression::Gzip, blob, 11).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    };
    let mut wrong = full.clone();
    wrong[head.len()] ^= 1;
    refused(&wrong, "CRC-16");
    refused(&[&plain[..], b"garbage"].concat(), "not a gzip member");
    refused(&[&plain[..], b"\0\0x"].concat(), "behind the last member");
    let mut reserved = plain.clone();
    reserved[3] = 0x20;
    refused(&reserved, "reserved");
    refused(&[], "ends in the middle");
}

#[test]
fn empty_members_and_frames_are_no_spans() {
    let none = gzip(6, b"");
    let map = every_way_agrees(Compression::Gzip, &gzip(6, b"x"), b"x", 3);
    assert_eq!(map.spans(), 1);
    let (plain, map) = seek_support::record(Compression::Gzip, &none.repeat(3), 3).unwrap();
    let map = seek_support::open(map);
    assert_eq!((plain.len(), map.spans()), (0, 0));
    assert!(map.span_at(0).is_err() && map.decode(0, &none).is_err());
    let blob = [&none[..], &gzip(6, b"one"), &none, &gzip(6, b"two"), &none].concat();
    every_way_agrees(Compression::Gzip, &blob, b"onetwo", 2);
    every_way_agrees(Compression::Plain, b"onetwo", b"onetwo", 2);
    let (_, map) = seek_support::record(Compression::Plain, b"", 3).unwrap();
    assert_eq!(seek_support::open(map).spans(), 0);
}

#[test]
fn many_small_members_and_frames_are_put_together() {
    let data = texture(2 * MIB, 5);
    let mut members = Vec::new();
    let mut frames = Vec::new();
    let skippable = b"\x5a\x2a\x4d\x18\x03\0\0\0abc";
    for file in data.chunks(1500) {
        members.extend(gzip(6, file));
        frames.extend(zstd::bulk::compress(file, 3).unwrap());
        frames.extend_from_slice(skippable);
        frames.extend_from_slice(b"\x50\x2a\x4d\x18\0\0\0\0");
    }
    for (compression, blob) in [(Compression::Gzip, members), (Compression::Zstd, frames)] {
        let map = every_way_agrees(compression, &blob, &data, 10_000);
        assert!(map.random_access());
        assert!((8..=16).contains(&map.spans()), "{} spans", map.spans());
    }
}

#[test]
fn a_zstd_blob_in_one_frame_is_not_for_random_access_but_checked_in_spans() {
    let data = texture(12 * MIB, 6);
    let map = every_way_agrees(
        Compression::Zstd,
        &zstd::bulk::compress(&data, 1).unwrap(),
        &data,
        200_000,
    );
    assert!(!map.random_access());
    // The frame says how long it is, so every span is short.
    assert_eq!(map.spans(), 48);
    // One that does not say it.
    let blob = zstd::stream::encode_all(&data[..], 1).unwrap();
    let map = every_way_agrees(Compression::Zstd, &blob, &data, 200_000);
    assert!(!map.random_access());
    let frames: Vec<u8> = data
        .chunks(MIB)
        .flat_map(|c| zstd::bulk::compress(c, 1).unwrap())
        .collect();
    let map = every_way_agrees(Compression::Zstd, &frames, &data, 200_000);
    assert!(map.random_access());
    assert_eq!(map.spans(), 12);
}

#[test]
fn a_run_of_zeros_stays_within_reach() {
    // zlib's longest blocks: 32 Ki symbols of 258 bytes.
    let mut data = texture(300_000, 7);
    data.resize(20 * MIB, 0);
    data.extend(texture(300_000, 8));
    for level in [4, 6, 9] {
        let map = every_way_agrees(Compression::Gzip, &gzip(level, &data), &data, 64 << 10);
        assert!(map.random_access(), "level {level}");
    }
    if let Some(blob) = through("gzip", &["-9"], &data) {
        assert!(every_way_agrees(Compression::Gzip, &blob, &data, 64 << 10).random_access());
    }
}

#[test]
fn one_giant_block_is_not_for_random_access() {
    // A fixed block: literals 0, that is the bits 00110000, MSB first = 0x0c reversed.
    let mut bits: Vec<bool> = vec![true, true, false];
    let count = 11 * MIB;
    bits.reserve(8 * count + 16);
    for _ in 0..count {
        bits.extend([false, false, true, true, false, false, false, false]);
    }
    bits.extend([false; 7]);
    let mut blob = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for byte in bits.chunks(8) {
        blob.push(
            byte.iter()
                .rev()
                .fold(0, |all, &bit| all << 1 | u8::from(bit)),
        );
    }
    let data = vec![0; count];
    let mut crc = flate2::Crc::new();
    crc.update(&data);
    blob.extend(crc.sum().to_le_bytes());
    blob.extend(crc.amount().to_le_bytes());
    let (plain, map) = seek_support::record(Compression::Gzip, &blob, 1 << 16).unwrap();
    assert!(plain == data);
    let map = seek_support::open(map);
    assert!(!map.random_access());
    let last = map.decode(map.spans() - 1, &blob).unwrap();
    assert!(last.len() as u64 <= SPAN_MAX && last.iter().all(|&byte| byte == 0));
}

#[test]
fn a_flood_of_empty_blocks_makes_no_flood_of_windows() {
    let data = texture(600_000, 9);
    let packed = gzip(0, &data);
    // Stored blocks are whole bytes: empty ones can be put between any two.
    let mut blob = packed[..10].to_vec();
    let mut rest = &packed[10..packed.len() - 8];
    while !rest.is_empty() {
        let len = 5 + usize::from(u16::from_le_bytes([rest[1], rest[2]]));
        blob.extend_from_slice(&rest[..len]);
        if rest[0] & 1 == 0 {
            blob.extend(b"\0\0\0\xff\xff".repeat(40_000));
        }
        rest = &rest[len..];
    }
    blob.extend_from_slice(&packed[packed.len() - 8..]);
    let map = every_way_agrees(Compression::Gzip, &blob, &data, 64 << 10);
    assert!(map.spans() <= 3);
}

#[test]
fn bombs_are_refused_by_name_of_the_limit() {
    fn limit(compression: Compression, blob: &[u8], limits: Limits) -> &'static str {
        struct Nowhere;
        impl lazyroot::layer::seek::Sink for Nowhere {
            fn buffer(&mut self) -> Vec<u8> {
                Vec::with_capacity(256 << 10)
            }
            fn bytes(&mut self, _: Vec<u8>) -> Result<(), lazyroot::layer::seek::Stopped> {
                Ok(())
            }
            fn window(
                &mut self,
                _: lazyroot::layer::seek::WindowJob,
            ) -> Result<(), lazyroot::layer::seek::Stopped> {
                Ok(())
            }
        }
        let mut recorder = Recorder::new(compression, limits);
        match recorder.push(blob, &mut Nowhere) {
            Err(DecodeError::Limit { limit, .. }) => limit,
            other => panic!("{other:?}"),
        }
    }
    let zeros = vec![0; MIB];
    let small = Limits {
        unpacked: 1 << 19,
        ..Limits::default()
    };
    assert_eq!(
        limit(Compression::Gzip, &gzip(6, &zeros), small),
        "unpacked"
    );
    let frame = zstd::bulk::compress(&zeros, 3).unwrap();
    assert_eq!(limit(Compression::Zstd, &frame, small), "unpacked");
    assert_eq!(
        limit(Compression::Zstd, &frame.repeat(1100), Limits::default()),
        "ratio"
    );
    assert_eq!(
        limit(
            Compression::Gzip,
            &gzip(9, &zeros).repeat(1100),
            Limits::default()
        ),
        "ratio"
    );
}

#[test]
fn a_sink_that_stops_ends_the_recording() {
    struct Full;
    impl lazyroot::layer::seek::Sink for Full {
        fn buffer(&mut self) -> Vec<u8> {
            Vec::new()
        }
        fn bytes(&mut self, _: Vec<u8>) -> Result<(), lazyroot::layer::seek::Stopped> {
            Err(lazyroot::layer::seek::Stopped)
        }
        fn window(
            &mut self,
            _: lazyroot::layer::seek::WindowJob,
        ) -> Result<(), lazyroot::layer::seek::Stopped> {
            Ok(())
        }
    }
    let mut recorder = Recorder::new(Compression::Plain, Limits::default());
    let outcome = recorder.push(&[1; 300_000], &mut Full);
    assert!(matches!(outcome, Err(DecodeError::Stopped)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_compressed_comes_back(
        seed in any::<u64>(),
        cuts in prop::collection::vec((0usize..400_000, 0usize..4), 1..5),
        piece in 1usize..70_000,
    ) {
        let (mut data, mut members, mut frames) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (len, level)) in cuts.into_iter().enumerate() {
            let part = texture(len, seed ^ number as u64);
            members.extend(gzip([0, 1, 6, 9][level], &part));
            frames.extend(zstd::bulk::compress(&part, [1, 3, 9, 15][level]).unwrap());
            data.extend(part);
        }
        if !data.is_empty() {
            every_way_agrees(Compression::Gzip, &members, &data, piece);
            every_way_agrees(Compression::Zstd, &frames, &data, piece);
            every_way_agrees(Compression::Plain, &data, &data, piece);
        }
    }
}
