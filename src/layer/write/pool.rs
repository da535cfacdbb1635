//! Byte strings, each kept once and known by a number.

use std::hash::{BuildHasher, RandomState};

use super::Fault;
use crate::layer::format::HEAP_MAX;

/// A place in the table: a string's number, and its hash, so that others are told
/// from it, and the table grows, without a look at any string.
type Place = (u32, u32);

/// A free place in the table.
const FREE: Place = (u32::MAX, 0);

/// Many short byte strings without an allocation for each.
#[derive(Debug)]
pub(super) struct Pool {
    what: &'static str,
    bytes: Vec<u8>,
    /// Where string n ends; it begins where the one before ends.
    ends: Vec<u32>,
    /// Open addressing, a power of two, at most three quarters full.
    table: Vec<Place>,
    /// Seeded, for the strings come from strangers.
    hasher: RandomState,
}

impl Pool {
    /// An empty pool; `what` names its limit.
    pub(super) fn new(what: &'static str) -> Self {
        let table = vec![FREE; 64];
        Self {
            what,
            bytes: Vec::new(),
            ends: Vec::new(),
            table,
            hasher: RandomState::new(),
        }
    }

    /// What is kept, in the words of its limit.
    pub(super) fn what(&self) -> &'static str {
        self.what
    }

    /// How many strings there are; their numbers are those below it.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// String `number`.
    pub(super) fn get(&self, number: u32) -> &[u8] {
        let number = number as usize;
        let end = self.ends.get(number).copied().unwrap_or(0);
        let start = number
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .copied();
        self.bytes
            .get(start.unwrap_or(0) as usize..end as usize)
            .unwrap_or_default()
    }

    /// The number of a string, if it was ever kept.
    pub(super) fn find(&self, string: &[u8]) -> Option<u32> {
        self.probe(string, self.hash(string)).err()
    }

    /// The number of a string, which is kept from now on.
    pub(super) fn intern(&mut self, string: &[u8]) -> Result<u32, Fault> {
        let hash = self.hash(string);
        let free = match self.probe(string, hash) {
            Err(number) => return Ok(number),
            Ok(free) => free,
        };
        let limit = || Fault::Limit(self.what, format!("more than {HEAP_MAX} bytes of them"));
        if self.bytes.len() + string.len() > HEAP_MAX {
            return Err(limit());
        }
        let end = u32::try_from(self.bytes.len() + string.len()).map_err(|_| limit())?;
        let number = u32::try_from(self.ends.len()).map_err(|_| limit())?;
        self.bytes.extend_from_slice(string);
        self.ends.push(end);
        if let Some(place) = self.table.get_mut(free) {
            *place = (number, hash);
        }
        if self.ends.len() > self.table.len() / 4 * 3 {
            self.grow();
        }
        Ok(number)
    }

    fn hash(&self, string: &[u8]) -> u32 {
        // The upper half; the shift makes it fit.
        u32::try_from(self.hasher.hash_one(string) >> 32).unwrap_or(0)
    }

    /// Where a string belongs in the table, or else its number.
    fn probe(&self, string: &[u8], hash: u32) -> Result<usize, u32> {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.table.get(at).copied() {
                Some(FREE) | None => return Ok(at),
                Some((number, its)) if its == hash && self.get(number) == string => {
                    return Err(number);
                }
                Some(_) => at = (at + 1) & mask,
            }
        }
    }

    fn grow(&mut self) {
        let mask = self.table.len() * 2 - 1;
        let mut table = vec![FREE; mask + 1];
        for &place in self.table.iter().filter(|place| **place != FREE) {
            let mut at = place.1 as usize & mask;
            while table[at] != FREE {
                at = (at + 1) & mask;
            }
            table[at] = place;
        }
        self.table = table;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_has_one_number_and_a_number_one_string() {
        let mut pool = Pool::new("names");
        for round in 0..2 {
            for n in 0..5000u32 {
                let number = pool.intern(n.to_string().as_bytes()).unwrap();
                assert_eq!(number, n, "round {round}");
            }
        }
        assert_eq!(pool.len(), 5000);
        for n in 0..5000u32 {
            assert_eq!(pool.get(n), n.to_string().as_bytes());
            assert_eq!(pool.find(n.to_string().as_bytes()), Some(n));
        }
        assert_eq!(pool.find(b"x"), None);
        assert_eq!(pool.find(b""), None);
        assert_eq!(pool.intern(b"").unwrap(), 5000);
        assert_eq!(pool.find(b""), Some(5000));
    }
}
