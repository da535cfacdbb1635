//! Objects and names while a layer is being read.
//!
//! An object that is replaced is not removed: whether it is still named is seen
//! at the end ([`Tree::live`]), so dropping a subtree costs nothing.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use super::pool::Pool;
use super::{Fault, refused};
use crate::layer::format::ROWS_MAX;
use crate::node::{Device, Kind, Time};
use crate::tree_path::printable;

/// Number of an object in the order of the tar; the index has fewer (its rows).
pub(super) type NodeId = u32;
pub(super) const ROOT: NodeId = 0;
/// A file whose digest was not told yet.
pub(super) const NO_DIGEST: u32 = u32::MAX;

/// What an object has by its type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Data {
    /// `digest`: a number in the order of the tar; once laid out, in that of
    /// rows. `sparse`: 0 for none, else 1 + offset / 8 among the maps.
    File {
        start: u64,
        digest: u32,
        sparse: u32,
    },
    /// `names`: a number among the lists of names.
    Dir {
        names: u32,
    },
    /// A number in the pool of targets; an offset once that is laid out.
    Symlink {
        target: u32,
    },
    Char(Device),
    Block(Device),
    Fifo,
}

/// One object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) mode: u16,
    pub(super) implied: bool,
    pub(super) opaque: bool,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: Time,
    /// 0: none, else 1 + a number in the pool of sets; once that is laid out,
    /// 1 + offset / 8.
    pub(super) xattrs: u32,
    pub(super) data: Data,
}

impl Node {
    fn implied() -> Self {
        Self {
            mode: 0o755,
            implied: true,
            opaque: false,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time::default(),
            xattrs: 0,
            data: Data::Dir { names: 0 },
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.data, Data::Dir { .. })
    }

    pub(super) fn kind(&self) -> Kind {
        match self.data {
            Data::File { .. } => Kind::File,
            Data::Dir { .. } => Kind::Dir,
            Data::Symlink { .. } => Kind::Symlink,
            Data::Char(_) => Kind::Char,
            Data::Block(_) => Kind::Block,
            Data::Fifo => Kind::Fifo,
        }
    }
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Node(NodeId),
    /// A hard link into lower layers: its target, in the pool of targets.
    Link(u32),
}

/// A name in a directory, and all that this layer says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) dir: NodeId,
    pub(super) name: u32,
    pub(super) found: Option<Found>,
    pub(super) whiteout: bool,
}

/// A path leads through something that is no directory.
#[derive(Debug)]
pub(super) struct Below {
    what: &'static str,
    path: String,
}

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lies below the {} `{}`", self.what, self.path)
    }
}

/// A free place in a list of names.
const FREE: u32 = u32::MAX;

/// The slots of one directory, to be found by name. Each has its own, small as directories
/// are: members come in runs of one directory, whose list is at hand then, where
/// one for all is out of the processor's caches at half a million names.
#[derive(Debug, Default)]
struct Names {
    /// Open addressing, a power of two (or nothing), at most three quarters full.
    table: Vec<u32>,
    len: u32,
}

/// Objects, and their names.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    slots: Vec<Slot>,
    listings: Vec<Names>,
    /// Not to be foreseen by who makes a layer.
    seeds: [u64; 2],
    pub(super) names: Pool,
    most: u64,
    implied: u64,
    /// The directory that was asked for last: members come in runs of one.
    recent: (Vec<u8>, NodeId),
}

impl Tree {
    /// The root alone. At most `most` directories may be implied.
    pub(super) fn new(most: u64) -> Self {
        Self {
            nodes: vec![Node::implied()],
            slots: Vec::new(),
            listings: vec![Names::default()],
            seeds: [(); 2].map(|()| RandomState::new().hash_one(0)),
            names: Pool::new("names"),
            most,
            implied: 0,
            recent: (Vec::new(), ROOT),
        }
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes
            .get(id as usize)
            .expect("because ids are handed out by `add` and never taken back")
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes
            .get_mut(id as usize)
            .expect("because ids are handed out by `add` and never taken back")
    }

    /// Whether it is a file whose digest is still to come.
    pub(super) fn awaits_digest(&self, id: NodeId) -> bool {
        matches!(
            self.node(id).data,
            Data::File {
                digest: NO_DIGEST,
                ..
            }
        )
    }

    /// A new object without a name.
    pub(super) fn add(&mut self, mut node: Node) -> Result<NodeId, Fault> {
        let id = u32::try_from(self.nodes.len())
            .ok()
            .filter(|&id| id < ROWS_MAX);
        let id = id.ok_or_else(|| Fault::Limit("rows", format!("more than {ROWS_MAX} objects")))?;
        if let Data::Dir { names } = &mut node.data {
            // There are fewer than objects.
            *names = u32::try_from(self.listings.len()).unwrap_or(FREE);
            self.listings.push(Names::default());
        }
        self.nodes.push(node);
        Ok(id)
    }

    /// Gives a directory the attributes of another description of it; its
    /// entries and its place stay.
    pub(super) fn replace_dir(&mut self, id: NodeId, new: Node) {
        let old = self.node_mut(id);
        let (opaque, data) = (old.opaque, old.data);
        *old = Node {
            opaque,
            data,
            ..new
        };
    }

    /// Number of a directory's list of names.
    fn listing(&self, dir: NodeId) -> usize {
        match self.node(dir).data {
            Data::Dir { names } => names as usize,
            _ => unreachable!("because only directories are asked for names"),
        }
    }

    fn slot(&mut self, dir: NodeId, name: &[u8]) -> Result<u32, Fault> {
        let name = self.names.intern(name)?;
        let listing = self.listing(dir);
        if let Some(slot) = self.listed(listing, name) {
            return Ok(slot);
        }
        let next = u32::try_from(self.slots.len())
            .ok()
            .filter(|&id| id < ROWS_MAX);
        let next =
            next.ok_or_else(|| Fault::Limit("rows", format!("more than {ROWS_MAX} names")))?;
        self.slots.push(Slot {
            dir,
            name,
            found: None,
            whiteout: false,
        });
        self.list(listing, next);
        Ok(next)
    }

    /// Where the search for a name begins in a table of so many places.
    fn place(&self, name: u32, places: usize) -> usize {
        // Names of one directory mostly have numbers in a row, which one multiplication alone might
        // leave in heaps; the second one mixes them (the constant of splitmix64's first step).
        let [factor, offset] = self.seeds;
        let hash = (u64::from(name) ^ offset).wrapping_mul(factor | 1);
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
        usize::try_from(hash).unwrap_or(0) & (places - 1)
    }

    /// The slot of a name in a list.
    fn listed(&self, listing: usize, name: u32) -> Option<u32> {
        let table = &self.listings[listing].table;
        if table.is_empty() {
            return None;
        }
        let mut at = self.place(name, table.len());
        while table[at] != FREE {
            if self.slots[table[at] as usize].name == name {
                return Some(table[at]);
            }
            at = (at + 1) & (table.len() - 1);
        }
        None
    }

    /// Puts a slot whose name is not there into a list.
    fn list(&mut self, listing: usize, slot: u32) {
        let Names { table, len } = &self.listings[listing];
        let (len, places) = (*len + 1, table.len());
        if len as usize > places / 4 * 3 {
            let old = std::mem::replace(
                &mut self.listings[listing].table,
                vec![FREE; (2 * places).max(4)],
            );
            for slot in old.into_iter().filter(|&slot| slot != FREE) {
                self.put_slot(listing, slot);
            }
        }
        self.put_slot(listing, slot);
        self.listings[listing].len = len;
    }

    fn put_slot(&mut self, listing: usize, slot: u32) {
        let places = self.listings[listing].table.len();
        let mut at = self.place(self.slots[slot as usize].name, places);
        let table = &mut self.listings[listing].table;
        while table[at] != FREE {
            at = (at + 1) & (places - 1);
        }
        table[at] = slot;
    }

    /// What this layer has at a name; whiteouts are nothing.
    pub(super) fn get(&self, dir: NodeId, name: &[u8]) -> Option<Found> {
        let name = self.names.find(name)?;
        let slot = self.listed(self.listing(dir), name)?;
        self.slots.get(slot as usize)?.found
    }

    /// Lets a name lead to something else than before.
    pub(super) fn put(&mut self, dir: NodeId, name: &[u8], found: Found) -> Result<(), Fault> {
        let number = self.slot(dir, name)?;
        let slot = self
            .slots
            .get_mut(number as usize)
            .expect("because `slot` made it");
        let old = slot.found.replace(found);
        match old {
            None => {}
            Some(Found::Node(old)) if self.node(old).is_dir() => {
                self.recent = (Vec::new(), ROOT);
            }
            // What is no directory removes what lower layers have at its name, and
            // a directory that replaces it later does not bring that back.
            Some(_) => self.whiteout(dir, name)?,
        }
        Ok(())
    }

    /// Hides a name of lower layers.
    pub(super) fn whiteout(&mut self, dir: NodeId, name: &[u8]) -> Result<(), Fault> {
        let slot = self.slot(dir, name)?;
        self.slots
            .get_mut(slot as usize)
            .expect("because `slot` made it")
            .whiteout = true;
        Ok(())
    }

    /// A directory whose name the same layer hides below shows nothing of lower
    /// layers: it is opaque, and if no member names it, it is made anew and not
    /// the lower one emptied; if there is nothing in it but what is hidden, too, it is not there at all. Anything else
    /// replaces them anyway.
    pub(super) fn settle_whiteouts(&mut self) {
        let full = self.full();
        for slot in &mut self.slots {
            if let Some(Found::Node(id)) = slot.found
                && slot.whiteout
                && let Some(node) = self.nodes.get_mut(id as usize)
                && node.is_dir()
            {
                if node.implied && !full[id as usize] {
                    slot.found = None;
                }
                node.opaque = true;
                node.implied = false;
            }
        }
    }

    /// Which directories have something in them, at any depth, that a member names.
    fn full(&self) -> Vec<bool> {
        let mut above = vec![ROOT; self.nodes.len()];
        for slot in &self.slots {
            if let Some(Found::Node(id)) = slot.found
                && self.node(id).is_dir()
            {
                above[id as usize] = slot.dir;
            }
        }
        let mut full = vec![false; self.nodes.len()];
        for slot in &self.slots {
            let named = match slot.found {
                Some(Found::Node(id)) => !self.node(id).implied,
                Some(Found::Link(_)) => true,
                None => false,
            };
            let mut dir = slot.dir;
            // Ends at the root, which is its own.
            while named && !full[dir as usize] {
                full[dir as usize] = true;
                dir = above[dir as usize];
            }
        }
        full
    }

    /// The directory of a clean path; what is missing of it is implied.
    pub(super) fn dir(&mut self, path: &[u8]) -> Result<NodeId, Fault> {
        if path == self.recent.0 {
            return Ok(self.recent.1);
        }
        let (mut dir, missing) = match self.walk(path) {
            Ok(reached) => reached,
            Err(below) => return refused(format!("it {below}")),
        };
        for name in parts(missing) {
            dir = self.imply(dir, name)?;
        }
        self.recent.0.clear();
        self.recent.0.extend_from_slice(path);
        self.recent.1 = dir;
        Ok(dir)
    }

    fn imply(&mut self, dir: NodeId, name: &[u8]) -> Result<NodeId, Fault> {
        self.implied += 1;
        if self.implied > self.most {
            let what = format!("more than {} directories that no member names", self.most);
            return Err(Fault::Limit("entries", what));
        }
        let id = self.add(Node::implied())?;
        self.put(dir, name, Found::Node(id))?;
        Ok(id)
    }

    /// The directory of a clean path, if this layer has it.
    pub(super) fn find_dir(&self, path: &[u8]) -> Result<Option<NodeId>, Below> {
        if path == self.recent.0 {
            return Ok(Some(self.recent.1));
        }
        let (dir, missing) = self.walk(path)?;
        Ok(missing.is_empty().then_some(dir))
    }

    /// The deepest directory of a clean path that this layer has, and the rest.
    fn walk<'p>(&self, path: &'p [u8]) -> Result<(NodeId, &'p [u8]), Below> {
        let mut dir = ROOT;
        let mut at = 0;
        for name in parts(path) {
            let end = at + name.len();
            dir = match self.get(dir, name) {
                Some(Found::Node(id)) if self.node(id).is_dir() => id,
                Some(other) => return Err(self.below(other, path.get(..end).unwrap_or(path))),
                None => break,
            };
            at = end + 1;
        }
        Ok((dir, path.get(at..).unwrap_or_default()))
    }

    fn below(&self, found: Found, path: &[u8]) -> Below {
        let what = match found {
            Found::Link(_) => "hard link",
            Found::Node(id) => match self.node(id).kind() {
                Kind::Symlink => "symlink",
                Kind::File => "file",
                Kind::Char | Kind::Block => "device",
                Kind::Fifo => "fifo",
                Kind::Socket => "socket",
                Kind::Dir => "directory",
            },
        };
        Below {
            what,
            path: printable(path),
        }
    }

    /// Which objects can be reached from the root by names of this layer.
    ///
    /// One pass is enough: a directory's own slot is older than those in it.
    pub(super) fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        let mark = |live: &mut Vec<bool>, id: NodeId| {
            if let Some(place) = live.get_mut(id as usize) {
                *place = true;
            }
        };
        mark(&mut live, ROOT);
        for slot in &self.slots {
            if let Some(Found::Node(id)) = slot.found
                && live.get(slot.dir as usize) == Some(&true)
            {
                mark(&mut live, id);
            }
        }
        live
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
}
