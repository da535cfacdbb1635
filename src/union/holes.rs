//! Where a sparse file has data and where it has holes (lseek(2)).
//!
//! What it is for: `SEEK_DATA` and `SEEK_HOLE` from a layer's stored stretches.
//! May assume: stretches are sorted and apart (`layer::tar::Member::sparse`).

use crate::layer::read::Extents;

/// The first byte of data at or behind `offset`; nothing when only holes follow
/// or the file ends there.
pub(super) fn next_data(file: &Extents, offset: u64) -> Option<u64> {
    if offset >= file.size {
        return None;
    }
    let Some(map) = &file.map else {
        return Some(offset);
    };
    let first = map.partition_point(|e| e.offset.saturating_add(e.len) <= offset);
    let stretch = map.get(first..)?.iter().find(|e| e.len > 0)?;
    Some(stretch.offset.max(offset)).filter(|&at| at < file.size)
}

/// The first byte of a hole at or behind `offset`: the end of a file is one
/// (lseek(2)). Nothing behind the end.
pub(super) fn next_hole(file: &Extents, offset: u64) -> Option<u64> {
    if offset >= file.size {
        return None;
    }
    let Some(map) = &file.map else {
        return Some(file.size);
    };
    let first = map.partition_point(|e| e.offset.saturating_add(e.len) <= offset);
    let mut at = offset;
    // Stretches may touch: then there is no hole between them.
    for stretch in map
        .get(first..)?
        .iter()
        .take_while(|e| e.offset <= offset || e.len > 0)
    {
        if stretch.offset > at {
            break;
        }
        at = at.max(stretch.offset.saturating_add(stretch.len));
    }
    Some(at.min(file.size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::Extent;

    fn file(size: u64, map: Option<&[(u64, u64)]>) -> Extents {
        let extent = |&(offset, len): &(u64, u64)| Extent {
            offset,
            len,
            stored_at: 0,
        };
        Extents {
            start: 512,
            size,
            map: map.map(|map| map.iter().map(extent).collect()),
        }
    }

    /// The same, asked byte by byte.
    fn naive(file: &Extents, offset: u64, data: bool) -> Option<u64> {
        let has = |at: u64| match &file.map {
            None => true,
            Some(map) => map
                .iter()
                .any(|e| (e.offset..e.offset + e.len).contains(&at)),
        };
        if offset >= file.size {
            return None;
        }
        let found = (offset..file.size).find(|&at| has(at) == data);
        found.or((!data).then_some(file.size))
    }

    #[test]
    fn data_and_holes_are_found_as_byte_by_byte() {
        let maps: [Option<&[(u64, u64)]>; 8] = [
            None,
            Some(&[]),
            Some(&[(0, 3)]),
            Some(&[(2, 3)]),
            Some(&[(2, 3), (5, 2), (9, 1)]),
            Some(&[(0, 10)]),
            Some(&[(0, 0), (10, 0)]),
            Some(&[(3, 0), (3, 2), (7, 0)]),
        ];
        for map in maps {
            let file = file(10, map);
            for offset in 0..12 {
                assert_eq!(
                    next_data(&file, offset),
                    naive(&file, offset, true),
                    "{map:?} {offset}"
                );
                assert_eq!(
                    next_hole(&file, offset),
                    naive(&file, offset, false),
                    "{map:?} {offset}"
                );
            }
        }
        assert_eq!(next_data(&file(0, None), 0), None);
        assert_eq!(next_hole(&file(0, None), 0), None);
    }

    #[test]
    fn a_stretch_at_the_end_of_numbers_does_not_overflow() {
        let file = file(u64::MAX, Some(&[(u64::MAX - 1, u64::MAX)]));
        assert_eq!(next_data(&file, 5), Some(u64::MAX - 1));
        assert_eq!(next_hole(&file, u64::MAX - 1), Some(u64::MAX));
    }
}
