//! What a writable tree asks of the layers below it, beyond what programs ask.
//!
//! What it is for: names of an object and of its directories, and a word for an
//! object that means the same one in every later mount of these layers. Must not
//! know what lies above the layers.

use super::numbers::Place;
use super::{FsError, Union};
use crate::layer::Row;
use crate::layer::format::INDEX;
use crate::node::Ino;

/// In what numbering of rows an origin counts: the version of the index format.
const ROWS: u8 = INDEX.version as u8;
/// Bytes of a layer's digest that an origin carries: two layers of one image
/// do not agree in eight.
const DIGEST: usize = 8;

impl Union {
    /// The directory that a directory lies in, and its name there. Not of the root.
    pub(super) fn home(&self, dir: Ino) -> Result<(Ino, Vec<u8>), FsError> {
        let place = self.place(dir)?;
        let (_, name) = self.name_in_layer(place)?;
        Ok((self.parent(dir)?, name))
    }

    /// Every name that shows of an object that is no directory, as directory and name.
    pub(super) fn names_of(&self, ino: Ino) -> Result<Vec<(Ino, Vec<u8>)>, FsError> {
        let place = self.place(ino)?;
        let mut names = Vec::new();
        let mut add = |dir: Place, name: &[u8]| -> Result<(), FsError> {
            if self.shows(dir, name)?
                && let Some(merged) = self.dir_at(dir)?
            {
                names.push((self.dir_number(&merged), name.to_vec()));
            }
            Ok(())
        };
        for (dir, name) in self.index(place).names(place.row)? {
            add(place.sibling(dir), &name)?;
        }
        for (dir, name) in self.linked_names(ino)? {
            add(dir, &name)?;
        }
        Ok(names)
    }

    /// A word for an object of a layer: the index format's version, the beginning of the
    /// layer's digest, and the row there; of a layer that is there several times which one
    /// it is, unless it is the lowest.
    pub(super) fn origin(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let place = self.place(ino)?;
        let diff = self.index(place).diff_id();
        let mut word = vec![ROWS];
        word.extend_from_slice(&diff.0.as_bytes()[..DIGEST]);
        word.extend_from_slice(&place.row.0.to_le_bytes());
        let below = self.layers.iter().take(place.layer as usize);
        let nth = below.filter(|layer| layer.diff_id() == diff).count();
        if let Some(nth) = u32::try_from(nth).ok().filter(|nth| *nth > 0) {
            word.extend_from_slice(&nth.to_le_bytes());
        }
        Ok(word)
    }

    /// The object that a word stands for; nothing when these layers have no such.
    pub(super) fn by_origin(&self, word: &[u8]) -> Option<Ino> {
        let (&version, rest) = word.split_first()?;
        let (digest, rest) = rest.split_at_checked(DIGEST)?;
        let (row, nth) = rest.split_at_checked(4)?;
        let nth = match nth {
            [] => 0,
            nth => usize::try_from(u32::from_le_bytes(nth.try_into().ok()?)).ok()?,
        };
        let row = Row(u32::from_le_bytes(row.try_into().ok()?));
        if version != ROWS || row == Row::ROOT {
            return None;
        }
        let layer = self
            .layers
            .iter()
            .enumerate()
            .filter(|(_, layer)| layer.diff_id().0.as_bytes()[..DIGEST] == *digest)
            .nth(nth)?
            .0;
        let rows = self.layers[layer].index.summary().rows;
        let layer = u32::try_from(layer).ok()?;
        (row.0 < rows).then(|| self.numbers.of(Place { layer, row }))
    }
}
