//! Everything of variable length, laid out: names, targets, xattr sets, maps.

use super::plan::{Plan, narrow};
use super::pool::Pool;
use super::tree::{Data, Found, Tree};
use super::{BuildError, Fault};
use crate::layer::blocks::BLOCK;
use crate::layer::format::{
    DIRENT, EXTENT, HEAP_MAX, INLINE, INODE, SPARSE_HEAD, Sections, SparseHead, UNIT, UnresolvedAt,
};

/// A string that has no place yet.
const NO_PLACE: u32 = u32::MAX;

/// Strings of a pool, each laid out when it is first used.
#[derive(Debug)]
pub(super) struct Heap {
    /// By number in the pool.
    places: Vec<u32>,
    pub(super) bytes: Vec<u8>,
}

impl Heap {
    fn of(pool: &Pool) -> Self {
        Self {
            places: vec![NO_PLACE; pool.len()],
            bytes: Vec::new(),
        }
    }

    /// Where a string of the pool lies.
    pub(super) fn place(&self, number: u32) -> u32 {
        self.places
            .get(number as usize)
            .copied()
            .unwrap_or(NO_PLACE)
    }

    /// Lays a string out behind `gap` zeros, unless it has its place.
    fn lay(&mut self, pool: &Pool, number: u32, gap: usize) -> Result<u32, Fault> {
        let placed = self.place(number);
        if placed != NO_PLACE {
            return Ok(placed);
        }
        let at = narrow(self.bytes.len() + gap);
        self.bytes.resize(at as usize, 0);
        self.append(pool.get(number), pool.what())?;
        if let Some(place) = self.places.get_mut(number as usize) {
            *place = at;
        }
        Ok(at)
    }

    fn append(&mut self, bytes: &[u8], what: &'static str) -> Result<(), Fault> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > HEAP_MAX {
            return Err(Fault::Limit(
                what,
                format!("more than {HEAP_MAX} bytes of them"),
            ));
        }
        Ok(())
    }
}

/// The sections of variable length.
#[derive(Debug)]
pub(super) struct Heaps {
    pub(super) names: Heap,
    pub(super) targets: Heap,
    pub(super) xattrs: Heap,
    pub(super) sparse: Vec<u8>,
    /// Which of the builder's digests, in the order of rows.
    pub(super) digests: Vec<u32>,
    pub(super) unresolved: Vec<UnresolvedAt>,
}

impl Heaps {
    /// Lays everything out and lets the references of the objects lead there.
    pub(super) fn of(
        tree: &mut Tree,
        plan: &Plan,
        targets: &Pool,
        xattrs: &Pool,
        maps: &[u8],
    ) -> Result<Self, BuildError> {
        let mut heaps = Self {
            names: Heap::of(&tree.names),
            targets: Heap::of(targets),
            xattrs: Heap::of(xattrs),
            sparse: Vec::new(),
            digests: Vec::new(),
            unresolved: Vec::new(),
        };
        let laid = heaps
            .lay_names(tree, plan)
            .and_then(|()| heaps.lay_objects(tree, plan, targets, xattrs, maps))
            .and_then(|()| heaps.lay_unresolved(tree, plan, targets));
        laid.map_err(|fault| fault.of(b"")).map(|()| heaps)
    }

    fn lay_names(&mut self, tree: &Tree, plan: &Plan) -> Result<(), Fault> {
        let before = [
            plan.nodes().len() * INODE,
            plan.len() * DIRENT,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        let start = Sections::of(before.map(|len| len as u64))
            .unwrap_or_default()
            .names
            .start;
        for (_, slot) in plan.entries(tree) {
            let len = tree.names.get(slot.name).len() as u64;
            if len > INLINE as u64 {
                let room = BLOCK - (start + self.names.bytes.len() as u64) % BLOCK;
                let gap = if room < len {
                    usize::try_from(room).unwrap_or(0)
                } else {
                    0
                };
                self.names.lay(&tree.names, slot.name, gap)?;
            }
        }
        Ok(())
    }

    fn lay_objects(
        &mut self,
        tree: &mut Tree,
        plan: &Plan,
        targets: &Pool,
        xattrs: &Pool,
        maps: &[u8],
    ) -> Result<(), Fault> {
        for &id in plan.nodes() {
            let node = tree.node_mut(id);
            match &mut node.data {
                Data::File { digest, sparse, .. } => {
                    self.digests.push(*digest);
                    *digest = narrow(self.digests.len() - 1);
                    if let Some(before) = sparse.checked_sub(1) {
                        *sparse = 1 + narrow(self.sparse.len() / UNIT);
                        self.sparse.extend_from_slice(map_at(maps, before));
                    }
                }
                Data::Symlink { target } => *target = self.targets.lay(targets, *target, 0)?,
                _ => {}
            }
            if let Some(set) = node.xattrs.checked_sub(1) {
                let len = self.xattrs.bytes.len();
                let at = self
                    .xattrs
                    .lay(xattrs, set, len.next_multiple_of(UNIT) - len)?;
                node.xattrs = 1 + at / narrow(UNIT);
            }
        }
        Ok(())
    }

    fn lay_unresolved(&mut self, tree: &Tree, plan: &Plan, targets: &Pool) -> Result<(), Fault> {
        for (entry, slot) in plan.entries(tree) {
            if let Some(Found::Link(target)) = slot.found {
                let target = targets.get(target);
                let at = narrow(self.targets.bytes.len());
                // Not shared with others: see `format`, section 5.
                self.targets.append(target, targets.what())?;
                let (dir, len) = (plan.row(slot.dir), narrow(target.len()));
                self.unresolved.push(UnresolvedAt {
                    dir,
                    entry,
                    target: at,
                    len,
                });
            }
        }
        Ok(())
    }
}

/// The builder's own map that begins at `unit`.
fn map_at(maps: &[u8], unit: u32) -> &[u8] {
    let map = maps.get(unit as usize * UNIT..).unwrap_or_default();
    let head = map
        .first_chunk::<SPARSE_HEAD>()
        .and_then(SparseHead::decode);
    let count = head.map_or(0, |head| head.count as usize);
    map.get(..SPARSE_HEAD + count * EXTENT).unwrap_or_default()
}
