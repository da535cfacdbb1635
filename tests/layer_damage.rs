//! *A damaged index is an error, never a wrong answer and never a crash.*
//!
//! Twice: bytes changed in the file, where the checks find them; and bytes
//! changed in the payload with all checks made anew, as a forger would, where
//! only the reader's own care is left.

#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod layer_support;

use std::sync::Arc;

use layer_support::{answers, build, golden, member, open, several, walk};
use lazyroot::layer::blocks::{BlockCache, BlockFile, BlockWriter, Seal};
use lazyroot::layer::format::INDEX;
use lazyroot::layer::read::Index;
use lazyroot::layer::tar::MemberKind;
use lazyroot::layer::{Dialect, Layer, ReadError, Row};
use lazyroot::node::Kind;
use proptest::prelude::*;

fn good() -> Vec<u8> {
    build(Dialect::Docker, &golden()).unwrap()
}

fn payload(file: &[u8]) -> Vec<u8> {
    let blocks = BlockFile::open(Box::new(file.to_vec()), INDEX, BlockCache::new(1 << 20)).unwrap();
    let mut payload = vec![0; usize::try_from(blocks.len()).unwrap()];
    blocks.read(0, &mut payload).unwrap();
    payload
}

fn seal(payload: &[u8]) -> Vec<u8> {
    let mut writer = BlockWriter::new(Vec::new(), INDEX);
    writer.write(payload).unwrap();
    writer.finish().unwrap()
}

/// The tree alone: what is listed where under which number, and how rows are named.
/// Names, attributes and contents may be forged into others that are as good.
fn shape(index: &Index) -> String {
    let mut shape = String::new();
    for row in (0..index.summary().rows).map(Row) {
        let attr = index.node(row).unwrap().attr;
        let dirs: Vec<Row> = index
            .names(row)
            .unwrap()
            .into_iter()
            .map(|name| name.0)
            .collect();
        let has = index.xattrs(row).unwrap().len();
        shape += &format!("{row:?} {:?} {} {dirs:?} {has}\n", attr.kind, attr.nlink);
        if attr.kind == Kind::Dir {
            index
                .list(row, 0, &mut |number, name, hit| {
                    shape += &format!("  {number} {} {hit:?}\n", name.len());
                    true
                })
                .unwrap();
        }
    }
    shape
}

/// Asks everything of a forged index; only that it ends and does not panic is
/// asked for, and that what `verify` lets through has an answer to everything.
/// Answers such an index.
fn survives(payload: &[u8]) -> Option<Index> {
    let index = open(&seal(payload)).ok()?;
    let said = answers(&index);
    let rows = index.summary().rows;
    assert!(said.len() > rows as usize);
    let verified = index.verify().is_ok();
    if verified {
        walk(&index).unwrap();
    }
    let layer = Layer {
        index,
        contents: Box::new(vec![0u8; 200_000]),
    };
    let mut buffer = [0; 64];
    for row in (0..rows).map(Row) {
        for offset in [0, 4090, (1 << 20) + 3, u64::MAX - 3] {
            drop(layer.read_file(row, offset, &mut buffer));
        }
    }
    verified.then_some(layer.index)
}

#[test]
fn no_changed_byte_of_the_file_changes_an_answer() {
    let good = good();
    let right = walk(&open(&good).unwrap()).unwrap();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            let index = match open(&bad) {
                Ok(index) => index,
                Err(error) => {
                    assert!(
                        matches!(error, ReadError::Corrupt { .. }),
                        "byte {at}: {error}"
                    );
                    continue;
                }
            };
            match walk(&index) {
                Ok(answer) => assert_eq!(answer, right, "byte {at}"),
                Err(ReadError::Corrupt { offset, .. }) => assert!(offset <= good.len() as u64),
                Err(other) => panic!("byte {at}: {other}"),
            }
            assert!(index.verify().is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_file_that_was_cut_is_refused() {
    let good = good();
    for len in 0..good.len() {
        assert!(
            matches!(open(&good[..len]), Err(ReadError::Corrupt { .. })),
            "{len} bytes"
        );
    }
    let mut long = good.clone();
    long.push(0);
    assert!(matches!(open(&long), Err(ReadError::Corrupt { .. })));
}

#[test]
fn an_index_of_another_version_or_format_is_refused() {
    let good = good();
    for seal in [
        Seal {
            version: 2,
            ..INDEX
        },
        Seal {
            magic: *b"lr-other",
            ..INDEX
        },
    ] {
        let mut writer = BlockWriter::new(Vec::new(), seal);
        writer.write(&payload(&good)).unwrap();
        let file = writer.finish().unwrap();
        assert!(matches!(open(&file), Err(ReadError::Corrupt { .. })));
    }
}

#[test]
fn no_forged_byte_makes_the_reader_fall_or_bends_the_tree_unseen() {
    let good = payload(&good());
    let right = shape(&open(&seal(&good)).unwrap());
    for at in 0..good.len() {
        for flip in [0x01, 0x08, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            if let Some(index) = survives(&bad) {
                assert_eq!(shape(&index), right, "byte {at} ^ {flip}");
            }
        }
    }
}

#[test]
fn a_forged_payload_of_any_length_is_no_index() {
    let good = payload(&good());
    for len in 0..good.len() {
        assert!(open(&seal(&good[..len])).is_err(), "{len} bytes");
    }
}

#[test]
fn an_index_that_says_nothing_false_is_verified() {
    open(&good()).unwrap().verify().unwrap();
}

#[test]
fn threads_may_ask_at_the_same_time() {
    let index = Arc::new(open(&good()).unwrap());
    let right = walk(&index).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(walk(&index).unwrap(), right));
        }
    });
}

/// An index of several blocks, one directory of which is longer than a block.
fn large() -> Vec<u8> {
    let mut members = golden();
    for n in 0..2500 {
        let path = format!("large/{}name-{n}", "x".repeat(n % 40));
        members.push(member(MemberKind::Fifo, path.as_bytes()));
    }
    build(Dialect::Docker, &members).unwrap()
}

/// Numbers that forgers like.
fn odd() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(u32::MAX - 1),
        Just(1 << 31),
        Just(i32::MAX as u32),
        0..64u32,
        any::<u32>()
    ]
}

fn forge(payload: &mut [u8], changes: Vec<(prop::sample::Index, u32)>) {
    for (at, word) in changes {
        let at = at.index(payload.len() / 4) * 4;
        payload[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u32)>> {
    prop::collection::vec((any::<prop::sample::Index>(), odd()), 1..6)
}

proptest! {
    #![proptest_config(several(3))]

    #[test]
    fn forged_words_do_not_make_the_reader_fall(changes in changes()) {
        let mut bad = payload(&good());
        forge(&mut bad, changes);
        survives(&bad);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..several(1) })]

    #[test]
    fn forged_words_in_a_large_index_do_not_make_the_reader_fall(
        changes in changes(),
        header in changes(),
    ) {
        let mut bad = payload(&large());
        forge(&mut bad, changes);
        // Once more, where all else begins.
        forge(&mut bad[..2048], header.into_iter().take(1).collect());
        survives(&bad);
    }
}
