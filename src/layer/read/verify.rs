//! Every rule of the format, checked against a whole index.
//!
//! What single records cannot say of others is checked here: that sections have
//! no holes, names are sorted, and that entries and inodes agree in both directions.
//! That makes a tree: every object but the root has as many names as it counts,
//! and a directory, having one, comes after the directory that has it.

use std::collections::HashMap;

use super::{Index, Summary};
use crate::layer::blocks::BLOCK;
use crate::layer::format::{
    self, Body, DIRENT, Dirent, EXTENT, HEADER, INLINE, INODE, Inode, LENGTHS_AT, Listed, NamedBy,
    PAIR, SPARSE_HEAD, SUMMARY_AT, Section, UNIT, UNRESOLVED, UnresolvedAt,
};
use crate::layer::{Dialect, ReadError, Row};
use crate::node::Kind;

/// Checks everything; the blocks themselves were checked before.
pub(super) fn verify(index: &Index) -> Result<(), ReadError> {
    gaps(index)?;
    let mut rows = Rows::default();
    let mut names = Names::default();
    for row in (0..index.header.summary.rows).map(Row) {
        rows.check(index, row)?;
    }
    for row in (0..index.header.summary.rows).map(Row) {
        names.check(index, row)?;
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
        return bad(index, SUMMARY_AT, "the summary is not that of the layer");
    }
    index.unresolved().map(drop)
}

fn bad<T>(index: &Index, at: u64, what: &str) -> Result<T, ReadError> {
    Err(index.file.corrupt(at, what))
}

/// What lies between sections is zero, and the header has nothing unknown.
fn gaps(index: &Index) -> Result<(), ReadError> {
    let header = index.header.encode();
    if !index.file.with(0, HEADER, |bytes| bytes == header)? {
        return bad(index, 0, "the header has bytes that mean nothing");
    }
    let mut end = HEADER as u64;
    for section in index.header.sections.all() {
        zeros(index, end, section.start)?;
        end = section.start + section.len;
    }
    Ok(())
}

/// That there is nothing in a gap, which is shorter than a name.
fn zeros(index: &Index, from: u64, until: u64) -> Result<(), ReadError> {
    let len = usize::try_from(until - from).unwrap_or(usize::MAX);
    let empty = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    match index.file.with(from, len, empty)? {
        true => Ok(()),
        false => bad(index, from, "there are bytes in a gap"),
    }
}

/// Things of one section that are laid out in the order of their first use. That
/// each begins where the one before ended also keeps a forger from having the
/// same bytes read again and again as ever other things.
#[derive(Debug, Default)]
struct Tiles {
    /// Where the last one ends.
    end: u64,
    /// Length by place.
    known: HashMap<u64, u64>,
}

impl Tiles {
    /// Takes the thing of `len` bytes at `at`, which if it is new must begin at
    /// `next`.
    fn take(
        &mut self,
        index: &Index,
        section: Section,
        (at, len): (u64, u64),
        next: u64,
    ) -> Result<(), ReadError> {
        match self.known.get(&at) {
            Some(&known) if known == len => Ok(()),
            None if at == next => {
                zeros(index, section.start + self.end, section.start + at)?;
                self.end = at + len;
                self.known.insert(at, len);
                Ok(())
            }
            _ => bad(
                index,
                section.start + at,
                "something is out of line in its section",
            ),
        }
    }
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
    sets: Tiles,
    targets: Tiles,
}

impl Rows {
    fn check(&mut self, index: &Index, row: Row) -> Result<(), ReadError> {
        let inode = index.inode(row)?;
        let wrong = |what| Err(index.bad_row(row, what));
        let mut again = Vec::with_capacity(INODE);
        inode.encode(&mut again);
        if !index
            .file
            .with(index.row_at(row), INODE, |bytes| bytes == again)?
        {
            return wrong("an object has bytes that mean nothing");
        }
        self.counted.rows += 1;
        if let Some(unit) = inode.xattrs.checked_sub(1) {
            self.counted.with_xattrs += 1;
            self.set(index, unit)?;
        }
        match inode.body {
            Body::File { digest, sparse, .. } => {
                if digest != self.counted.files {
                    return wrong("a file's digest is out of line");
                }
                self.counted.files += 1;
                self.counted.bytes = self.counted.bytes.saturating_add(inode.size);
                index.digest(row)?;
                let extents = index.extents(row)?;
                if let Some(unit) = sparse.checked_sub(1) {
                    if u64::from(unit) * UNIT as u64 != self.next_map {
                        return wrong("a file's sparse map is out of line");
                    }
                    let count = extents.map.map_or(0, |map| map.len());
                    self.next_map += (SPARSE_HEAD + count * EXTENT) as u64;
                }
            }
            Body::Dir { first, opaque, .. } => {
                if u64::from(first) != self.next_entry {
                    return wrong("a directory's entries are out of line");
                }
                self.counted.dirs += 1;
                self.counted.whiteouts += u32::from(opaque);
                self.next_entry = u64::from(index.entries_of(row)?.end);
            }
            Body::Symlink { target } => {
                let next = self.targets.end;
                let place = (u64::from(target), inode.size);
                self.targets
                    .take(index, index.header.sections.targets, place, next)?;
                index.target(row)?;
            }
            Body::Char(_) | Body::Block(_) | Body::Fifo => {}
        }
        self.names(index, row, &inode)
    }

    fn set(&mut self, index: &Index, unit: u32) -> Result<(), ReadError> {
        let section = index.header.sections.xattrs;
        let at = u64::from(unit) * UNIT as u64;
        let next = self.sets.end.next_multiple_of(UNIT as u64);
        if self.sets.known.contains_key(&at) {
            return Ok(());
        }
        if at != next {
            return bad(index, section.start + at, "a set of xattrs is out of line");
        }
        let set = index.xattr_set(unit)?;
        let each = set.iter().map(|(name, value)| 5 + name.len() + value.len());
        let len = 4 + each.sum::<usize>() as u64;
        self.sets.take(index, section, (at, len), next)
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

    /// That every section ends where its last record does.
    fn end(&self, index: &Index) -> Result<(), ReadError> {
        let sections = &index.header.sections;
        let mut targets = self.targets.end;
        if index.header.summary.unresolved > 0 {
            // Their targets follow; the reader has them one behind the other.
            let (first, last) = unresolved_ends(index)?;
            if first != targets {
                return bad(index, sections.targets.start, "a target is out of line");
            }
            targets = last;
        }
        let tiled = self.next_link * PAIR as u64 == sections.links.len
            && self.next_map == sections.sparse.len
            && self.sets.end == sections.xattrs.len
            && targets == sections.targets.len;
        match tiled {
            true => Ok(()),
            false => bad(index, LENGTHS_AT, "a section has bytes that nobody uses"),
        }
    }
}

/// Where the first target of the unresolved links begins and the last one ends.
fn unresolved_ends(index: &Index) -> Result<(u64, u64), ReadError> {
    let section = index.header.sections.unresolved;
    let at = |number: u32| -> Result<UnresolvedAt, ReadError> {
        let mut record = [0; UNRESOLVED];
        let at = section.start + u64::from(number) * UNRESOLVED as u64;
        index.file.read(at, &mut record)?;
        Ok(UnresolvedAt::decode(&record))
    };
    let (first, last) = (at(0)?, at(index.header.summary.unresolved - 1)?);
    let end = u64::from(last.target) + u64::from(last.len);
    Ok((u64::from(first.target), end))
}

/// The entries, directory after directory.
#[derive(Debug, Default)]
struct Names {
    entries: u32,
    whiteouts: u32,
    links: u32,
    /// Names found, by row.
    found: Vec<u32>,
    strings: Tiles,
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
            let name = index.named(&entry, <[u8]>::to_vec)?;
            self.name(index, number, &entry, &name)?;
            if !before.is_empty() && before >= name {
                return bad(
                    index,
                    index.entry_at(number),
                    "the names of a directory are not sorted",
                );
            }
            before = name;
            subdirs += u32::from(matches!(entry.listed, Listed::Node(_, Kind::Dir)));
            self.entry(index, row, number, &entry)?;
        }
        if index.inode(row)?.nlink.checked_sub(2) != Some(subdirs) {
            return Err(index.bad_row(row, "a directory's link count is not that of its entries"));
        }
        Ok(())
    }

    /// What an entry stands for.
    fn entry(
        &mut self,
        index: &Index,
        dir: Row,
        number: u32,
        entry: &Dirent,
    ) -> Result<(), ReadError> {
        let wrong = |what| bad(index, index.entry_at(number), what);
        let mut again = Vec::with_capacity(DIRENT);
        entry.encode(&mut again);
        if !index
            .file
            .with(index.entry_at(number), DIRENT, |bytes| bytes == again)?
        {
            return wrong("an entry has bytes that mean nothing");
        }
        self.entries += 1;
        index.hit(dir, number, entry)?;
        match entry.listed {
            Listed::Node(of, kind) => self.node(index, dir, number, of, kind)?,
            Listed::Link(link) if link != self.links => {
                return wrong("a hard link is out of line");
            }
            Listed::Link(_) => self.links += 1,
            Listed::Whiteout if index.header.dialect == Dialect::AppC => {
                return wrong("a whiteout is in a layer that knows none");
            }
            Listed::Whiteout => self.whiteouts += 1,
        }
        Ok(())
    }

    /// That a name is one, and where it has to be.
    fn name(
        &mut self,
        index: &Index,
        number: u32,
        entry: &Dirent,
        name: &[u8],
    ) -> Result<(), ReadError> {
        let wrong = |what| bad(index, index.entry_at(number), what);
        if !format::is_name(name) {
            return wrong("a name cannot be a name");
        }
        if index.header.dialect == Dialect::Docker && name.starts_with(b".wh.") {
            return wrong("a name begins like a whiteout");
        }
        if entry.prefix != format::prefix(name) {
            return wrong("the first bytes of a name are not the name's");
        }
        if name.len() <= INLINE {
            return match entry.name_at {
                0 => Ok(()),
                _ => wrong("a short name has a place"),
            };
        }
        let section = index.header.sections.names;
        let len = name.len() as u64;
        let free = section.start + self.strings.end;
        let next = match BLOCK - free % BLOCK < len {
            true => free.next_multiple_of(BLOCK) - section.start,
            false => self.strings.end,
        };
        self.strings
            .take(index, section, (u64::from(entry.name_at), len), next)
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
        if self.strings.end != index.header.sections.names.len {
            return bad(index, LENGTHS_AT, "a section has bytes that nobody uses");
        }
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
