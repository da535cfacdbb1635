//! What a stream is, by its first bytes. Must not know names or media types.

use super::Compression;

/// What the first bytes of a stream say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// Nothing there at all.
    Empty,
    /// A tar header (also 512 zero bytes: an empty tar).
    Tar,
    /// Compressed in a way that can be read.
    Compressed(Compression),
    /// bzip2: can be read from the front only.
    Bzip2,
    /// xz: can be read from the front only.
    Xz,
    /// Begins like JSON.
    Json,
    /// None of these.
    Unknown,
}

/// Bytes that [`sniff`] wants to see, if there are so many.
pub const SNIFF: usize = 512;

/// Tells by content what a stream is.
#[must_use]
pub fn sniff(head: &[u8]) -> Sniffed {
    match head {
        [] => Sniffed::Empty,
        // RFC 1952, 2.3.1; 8 is deflate, the only method there is.
        [0x1f, 0x8b, 8, ..] => Sniffed::Compressed(Compression::Gzip),
        // RFC 8878, 3.1.1 and 3.1.2 (a stream may begin with a skippable frame).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Sniffed::Compressed(Compression::Zstd)
        }
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Sniffed::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Sniffed::Xz,
        _ if is_tar(head) => Sniffed::Tar,
        _ if is_json(head) => Sniffed::Json,
        _ => Sniffed::Unknown,
    }
}

/// A header block by its magic, or, for archives older than that, by its checksum
/// (POSIX pax, "ustar Interchange Format"; the checksum field counts as spaces).
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..512) else {
        return false;
    };
    if block.iter().all(|&b| b == 0) || block[257..262] == *b"ustar" {
        return true;
    }
    let field = &block[148..156];
    let digits = field.iter().skip_while(|b| **b == b' ');
    let claimed = digits
        .take_while(|b| (b'0'..=b'7').contains(b))
        .fold(0u32, |sum, b| sum << 3 | u32::from(b - b'0'));
    let sum = |of: fn(u8) -> i32| -> i32 {
        let outside = block[..148].iter().chain(&block[156..]);
        outside.map(|&b| of(b)).sum::<i32>() + 8 * i32::from(b' ')
    };
    // Old tars summed signed bytes.
    let sums = [sum(i32::from), sum(|b| i32::from(b.cast_signed()))];
    i32::try_from(claimed).is_ok_and(|claimed| sums.contains(&claimed))
}

fn is_json(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    matches!(text.trim_ascii_start().first(), Some(b'{' | b'['))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_told_by_its_content() {
        let mut old = [0; 512];
        old[..4].copy_from_slice(b"name");
        old[100..107].copy_from_slice(b"0000644");
        let sum: u32 = old.iter().map(|&b| u32::from(b)).sum::<u32>() + 8 * 32;
        old[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut new = [1; 600];
        new[257..262].copy_from_slice(b"ustar");
        for (head, what) in [
            (&b""[..], Sniffed::Empty),
            (b"\x1f\x8b\x08\0", Sniffed::Compressed(Compression::Gzip)),
            (b"\x1f\x8b\x07\0", Sniffed::Unknown),
            (b"\x28\xb5\x2f\xfd", Sniffed::Compressed(Compression::Zstd)),
            (b"\x5e\x2a\x4d\x18", Sniffed::Compressed(Compression::Zstd)),
            (b"BZh91AY", Sniffed::Bzip2),
            (b"\xfd7zXZ\0", Sniffed::Xz),
            (b"\xef\xbb\xbf\n {", Sniffed::Json),
            (b"[", Sniffed::Json),
            (&old, Sniffed::Tar),
            (&new, Sniffed::Tar),
            (&[0; 512], Sniffed::Tar),
            (&[0; 511], Sniffed::Unknown),
            (&[b'x'; 512], Sniffed::Unknown),
        ] {
            assert_eq!(sniff(head), what, "{head:?}");
        }
    }

    #[test]
    fn a_flipped_bit_makes_an_old_tar_unknown() {
        let mut block = [0; 512];
        block[0] = b'n';
        block[148..156].copy_from_slice(b"000556\0 ");
        assert_eq!(sniff(&block), Sniffed::Tar);
        block[1] = b'n';
        assert_eq!(sniff(&block), Sniffed::Unknown);
    }
}
