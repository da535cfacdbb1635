//! A collected tree, written out section by section.

use std::io::{self, Write};

use super::heaps::Heaps;
use super::plan::{Plan, narrow};
use super::tree::{Data, Found, Node, Tree};
use super::{BuildError, IndexBuilder};
use crate::digest::DiffId;
use crate::layer::Row;
use crate::layer::blocks::BlockWriter;
use crate::layer::format::{
    self, ALIGN, Body, DIGEST, DIRENT, Dirent, Header, INLINE, INODE, Inode, Listed, PAIR,
    Sections, UNRESOLVED, prefix,
};
use crate::layer::read::Summary;
use crate::node::Kind;

/// Records are handed on in pieces of about this size.
const PIECE: usize = 64 << 10;

/// Writes what the builder collected.
pub(super) fn encode<W: Write>(
    built: IndexBuilder,
    diff: DiffId,
    tar_len: u64,
    to: W,
) -> Result<W, BuildError> {
    let IndexBuilder {
        dialect,
        mut tree,
        targets,
        xattrs,
        sparse,
        digests,
        ..
    } = built;
    tree.settle_whiteouts();
    let plan = Plan::of(&tree);
    let heaps = Heaps::of(&mut tree, &plan, &targets, &xattrs, &sparse)?;
    let summary = summary(&tree, &plan, heaps.unresolved.len());
    let sections = sections(&plan, &heaps)
        .ok_or_else(|| io::Error::other("the index is too long for 64 bits"))?;
    let header = Header {
        diff,
        dialect,
        tar_len,
        summary,
        sections,
    };

    let mut out = Pieces {
        to: BlockWriter::new(to, format::INDEX),
        bytes: Vec::new(),
    };
    out.put(&header.encode())?;
    out.align()?;
    for (row, &node) in plan.nodes().iter().enumerate() {
        inode(tree.node(node), row, &plan).encode(&mut out.bytes);
        out.flush(PIECE)?;
    }
    out.align()?;
    for entry in entries(&tree, &plan, &heaps) {
        entry.encode(&mut out.bytes);
        out.flush(PIECE)?;
    }
    out.section(&heaps.names.bytes)?;
    out.align()?;
    for &number in &heaps.digests {
        out.put(
            digests
                .get(number as usize)
                .expect("because `finish` has counted them"),
        )?;
    }
    out.section(&heaps.targets.bytes)?;
    out.section(&heaps.xattrs.bytes)?;
    out.section(&heaps.sparse)?;
    out.align()?;
    for link in &plan.linked {
        out.put(&format::pair(link.dir, link.entry))?;
    }
    out.align()?;
    for link in &heaps.unresolved {
        link.encode(&mut out.bytes);
        out.flush(PIECE)?;
    }
    out.flush(0)?;
    Ok(out.to.finish()?)
}

/// Small records on their way into a sealed file.
struct Pieces<W: Write> {
    to: BlockWriter<W>,
    bytes: Vec<u8>,
}

impl<W: Write> Pieces<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        self.flush(PIECE)
    }

    /// Hands on what has come together, if it is at least so much.
    fn flush(&mut self, least: usize) -> io::Result<()> {
        if self.bytes.len() >= least {
            self.to.write(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }

    /// Begins a section.
    fn align(&mut self) -> io::Result<()> {
        self.flush(0)?;
        self.to.align(ALIGN)
    }

    /// A section that is all there.
    fn section(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.align()?;
        self.to.write(bytes)
    }
}

fn sections(plan: &Plan, heaps: &Heaps) -> Option<Sections> {
    let lengths = [
        plan.nodes().len() * INODE,
        plan.len() * DIRENT,
        heaps.names.bytes.len(),
        heaps.digests.len() * DIGEST,
        heaps.targets.bytes.len(),
        heaps.xattrs.bytes.len(),
        heaps.sparse.len(),
        plan.linked.len() * PAIR,
        heaps.unresolved.len() * UNRESOLVED,
    ];
    Sections::of(lengths.map(|len| len as u64))
}

fn summary(tree: &Tree, plan: &Plan, unresolved: usize) -> Summary {
    let mut summary = Summary {
        rows: narrow(plan.nodes().len()),
        entries: narrow(plan.len()),
        unresolved: narrow(unresolved),
        ..Summary::default()
    };
    for &node in plan.nodes() {
        let node = tree.node(node);
        match node.kind() {
            Kind::File => {
                summary.files += 1;
                summary.bytes = summary.bytes.saturating_add(node.size);
            }
            Kind::Dir => summary.dirs += 1,
            _ => {}
        }
        summary.whiteouts += u32::from(node.opaque);
        summary.with_xattrs += u32::from(node.xattrs != 0);
    }
    let whiteouts = plan
        .entries(tree)
        .filter(|(_, slot)| slot.found.is_none())
        .count();
    summary.whiteouts = summary.whiteouts.saturating_add(narrow(whiteouts));
    summary
}

/// The record of an object whose references lead into sections already.
fn inode(node: &Node, row: usize, plan: &Plan) -> Inode {
    let body = match node.data {
        Data::File {
            start,
            digest,
            sparse,
        } => Body::File {
            start,
            digest,
            sparse,
        },
        Data::Dir { .. } => {
            let (first, count) = plan.listed(row);
            Body::Dir {
                first,
                count,
                opaque: node.opaque,
                implied: node.implied,
            }
        }
        Data::Symlink { target } => Body::Symlink { target },
        Data::Char(device) => Body::Char(device),
        Data::Block(device) => Body::Block(device),
        Data::Fifo => Body::Fifo,
    };
    Inode {
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        nlink: plan.nlink(row),
        size: node.size,
        mtime: node.mtime,
        xattrs: node.xattrs,
        body,
        named: plan.named(row),
    }
}

fn entries<'a>(
    tree: &'a Tree,
    plan: &'a Plan,
    heaps: &'a Heaps,
) -> impl Iterator<Item = Dirent> + 'a {
    let mut links = 0;
    plan.entries(tree).map(move |(_, slot)| {
        let name = tree.names.get(slot.name);
        let listed = match slot.found {
            Some(Found::Node(node)) => Listed::Node(Row(plan.row(node)), tree.node(node).kind()),
            Some(Found::Link(_)) => {
                links += 1;
                Listed::Link(links - 1)
            }
            None => Listed::Whiteout,
        };
        let name_at = if name.len() <= INLINE {
            0
        } else {
            heaps.names.place(slot.name)
        };
        // Names were cut at `NAME_MAX`, 255.
        let name_len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        Dirent {
            name_at,
            name_len,
            listed,
            prefix: prefix(name),
        }
    })
}
