//! The definition of the union: a naive tree.
//!
//! What it is for: layers are applied one after the other to a map from path to
//! object, as unpacking them would do (umoci's semantics: a layer's whiteouts
//! first hide what lower layers left, then its members come in their order).
//! Everything is computed again each time, nothing is clever. What a layer may
//! not have in it (its builder refuses it) is left out, and what remains is told.

use std::collections::{BTreeMap, BTreeSet};

use lazyroot::node::{Attr, Device, Kind, Time};

use super::layers::{Data, Entry, What};

/// Names from the root downwards.
pub(crate) type Path = Vec<Vec<u8>>;

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// A directory: number of the object that holds its attributes.
    Dir(usize),
    /// Anything else, by number: hard links have the same.
    Object(usize),
    /// A hard link to nothing: no name can be found there.
    Nowhere,
}

/// An object, once, however many names it has.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// `nlink` is filled in by [`Tree::attr`].
    pub(crate) attr: Attr,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) target: Vec<u8>,
    pub(crate) data: Option<Data>,
}

/// Why a walk does not end at an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    NotFound,
    NotDir,
    Loop,
}

/// A tree, as it lies on a disk after unpacking.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<Path, Node>,
    pub(crate) objects: Vec<Object>,
    /// Directories whose link count says nothing.
    pub(crate) uncounted: BTreeSet<Path>,
}

/// The names of a path as text.
pub(crate) fn split(path: &[u8]) -> Path {
    path.split(|&b| b == b'/')
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

fn unnamed() -> Object {
    let attr = Attr {
        kind: Kind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        stored: 0,
        mtime: Time::default(),
        nlink: 0,
        rdev: Device::default(),
    };
    Object {
        attr,
        xattrs: Vec::new(),
        target: Vec::new(),
        data: None,
    }
}

fn object(entry: &Entry) -> Object {
    let mut object = unnamed();
    let attr = &mut object.attr;
    attr.mode = entry.mode;
    (attr.uid, attr.gid) = (entry.owner, entry.owner + 1);
    attr.mtime = Time {
        seconds: entry.seconds,
        nanos: 7,
    };
    match &entry.what {
        What::File(data) => {
            attr.kind = Kind::File;
            (attr.size, attr.stored) = (data.size, data.stored());
            object.data = Some(data.clone());
        }
        What::Symlink(target) => {
            attr.kind = Kind::Symlink;
            (attr.size, attr.stored) = (target.len() as u64, target.len() as u64);
            object.target = target.clone();
        }
        What::Char(major, minor) => {
            attr.kind = Kind::Char;
            attr.rdev = Device {
                major: *major,
                minor: *minor,
            };
        }
        What::Fifo => attr.kind = Kind::Fifo,
        What::Dir | What::Link(_) | What::Whiteout | What::Opaque => {}
    }
    object.xattrs = entry.xattrs.clone();
    object.xattrs.sort();
    object
}

/// Whether an entry only hides something in a directory that its layer hides, and where it names
/// nothing.
fn is_gone(all: &[Entry], entry: &Entry) -> bool {
    let path = split(&entry.path);
    let hides = |entry: &Entry| matches!(entry.what, What::Whiteout | What::Opaque);
    let deepest = match entry.what {
        What::Whiteout => path.len().saturating_sub(1),
        What::Opaque => path.len(),
        _ => return false,
    };
    (1..=deepest).any(|depth| {
        let dir = &path[..depth];
        let hidden = |one: &Entry| one.what == What::Whiteout && split(&one.path) == dir;
        let named = |one: &Entry| !hides(one) && split(&one.path).starts_with(dir);
        all.iter().any(hidden) && !all.iter().any(named)
    })
}

impl Tree {
    /// Nothing but a root.
    pub(crate) fn new() -> Self {
        Self {
            nodes: BTreeMap::from([(Path::new(), Node::Dir(0))]),
            objects: vec![unnamed()],
            uncounted: BTreeSet::new(),
        }
    }

    fn is_dir(&self, path: &[Vec<u8>]) -> bool {
        matches!(self.nodes.get(path), Some(Node::Dir(_)))
    }

    fn remove_below(&mut self, path: &[Vec<u8>]) {
        self.nodes
            .retain(|at, _| !(at.len() > path.len() && at.starts_with(path)));
    }

    fn remove(&mut self, path: &[Vec<u8>]) {
        self.remove_below(path);
        self.nodes.remove(path);
    }

    fn add(&mut self, object: Object) -> usize {
        self.objects.push(object);
        self.objects.len() - 1
    }

    fn make_parents(&mut self, path: &[Vec<u8>]) {
        for depth in 0..path.len() {
            if !self.is_dir(&path[..depth]) {
                let number = self.add(unnamed());
                self.nodes.insert(path[..depth].to_vec(), Node::Dir(number));
            }
        }
    }

    /// Applies a layer. Returns the members that it may have in it.
    pub(crate) fn apply(&mut self, entries: &[Entry]) -> Vec<Entry> {
        let admitted = admit(entries);
        let below = self.clone();
        for entry in &admitted {
            let path = split(&entry.path);
            match entry.what {
                What::Whiteout => self.remove(&path),
                What::Opaque if self.is_dir(&path) => self.remove_below(&path),
                _ => {}
            }
        }
        // What this layer brought: hard links find their targets there first.
        let mut own: BTreeMap<Path, Node> = BTreeMap::new();
        for entry in &admitted {
            let path = split(&entry.path);
            if is_gone(&admitted, entry) {
                continue;
            }
            self.make_parents(&path);
            let node = match &entry.what {
                What::Whiteout => continue,
                What::Opaque => {
                    let inside = [&path[..], &[Vec::new()]].concat();
                    self.make_parents(&inside);
                    continue;
                }
                What::Dir => Node::Dir(self.add(object(entry))),
                What::Link(target) => {
                    let target = split(target);
                    match own.get(&target) {
                        Some(node) => *node,
                        None => below.link_target(&target),
                    }
                }
                _ => Node::Object(self.add(object(entry))),
            };
            let merges = matches!(node, Node::Dir(_)) && self.is_dir(&path);
            if !merges {
                self.remove(&path);
                own.retain(|at, _| !at.starts_with(&path));
            }
            self.nodes.insert(path.clone(), node);
            own.insert(path, node);
        }
        admitted
    }

    fn link_target(&self, path: &[Vec<u8>]) -> Node {
        let Some((name, parent)) = path.split_last() else {
            return Node::Nowhere;
        };
        let Ok(mut dir) = self.resolve(parent, true) else {
            return Node::Nowhere;
        };
        dir.push(name.clone());
        match self.nodes.get(&dir) {
            Some(node @ Node::Object(_)) => *node,
            _ => Node::Nowhere,
        }
    }

    /// The path that a path stands for when symlinks are followed.
    pub(crate) fn resolve(&self, path: &[Vec<u8>], follow: bool) -> Result<Path, Lost> {
        let mut left = 40;
        self.walk(Path::new(), path, follow, &mut left)
    }

    fn walk(
        &self,
        mut at: Path,
        names: &[Vec<u8>],
        follow: bool,
        left: &mut u32,
    ) -> Result<Path, Lost> {
        let Some((name, rest)) = names.split_first() else {
            return Ok(at);
        };
        if !self.is_dir(&at) {
            return Err(Lost::NotDir);
        }
        match &name[..] {
            b"" | b"." => {}
            b".." => {
                at.pop();
            }
            _ => {
                at.push(name.clone());
                match self.nodes.get(&at) {
                    None | Some(Node::Nowhere) => return Err(Lost::NotFound),
                    Some(&Node::Object(number))
                        if self.objects[number].attr.kind == Kind::Symlink =>
                    {
                        if follow || !rest.is_empty() {
                            *left = left.checked_sub(1).ok_or(Lost::Loop)?;
                            let target = &self.objects[number].target;
                            at.pop();
                            if target.starts_with(b"/") {
                                at.clear();
                            }
                            let names = target.split(|&b| b == b'/').map(<[u8]>::to_vec);
                            let names: Vec<_> = names.chain(rest.iter().cloned()).collect();
                            return self.walk(at, &names, follow, left);
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        self.walk(at, rest, follow, left)
    }

    /// Names in a directory that can be found, sorted.
    pub(crate) fn children(&self, dir: &[Vec<u8>]) -> Vec<(Vec<u8>, Node)> {
        let inside = self
            .nodes
            .iter()
            .filter(|(at, _)| at.len() == dir.len() + 1 && at.starts_with(dir));
        let found = inside.filter(|(_, node)| **node != Node::Nowhere);
        found
            .map(|(at, node)| (at[dir.len()].clone(), *node))
            .collect()
    }

    /// What `stat` tells of a path that can be found.
    pub(crate) fn attr(&self, path: &[Vec<u8>]) -> Attr {
        let node = self.nodes[path];
        let (number, nlink) = match node {
            Node::Dir(number) if self.uncounted.contains(path) => (number, 1),
            Node::Dir(number) => {
                let dirs = self
                    .children(path)
                    .iter()
                    .filter(|c| matches!(c.1, Node::Dir(_)))
                    .count();
                (number, 2 + dirs)
            }
            Node::Object(number) => (number, self.nodes.values().filter(|n| **n == node).count()),
            Node::Nowhere => panic!("nothing at {path:?}"),
        };
        Attr {
            nlink: nlink as u32,
            ..self.objects[number].attr
        }
    }

    /// The object at a path that can be found.
    pub(crate) fn object(&self, path: &[Vec<u8>]) -> &Object {
        match self.nodes[path] {
            Node::Dir(number) | Node::Object(number) => &self.objects[number],
            Node::Nowhere => panic!("nothing at {path:?}"),
        }
    }
}

/// Leaves out what no builder takes: members below something of the same layer
/// that is no directory, links to such members and to directories of the same
/// layer.
fn admit(entries: &[Entry]) -> Vec<Entry> {
    let mut dirs: BTreeMap<Path, bool> = BTreeMap::new();
    let mut admitted = Vec::new();
    for entry in entries {
        let path = split(&entry.path);
        let inside = matches!(entry.what, What::Opaque) as usize;
        let blocked =
            (1..path.len() + inside).any(|depth| dirs.get(&path[..depth]) == Some(&false));
        if blocked || (path.is_empty() && !matches!(entry.what, What::Dir | What::Opaque)) {
            continue;
        }
        if let What::Link(target) = &entry.what {
            let target = split(target);
            let below = (1..target.len()).any(|depth| dirs.get(&target[..depth]) == Some(&false));
            if target.is_empty() || below || dirs.get(&target) == Some(&true) {
                continue;
            }
        }
        for depth in 1..path.len() + inside {
            dirs.insert(path[..depth].to_vec(), true);
        }
        match entry.what {
            What::Whiteout | What::Opaque => {}
            What::Dir => {
                dirs.insert(path, true);
            }
            _ => {
                dirs.retain(|at, _| !at.starts_with(&path));
                dirs.insert(path, false);
            }
        }
        admitted.push(entry.clone());
    }
    admitted
}
