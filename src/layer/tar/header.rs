//! One header block: fields, numbers, checksum.
//!
//! What it is for: asking a block of 512 bytes for its fields as they stand.
//! May assume nothing of the block. Must not know records, states, or what a
//! member is made of.
//!
//! Field offsets: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar
//! manual, "Basic Tar Format"; star's `STARspec`.

use std::ops::Range;

use crate::node::Device;
use crate::tree_path::printable;

use super::Fault;

/// Everything in a tar comes in blocks of so many bytes.
pub(super) const BLOCK: usize = 512;

/// One block.
pub(super) type Block = [u8; BLOCK];

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const FLAG: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// star keeps times behind a shorter prefix.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_ATIME: Range<usize> = 345..357;
const GNU_CTIME: Range<usize> = 357..369;

/// Major numbers have 12 bits and minor numbers 20 (`MINORBITS` in the kernel's
/// `include/linux/kdev_t.h`; FUSE carries them packed in 32 bits as well).
const MAJOR_MAX: i128 = (1 << 12) - 1;
const MINOR_MAX: i128 = (1 << 20) - 1;

/// Which writer a block comes from, by its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// No magic: the seventh edition's.
    V7,
    /// POSIX ustar, and pax which is built on it.
    Ustar,
    /// star's variant of ustar.
    Star,
    /// GNU's own, older than ustar: no prefix.
    Gnu,
}

/// A header block whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a>(&'a Block);

impl<'a> Header<'a> {
    /// The block as a header.
    pub(super) fn check(block: &'a Block) -> Result<Self, Fault> {
        let given = number(&block[CHECKSUM]).ok_or_else(|| unreadable("checksum"))?;
        // The field itself counts as eight spaces.
        let outside: i128 = i128::from(sum(block)) - i128::from(sum_of(&block[CHECKSUM]));
        let unsigned = outside + 8 * i128::from(b' ');
        if given == unsigned || given == signed(block, unsigned) {
            return Ok(Self(block));
        }
        Err(Fault::damaged("the checksum of a header is wrong"))
    }

    /// Type flag.
    pub(super) fn flag(self) -> u8 {
        self.0[FLAG]
    }

    /// Whose header it is.
    pub(super) fn format(self) -> Format {
        match &self.0[MAGIC] {
            b"ustar  \0" => Format::Gnu,
            [b'u', b's', b't', b'a', b'r', 0, ..] if &self.0[STAR_TRAILER] == b"tar\0" => {
                Format::Star
            }
            [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
            _ => Format::V7,
        }
    }

    /// Prefix and name, joined.
    pub(super) fn path(self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        let prefix = match self.format() {
            Format::Ustar => text(&self.0[PREFIX]),
            Format::Star => text(&self.0[STAR_PREFIX]),
            Format::Gnu => self.stray_prefix(),
            Format::V7 => &[],
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        let mut path = Vec::with_capacity(prefix.len() + 1 + name.len());
        path.extend_from_slice(prefix);
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }

    /// GNU headers have times where ustar has its prefix. Go before 1.8 (and so
    /// Docker up to 2017) wrote a prefix there all the same; its `archive/tar`
    /// reads them so: what is no number and is ASCII is a prefix.
    fn stray_prefix(self) -> &'a [u8] {
        let is_time = |at: Range<usize>| self.0[at.start] == 0 || number(&self.0[at]).is_some();
        if is_time(GNU_ATIME) && is_time(GNU_CTIME) {
            return &[];
        }
        let prefix = text(&self.0[PREFIX]);
        if prefix.is_ascii() { prefix } else { &[] }
    }

    /// Target of a link.
    pub(super) fn link(self) -> Vec<u8> {
        text(&self.0[LINK]).to_vec()
    }

    /// Permission bits; old writers put the file type above them.
    pub(super) fn mode(self) -> Result<u16, Fault> {
        let mode = number(&self.0[MODE]).ok_or_else(|| unreadable("mode"))?;
        u16::try_from(mode & 0o7777).map_err(|_| unreadable("mode"))
    }

    /// Owner, of any size.
    pub(super) fn uid(self) -> Result<i128, Fault> {
        number(&self.0[UID]).ok_or_else(|| unreadable("uid"))
    }

    /// Group, of any size.
    pub(super) fn gid(self) -> Result<i128, Fault> {
        number(&self.0[GID]).ok_or_else(|| unreadable("gid"))
    }

    /// Size; what is over 64 bits is `u64::MAX`, which no limit allows.
    pub(super) fn size(self) -> Result<u64, Fault> {
        let size = number(&self.0[SIZE]).ok_or_else(|| unreadable("size"))?;
        length(size)
    }

    /// Last change, in seconds.
    pub(super) fn mtime(self) -> Result<i64, Fault> {
        let mtime = number(&self.0[MTIME]).ok_or_else(|| unreadable("mtime"))?;
        i64::try_from(mtime).map_err(|_| unreadable("mtime"))
    }

    /// Numbers of a device node; headers without magic have none.
    pub(super) fn device(self) -> Result<Device, Fault> {
        if self.format() == Format::V7 {
            return Ok(Device::default());
        }
        let part = |at: Range<usize>, max: i128, what: &'static str| {
            let value = number(&self.0[at]).ok_or_else(|| unreadable(what))?;
            if !(0..=max).contains(&value) {
                return Err(Fault::damaged(format!(
                    "the {what} {value} is out of range"
                )));
            }
            u32::try_from(value).map_err(|_| unreadable(what))
        };
        Ok(Device {
            major: part(MAJOR, MAJOR_MAX, "major device number")?,
            minor: part(MINOR, MINOR_MAX, "minor device number")?,
        })
    }

    /// The whole block, for fields of one format alone.
    pub(super) fn block(self) -> &'a Block {
        self.0
    }
}

/// Whether a block is one of those that end an archive.
pub(super) fn is_zero(block: &Block) -> bool {
    block[0] == 0 && block.iter().all(|&byte| byte == 0)
}

/// A number field: octal text between spaces and NULs, or base-256 with the top
/// bit of its first byte set, two's complement (GNU tar manual, "Extensions").
/// An empty field is 0. Fields have at most 12 bytes, so 128 bits hold any.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            let (low, sign) = (i128::from(first & 0x3f), i128::from(first & 0x40));
            let rest = field.get(1..)?;
            Some(
                rest.iter()
                    .fold(low - sign, |value, &byte| value << 8 | i128::from(byte)),
            )
        }
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i128> {
    let from = field.iter().position(|&byte| byte != b' ' && byte != 0);
    let Some(from) = from else { return Some(0) };
    let mut value = 0u64;
    // 12 digits of 3 bits cannot overflow.
    for &byte in &field[from..] {
        match byte {
            b'0'..=b'7' => value = value << 3 | u64::from(byte - b'0'),
            b' ' | 0 => break,
            _ => return None,
        }
    }
    Some(i128::from(value))
}

/// A number as a length in bytes: saturates, for the limits to refuse.
pub(super) fn length(value: i128) -> Result<u64, Fault> {
    if value < 0 {
        return Err(Fault::damaged(format!("the size {value} is negative")));
    }
    Ok(u64::try_from(value).unwrap_or(u64::MAX))
}

/// A text field: up to its first NUL, or all of it.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

/// Eight bytes at a time, as four sums of 16 bits: of 128 bytes each, so they fit.
fn sum(block: &Block) -> u32 {
    const LOW: u64 = 0x00ff_00ff_00ff_00ff;
    let words = block.as_chunks().0.iter();
    let sums = words
        .map(|&word| u64::from_le_bytes(word))
        .fold(0, |sums, word| sums + (word & LOW) + (word >> 8 & LOW));
    (0..4)
        .map(|part| (sums >> (16 * part) & 0xffff) as u32)
        .sum()
}

fn sum_of(field: &[u8]) -> u32 {
    field.iter().map(|&byte| u32::from(byte)).sum()
}

/// The sum as Sun's and other old tars built it, from signed bytes.
fn signed(block: &Block, unsigned: i128) -> i128 {
    let high = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte >= 0x80).count() as i128;
    unsigned - 256 * (high(block) - high(&block[CHECKSUM]))
}

fn unreadable(field: &str) -> Fault {
    Fault::damaged(format!("the {field} in a header is no number"))
}

/// A type flag for messages.
pub(super) fn flag_name(flag: u8) -> String {
    printable(&[flag])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_block_is_that_of_its_bytes() {
        let mut block = [0xff; BLOCK];
        assert_eq!(sum(&block), 0xff * 512);
        for at in 0..BLOCK {
            block[at] = (at * 7) as u8;
            assert_eq!(sum(&block), sum_of(&block), "{at}");
        }
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o7777_7777)),
            (b"644 \0xyz", Some(0o644)),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"64x", None),
            (b"\x80\0\0\0\0\0\0\x05", Some(5)),
            (b"\x80\0\0\0\xff\xff\xff\xff", Some(0xffff_ffff)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", Some(1 << 63)),
            (
                b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Some((1 << 94) - 1),
            ),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
