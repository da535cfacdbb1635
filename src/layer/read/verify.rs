//! Every rule of the format, checked against a whole index.
//!
//! What single records cannot say of others is checked here: that sections are
//! tiled, names sorted, and that entries and inodes agree in both directions.
//! That makes a tree: every object but the root has as many names as it counts,
//! and a directory, having one, comes after the directory that has it.

use std::collections::HashSet;

use super::{Index, Summary};
use crate::layer::blocks::BLOCK;
use crate::layer::format::{
    self, Body, DIRENT, Dirent, EXTENT, HEADER, INLINE, INODE, Inode, Listed, NamedBy, PAIR,
    SPARSE_HEAD, UNIT, UnresolvedAt,
};
use crate::layer::{Dialect, ReadError, Row};
use crate::node::Kind;

/// Checks everything; the blocks themselves were checked before.
pub(super) fn verify(index: &Index) -> Result<(), ReadError> {
    gaps(index)?;
    let mut rows = Rows::default();
    let mut names = Names::default();
    for row in 0..index.header.summary.rows {
        rows.check(index, Row(row))?;
    }
    for row in 0..index.header.summary.rows {
        names.check(index, Row(row))?;
    }
    rows.end(index)?;
    names.end(index)?;
    let counted = Summary {
        entries: names.entries,
        unresolved: names.links,
        whiteouts: rows.counted.whiteouts.saturating_add(names.whiteouts),
        ..rows.counted
    };
    if counted != index.header.summary {
        return Err(index
            .file
            .corrupt(80, "the summary is not that of the layer"));
    }
    index.unresolved()?;
    unresolved_end(index)
}

/// What lies between sections is zero, and the header has nothing unknown.
fn gaps(index: &Index) -> Result<(), ReadError> {
    let header = index.header.encode();
    if !index.file.with(0, HEADER, |bytes| bytes == header)? {
        return Err(index
            .file
            .corrupt(0, "the header has bytes that mean nothing"));
    }
    let mut end = HEADER as u64;
    for section in index.header.sections.all() {
        let gap = usize::try_from(section.start - end).unwrap_or(usize::MAX);
        if !index
            .file
            .with(end, gap, |bytes| bytes.iter().all(|&byte| byte == 0))?
        {
            return Err(index
                .file
                .corrupt(end, "there are bytes between two sections"));
        }
        end = section.start + section.len;
    }
    Ok(())
}

/// Unresolved links are sorted, and their targets end the section.
fn unresolved_end(index: &Index) -> Result<(), ReadError> {
    let Some(last) = index.header.summary.unresolved.checked_sub(1) else {
        return Ok(());
    };
    let section = index.header.sections.unresolved;
    let at = section.start + u64::from(last) * format::UNRESOLVED as u64;
    let mut record = [0; format::UNRESOLVED];
    index.file.read(at, &mut record)?;
    let link = UnresolvedAt::decode(&record);
    if u64::from(link.target) + u64::from(link.len) != index.header.sections.targets.len {
        return Err(index
            .file
            .corrupt(at, "the targets of hard links do not end the section"));
    }
    Ok(())
}

/// The inodes, one after the other.
#[derive(Debug, Default)]
struct Rows {
    counted: Summary,
    /// The first entry of the next directory.
    next_entry: u64,
    /// The first name of the next linked row.
    next_link: u64,
    /// Where the next sparse map begins.
    next_map: u64,
    /// Sets of xattrs that were checked.
    sets: HashSet<u32>,
}

impl Rows {
    fn check(&mut self, index: &Index, row: Row) -> Result<(), ReadError> {
        let inode = index.inode(row)?;
        let bad = |what| Err(index.bad_row(row, what));
        let mut again = Vec::with_capacity(INODE);
        inode.encode(&mut again);
        if !index
            .file
            .with(index.row_at(row), INODE, |bytes| bytes == again)?
        {
            return bad("an object has bytes that mean nothing");
        }
        self.counted.rows += 1;
        if let Some(unit) = inode.xattrs.checked_sub(1) {
            self.counted.with_xattrs += 1;
            if self.sets.insert(unit) {
                index.xattr_set(unit)?;
            }
        }
        match inode.body {
            Body::File { digest, sparse, .. } => {
                if digest != self.counted.files {
                    return bad("a file's digest is out of line");
                }
                self.counted.files += 1;
                self.counted.bytes = self.counted.bytes.saturating_add(inode.size);
                index.digest(row)?;
                let extents = index.extents(row)?;
                if let Some(unit) = sparse.checked_sub(1) {
                    if u64::from(unit) * UNIT as u64 != self.next_map {
                        return bad("a file's sparse map is out of line");
                    }
                    let count = extents.map.map_or(0, |map| map.len());
                    self.next_map += (SPARSE_HEAD + count * EXTENT) as u64;
                }
            }
            Body::Dir { first, opaque, .. } => {
                if u64::from(first) != self.next_entry {
                    return bad("a directory's entries are out of line");
                }
                self.counted.dirs += 1;
                self.counted.whiteouts += u32::from(opaque);
                self.next_entry = u64::from(index.entries_of(row)?.end);
            }
            Body::Symlink { .. } => drop(index.target(row)?),
            Body::Char(_) | Body::Block(_) | Body::Fifo => {}
        }
        self.names(index, row, &inode)
    }

    /// That what an object says of its names is so.
    fn names(&mut self, index: &Index, row: Row, inode: &Inode) -> Result<(), ReadError> {
        let NamedBy::Links(first) = inode.named else {
            return index.names(row).map(drop);
        };
        if u64::from(first) != self.next_link {
            return Err(index.bad_row(row, "an object's names are out of line"));
        }
        self.next_link += u64::from(inode.nlink);
        let links = index.links(first, inode.nlink)?;
        if !links.is_sorted_by(|a, b| a.1 < b.1) {
            return Err(index.bad_row(row, "an object's names are not sorted"));
        }
        index.names(row).map(drop)
    }

    fn end(&self, index: &Index) -> Result<(), ReadError> {
        let sections = &index.header.sections;
        let tiled = self.next_link * PAIR as u64 == sections.links.len
            && self.next_map == sections.sparse.len;
        match tiled {
            true => Ok(()),
            false => Err(index
                .file
                .corrupt(120, "a section has records that nobody uses")),
        }
    }
}

/// The entries, directory after directory.
#[derive(Debug, Default)]
struct Names {
    entries: u32,
    whiteouts: u32,
    links: u32,
    /// Names found, by row.
    found: Vec<u32>,
}

impl Names {
    fn check(&mut self, index: &Index, row: Row) -> Result<(), ReadError> {
        if index.inode(row)?.kind() != Kind::Dir {
            return Ok(());
        }
        let mut before: Vec<u8> = Vec::new();
        let mut subdirs = 0u32;
        for number in index.entries_of(row)? {
            let entry = index.entry(number)?;
            let bad = |what| Err(index.bad_entry(number, what));
            let name = index.named(&entry, <[u8]>::to_vec)?;
            if let Some(what) = wrong_name(index, &entry, &name) {
                return bad(what);
            }
            if !before.is_empty() && before >= name {
                return bad("the names of a directory are not sorted");
            }
            before = name;
            self.entries += 1;
            index.hit(row, number, &entry)?;
            match entry.listed {
                Listed::Node(of, kind) => {
                    subdirs += u32::from(kind == Kind::Dir);
                    self.node(index, row, number, of, kind)?;
                }
                Listed::Link(link) => {
                    if link != self.links {
                        return bad("a hard link is out of line");
                    }
                    self.links += 1;
                }
                Listed::Whiteout if index.header.dialect == Dialect::AppC => {
                    return bad("a whiteout is in a layer that knows none");
                }
                Listed::Whiteout => self.whiteouts += 1,
            }
            let mut again = Vec::with_capacity(DIRENT);
            entry.encode(&mut again);
            if !index
                .file
                .with(index.entry_at(number), DIRENT, |bytes| bytes == again)?
            {
                return bad("an entry has bytes that mean nothing");
            }
        }
        if index.inode(row)?.nlink.checked_sub(2) != Some(subdirs) {
            return Err(index.bad_row(row, "a directory's link count is not that of its entries"));
        }
        Ok(())
    }

    /// That an entry and its object agree.
    fn node(
        &mut self,
        index: &Index,
        dir: Row,
        number: u32,
        of: Row,
        kind: Kind,
    ) -> Result<(), ReadError> {
        let inode = index.inode(of)?;
        let here = NamedBy::Entry {
            dir: dir.0,
            entry: number,
        };
        let agree = inode.kind() == kind
            && (inode.named == here || matches!(inode.named, NamedBy::Links(_)));
        if !agree || of == Row::ROOT {
            return Err(index.bad_entry(number, "an entry and its object do not agree"));
        }
        self.found.resize(index.header.summary.rows as usize, 0);
        if let Some(count) = self.found.get_mut(of.0 as usize) {
            *count += 1;
        }
        Ok(())
    }

    fn end(&self, index: &Index) -> Result<(), ReadError> {
        for row in (1..index.header.summary.rows).map(Row) {
            let inode = index.inode(row)?;
            let names = if inode.kind() == Kind::Dir {
                1
            } else {
                inode.nlink
            };
            if self.found.get(row.0 as usize).copied().unwrap_or(0) != names {
                return Err(index.bad_row(row, "an object has not as many names as it says"));
            }
        }
        Ok(())
    }
}

/// What is wrong with a name.
fn wrong_name(index: &Index, entry: &Dirent, name: &[u8]) -> Option<&'static str> {
    let at = index.header.sections.names.start + u64::from(entry.name_at);
    let last = at + u64::from(entry.name_len) - 1;
    if !format::is_name(name) {
        Some("a name cannot be a name")
    } else if index.header.dialect == Dialect::Docker && name.starts_with(b".wh.") {
        Some("a name begins like a whiteout")
    } else if entry.prefix != format::prefix(name) {
        Some("the first bytes of a name are not the name's")
    } else if name.len() <= INLINE && entry.name_at != 0 {
        Some("a short name has a place")
    } else if name.len() > INLINE && at / BLOCK != last / BLOCK {
        Some("a name crosses a block")
    } else {
        None
    }
}
