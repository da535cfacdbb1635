//! The digest of a stream, and of parts of it, in one pass.
//!
//! What it is for: a layer's tar has a digest, and so has every file in it. Whoever made one
//! after the other would hash nearly every byte twice; where the processor can, both are made at
//! once ([`super::sha_ni`]). Must not know what the parts are.

use std::fmt;

use sha2::block_api::compress256;

use super::sha_ni::{Block, ShaNi, State};
use super::{Digest, Hasher};

/// FIPS 180-4, section 5.3.3.
const BEGINNING: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// A digest in progress, and the SHA-256 of a part of the same bytes.
#[derive(Clone)]
pub struct Nested {
    whole: Whole,
    part: Part,
}

#[derive(Clone)]
enum Whole {
    /// A SHA-256, with a part beside it.
    Together(Together),
    /// Any.
    Alone(Hasher),
}

#[derive(Clone)]
enum Part {
    None,
    /// It began at this byte of a stream that is hashed together with it.
    With(u64),
    Alone(Hasher),
}

#[derive(Clone)]
struct Together {
    by: ShaNi,
    /// Of the whole, and of the part if there is one.
    states: [State; 2],
    /// Bytes so far; those behind the last whole block are in `rest`.
    len: u64,
    rest: Block,
}

impl fmt::Debug for Nested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nested")
    }
}

impl Default for Nested {
    /// SHA-256 of the whole.
    fn default() -> Self {
        let whole = match ShaNi::find() {
            Some(by) => Whole::Together(Together {
                by,
                states: [BEGINNING; 2],
                len: 0,
                rest: [0; 64],
            }),
            None => Whole::Alone(Hasher::default()),
        };
        let part = Part::None;
        Self { whole, part }
    }
}

impl Nested {
    /// SHA-512 of the whole; parts have their SHA-256 all the same.
    #[must_use]
    pub fn sha512() -> Self {
        Self {
            whole: Whole::Alone(Hasher::sha512()),
            part: Part::None,
        }
    }

    /// A part begins with the next byte; one that has not ended is forgotten. It costs
    /// least where it begins at a multiple of 64 bytes.
    pub fn begin_part(&mut self) {
        self.part = match &mut self.whole {
            Whole::Together(together) if together.len.is_multiple_of(64) => {
                together.states[1] = BEGINNING;
                Part::With(together.len)
            }
            _ => Part::Alone(Hasher::default()),
        };
    }

    /// The part ends: its digest, if one had begun.
    pub fn end_part(&mut self) -> Option<Digest> {
        match (std::mem::replace(&mut self.part, Part::None), &self.whole) {
            (Part::With(from), Whole::Together(together)) => {
                Some(together.digest(together.states[1], together.len - from))
            }
            (Part::Alone(hasher), _) => Some(hasher.finish()),
            (Part::None | Part::With(_), _) => None,
        }
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Part::Alone(hasher) = &mut self.part {
            hasher.update(bytes);
        }
        match &mut self.whole {
            Whole::Together(together) => {
                together.update(bytes, matches!(self.part, Part::With(_)));
            }
            Whole::Alone(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.whole {
            Whole::Together(together) => together.digest(together.states[0], together.len),
            Whole::Alone(hasher) => hasher.finish(),
        }
    }
}

impl Together {
    fn filled(&self) -> usize {
        (self.len % 64) as usize
    }

    fn update(&mut self, mut bytes: &[u8], both: bool) {
        let filled = self.filled();
        self.len += bytes.len() as u64;
        if filled > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(64 - filled));
            self.rest[filled..filled + now.len()].copy_from_slice(now);
            if filled + now.len() < 64 {
                return;
            }
            bytes = later;
            let block = self.rest;
            self.compress(&[block], both);
        }
        let (blocks, rest) = bytes.as_chunks();
        self.compress(blocks, both);
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    fn compress(&mut self, blocks: &[Block], both: bool) {
        if both {
            self.by.compress(&mut self.states, blocks);
        } else {
            compress256(&mut self.states[0], blocks);
        }
    }

    /// The digest of a message of `len` bytes that ends here (FIPS 180-4, section 5.1.1).
    fn digest(&self, mut state: State, len: u64) -> Digest {
        let filled = self.filled();
        let mut end = [[0; 64]; 2];
        end[0][..filled].copy_from_slice(&self.rest[..filled]);
        end[0][filled] = 0x80;
        let blocks = if filled < 56 { 1 } else { 2 };
        end[blocks - 1][56..].copy_from_slice(&(8 * len).to_be_bytes());
        compress256(&mut state, &end[..blocks]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
            *bytes = word.to_be_bytes();
        }
        Digest::Sha256(digest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that a processor may be able to do.
    fn kinds() -> Vec<Nested> {
        let whole = Whole::Alone(Hasher::default());
        let part = Part::None;
        vec![Nested::default(), Nested { whole, part }]
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn every_length_and_every_part_has_its_digest() {
        let bytes = noise(400);
        for len in 0..bytes.len() {
            for mut nested in kinds() {
                let (head, tail) = bytes[..len].split_at(len / 128 * 64);
                nested.update(head);
                nested.begin_part();
                nested.update(tail);
                assert_eq!(nested.end_part(), Some(Digest::sha256(tail)), "{len}");
                assert_eq!(nested.end_part(), None);
                assert_eq!(nested.finish(), Digest::sha256(&bytes[..len]), "{len}");
            }
        }
    }

    #[test]
    fn an_appc_archive_has_its_sha512_and_its_files_their_sha256() {
        let mut nested = Nested::sha512();
        nested.update(b"a");
        nested.begin_part();
        nested.update(b"bc");
        assert_eq!(nested.end_part(), Some(Digest::sha256(b"bc")));
        let mut whole = Hasher::sha512();
        whole.update(b"abc");
        assert_eq!(nested.finish(), whole.finish());
    }

    proptest! {
        #[test]
        fn parts_of_any_place_and_pieces_of_any_length_make_the_same_digests(
            pieces in prop::collection::vec((0usize..700, any::<bool>(), any::<bool>()), 0..20),
            aligned: bool,
        ) {
            let bytes = noise(20 * 700);
            for mut nested in kinds() {
                let (mut at, mut part) = (0, None);
                for &(len, begin, end) in &pieces {
                    let len = if aligned { len / 64 * 64 } else { len };
                    if begin {
                        nested.begin_part();
                        part = Some(at);
                    }
                    nested.update(&bytes[at..at + len]);
                    at += len;
                    if end {
                        let digest = part.take().map(|from| Digest::sha256(&bytes[from..at]));
                        prop_assert_eq!(nested.end_part(), digest);
                    }
                }
                prop_assert_eq!(nested.finish(), Digest::sha256(&bytes[..at]));
            }
        }
    }
}
