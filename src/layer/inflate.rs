//! Raw deflate (RFC 1951) that can stop at the end of a block and begin in the
//! middle of a byte: what seek points need and no safe interface offers.
//!
//! What it is for: the thin layer over zlib's own interface (in its Rust
//! implementation), so that all unsafe calls of the formats are in one small
//! file. May assume nothing about the bytes. Must not know gzip, points, maps.
#![expect(
    unsafe_code,
    reason = "zlib's streaming interface takes pointers and lengths"
)]

use std::ffi::{CStr, c_int};
use std::fmt;

use libz_rs_sys as z;

/// Bytes that deflate can look back (RFC 1951, section 2).
pub(super) const WINDOW: usize = 32 << 10;

/// Raw deflate: no header, largest window (zlib.h, `inflateInit2`).
const RAW: c_int = -15;
/// Bits of `data_type` after a stop (zlib.h, `inflate`).
const UNUSED_BITS: c_int = 63;
const IN_LAST_BLOCK: c_int = 64;
const BEHIND_A_BLOCK: c_int = 128;

/// When to come back before input or room are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not before.
    Never,
    /// At the next end of a block.
    AtBlock,
}

/// Where a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// Input or room are used up.
    Somewhere,
    /// Between two blocks; so many high bits of the byte before are still to come.
    Block {
        /// 0 to 7.
        bits: u8,
    },
    /// Behind the last block.
    End,
}

/// What a run did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ran {
    /// Bytes of input used.
    pub consumed: usize,
    /// Where it ended.
    pub at: At,
}

/// A deflate decoder.
pub(super) struct Inflater {
    stream: z::z_stream,
}

// SAFETY: the stream owns its heap state alone, and that state has no ties to a
// thread; what it keeps of earlier input and output pointers is replaced at each
// call before use.
unsafe impl Send for Inflater {}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Inflater({} in, {} out)",
            self.stream.total_in, self.stream.total_out
        )
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: `new` initialised the stream and nobody ended it since.
        unsafe { z::inflateEnd(&raw mut self.stream) };
    }
}

impl Inflater {
    /// At the beginning of a stream.
    pub(super) fn new() -> Self {
        let mut stream = z::z_stream::default();
        // The size is zlib's guard against a header of another version; 112 on LP64.
        let size = c_int::try_from(size_of::<z::z_stream>()).unwrap_or(0);
        // SAFETY: the stream is a valid default one (with its allocator), version
        // and size are those of the library in use.
        let code = unsafe { z::inflateInit2_(&raw mut stream, RAW, z::zlibVersion(), size) };
        assert_eq!(
            code,
            z::Z_OK,
            "because only a failed allocation can refuse a valid set-up"
        );
        Self { stream }
    }

    /// Back to the beginning of a stream.
    pub(super) fn reset(&mut self) {
        // SAFETY: the stream is initialised.
        let code = unsafe { z::inflateReset(&raw mut self.stream) };
        debug_assert_eq!(code, z::Z_OK);
    }

    /// To the beginning of a block: `window` is what came before (at most
    /// [`WINDOW`] bytes), the `bits` high bits of `byte` come first.
    pub(super) fn resume(&mut self, window: &[u8], bits: u8, byte: u8) {
        self.reset();
        let bits = bits & 7;
        if bits > 0 {
            let value = c_int::from(byte >> (8 - bits));
            // SAFETY: the stream is initialised.
            let code = unsafe { z::inflatePrime(&raw mut self.stream, c_int::from(bits), value) };
            debug_assert_eq!(code, z::Z_OK);
        }
        let window = &window[window.len().saturating_sub(WINDOW)..];
        if !window.is_empty() {
            // At most WINDOW.
            let len = window.len() as u32;
            // SAFETY: the stream is initialised, pointer and length are a slice's.
            let code =
                unsafe { z::inflateSetDictionary(&raw mut self.stream, window.as_ptr(), len) };
            debug_assert_eq!(code, z::Z_OK);
        }
    }

    /// The last bytes that were made, at most [`WINDOW`].
    pub(super) fn window(&mut self) -> Vec<u8> {
        let mut window = vec![0; WINDOW];
        let mut len = 0;
        // SAFETY: the stream is initialised; a dictionary has at most WINDOW bytes
        // (zlib.h, `inflateGetDictionary`: "must have enough space, where 32768
        // bytes is always enough").
        let code = unsafe {
            z::inflateGetDictionary(&raw const self.stream, window.as_mut_ptr(), &raw mut len)
        };
        debug_assert_eq!(code, z::Z_OK);
        window.truncate(len as usize);
        window
    }

    /// Decodes until `stop`, the end, or the end of `input`; appends at most `room`
    /// bytes to `output`, within its capacity.
    ///
    /// # Errors
    /// What is wrong with the stream.
    pub(super) fn run(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
        room: usize,
        stop: Stop,
    ) -> Result<Ran, &'static str> {
        let spare = output.spare_capacity_mut();
        let have = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let room = u32::try_from(room.min(spare.len())).unwrap_or(u32::MAX);
        self.stream.next_in = input.as_ptr();
        self.stream.avail_in = have;
        self.stream.next_out = spare.as_mut_ptr().cast();
        self.stream.avail_out = room;
        let flush = if stop == Stop::AtBlock {
            z::Z_BLOCK
        } else {
            z::Z_NO_FLUSH
        };
        // SAFETY: the stream is initialised; input is readable for `avail_in` and the
        // spare room is writable for `avail_out` bytes; it is never read before it
        // is written.
        let code = unsafe { z::inflate(&raw mut self.stream, flush) };
        let produced = room.saturating_sub(self.stream.avail_out) as usize;
        // SAFETY: inflate wrote `produced` bytes from the old length on, and that many
        // fit the capacity.
        unsafe { output.set_len(output.len() + produced) };
        let consumed = have.saturating_sub(self.stream.avail_in) as usize;
        let at = match code {
            z::Z_STREAM_END => At::End,
            // Z_BUF_ERROR: nothing could be done with what was given; not an error.
            z::Z_OK | z::Z_BUF_ERROR => self.between_blocks(stop),
            z::Z_MEM_ERROR => return Err("out of memory"),
            _ => return Err(self.message()),
        };
        Ok(Ran { consumed, at })
    }

    fn between_blocks(&self, stop: Stop) -> At {
        let state = self.stream.data_type;
        let bits = state & UNUSED_BITS;
        if stop == Stop::AtBlock
            && state & BEHIND_A_BLOCK != 0
            && state & IN_LAST_BLOCK == 0
            // A block's last code is read bit by bit or its surplus is given back, so
            // less than a byte is left; a point could not say more.
            && bits < 8
        {
            return At::Block { bits: bits as u8 };
        }
        At::Somewhere
    }

    fn message(&self) -> &'static str {
        const UNKNOWN: &str = "it is not a deflate stream";
        if self.stream.msg.is_null() {
            return UNKNOWN;
        }
        // SAFETY: zlib's messages are NUL-terminated constants.
        let text: &'static CStr = unsafe { CStr::from_ptr(self.stream.msg) };
        match text.to_str() {
            // The library's fast path loses its message to this one.
            Ok("repeated call with bad state") | Err(_) => UNKNOWN,
            Ok(text) => text,
        }
    }
}

/// CRC-32 as gzip has it (RFC 1952, section 8), continued from `crc`; 0 to begin.
///
/// Not zlib's: that of zlib-rs 0.6 calls a function for each 64 bytes and takes as long
/// as inflating does.
pub(super) fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `data` in blocks, made by the safe interface.
    fn deflated(level: u32, data: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        let mut to =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
        to.write_all(data).unwrap();
        to.finish().unwrap()
    }

    fn text(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b"etaoin shrdlu cmfwyp"[(state >> 16) as usize % 20]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn every_stop_at_a_block_is_a_place_to_begin_again() {
        let data = text(400_000);
        for level in [0, 1, 6, 9] {
            let packed = deflated(level, &data);
            let mut inflater = Inflater::new();
            let mut out = Vec::with_capacity(data.len());
            let (mut used, mut stops) = (0, 0);
            loop {
                let ran = inflater
                    .run(&packed[used..], &mut out, data.len(), Stop::AtBlock)
                    .unwrap();
                used += ran.consumed;
                match ran.at {
                    At::End => break,
                    At::Somewhere => {}
                    At::Block { bits } => {
                        stops += 1;
                        let mut other = Inflater::new();
                        let byte = packed[used - 1];
                        other.resume(&inflater.window(), bits, byte);
                        let left = data.len() - out.len();
                        let mut rest = Vec::with_capacity(left);
                        other
                            .run(&packed[used..], &mut rest, left, Stop::Never)
                            .unwrap();
                        assert_eq!(rest, &data[out.len()..]);
                    }
                }
            }
            assert_eq!((&out, used), (&data, packed.len()));
            assert!(stops > 0, "level {level}");
        }
    }

    #[test]
    fn damage_is_named_and_no_room_is_no_error() {
        let packed = deflated(6, &text(1000));
        let mut inflater = Inflater::new();
        let ran = inflater
            .run(&packed, &mut Vec::new(), 10, Stop::Never)
            .unwrap();
        assert_eq!(ran.at, At::Somewhere);
        let mut inflater = Inflater::new();
        let mut out = Vec::with_capacity(10);
        let error = inflater
            .run(&[0xff; 20], &mut out, 10, Stop::Never)
            .unwrap_err();
        assert_eq!(error, "invalid block type");
    }

    #[test]
    fn the_check_value_of_crc32_is_right() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
    }

    #[test]
    fn crc32_is_that_of_zlib_at_every_length_and_cut() {
        let bytes: Vec<u8> = (0..600u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for len in 0..bytes.len() {
            // SAFETY: pointer and length are a slice's.
            let zlibs = unsafe { z::crc32(0, bytes.as_ptr(), len as u32) };
            let (head, tail) = bytes[..len].split_at(len / 3);
            assert_eq!(crc32(crc32(0, head), tail), zlibs as u32, "{len}");
        }
    }
}
