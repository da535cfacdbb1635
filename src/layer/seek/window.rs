//! Windows: what came before a deflate block, reduced to what the block refers to.
//!
//! What it is for: a seek point into deflate needs the 32 KiB before it, but what
//! follows refers to a tenth of them only. Must not know where windows are kept.

use zstd::zstd_safe::{CCtx, compress_bound};

use super::frames::DECODERS;
use super::gzip::INFLATERS;
use super::pool::Pool;
use super::references::references;
use crate::layer::inflate::{Stop, WINDOW};

/// Level of the packing: 3 would make maps 1 % smaller and imports 2 % slower.
const LEVEL: i32 = 1;

static PACKERS: Pool<CCtx<'static>> = Pool::new(CCtx::create, |_| true);

/// What a window has to be packed from.
#[derive(Debug)]
pub struct WindowJob {
    /// Byte of the blob that the point begins at.
    pub(super) at: u64,
    /// What came before, at most 32 KiB.
    pub(super) window: Vec<u8>,
    /// Bits of `byte` that come first.
    pub(super) bits: u8,
    /// The byte before `at`.
    pub(super) byte: u8,
    /// Compressed bytes from `at` on, enough to make `output`; nothing if they
    /// were too many to keep.
    pub(super) input: Option<Vec<u8>>,
    /// What they unpack to: 32 KiB or up to the member's end.
    pub(super) output: Vec<u8>,
}

/// A window, packed.
#[derive(Debug)]
pub struct PackedWindow {
    /// As in the job.
    pub(super) at: u64,
    /// Length of the window; what was before it is never referred to.
    pub(super) len: u16,
    /// A Zstandard frame; empty if `len` is 0.
    pub(super) bytes: Vec<u8>,
}

impl WindowJob {
    /// Finds which bytes of the window are referenced and packs those.
    #[must_use]
    pub fn pack(mut self) -> PackedWindow {
        if let Some(sparse) = self.sparse() {
            self.window = sparse;
        }
        let kept = &self.window;
        let mut bytes = Vec::new();
        if !kept.is_empty() {
            bytes.reserve_exact(compress_bound(kept.len()));
            let packed = PACKERS.lend().compress(&mut bytes, kept, LEVEL);
            packed.expect("because the buffer has room for the worst case");
        }
        bytes.shrink_to_fit();
        // At most WINDOW, which fits.
        PackedWindow {
            at: self.at,
            len: kept.len() as u16,
            bytes,
        }
    }

    /// The window from the first byte on that is referred to, with zeros for those
    /// that are not; if that could be found out. Only the first 32 KiB of what follows
    /// can refer to the window, so a decode that makes these makes everything: builds with
    /// debug assertions try it.
    fn sparse(&self) -> Option<Vec<u8>> {
        let input = self.input.as_deref()?;
        let len = self.window.len();
        let mut sparse = vec![0; len];
        // Not the first that is not zero: a reference to a zero reaches back too.
        let mut first = len;
        let start = (self.bits, self.byte);
        references(input, start, len, self.output.len(), &mut |range| {
            first = first.min(range.start);
            sparse[range.clone()].copy_from_slice(&self.window[range]);
        })?;
        sparse.drain(..first);
        debug_assert_eq!(self.decode(&sparse).as_ref(), Some(&self.output));
        Some(sparse)
    }

    /// What follows, decoded with another window.
    fn decode(&self, window: &[u8]) -> Option<Vec<u8>> {
        let input = self.input.as_deref()?;
        let mut inflater = INFLATERS.lend();
        inflater.resume(window, self.bits, self.byte);
        let mut out = Vec::with_capacity(self.output.len());
        inflater
            .run(input, &mut out, self.output.len(), Stop::Never)
            .ok()?;
        (out.len() == self.output.len()).then_some(out)
    }
}

/// Unpacks a window that should have `len` bytes.
pub(super) fn unpack(packed: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    let mut window = Vec::with_capacity(len.min(WINDOW));
    if len > 0 {
        let unpacked = DECODERS.lend().decompress(&mut window, packed);
        unpacked.map_err(|_| "a window does not unpack")?;
    }
    if window.len() == len {
        Ok(window)
    } else {
        Err("a window has another length than its point says")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::layer::inflate::Inflater;

    /// A job at the first block border behind `from` bytes of `data`.
    fn job(data: &[u8], from: usize) -> WindowJob {
        let mut to = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
        to.write_all(data).unwrap();
        let packed = to.finish().unwrap();
        let mut inflater = Inflater::new();
        let mut out = Vec::with_capacity(data.len());
        let first = inflater
            .run(&packed, &mut out, from, Stop::Never)
            .unwrap()
            .consumed;
        let ran = inflater
            .run(&packed[first..], &mut out, data.len(), Stop::AtBlock)
            .unwrap();
        let crate::layer::inflate::At::Block { bits } = ran.at else {
            panic!("no border")
        };
        let at = first + ran.consumed;
        let output = data[out.len()..][..WINDOW].to_vec();
        let input = Some(packed[at..].to_vec());
        WindowJob {
            at: at as u64,
            window: inflater.window(),
            bits,
            byte: packed[at - 1],
            input,
            output,
        }
    }

    fn words(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut data = Vec::with_capacity(len + 16);
        while data.len() < len {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            data.extend_from_slice(format!("word{:x} ", (state >> 16) % 3000).as_bytes());
        }
        data
    }

    #[test]
    fn a_packed_window_decodes_what_the_whole_one_decodes() {
        let data = words(600_000);
        let job = job(&data, 300_000);
        let whole = job.window.clone();
        let (bits, byte) = (job.bits, job.byte);
        let (input, output) = (job.input.clone().unwrap(), job.output.clone());
        let packed = job.pack();
        let window = unpack(&packed.bytes, packed.len.into()).unwrap();
        let tail = &whole[whole.len() - window.len()..];
        assert!(
            window
                .iter()
                .zip(tail)
                .all(|(sparse, real)| sparse == real || *sparse == 0)
        );
        let mut inflater = Inflater::new();
        inflater.resume(&window, bits, byte);
        let mut out = Vec::with_capacity(output.len());
        inflater
            .run(&input, &mut out, output.len(), Stop::Never)
            .unwrap();
        assert_eq!(out, output);
    }

    #[test]
    fn a_reference_to_a_zero_before_every_other_byte_referred_to_keeps_it() {
        // The bug: a window was cut at its first byte that is not zero, though what
        // followed referred to zeros before it, and so went too far back.
        let noise: Vec<u8> = words(60_000).iter().map(|byte| byte | 1).collect();
        let mut to = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(9));
        to.write_all(&[0; 200]).unwrap();
        to.write_all(&noise[..20_000]).unwrap();
        to.flush().unwrap();
        let at = to.get_ref().len();
        // All zeros: nothing else of the window is referred to.
        to.write_all(&[0; 200]).unwrap();
        let packed = to.finish().unwrap();
        let mut window = vec![0; 200];
        window.extend_from_slice(&noise[..20_000]);
        let (byte, input) = (packed[at - 1], packed[at..].to_vec());
        let output = vec![0; 200];
        let job = WindowJob {
            at: 9,
            window,
            bits: 0,
            byte,
            input: Some(input.clone()),
            output: output.clone(),
        };
        let packed = job.pack();
        assert!(packed.len > 19_000, "the reference is missing");
        let window = unpack(&packed.bytes, packed.len.into()).unwrap();
        let mut inflater = Inflater::new();
        inflater.resume(&window, 0, byte);
        let mut out = Vec::with_capacity(200);
        inflater.run(&input, &mut out, 200, Stop::Never).unwrap();
        assert_eq!(out, output);
    }

    #[test]
    fn without_what_follows_the_whole_window_is_kept() {
        let data = words(600_000);
        let mut job = job(&data, 300_000);
        job.input = None;
        let whole = job.window.clone();
        let packed = job.pack();
        assert_eq!(unpack(&packed.bytes, packed.len.into()).unwrap(), whole);
    }

    #[test]
    fn a_window_of_another_length_is_refused() {
        let packed = WindowJob {
            at: 0,
            window: vec![7; 100],
            bits: 0,
            byte: 0,
            input: None,
            output: Vec::new(),
        }
        .pack();
        assert!(unpack(&packed.bytes, 100).is_ok());
        assert!(unpack(&packed.bytes, 99).is_err());
        assert!(unpack(&packed.bytes, 101).is_err());
        assert!(unpack(&packed.bytes[1..], 100).is_err());
        assert!(unpack(&[], 0).unwrap().is_empty());
    }
}
