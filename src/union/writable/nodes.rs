//! What is known at the moment, and where it is.
//!
//! What it is for: the table of a writable tree. An object of a layer that
//! nothing has happened to has no node: its number says where it is. Numbers
//! that were told are counted, so that what nobody knows any more costs nothing;
//! directories of the upper directory keep their node for as long as they exist.
//! Must not know how a change is made.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::node::{Ino, Kind, Time};
use crate::union::FsError;
use crate::union::upper::Key;

use super::dirs::Dir;

/// An object that is not just what a layer says.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// A directory of the upper directory.
    Dir(Arc<Dir>),
    /// Anything else of the upper directory.
    File(File),
    /// An object of a layer whose last name is gone.
    Gone,
}

/// An upper object that is no directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    pub(super) key: Key,
    pub(super) kind: Kind,
    /// The layers' file that still has the contents.
    pub(super) below: Option<Ino>,
    /// While contents are copied into it: the times that it shows.
    pub(super) frozen: Option<(Time, Time)>,
}

impl File {
    /// An object whose contents, if any, are at hand.
    pub(super) fn whole(key: Key, kind: Kind) -> Self {
        Self {
            key,
            kind,
            below: None,
            frozen: None,
        }
    }
}

impl File {
    /// Devices, pipes and symlinks have no contents, and are never opened.
    pub(super) fn check_regular(&self) -> Result<(), FsError> {
        match self.kind {
            Kind::File => Ok(()),
            _ => Err(FsError::WrongKind),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// How often each number was told and not forgotten.
    counts: HashMap<Ino, u64>,
    nodes: HashMap<Ino, Node>,
    /// The numbers of upper objects that have a node.
    keys: HashMap<Key, Ino>,
    /// Layers' hard link groups that are known to be whole in the upper directory or not there at all.
    pub(super) settled: HashSet<Ino>,
    /// Under how many names objects of layers with several show now, which takes a look at each of them.
    links: HashMap<Ino, u32>,
    /// How often one of those has lost a name.
    lost: u64,
}

impl Table {
    pub(super) fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    pub(super) fn node_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    pub(super) fn by_key(&self, key: Key) -> Option<Ino> {
        self.keys.get(&key).copied()
    }

    pub(super) fn put(&mut self, ino: Ino, node: Node) {
        match &node {
            Node::Dir(dir) => self.keys.insert(dir.key, ino),
            Node::File(file) => self.keys.insert(file.key, ino),
            Node::Gone => None,
        };
        self.links.remove(&ino);
        self.nodes.insert(ino, node);
    }

    /// The number of names that is known, or else what [`Self::keep_links`] wants to hear.
    pub(super) fn links(&self, ino: Ino) -> Result<u32, u64> {
        self.links.get(&ino).copied().ok_or(self.lost)
    }

    /// Keeps a number of names that was counted since [`Self::links`] said `lost`, unless one was lost meanwhile.
    pub(super) fn keep_links(&mut self, ino: Ino, links: u32, lost: u64) {
        if self.lost == lost && !self.nodes.contains_key(&ino) {
            self.links.insert(ino, links);
        }
    }

    /// A name is about to be lost, or was: what is counted meanwhile is kept by nobody. How many were known,
    /// and what [`Self::keep_links`] wants to hear.
    pub(super) fn forget_links(&mut self, ino: Ino) -> (Option<u32>, u64) {
        self.lost += 1;
        (self.links.remove(&ino), self.lost)
    }

    pub(super) fn count(&mut self, ino: Ino) {
        *self.counts.entry(ino).or_default() += 1;
    }

    /// Forgets a number; what nobody asks for any more is returned: the node
    /// that is gone with it, or the directory that may let its listing go.
    pub(super) fn forget(&mut self, ino: Ino, times: u64) -> Option<Node> {
        let count = self.counts.get_mut(&ino)?;
        *count = count.saturating_sub(times);
        if *count > 0 {
            return None;
        }
        self.counts.remove(&ino);
        self.links.remove(&ino);
        if let Some(Node::Dir(dir)) = self.nodes.get(&ino)
            && !dir.is_gone()
        {
            return Some(Node::Dir(Arc::clone(dir)));
        }
        self.drop_node(ino)
    }

    /// Takes a node out.
    pub(super) fn drop_node(&mut self, ino: Ino) -> Option<Node> {
        let node = self.nodes.remove(&ino)?;
        let key = match &node {
            Node::Dir(dir) => Some(dir.key),
            Node::File(file) => Some(file.key),
            Node::Gone => None,
        };
        if let Some(key) = key {
            self.keys.remove(&key);
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_counts_names_while_one_is_lost_keeps_nothing() {
        let (mut table, ino) = (Table::default(), Ino(7));
        let early = table.links(ino).unwrap_err();
        table.keep_links(ino, 8, early);
        assert_eq!(table.links(ino), Ok(8));
        let (known, _) = table.forget_links(ino);
        assert_eq!(known, Some(8));
        let amid = table.links(ino).unwrap_err();
        let (_, lost) = table.forget_links(ino);
        for late in [early, amid] {
            table.keep_links(ino, 9, late);
            assert!(table.links(ino).is_err());
        }
        table.keep_links(ino, 7, lost);
        assert_eq!(table.links(ino), Ok(7));
    }
}
