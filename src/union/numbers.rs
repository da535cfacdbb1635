//! Which number the kernel sees for which object.
//!
//! What it is for: *one place, one Ino*, without a table. The layers' rows are
//! laid one behind the other: object `row` of layer `l` has the number
//! `base[l] + row`. So a number says at once where its object lies, a forgotten
//! one costs nothing, and the same stack of layers has the same numbers after
//! every remount. Must not know what lies in the rows.

use crate::layer::Row;
use crate::node::Ino;

/// An object of one layer of the union.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    /// Which layer, 0 the lowest.
    pub(super) layer: u32,
    /// Where in that layer.
    pub(super) row: Row,
}

impl Place {
    /// The object `row` of the same layer.
    pub(super) fn sibling(self, row: Row) -> Self {
        Self { row, ..self }
    }
}

/// The numbers of a stack of layers.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Where each layer's numbers begin; one more at the end.
    bases: Vec<u64>,
}

impl Numbers {
    /// Numbers for layers of that many rows, lowest first.
    pub(super) fn new(rows: impl Iterator<Item = u32>) -> Self {
        // 1 is the root of the union, whichever layers make it.
        let mut bases = vec![Ino::ROOT.0 + 1];
        let mut next = Ino::ROOT.0 + 1;
        for rows in rows {
            next += u64::from(rows);
            bases.push(next);
        }
        Self { bases }
    }

    /// The number of the object at a place; any layer's root is the root.
    pub(super) fn of(&self, place: Place) -> Ino {
        if place.row == Row::ROOT {
            return Ino::ROOT;
        }
        Ino(self.bases[place.layer as usize] + u64::from(place.row.0))
    }

    /// Where the object of a number lies; nothing for the root (which may lie in
    /// many layers) and for numbers that are nobody's.
    pub(super) fn place(&self, ino: Ino) -> Option<Place> {
        let layer = self
            .bases
            .partition_point(|&base| base <= ino.0)
            .checked_sub(1)?;
        // Behind the last base there is no layer.
        self.bases.get(layer + 1)?;
        let row = u32::try_from(ino.0 - self.bases[layer])
            .ok()
            .filter(|&row| row != 0)?;
        Some(Place {
            layer: u32::try_from(layer).ok()?,
            row: Row(row),
        })
    }

    /// The largest number.
    pub(super) fn last(&self) -> Ino {
        Ino(self.bases.last().map_or(Ino::ROOT.0, |end| end - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_one_number() {
        let rows = [3, 1, 4];
        let numbers = Numbers::new(rows.into_iter());
        let mut seen = std::collections::BTreeSet::from([Ino::ROOT]);
        for (layer, rows) in (0..).zip(rows) {
            assert_eq!(
                numbers.of(Place {
                    layer,
                    row: Row::ROOT
                }),
                Ino::ROOT
            );
            for row in 1..rows {
                let place = Place {
                    layer,
                    row: Row(row),
                };
                assert!(seen.insert(numbers.of(place)));
                assert_eq!(numbers.place(numbers.of(place)), Some(place));
            }
        }
        assert_eq!(seen.last(), Some(&numbers.last()));
    }

    #[test]
    fn numbers_that_are_nobodys_have_no_place() {
        let numbers = Numbers::new([3, 1].into_iter());
        for ino in [0, 1, 2, 5, 6, u64::MAX] {
            assert_eq!(numbers.place(Ino(ino)), None, "{ino}");
        }
        assert_eq!(Numbers::new(std::iter::empty()).last(), Ino::ROOT);
    }
}
