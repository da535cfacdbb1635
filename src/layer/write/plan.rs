//! Which number every object and every name of a collected tree will have.

use super::tree::{Found, NodeId, Slot, Tree};
use crate::layer::format::{NO_ENTRY, NamedBy, prefix};

/// An object that no name leads to any more has no row.
const NO_ROW: u32 = u32::MAX;

/// Numbers that the builder has bounded: objects and names by `ROWS_MAX`,
/// sections by `HEAP_MAX`.
pub(super) fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("because the builder counts in 32 bits")
}

/// One name of a row that has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Linked {
    row: u32,
    pub(super) dir: u32,
    pub(super) entry: u32,
}

/// The numbers of rows and entries.
#[derive(Debug)]
pub(super) struct Plan {
    row_of: Vec<u32>,
    /// Objects by row.
    nodes: Vec<NodeId>,
    /// First entry by row; one number more closes the last directory.
    first: Vec<u32>,
    /// Names by entry.
    slots: Vec<u32>,
    nlink: Vec<u32>,
    named: Vec<NamedBy>,
    /// The names of linked rows, by row and entry.
    pub(super) linked: Vec<Linked>,
}

impl Plan {
    pub(super) fn of(tree: &Tree) -> Self {
        let (row_of, nodes) = number(tree);
        let (first, slots) = list(tree, &row_of, nodes.len());
        let (nlink, named, linked) = (Vec::new(), Vec::new(), Vec::new());
        let mut plan = Self {
            row_of,
            nodes,
            first,
            slots,
            nlink,
            named,
            linked,
        };
        plan.count(tree);
        plan.name(tree);
        plan
    }

    /// Objects in the order of rows.
    pub(super) fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The row of an object that has one.
    pub(super) fn row(&self, node: NodeId) -> u32 {
        self.row_of[node as usize]
    }

    pub(super) fn nlink(&self, row: usize) -> u32 {
        self.nlink[row]
    }

    pub(super) fn named(&self, row: usize) -> NamedBy {
        self.named[row]
    }

    /// First entry and number of entries of a directory.
    pub(super) fn listed(&self, row: usize) -> (u32, u32) {
        (self.first[row], self.first[row + 1] - self.first[row])
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Entries in order.
    pub(super) fn entries<'a>(&'a self, tree: &'a Tree) -> impl Iterator<Item = (u32, &'a Slot)> {
        let slots = self.slots.iter().map(|&slot| &tree.slots()[slot as usize]);
        slots.enumerate().map(|(entry, slot)| (narrow(entry), slot))
    }

    fn count(&mut self, tree: &Tree) {
        let bare = |&node: &NodeId| if tree.node(node).is_dir() { 2 } else { 0 };
        let mut nlink: Vec<u32> = self.nodes.iter().map(bare).collect();
        for (_, slot) in self.entries(tree) {
            if let Some(Found::Node(node)) = slot.found {
                let counted = if tree.node(node).is_dir() {
                    slot.dir
                } else {
                    node
                };
                nlink[self.row(counted) as usize] += 1;
            }
        }
        self.nlink = nlink;
    }

    fn name(&mut self, tree: &Tree) {
        let mut named = vec![
            NamedBy::Entry {
                dir: 0,
                entry: NO_ENTRY
            };
            self.nodes.len()
        ];
        let mut linked = Vec::new();
        for (entry, slot) in self.entries(tree) {
            let Some(Found::Node(node)) = slot.found else {
                continue;
            };
            let (row, dir) = (self.row(node), self.row(slot.dir));
            if tree.node(node).is_dir() || self.nlink(row as usize) == 1 {
                named[row as usize] = NamedBy::Entry { dir, entry };
            } else {
                linked.push(Linked { row, dir, entry });
            }
        }
        linked.sort_unstable();
        for (at, link) in linked.iter().enumerate().rev() {
            // Backwards: the first of a row's names is what stays.
            named[link.row as usize] = NamedBy::Links(narrow(at));
        }
        (self.named, self.linked) = (named, linked);
    }
}

/// Row by object, object by row.
fn number(tree: &Tree) -> (Vec<u32>, Vec<NodeId>) {
    let live = tree.live();
    let mut row_of = vec![NO_ROW; live.len()];
    let mut nodes = Vec::new();
    for (node, row) in row_of.iter_mut().enumerate() {
        if live[node] {
            *row = narrow(nodes.len());
            nodes.push(narrow(node));
        }
    }
    (row_of, nodes)
}

/// First entry by row, and names by entry: those of a directory together, sorted.
fn list(tree: &Tree, row_of: &[u32], rows: usize) -> (Vec<u32>, Vec<u32>) {
    let dir_of = |slot: &Slot| Some(row_of[slot.dir as usize]).filter(|&row| row != NO_ROW);
    let mut first = vec![0u32; rows + 1];
    for dir in tree.slots().iter().filter_map(dir_of) {
        first[dir as usize + 1] += 1;
    }
    let mut total = 0;
    for place in &mut first {
        total += *place;
        *place = total;
    }
    let mut next = first.clone();
    let mut slots = vec![0; total as usize];
    for (number, slot) in tree.slots().iter().enumerate() {
        if let Some(dir) = dir_of(slot) {
            let at = &mut next[dir as usize];
            slots[*at as usize] = narrow(number);
            *at += 1;
        }
    }
    let name = |slot: u32| tree.names.get(tree.slots()[slot as usize].name);
    for bounds in first.windows(2) {
        slots[bounds[0] as usize..bounds[1] as usize].sort_unstable_by(|&a, &b| {
            let (a, b) = (name(a), name(b));
            prefix(a).cmp(&prefix(b)).then_with(|| a.cmp(b))
        });
    }
    (first, slots)
}
