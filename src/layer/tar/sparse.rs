//! Maps of sparse files, in the four ways that GNU tar writes them.
//!
//! What it is for: building the list of stored stretches from numbers that come
//! in pieces, and refusing a list that contradicts itself or the sizes. May
//! assume nothing of the numbers. Must not know where in the stream they stand.
//!
//! GNU tar manual, "Sparse Formats" and "Storing Sparse Files".

use super::header::{BLOCK, Block, length, number};
use super::{Extent, Fault};

/// Stretches of one file that are accepted. 1 Mi of them (24 MiB of memory) are
/// a file of 8 GiB with a hole in every second 4 KiB block.
pub(super) const EXTENTS_MAX: u64 = 1 << 20;

/// Stored stretches as they come in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Map {
    extents: Vec<Extent>,
    /// End of the last stretch, also of an empty one, in the file.
    end: u64,
    /// Stored bytes so far.
    stored: u64,
    /// Stretches so far, with those that were empty or joined.
    count: u64,
}

impl Map {
    /// The next stretch. Empty ones (GNU tar ends a map with one at the file's
    /// size) carry no data and are dropped; touching ones become one.
    pub(super) fn add(&mut self, offset: u64, len: u64) -> Result<(), Fault> {
        self.count += 1;
        if self.count > EXTENTS_MAX {
            return Err(too_many(self.count));
        }
        let end = offset.checked_add(len);
        let stored = self.stored.checked_add(len);
        let (Some(end), Some(stored)) = (end, stored) else {
            return Err(Fault::damaged("a sparse map has a stretch beyond 64 bits"));
        };
        if offset < self.end {
            return Err(Fault::damaged(
                "a sparse map is not in order, or its stretches overlap",
            ));
        }
        match self.extents.last_mut() {
            _ if len == 0 => {}
            Some(last) if offset == self.end && last.offset + last.len == offset => {
                last.len += len;
            }
            _ => self.extents.push(Extent {
                offset,
                len,
                stored_at: self.stored,
            }),
        }
        (self.end, self.stored) = (end, stored);
        Ok(())
    }

    /// The finished map of a file of `size` bytes of which `stored` are stored;
    /// nothing when that is the whole file, as if it had never been sparse.
    pub(super) fn finish(mut self, size: u64, stored: u64) -> Result<Option<Vec<Extent>>, Fault> {
        if self.end > size {
            return Err(Fault::damaged(format!(
                "a sparse map ends at {} in a file of {size} bytes",
                self.end
            )));
        }
        if self.stored != stored {
            return Err(Fault::damaged(format!(
                "a sparse map covers {} bytes where {stored} are stored",
                self.stored
            )));
        }
        self.extents.shrink_to_fit();
        // Sorted, apart and inside the file: so much can only be all of it.
        Ok((stored != size).then_some(self.extents))
    }
}

/// What old GNU headers (flag `S`) say of a sparse file.
#[derive(Debug)]
pub(super) struct OldSparse {
    /// The file's size with its holes.
    pub(super) size: u64,
    /// Its map, as far as it stands in the header.
    pub(super) map: Map,
    /// Whether an extension block follows.
    pub(super) extended: bool,
}

const OLD_ENTRY: usize = 24;
const OLD_AT: usize = 386;
const OLD_ENTRIES: usize = 4;
const OLD_EXTENDED: usize = 482;
const OLD_SIZE: std::ops::Range<usize> = 483..495;
const EXTENSION_ENTRIES: usize = 21;
const EXTENSION_EXTENDED: usize = 504;

impl OldSparse {
    /// Reads the fields of a header block with flag `S`.
    pub(super) fn parse(block: &Block) -> Result<Self, Fault> {
        let size = number(&block[OLD_SIZE])
            .ok_or_else(|| Fault::damaged("the real size of a sparse file is no number"))?;
        let mut map = Map::default();
        old_entries(&block[OLD_AT..OLD_AT + OLD_ENTRIES * OLD_ENTRY], &mut map)?;
        Ok(Self {
            size: length(size)?,
            map,
            extended: block[OLD_EXTENDED] != 0,
        })
    }
}

/// Reads an extension block into `map`; true when another one follows.
pub(super) fn extension(block: &Block, map: &mut Map) -> Result<bool, Fault> {
    old_entries(&block[..EXTENSION_ENTRIES * OLD_ENTRY], map)?;
    Ok(block[EXTENSION_EXTENDED] != 0)
}

fn old_entries(table: &[u8], map: &mut Map) -> Result<(), Fault> {
    for entry in table.chunks_exact(OLD_ENTRY) {
        // GNU tar, libarchive and Go all end the table at a field that begins
        // with NUL, and still look at the extension flag.
        if entry[0] == 0 {
            break;
        }
        let (offset, len) = entry.split_at(OLD_ENTRY / 2);
        let (Some(offset), Some(len)) = (number(offset), number(len)) else {
            return Err(Fault::damaged(
                "a sparse map has an entry that is no number",
            ));
        };
        map.add(length(offset)?, length(len)?)?;
    }
    Ok(())
}

/// Reads the map of PAX sparse format 1.0, which stands before the data in
/// whole blocks: decimal numbers, each ended by a newline; first how many
/// stretches, then offset and length of each.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    map: Map,
    /// Stretches still to come, once known.
    left: Option<u64>,
    /// Offset of the stretch whose length is awaited.
    offset: Option<u64>,
    /// Digits of the number being read, and their value.
    digits: u32,
    value: u64,
}

impl MapReader {
    /// Takes the next block; true when the map ended in it.
    pub(super) fn block(&mut self, block: &Block) -> Result<bool, Fault> {
        for &byte in block {
            match byte {
                b'0'..=b'9' => self.digit(u64::from(byte - b'0'))?,
                b'\n' if self.digits > 0 => {
                    self.digits = 0;
                    let value = std::mem::take(&mut self.value);
                    self.number(value)?;
                    if self.left == Some(0) {
                        // The rest of the block is padding.
                        return Ok(true);
                    }
                }
                _ => {
                    return Err(Fault::damaged(
                        "a sparse map has something that is no number",
                    ));
                }
            }
        }
        Ok(false)
    }

    /// The map, once [`Self::block`] said that it ended.
    pub(super) fn map(self) -> Map {
        self.map
    }

    fn digit(&mut self, digit: u64) -> Result<(), Fault> {
        let value = self
            .value
            .checked_mul(10)
            .and_then(|value| value.checked_add(digit));
        self.value =
            value.ok_or_else(|| Fault::damaged("a sparse map has a number beyond 64 bits"))?;
        // A number of nothing but zeros may not go on for ever either.
        self.digits += 1;
        if self.digits > 20 {
            return Err(Fault::damaged(
                "a sparse map has a number of more than 20 digits",
            ));
        }
        Ok(())
    }

    fn number(&mut self, value: u64) -> Result<(), Fault> {
        let Some(left) = &mut self.left else {
            if value > EXTENTS_MAX {
                return Err(too_many(value));
            }
            self.left = Some(value);
            return Ok(());
        };
        match self.offset.take() {
            None => self.offset = Some(value),
            Some(offset) => {
                *left -= 1;
                self.map.add(offset, value)?;
            }
        }
        Ok(())
    }
}

fn too_many(count: u64) -> Fault {
    Fault::limit("extents", format!("{count} stretches in one sparse file"))
}

const _: () = assert!(OLD_AT + OLD_ENTRIES * OLD_ENTRY == OLD_EXTENDED);
const _: () = assert!(EXTENSION_ENTRIES * OLD_ENTRY == EXTENSION_EXTENDED);
const _: () = assert!(EXTENSION_EXTENDED < BLOCK);

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        let mut block = [0; BLOCK];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    fn map(stretches: &[(u64, u64)]) -> Result<Map, Fault> {
        let mut map = Map::default();
        for &(offset, len) in stretches {
            map.add(offset, len)?;
        }
        Ok(map)
    }

    #[test]
    fn empty_stretches_are_dropped_and_touching_ones_joined() {
        let found = map(&[(0, 10), (10, 5), (15, 0), (20, 1), (30, 0)]).unwrap();
        let found = found.finish(30, 16).unwrap().unwrap();
        let wanted = [
            Extent {
                offset: 0,
                len: 15,
                stored_at: 0,
            },
            Extent {
                offset: 20,
                len: 1,
                stored_at: 15,
            },
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_map_of_the_whole_file_is_no_map() {
        assert_eq!(map(&[(0, 10), (10, 5)]).unwrap().finish(15, 15), Ok(None));
        assert_eq!(map(&[(0, 0)]).unwrap().finish(0, 0), Ok(None));
        assert_eq!(map(&[(9, 0)]).unwrap().finish(9, 0), Ok(Some(Vec::new())));
    }

    #[test]
    fn a_map_that_contradicts_itself_or_the_sizes_is_refused() {
        assert!(map(&[(5, 5), (9, 1)]).is_err());
        assert!(map(&[(5, 0), (4, 1)]).is_err());
        assert!(map(&[(u64::MAX, 1)]).is_err());
        assert!(map(&[(0, 10)]).unwrap().finish(9, 10).is_err());
        assert!(map(&[(10, 0)]).unwrap().finish(9, 0).is_err());
        assert!(map(&[(0, 10)]).unwrap().finish(20, 9).is_err());
        assert!(map(&[(0, 10)]).unwrap().finish(20, 11).is_err());
    }

    #[test]
    fn more_stretches_than_a_file_may_have_are_refused_in_every_format() {
        let entry = *b"00000000000\x0000000000000\0";
        let mut block = [0; BLOCK];
        for at in 0..EXTENSION_ENTRIES {
            block[at * OLD_ENTRY..][..OLD_ENTRY].copy_from_slice(&entry);
        }
        let mut map = Map::default();
        let blocks = EXTENTS_MAX / EXTENSION_ENTRIES as u64;
        for _ in 0..blocks {
            assert_eq!(extension(&block, &mut map), Ok(false));
        }
        let outcome = extension(&block, &mut map);
        assert!(matches!(
            outcome,
            Err(Fault::Limit {
                limit: "extents",
                ..
            })
        ));
    }

    #[test]
    fn a_map_in_the_data_ends_with_its_last_number() {
        let mut reader = MapReader::default();
        assert_eq!(
            reader.block(&block("2\n0\n5\n100\n0\nrest is ignored")),
            Ok(true)
        );
        assert_eq!(reader.map(), map(&[(0, 5), (100, 0)]).unwrap());
        assert_eq!(MapReader::default().block(&block("0\n")), Ok(true));
        for bad in [
            "",
            "\n",
            "x",
            "1\n-1\n1\n",
            "2\n1\n1\n",
            "18446744073709551616\n",
        ] {
            assert!(MapReader::default().block(&block(bad)).is_err(), "{bad}");
        }
        let zeros = "0".repeat(30);
        assert!(MapReader::default().block(&block(&zeros)).is_err());
        let many = MapReader::default().block(&block("1048577\n"));
        assert!(matches!(
            many,
            Err(Fault::Limit {
                limit: "extents",
                ..
            })
        ));
    }
}
