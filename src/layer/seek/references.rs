//! Which bytes of its window a deflate stream refers to.
//!
//! What it is for: a window is kept for those bytes alone. Codes are read (RFC 1951)
//! and no byte is made: a length and a distance say what is copied from where, and
//! what is copied from a copy was marked when the first copy was. May assume nothing
//! of the bytes: what is no deflate stream has no answer. Must not know what becomes of the
//! window.

use std::ops::Range;
use std::sync::OnceLock;

/// Longest code (RFC 1951, section 3.2.7: lengths are 0 to 15).
const CODE_MAX: usize = 15;
/// Codes up to this length, nearly all that come, are looked up at once.
const FAST: u32 = 10;
/// Symbols of literals and lengths, and of distances (section 3.2.5; two of the
/// 288 and two of the 32 never come).
const LITERALS: usize = 288;
const DISTANCES: usize = 32;
/// The symbol that ends a block, before those of lengths.
const END: u16 = 256;

/// Section 3.2.5: the least length of each symbol from 257 on, and its extra bits.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
/// Section 3.2.7: the order in which lengths of the codes of code lengths come.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Calls `mark` with every range of a window of `window` bytes that is copied from
/// while `output` bytes are made of `input`. The `bits` high bits of `byte` come
/// before it. A range may come again. Nothing: it is no such stream.
pub(super) fn references(
    input: &[u8],
    (bits, byte): (u8, u8),
    window: usize,
    output: usize,
    mark: &mut dyn FnMut(Range<usize>),
) -> Option<()> {
    let mut reader = Bits::new(input, bits & 7, byte);
    let mut made = 0;
    while made < output {
        reader.refill();
        let last = reader.take(1)? == 1;
        match reader.take(2)? {
            0 => made += reader.stored()?,
            kind @ (1 | 2) => {
                let dynamic;
                let codes = if kind == 1 {
                    fixed()
                } else {
                    dynamic = Codes::read(&mut reader)?;
                    &dynamic
                };
                made = codes.walk(&mut reader, window, made, output, mark)?;
            }
            _ => return None,
        }
        if last {
            break;
        }
    }
    (made >= output).then_some(())
}

/// Bits of a stream, lowest first.
struct Bits<'a> {
    input: &'a [u8],
    hold: u64,
    /// Bits in `hold` that count.
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(input: &'a [u8], bits: u8, byte: u8) -> Self {
        let hold = if bits == 0 { 0 } else { byte >> (8 - bits) };
        Self {
            input,
            hold: hold.into(),
            count: bits.into(),
        }
    }

    /// Makes 56 bits ready, or all that there are: a length, a distance and the extra
    /// bits of both are 48.
    fn refill(&mut self) {
        if let Some(next) = self.input.first_chunk() {
            self.hold |= u64::from_le_bytes(*next) << self.count;
            let bytes = (63 - self.count) / 8;
            self.input = &self.input[bytes as usize..];
            self.count += 8 * bytes;
            return;
        }
        while self.count < 56
            && let Some((&byte, rest)) = self.input.split_first()
        {
            self.hold |= u64::from(byte) << self.count;
            self.count += 8;
            self.input = rest;
        }
    }

    /// The next `n` bits, at most 16 of those that are ready.
    fn take(&mut self, n: u32) -> Option<u16> {
        let value = self.hold & ((1 << n) - 1);
        self.skip(n)?;
        // At most 16 bits.
        Some(value as u16)
    }

    fn skip(&mut self, n: u32) -> Option<()> {
        self.count = self.count.checked_sub(n)?;
        self.hold >>= n;
        Some(())
    }

    /// Passes the rest of a block that is stored as it is (section 3.2.4); its length.
    fn stored(&mut self) -> Option<usize> {
        self.skip(self.count % 8)?;
        self.refill();
        let (len, complement) = (self.take(16)?, self.take(16)?);
        if len != !complement {
            return None;
        }
        let mut left = usize::from(len);
        while left > 0 && self.count > 0 {
            self.skip(8)?;
            left -= 1;
        }
        // Beyond `count` there may be bits of bytes that are still in `input`.
        self.hold = if self.count == 0 { 0 } else { self.hold };
        // What is kept of the stream may end in this block, behind what is wanted of it.
        self.input = self.input.get(left..).unwrap_or_default();
        Some(len.into())
    }
}

/// The codes of one alphabet.
struct Table {
    /// By the next bits: the symbol and, in the low four bits, the length of its
    /// code; 0 for a longer code or none.
    fast: [u16; 1 << FAST],
    /// How many codes there are of each length, and their symbols in order.
    counts: [u16; CODE_MAX + 1],
    symbols: [u16; LITERALS],
}

impl Table {
    /// Codes from their lengths (section 3.2.2).
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0u16; CODE_MAX + 1];
        for &length in lengths {
            counts[usize::from(length)] += 1;
        }
        counts[0] = 0;
        let (mut next, mut places) = ([0u16; CODE_MAX + 2], [0u16; CODE_MAX + 2]);
        for length in 1..=CODE_MAX {
            let end = next[length] + counts[length];
            if u32::from(end) > 1 << length {
                // More codes than there can be.
                return None;
            }
            next[length + 1] = end << 1;
            places[length + 1] = places[length] + counts[length];
        }
        let mut fast = [0; 1 << FAST];
        let mut symbols = [0; LITERALS];
        for (symbol, &length) in (0u16..).zip(lengths) {
            let length = usize::from(length);
            if length == 0 {
                continue;
            }
            *symbols.get_mut(usize::from(places[length]))? = symbol;
            places[length] += 1;
            let code = next[length];
            next[length] += 1;
            if length as u32 <= FAST {
                let first = usize::from(code.reverse_bits() >> (16 - length));
                let entry = symbol << 4 | length as u16;
                fast.iter_mut()
                    .skip(first)
                    .step_by(1 << length)
                    .for_each(|place| *place = entry);
            }
        }
        Some(Self {
            fast,
            counts,
            symbols,
        })
    }

    /// The next symbol.
    #[inline]
    fn next(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let entry = self.fast[(bits.hold & ((1 << FAST) - 1)) as usize];
        if entry != 0 {
            bits.skip(u32::from(entry & 15))?;
            return Some(entry >> 4);
        }
        self.next_long(bits)
    }

    /// Bit by bit: codes of one length follow each other.
    #[cold]
    fn next_long(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let (mut code, mut first, mut place) = (0u32, 0u32, 0u32);
        for length in 1..=CODE_MAX as u32 {
            code |= (bits.hold >> (length - 1) & 1) as u32;
            let count = u32::from(self.counts[length as usize]);
            if code < first + count {
                bits.skip(length)?;
                let place = place + code.checked_sub(first)?;
                return self.symbols.get(place as usize).copied();
            }
            place += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// The two alphabets of a block.
struct Codes {
    literals: Table,
    distances: Table,
}

/// Section 3.2.6.
fn fixed() -> &'static Codes {
    static FIXED: OnceLock<Codes> = OnceLock::new();
    FIXED.get_or_init(|| {
        let mut lengths = [8; LITERALS];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        let table = |lengths| Table::new(lengths).expect("because RFC 1951 has these codes");
        Codes {
            literals: table(&lengths),
            distances: table(&[5; DISTANCES]),
        }
    })
}

impl Codes {
    /// Section 3.2.7.
    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        let literals = usize::from(bits.take(5)?) + 257;
        let distances = usize::from(bits.take(5)?) + 1;
        let known = usize::from(bits.take(4)?) + 4;
        let mut lengths = [0; ORDER.len()];
        for &symbol in &ORDER[..known] {
            bits.refill();
            lengths[symbol] = bits.take(3)? as u8;
        }
        let table = Table::new(&lengths)?;
        let mut lengths = [0; LITERALS + DISTANCES];
        let wanted = literals + distances;
        let mut have = 0;
        while have < wanted {
            bits.refill();
            let (length, times) = match table.next(bits)? {
                16 => (*lengths.get(have.checked_sub(1)?)?, 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (length as u8, 1),
            };
            let end = have + usize::from(times);
            lengths.get_mut(have..end)?.fill(length);
            have = end;
        }
        if have > wanted || literals > LITERALS {
            return None;
        }
        Some(Self {
            literals: Table::new(&lengths[..literals])?,
            distances: Table::new(&lengths[literals..wanted])?,
        })
    }

    /// Goes through a block, to its end or until enough is made; bytes made until then.
    fn walk(
        &self,
        bits: &mut Bits<'_>,
        window: usize,
        mut made: usize,
        output: usize,
        mark: &mut dyn FnMut(Range<usize>),
    ) -> Option<usize> {
        while made < output {
            bits.refill();
            let symbol = self.literals.next(bits)?;
            if symbol < END {
                made += 1;
                continue;
            }
            if symbol == END {
                break;
            }
            let (base, extra) = *LENGTHS.get(usize::from(symbol - END - 1))?;
            let len = usize::from(base) + usize::from(bits.take(extra.into())?);
            let distance = self.distance(bits)?;
            if let Some(back) = distance.checked_sub(made).filter(|back| *back > 0) {
                let from = window.checked_sub(back)?;
                mark(from..window.min(from + len));
            }
            made += len;
        }
        Some(made)
    }

    /// Section 3.2.5: two distances a power of two, or four below 4.
    fn distance(&self, bits: &mut Bits<'_>) -> Option<usize> {
        let symbol = self.distances.next(bits)?;
        if symbol < 4 {
            return Some(usize::from(symbol) + 1);
        }
        let extra = u32::from(symbol / 2 - 1);
        if extra > 13 {
            return None;
        }
        let base = (2 + usize::from(symbol % 2)) << extra;
        Some(base + usize::from(bits.take(extra)?) + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::DeflateEncoder};
    use proptest::prelude::*;

    use super::*;
    use crate::layer::inflate::{At, Inflater, Stop, WINDOW};

    fn deflated(level: u32, parts: &[&[u8]]) -> Vec<u8> {
        let mut to = DeflateEncoder::new(Vec::new(), Compression::new(level));
        for part in parts {
            to.write_all(part).unwrap();
            to.flush().unwrap();
        }
        to.finish().unwrap()
    }

    /// The bytes of `window` that are marked, others changed, must decode to the same;
    /// and none is marked for nothing: with any marked byte changed they must not.
    fn try_every_border(packed: &[u8], len: usize) -> usize {
        let mut inflater = Inflater::new();
        let mut out = Vec::with_capacity(len);
        let (mut used, mut borders) = (0, 0);
        loop {
            let ran = inflater
                .run(&packed[used..], &mut out, len, Stop::AtBlock)
                .unwrap();
            used += ran.consumed;
            let bits = match ran.at {
                At::End => return borders,
                At::Somewhere => continue,
                At::Block { bits } => bits,
            };
            let window = inflater.window();
            let (byte, input) = (packed[used - 1], &packed[used..]);
            let decode = |window: &[u8]| {
                let mut other = Inflater::new();
                other.resume(window, bits, byte);
                let mut out = Vec::with_capacity(WINDOW);
                other.run(input, &mut out, WINDOW, Stop::Never).unwrap();
                out
            };
            let real = decode(&window);
            let mut marked = vec![false; window.len()];
            let mut mark = |range: Range<usize>| marked[range].fill(true);
            references(input, (bits, byte), window.len(), real.len(), &mut mark).unwrap();
            let changed = |which: bool| -> Vec<u8> {
                let bytes = window.iter().zip(&marked);
                bytes
                    .map(|(byte, marked)| if *marked == which { !byte } else { *byte })
                    .collect()
            };
            assert_eq!(decode(&changed(false)), real);
            let missed = decode(&changed(true));
            assert_eq!(missed == real, !marked.contains(&true));
            borders += 1;
        }
    }

    fn text(len: usize, alphabet: &[u8], mut state: u32) -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            alphabet[(state >> 16) as usize % alphabet.len()]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn what_is_not_marked_does_not_matter_at_any_border() {
        let words = text(300_000, b"etaoin shrdlu cmfwyp", 1);
        let noise = text(70_000, &(0..=255).collect::<Vec<u8>>(), 2);
        for level in [0, 1, 6, 9] {
            let parts: [&[u8]; 5] = [&words, &noise, &[7; 9000], &words[..40_000], b"end"];
            let len = parts.iter().map(|part| part.len()).sum();
            let borders = try_every_border(&deflated(level, &parts), len);
            assert!(borders > 4, "level {level}: {borders}");
        }
    }

    #[test]
    fn a_code_longer_than_the_fast_table_is_found() {
        // Each byte twice as often as the next: codes become as long as they can be.
        let mut data = Vec::new();
        for byte in 0..14u8 {
            data.resize(data.len() + (1 << (14 - byte)), byte);
        }
        // In an order that no match helps.
        let order = text(data.len(), &data, 3);
        let mut to = DeflateEncoder::new(Vec::new(), Compression::new(1));
        to.write_all(&[1; 300]).unwrap();
        to.flush().unwrap();
        to.write_all(&order).unwrap();
        let packed = to.finish().unwrap();
        assert!(try_every_border(&packed, 300 + order.len()) > 0);
    }

    #[test]
    fn what_reaches_behind_the_window_or_ends_early_has_no_answer() {
        let data = text(50_000, b"etaoin shrdlu", 4);
        let packed = deflated(6, &[&data, &data[..30_000]]);
        let all = |input: &[u8], window| references(input, (0, 0), window, 80_000, &mut |_| {});
        assert_eq!(all(&packed, 0), Some(()));
        assert_eq!(all(&packed[..packed.len() / 2], 0), None);
        assert_eq!(all(&[], 0), None);
        // A match at once, in the fixed codes: length 3, distance 1.
        let first = [0b0000_0011, 0b0000_0010, 0];
        let mut marked = Vec::new();
        let mut mark = |range: Range<usize>| marked.push((range.start, range.end));
        assert_eq!(references(&first, (0, 0), 5, 3, &mut mark), Some(()));
        assert_eq!(references(&first, (0, 0), 0, 3, &mut |_| {}), None);
        assert_eq!(marked, [(4, 5)]);
    }

    #[test]
    fn a_stored_block_refers_to_nothing_also_where_its_end_was_not_kept() {
        // Found by the size of maps: whole windows were kept before blocks of noise.
        let packed = deflated(0, &[&[7; 60_000]]);
        let mut mark = |_| panic!("nothing is copied");
        let kept = &packed[..40_000];
        assert_eq!(references(kept, (0, 0), 99, 1 << 15, &mut mark), Some(()));
    }

    proptest! {
        #[test]
        fn noise_is_no_stream_or_marks_within_the_window(
            noise in prop::collection::vec(any::<u8>(), 0..400),
            bits in 0u8..8, byte: u8, window in 0usize..40_000,
        ) {
            let mut mark = |range: Range<usize>| assert!(range.start < range.end && range.end <= window);
            let _ = references(&noise, (bits, byte), window, 1 << 15, &mut mark);
        }

        #[test]
        fn a_stream_of_small_blocks_is_followed(
            parts in prop::collection::vec(prop::collection::vec(0u8..6, 0..300), 1..12),
            level in 0u32..10,
        ) {
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let len = parts.iter().map(Vec::len).sum();
            try_every_border(&deflated(level, &slices), len);
        }
    }
}
