//! The order in which blocks, records, maps and data come.
//!
//! What it is for: [`TarReader`], a state machine that is fed. May assume that
//! `header`, `pax` and `sparse` refuse what is wrong in itself. Must not know
//! field offsets and record syntax.

use std::fmt;
use std::mem;

use crate::layer::Limits;
use crate::node::{Device, Time};
use crate::tree_path::printable;

use super::header::{BLOCK, Block, Format, Header, flag_name, is_zero, text};
use super::pax::{PaxSparse, RECORDS_MAX, Records};
use super::sparse::{Map, MapReader, OldSparse, extension};
use super::{Fault, Member, MemberKind, Stop, TarError, Visitor};

/// The reader: bytes of any cut are pushed in.
///
/// After an error it takes nothing more.
#[derive(Debug)]
pub struct TarReader {
    state: State,
    gather: Gather,
    core: Core,
}

/// What the next bytes are.
#[derive(Debug)]
enum State {
    /// A header, or the first block of zeros.
    Header,
    /// The second block of zeros.
    Zero,
    /// Behind the end; anything.
    Ended,
    /// So many bytes of something.
    Body { body: Body, left: u64 },
    /// The rest of a block that had the end of something in it.
    Padding { left: u64 },
    /// Blocks that continue the map in an old GNU header.
    Extensions { draft: Box<Draft>, map: Box<Map> },
    /// Blocks of a map that stands before the data; `left` bytes of both.
    Map {
        draft: Box<Draft>,
        left: u64,
        map: Box<MapReader>,
    },
    /// Nothing more: an error was returned.
    Failed,
}

/// Whom the bytes behind a header are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// The visitor.
    File,
    /// Ourselves: an extended header, or a GNU long name or link.
    Extended,
    Global,
    LongName,
    LongLink,
    /// Nobody.
    Ignored,
}

/// A member whose map is not complete.
#[derive(Debug)]
struct Draft {
    member: Member,
    /// Where its header began.
    at: u64,
}

/// Collects a block that comes in pieces.
struct Gather {
    block: Block,
    filled: usize,
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of a block", self.filled)
    }
}

impl Gather {
    /// The next whole block, straight from `bytes` where it lies there whole.
    fn next<'a, 'b: 'a>(&'a mut self, bytes: &mut &'b [u8]) -> Option<&'a Block> {
        if self.filled == 0
            && let Some((block, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some(block);
        }
        let take = bytes.len().min(BLOCK - self.filled);
        let (now, rest) = bytes.split_at(take);
        self.block[self.filled..self.filled + take].copy_from_slice(now);
        *bytes = rest;
        self.filled += take;
        if self.filled < BLOCK {
            return None;
        }
        self.filled = 0;
        Some(&self.block)
    }
}

/// Everything else a reader keeps.
#[derive(Debug)]
struct Core {
    limits: Limits,
    /// Bytes of the stream that were used up, without a block half collected.
    at: u64,
    /// Members so far.
    members: u64,
    /// What the next member's header will be overridden with.
    pending: Pending,
    /// An extended header or a long name, as it comes in, and where it began.
    records: Vec<u8>,
    records_at: u64,
}

#[derive(Debug, Default)]
struct Pending {
    records: Option<Box<Records>>,
    /// From a GNU header; empty for none.
    name: Vec<u8>,
    link: Vec<u8>,
    /// Whether there was any such header.
    any: bool,
}

impl TarReader {
    /// A reader at the beginning of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            state: State::Header,
            gather: Gather {
                block: [0; BLOCK],
                filled: 0,
            },
            core: Core {
                limits,
                at: 0,
                members: 0,
                pending: Pending::default(),
                records: Vec::new(),
                records_at: 0,
            },
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// A stream that is no tar, or what the visitor says.
    pub fn push<V: Visitor>(&mut self, mut bytes: &[u8], to: &mut V) -> Result<(), Stop<V::Error>> {
        while !bytes.is_empty() {
            let state = mem::replace(&mut self.state, State::Failed);
            self.state = self.step(state, &mut bytes, to)?;
        }
        Ok(())
    }

    /// The stream ended.
    ///
    /// # Errors
    /// When it ended within a member.
    pub fn finish(self) -> Result<(), TarError> {
        let at = self.core.at + self.gather.filled as u64;
        let pending = self.core.pending.any;
        let what = match self.state {
            State::Header | State::Zero if self.gather.filled > 0 => "the stream ends in a header",
            State::Header | State::Padding { .. } if pending => NO_MEMBER,
            State::Header | State::Zero | State::Ended | State::Padding { .. } => return Ok(()),
            State::Failed => REFUSED,
            State::Body { .. } | State::Extensions { .. } | State::Map { .. } => {
                "the stream ends in a member"
            }
        };
        Err(TarError::Damaged {
            at,
            what: what.to_owned(),
        })
    }

    /// Uses up some of `bytes`, at least one.
    fn step<V: Visitor>(
        &mut self,
        state: State,
        bytes: &mut &[u8],
        to: &mut V,
    ) -> Result<State, Stop<V::Error>> {
        let Self { gather, core, .. } = self;
        match state {
            State::Body { body, left } => core.body(body, left, bytes, to),
            State::Padding { left } => {
                let take = at_most(left, bytes.len());
                *bytes = &bytes[take..];
                core.at += take as u64;
                Ok(match left - take as u64 {
                    0 => State::Header,
                    left => State::Padding { left },
                })
            }
            State::Ended => {
                core.at += bytes.len() as u64;
                *bytes = &[];
                Ok(State::Ended)
            }
            State::Failed => Err(Fault::damaged(REFUSED).at(core.at).into()),
            State::Header | State::Zero | State::Extensions { .. } | State::Map { .. } => {
                let Some(block) = gather.next(bytes) else {
                    return Ok(state);
                };
                let at = core.at;
                core.at += BLOCK as u64;
                core.block(state, block, at, to)
            }
        }
    }
}

const NO_MEMBER: &str = "no member follows a long name or an extended header";
const REFUSED: &str = "it was refused before";

impl Core {
    /// Takes a whole block that began at `at`.
    fn block<V: Visitor>(
        &mut self,
        state: State,
        block: &Block,
        at: u64,
        to: &mut V,
    ) -> Result<State, Stop<V::Error>> {
        match state {
            State::Extensions { draft, mut map } => {
                let more = extension(block, &mut map).map_err(|fault| fault.at(at))?;
                if more {
                    return Ok(State::Extensions { draft, map });
                }
                let stored = draft.member.stored;
                self.begin(*draft, stored, Some(*map), to)
            }
            State::Map {
                draft,
                left,
                mut map,
            } => {
                let left = left.checked_sub(BLOCK as u64).ok_or_else(|| {
                    Fault::damaged("a sparse map is longer than its member").at(at)
                })?;
                if map.block(block).map_err(|fault| fault.at(at))? {
                    self.begin(*draft, left, Some(map.map()), to)
                } else {
                    Ok(State::Map { draft, left, map })
                }
            }
            State::Zero if is_zero(block) => Ok(State::Ended),
            // GNU tar warns and stops here, others go on: what follows would be
            // there for some and not for others.
            State::Zero => Err(Fault::damaged("something follows a lone block of zeros")
                .at(at)
                .into()),
            _ if is_zero(block) => {
                self.nothing_pending().map_err(|fault| fault.at(at))?;
                Ok(State::Zero)
            }
            _ => self.header(block, at, to),
        }
    }

    fn header<V: Visitor>(
        &mut self,
        block: &Block,
        at: u64,
        to: &mut V,
    ) -> Result<State, Stop<V::Error>> {
        let header = Header::check(block).map_err(|fault| fault.at(at))?;
        let body = match header.flag() {
            b'x' => Body::Extended,
            b'g' => Body::Global,
            b'L' => Body::LongName,
            b'K' => Body::LongLink,
            // A volume's label.
            b'V' => Body::Ignored,
            _ => return self.member(header, at, to),
        };
        let left = self.special(header, body).map_err(|fault| fault.at(at))?;
        if left == 0 {
            return self.body_done(body, to);
        }
        Ok(State::Body { body, left })
    }

    /// Begins a header that is not a member; tells how long its body is. Its own
    /// size counts: a pax size that waits for a member has no say here.
    fn special(&mut self, header: Header<'_>, body: Body) -> Result<u64, Fault> {
        let size = header.size()?;
        let limit = match body {
            Body::Extended | Body::Global => "extended-header",
            Body::LongName | Body::LongLink => "long-name",
            Body::File | Body::Ignored => "",
        };
        if body == Body::Ignored {
            self.nothing_pending()?;
            self.fits(size, size)?;
        } else if size > RECORDS_MAX {
            return Err(Fault::limit(limit, format!("a header of {size} bytes")));
        }
        if body == Body::Global {
            self.nothing_pending()?;
        }
        self.records.clear();
        self.records_at = self.at;
        Ok(size)
    }

    /// What applies to the next member would be lost by what is not one.
    fn nothing_pending(&self) -> Result<(), Fault> {
        if self.pending.any {
            Err(Fault::damaged(NO_MEMBER))
        } else {
            Ok(())
        }
    }

    fn body<V: Visitor>(
        &mut self,
        body: Body,
        left: u64,
        bytes: &mut &[u8],
        to: &mut V,
    ) -> Result<State, Stop<V::Error>> {
        let take = at_most(left, bytes.len());
        let (now, later) = bytes.split_at(take);
        *bytes = later;
        self.at += take as u64;
        match body {
            Body::File => to.data(now).map_err(Stop::Visitor)?,
            Body::Ignored => {}
            _ => self.records.extend_from_slice(now),
        }
        let left = left - take as u64;
        if left > 0 {
            return Ok(State::Body { body, left });
        }
        self.body_done(body, to)
    }

    fn body_done<V: Visitor>(&mut self, body: Body, to: &mut V) -> Result<State, Stop<V::Error>> {
        match body {
            Body::File => to.end().map_err(Stop::Visitor)?,
            Body::Ignored => {}
            _ => self
                .record(body)
                .map_err(|fault| fault.at(self.records_at))?,
        }
        // Every body begins at the beginning of a block of the stream.
        let left = self.at.next_multiple_of(BLOCK as u64) - self.at;
        Ok(match left {
            0 => State::Header,
            left => State::Padding { left },
        })
    }

    /// The body of a special header is complete.
    fn record(&mut self, body: Body) -> Result<(), Fault> {
        match body {
            Body::Extended => {
                self.pending.records = Some(Box::new(Records::parse(&self.records)?));
            }
            Body::LongName => self.pending.name = text(&self.records).to_vec(),
            Body::LongLink => self.pending.link = text(&self.records).to_vec(),
            Body::Global => {
                Records::parse(&self.records)?;
                return Ok(());
            }
            Body::File | Body::Ignored => return Ok(()),
        }
        self.pending.any = true;
        Ok(())
    }

    /// A member's header, that began at `at`.
    fn member<V: Visitor>(
        &mut self,
        header: Header<'_>,
        at: u64,
        to: &mut V,
    ) -> Result<State, Stop<V::Error>> {
        let pending = mem::take(&mut self.pending);
        let (member, sparse) = self
            .described(header, pending)
            .map_err(|fault| fault.at(at))?;
        let draft = Draft { member, at };
        let stored = draft.member.stored;
        match sparse {
            Sparse::No => self.begin(draft, stored, None, to),
            Sparse::Known(map) => self.begin(draft, stored, Some(map), to),
            Sparse::Extended(map) => Ok(State::Extensions {
                draft: Box::new(draft),
                map: Box::new(map),
            }),
            Sparse::InData => {
                let map = Box::default();
                Ok(State::Map {
                    draft: Box::new(draft),
                    left: stored,
                    map,
                })
            }
        }
    }

    /// Header and what was pending as a member; `data_at` and `sparse` are still
    /// to be filled in, `stored` is what the archive holds for it, a map included.
    fn described(
        &mut self,
        header: Header<'_>,
        pending: Pending,
    ) -> Result<(Member, Sparse), Fault> {
        self.members += 1;
        if self.members > self.limits.entries {
            let what = format!("more than {} members", self.limits.entries);
            return Err(Fault::limit("entries", what));
        }
        let mut records = pending.records.map(|records| *records).unwrap_or_default();
        let xattrs = records.take_xattrs()?;
        let pax_sparse = records.take_sparse()?;
        let sparse_name = pax_sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let path = [sparse_name, Some(pending.name), records.path]
            .into_iter()
            .flatten()
            .find(|path| !path.is_empty())
            .unwrap_or_else(|| header.path());
        if path.is_empty() {
            return Err(Fault::damaged("a member has no path"));
        }
        let kind = kind(header.flag(), &path)?;
        let (size, stored, sparse) = sizes(header, kind, records.size, pax_sparse)?;
        self.fits(size, stored)?;
        let link = match kind {
            MemberKind::HardLink | MemberKind::Symlink => [Some(pending.link), records.link]
                .into_iter()
                .flatten()
                .find(|link| !link.is_empty())
                .unwrap_or_else(|| header.link()),
            _ => Vec::new(),
        };
        if matches!(kind, MemberKind::HardLink | MemberKind::Symlink) && link.is_empty() {
            return Err(Fault::damaged(format!(
                "the link `{}` has no target",
                printable(&path)
            )));
        }
        let member = Member {
            path,
            kind,
            link,
            mode: match kind {
                // It has no other (symlink(7)), whatever archivers write.
                MemberKind::Symlink => 0o777,
                _ => header.mode()?,
            },
            uid: id("uid", records.uid, header.uid()?)?,
            gid: id("gid", records.gid, header.gid()?)?,
            size,
            stored,
            data_at: 0,
            mtime: match records.mtime {
                Some(mtime) => mtime,
                None => Time {
                    seconds: header.mtime()?,
                    nanos: 0,
                },
            },
            rdev: match kind {
                MemberKind::Char | MemberKind::Block => header.device()?,
                _ => Device::default(),
            },
            xattrs,
            sparse: None,
        };
        Ok((member, sparse))
    }

    /// Sizes are refused by what they claim, before the bytes have come.
    fn fits(&self, size: u64, stored: u64) -> Result<(), Fault> {
        let end = self.at.saturating_add(stored);
        let most = size.max(end);
        if most > self.limits.unpacked {
            let what = format!("a member of {} bytes", size.max(stored));
            return Err(Fault::limit("unpacked", what));
        }
        Ok(())
    }

    /// Everything about a member is known, and the next byte is the first of its
    /// `stored` bytes of data.
    fn begin<V: Visitor>(
        &mut self,
        draft: Draft,
        stored: u64,
        map: Option<Map>,
        to: &mut V,
    ) -> Result<State, Stop<V::Error>> {
        let Draft { mut member, at } = draft;
        member.stored = stored;
        member.data_at = self.at;
        if let Some(map) = map {
            let sparse = map.finish(member.size, stored).map_err(|fault| {
                match fault {
                    Fault::Damaged(what) => {
                        Fault::Damaged(format!("`{}`: {what}", printable(&member.path)))
                    }
                    limit @ Fault::Limit { .. } => limit,
                }
                .at(at)
            })?;
            member.sparse = sparse;
        }
        to.member(member).map_err(Stop::Visitor)?;
        if stored == 0 {
            return self.body_done(Body::File, to);
        }
        Ok(State::Body {
            body: Body::File,
            left: stored,
        })
    }
}

/// How much of `len` bytes belongs to something with `left` bytes to come.
fn at_most(left: u64, len: usize) -> usize {
    usize::try_from(left).map_or(len, |left| left.min(len))
}

/// Whether a member is sparse, and where its map is.
enum Sparse {
    No,
    Known(Map),
    /// Goes on in extension blocks.
    Extended(Map),
    /// In front of the data.
    InData,
}

/// Size of the file, bytes that the archive holds for it, and how it is sparse.
fn sizes(
    header: Header<'_>,
    kind: MemberKind,
    records_size: Option<u64>,
    pax_sparse: Option<PaxSparse>,
) -> Result<(u64, u64, Sparse), Fault> {
    let in_header = header.size()?;
    if kind != MemberKind::File {
        return match pax_sparse {
            None => Ok((0, 0, Sparse::No)),
            Some(_) => Err(Fault::damaged("something other than a file is sparse")),
        };
    }
    let stored = records_size.unwrap_or(in_header);
    let (size, sparse) = match (header.flag(), pax_sparse) {
        (b'S', None) if header.format() == Format::Gnu => {
            let OldSparse {
                size,
                map,
                extended,
            } = OldSparse::parse(header.block())?;
            (
                size,
                if extended {
                    Sparse::Extended(map)
                } else {
                    Sparse::Known(map)
                },
            )
        }
        (b'S', _) => return Err(Fault::damaged("a sparse file of an unknown format")),
        (_, Some(sparse)) => (
            sparse.size,
            sparse.map.map_or(Sparse::InData, Sparse::Known),
        ),
        (_, None) => (stored, Sparse::No),
    };
    Ok((size, stored, sparse))
}

fn kind(flag: u8, path: &[u8]) -> Result<MemberKind, Fault> {
    Ok(match flag {
        // Before there was a flag for directories, their names ended with `/`.
        0 if path.ends_with(b"/") => MemberKind::Dir,
        // 7 is "contiguous", which nobody has.
        0 | b'0' | b'7' | b'S' => MemberKind::File,
        b'1' => MemberKind::HardLink,
        b'2' => MemberKind::Symlink,
        b'3' => MemberKind::Char,
        b'4' => MemberKind::Block,
        b'5' => MemberKind::Dir,
        b'6' => MemberKind::Fifo,
        _ => {
            let (flag, path) = (flag_name(flag), printable(path));
            let what =
                format!("the member `{path}` has the type flag `{flag}`, which is unsupported");
            return Err(Fault::Damaged(what));
        }
    })
}

/// The owner that nobody can be: chown(2) takes it for -1, "leave it as it is".
const NO_ID: u32 = u32::MAX;

/// An owner; the kernel has 32 bits for it. Where an archive says that there is none, it is
/// root, who unpacks: that is what other tools come to, by chown(2).
fn id(what: &str, records: Option<i128>, header: i128) -> Result<u32, Fault> {
    let value = records.unwrap_or(header);
    match u32::try_from(value) {
        Ok(NO_ID) => Ok(0),
        Ok(id) => Ok(id),
        Err(_) => Err(Fault::Damaged(format!(
            "the {what} {value} does not fit 32 bits"
        ))),
    }
}
