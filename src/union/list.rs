//! Listing a directory.
//!
//! What it is for: names in the order of their bytes, each once, from behind any
//! cookie. A directory that one layer makes is streamed from its index; one that
//! many make is merged as it is read, a handful of names of each layer at a time,
//! so that memory does not depend on the directory's size.
//!
//! Cookies: `.` has 1, `..` has 2, what follows counts up. They never change,
//! because nothing ever changes. Where a merge stopped is kept for a while; a
//! cookie that nothing is kept for is reached by merging from the beginning.

use super::numbers::Place;
use super::stack::Dir;
use super::{FsError, Listed, Union};
use crate::layer::ReadError;
use crate::layer::read::{Hit, Index};
use crate::node::{Ino, Kind};

/// Cookies of `.` and `..`, which come first.
pub(super) const DOTS: u64 = 2;
/// Names of one layer that a merge takes at a time: enough to make the call
/// cheap, little enough to throw away when the reader's buffer is full.
const BATCH: usize = 64;
/// What the kept places may weigh together: units of 8 bytes. About 256 KiB.
pub(super) const STOPS_WEIGHT: usize = 32 << 10;

/// Where a merge stopped: directory and cookie.
pub(super) type Stop = (Ino, u64);

/// One layer's part of a directory, being read.
struct Cursor<'a> {
    index: &'a Index,
    place: Place,
    /// Names of the batch, one behind the other.
    names: Vec<u8>,
    /// Where each name ends, its entry number, and what it is.
    batch: Vec<(usize, u32, Hit)>,
    /// The head: a place in `batch`.
    at: usize,
    /// The entry behind the batch.
    next: u32,
    /// Nothing follows the batch.
    last: bool,
    /// Whether the merge's last step took this cursor's head.
    moved: bool,
}

impl<'a> Cursor<'a> {
    fn new(index: &'a Index, place: Place, next: u32) -> Self {
        let (names, batch) = (Vec::new(), Vec::new());
        Self {
            index,
            place,
            names,
            batch,
            at: 0,
            next,
            last: false,
            moved: false,
        }
    }

    fn fill(&mut self) -> Result<(), ReadError> {
        if self.at < self.batch.len() || self.last {
            return Ok(());
        }
        self.names.clear();
        self.batch.clear();
        self.at = 0;
        let (names, batch) = (&mut self.names, &mut self.batch);
        self.index
            .list(self.place.row, self.next, &mut |number, name, hit| {
                names.extend_from_slice(name);
                batch.push((names.len(), number, hit));
                batch.len() < BATCH
            })?;
        self.last = batch.len() < BATCH;
        if let Some((_, number, _)) = batch.last() {
            self.next = number.saturating_add(1);
        }
        Ok(())
    }

    fn head(&self) -> Option<(&[u8], Hit)> {
        let &(end, _, hit) = self.batch.get(self.at)?;
        let start = self
            .at
            .checked_sub(1)
            .and_then(|at| self.batch.get(at))
            .map_or(0, |e| e.0);
        Some((self.names.get(start..end)?, hit))
    }

    /// The entry number of the head, or of what follows.
    fn position(&self) -> u32 {
        self.batch.get(self.at).map_or(self.next, |entry| entry.1)
    }
}

/// The layers' parts of a directory, read together.
pub(super) struct Merge<'a> {
    union: &'a Union,
    dir: &'a Dir,
    cursors: Vec<Cursor<'a>>,
    /// The name that the last step found.
    name: Vec<u8>,
}

impl<'a> Merge<'a> {
    /// A merge of the directory's parts, topmost first, that goes on at the given
    /// entry of each.
    fn new(union: &'a Union, dir: &'a Dir, from: &[u32]) -> Self {
        let next = from.iter().copied().chain(std::iter::repeat(0));
        let cursor = |(&place, next)| Cursor::new(union.index(place), place, next);
        Self {
            union,
            dir,
            cursors: dir.parts().iter().zip(next).map(cursor).collect(),
            name: Vec::new(),
        }
    }

    /// The next name (then in `self.name`), as the topmost layer that has it
    /// says; whiteouts too, and names that no whitelist lets through as absent.
    fn step(&mut self) -> Result<Option<(Place, Hit)>, ReadError> {
        let mut first: Option<(&[u8], usize)> = None;
        for cursor in &mut self.cursors {
            cursor.fill()?;
            cursor.moved = false;
        }
        for (number, cursor) in self.cursors.iter().enumerate() {
            if let Some((name, _)) = cursor.head() {
                // Of equal names the first one found is the topmost one.
                if first.is_none_or(|(smallest, _)| name < smallest) {
                    first = Some((name, number));
                }
            }
        }
        let Some((name, number)) = first else {
            return Ok(None);
        };
        self.name.clear();
        self.name.extend_from_slice(name);
        let mut asked = self.union.ask(self.dir, &self.name);
        let mut found = None;
        let mut hidden = None;
        for cursor in self.cursors.iter_mut().skip(number) {
            if let Some((name, hit)) = cursor.head()
                && name == self.name
            {
                if found.is_none() {
                    match asked.admits(cursor.place.layer, hit)? {
                        true => found = Some((cursor.place, hit)),
                        false => hidden = Some((cursor.place, Hit::Absent)),
                    }
                }
                cursor.at += 1;
                cursor.moved = true;
            }
        }
        Ok(found.or(hidden))
    }

    /// Where to go on in each part; with `again`, so that the last step's name
    /// comes once more.
    fn positions(&self, again: bool) -> Box<[u32]> {
        // Entries are numbered without gaps, so the one before is one less.
        let position = |c: &Cursor<'_>| c.position() - u32::from(again && c.moved);
        self.cursors.iter().map(position).collect()
    }
}

impl Union {
    /// Lists a directory from behind `cookie` (0: the beginning) until `visit` says false.
    ///
    /// # Errors
    /// `NotDir`, `Stale`, `Damaged`.
    pub fn list(
        &self,
        dir: Ino,
        cookie: u64,
        visit: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        let merged = self.dir(dir)?;
        let kind = Kind::Dir;
        if cookie < 1
            && !visit(Listed {
                cookie: 1,
                name: b".",
                ino: dir,
                kind,
            })
        {
            return Ok(());
        }
        if cookie < DOTS {
            let ino = self.parent(dir)?;
            if !visit(Listed {
                cookie: DOTS,
                name: b"..",
                ino,
                kind,
            }) {
                return Ok(());
            }
        }
        let after = cookie.max(DOTS);
        match merged.parts() {
            [] => Ok(()),
            [only] if !self.is_restricted(only.layer) => self.list_one(*only, after, visit),
            _ => self.list_many(dir, &merged, after, visit),
        }
    }

    /// Number and kind of what an entry of a layer stands for, if it is visible
    /// where no higher layer says otherwise.
    fn entry(&self, place: Place, hit: Hit) -> Result<Option<(Ino, Kind)>, FsError> {
        Ok(match hit {
            Hit::Node(row, kind) => Some((self.numbers.of(place.sibling(row)), kind)),
            Hit::Link(n) => {
                let object = self.link(place.layer, n)?;
                object.map(|object| (self.numbers.of(object.place), object.kind))
            }
            Hit::Whiteout | Hit::Absent => None,
        })
    }

    /// Cookies of a directory that one layer makes are its entries' numbers.
    fn list_one(
        &self,
        place: Place,
        after: u64,
        visit: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        let Ok(from) = u32::try_from(after - DOTS) else {
            return Ok(());
        };
        let mut failed = None;
        self.index(place)
            .list(
                place.row,
                from,
                &mut |number, name, hit| match self.entry(place, hit) {
                    Ok(Some((ino, kind))) => visit(Listed {
                        cookie: u64::from(number) + DOTS + 1,
                        name,
                        ino,
                        kind,
                    }),
                    Ok(None) => true,
                    Err(error) => {
                        failed = Some(error);
                        false
                    }
                },
            )?;
        failed.map_or(Ok(()), Err)
    }

    /// Cookies of a merged directory count the visible names.
    fn list_many(
        &self,
        dir: Ino,
        merged: &Dir,
        after: u64,
        visit: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        // A reader may ask from behind the name it refused or from behind the
        // last one it took, which is one further.
        let known = [after, after - 1].into_iter();
        let known = known
            .filter_map(|at| Some((at, self.stops.get(&(dir, at))?)))
            .next();
        let (mut cookie, from) = known.unwrap_or((DOTS, Box::default()));
        let mut merge = Merge::new(self, merged, &from);
        while let Some((place, hit)) = merge.step()? {
            let Some((ino, kind)) = self.entry(place, hit)? else {
                continue;
            };
            cookie += 1;
            if cookie > after
                && !visit(Listed {
                    cookie,
                    name: &merge.name,
                    ino,
                    kind,
                })
            {
                self.keep_stop((dir, cookie - 1), merge.positions(true));
                return Ok(());
            }
        }
        self.keep_stop((dir, cookie), merge.positions(false));
        Ok(())
    }

    fn keep_stop(&self, stop: Stop, positions: Box<[u32]>) {
        // The cache's own overhead is about 12 units.
        let weight = 12 + positions.len() / 2;
        self.stops.put(stop, positions, weight);
    }

    /// How many subdirectories the union has in a merged directory.
    pub(super) fn count_dirs(&self, dir: &Dir) -> Result<u32, ReadError> {
        let mut merge = Merge::new(self, dir, &[]);
        let mut count = 0u32;
        while let Some((_, hit)) = merge.step()? {
            count = count.saturating_add(u32::from(matches!(hit, Hit::Node(_, Kind::Dir))));
        }
        Ok(count)
    }
}
