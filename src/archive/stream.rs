//! An archive whose members pass once: compressed as a whole, or from a pipe.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use tar::EntryType;

use super::gate::{Gate, GateState};
use super::names::{clean, link_target};
use super::packing::Packing;
use super::{ArchiveError, refuse};
use crate::layer::seek::{SNIFF, Sniffed, sniff};
use crate::tree_path::printable;

/// What is read at once of a file or a pipe.
const BUFFER: usize = 256 << 10;
/// Padding behind the end of a tar that is read to its end, so that whoever
/// writes into a pipe is not killed, and the check at the end of a compressed
/// stream is looked at. `tar` pads to 10 KiB; blocks of 1 MiB are the largest in use.
const PADDING_MAX: u64 = 1 << 20;

pub(super) type Input = Box<dyn Read + Send>;

/// An archive whose members pass once.
pub struct StreamArchive {
    name: String,
    packing: Packing,
    tar: tar::Archive<Gate<Input>>,
    gate: Arc<GateState>,
}

impl fmt::Debug for StreamArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamArchive")
            .field("name", &self.name)
            .field("packing", &self.packing)
            .field("at", &self.gate.at())
            .finish_non_exhaustive()
    }
}

impl StreamArchive {
    /// The archive that comes from `from`; `name` is what messages call it.
    ///
    /// # Errors
    /// It is no tar, compressed or not, or cannot be read.
    pub fn new(name: String, mut from: Input) -> Result<Self, ArchiveError> {
        let read = |source| ArchiveError::Read {
            archive: name.clone(),
            at: 0,
            source,
        };
        let head = beginning(&mut from).map_err(read)?;
        let Some(packing) = Packing::of(sniff(&head)) else {
            return Err(refuse(name, &head, None));
        };
        let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(head.clone()).chain(from));
        let mut plain: Input = Box::new(packing.unpack(whole).map_err(read)?);
        if packing != Packing::Plain {
            let head = beginning(&mut plain).map_err(read)?;
            if sniff(&head) != Sniffed::Tar {
                return Err(refuse(name, &head, Some(packing)));
            }
            plain = Box::new(io::Cursor::new(head).chain(plain));
        }
        let (gate, state) = Gate::new(plain);
        Ok(Self {
            name,
            packing,
            tar: tar::Archive::new(gate),
            gate: state,
        })
    }

    /// How the archive as a whole is compressed.
    #[must_use]
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Its members, from the first on. To be called once.
    ///
    /// # Errors
    /// It was called before.
    pub fn members(&mut self) -> Result<Members<'_>, ArchiveError> {
        let archive = self.name.clone();
        let at = self.gate.at();
        let entries = self.tar.entries().map_err(|source| ArchiveError::Read {
            archive,
            at,
            source,
        })?;
        Ok(Members {
            name: &self.name,
            entries,
            gate: &self.gate,
            end: 0,
            refused: None,
        })
    }

    /// Reads the padding behind the last member; to be called when there is no
    /// further member.
    ///
    /// # Errors
    /// The stream is damaged or cut short after all.
    pub fn finish(self) -> Result<(), ArchiveError> {
        self.gate.open();
        let rest = &mut self.tar.into_inner().take(PADDING_MAX);
        match io::copy(rest, &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(source) => Err(ArchiveError::Read {
                archive: self.name,
                at: self.gate.at(),
                source,
            }),
        }
    }
}

/// The first bytes of a stream: as many as [`sniff`] wants, or all.
fn beginning(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(SNIFF);
    from.take(SNIFF as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The members of a [`StreamArchive`].
pub struct Members<'a> {
    name: &'a str,
    entries: tar::Entries<'a, Gate<Input>>,
    gate: &'a GateState,
    end: u64,
    /// What is wrong with the last member. It is told when somebody wants to know what is
    /// behind it: an ACI is known by its first name, and has a reader of its own.
    refused: Option<ArchiveError>,
}

impl fmt::Debug for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Members of {} at {}", self.name, self.gate.at())
    }
}

impl Members<'_> {
    /// The next member, in the order of the archive; what was not read of the one
    /// before is skipped.
    ///
    /// # Errors
    /// A damaged header, or the stream ends too early; the member before has data and is
    /// nothing that has any.
    pub fn next_member(&mut self) -> Result<Option<Member<'_>>, ArchiveError> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        let entry = loop {
            self.gate.headers_behind(self.end);
            let entry = self
                .entries
                .next()
                .transpose()
                .map_err(|source| ArchiveError::Read {
                    archive: self.name.to_owned(),
                    at: self.gate.at(),
                    source,
                })?;
            let Some(entry) = entry else {
                return Ok(None);
            };
            // A global header is about members, and none itself.
            if !entry.header().entry_type().is_pax_global_extensions() {
                break entry;
            }
            self.end = self.gate.at().saturating_add(entry.size());
        };
        self.gate.open();
        self.refused = data_of_none(self.name, &entry);
        let (name, kind) = describe(&entry);
        let size = entry.size();
        // Its bytes begin here. A sparse one has fewer of them than its size says.
        let header = entry.header();
        let stored = match header.entry_type().is_gnu_sparse() {
            true => header.entry_size().unwrap_or(0),
            false => size,
        };
        self.end = self.gate.at().saturating_add(stored);
        let reader = Box::new(entry);
        Ok(Some(Member {
            name,
            kind,
            size,
            left: size,
            peeked: Vec::new(),
            reader,
        }))
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A symbolic or hard link to another member, by that member's clean name.
    Link(String),
    /// A directory, a device, a link to outside.
    Other,
}

/// One member, to be read once, or not at all.
pub struct Member<'a> {
    name: Option<String>,
    kind: MemberKind,
    size: u64,
    /// Bytes that were not handed out yet.
    left: u64,
    /// Bytes that were looked at and not handed out yet.
    peeked: Vec<u8>,
    reader: Box<dyn Read + 'a>,
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Member<'_> {
    /// Its clean name in the archive; nothing for one that no image can name
    /// (`..` in it, not UTF-8, too long).
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> &MemberKind {
        &self.kind
    }

    /// Length of a file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Up to `most` bytes from where it stands, without taking them.
    ///
    /// # Errors
    /// The stream fails or ends within the member.
    pub fn peek(&mut self, most: usize) -> io::Result<&[u8]> {
        let most = usize::try_from(self.left).map_or(most, |left| left.min(most));
        while self.peeked.len() < most {
            let mut more = vec![0; most - self.peeked.len()];
            let got = self.pull(&mut more)?;
            self.peeked.extend_from_slice(&more[..got]);
        }
        Ok(&self.peeked[..most])
    }

    /// Reads from the stream, at least one byte.
    fn pull(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(to) {
                Ok(0) => {
                    let name = self.name.as_deref().unwrap_or("a member");
                    let what = format!("the archive ends within `{name}`");
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Read for Member<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(to.len(), |left| left.min(to.len()));
        if most == 0 {
            return Ok(0);
        }
        let got = if self.peeked.is_empty() {
            self.pull(&mut to[..most])?
        } else {
            let got = most.min(self.peeked.len());
            to[..got].copy_from_slice(&self.peeked[..got]);
            self.peeked.drain(..got);
            got
        };
        self.left -= got as u64;
        Ok(got)
    }
}

/// Refuses data of what has none. Readers do not agree on what that is: Go's `archive/tar`
/// (podman, Docker) takes it for the next member's header, the crate `tar` passes it over,
/// so one archive would hold two images.
pub(super) fn data_of_none<R: Read>(
    archive: &str,
    entry: &tar::Entry<'_, R>,
) -> Option<ArchiveError> {
    // `isHeaderOnly` of Go's archive/tar.
    let kind = match entry.header().entry_type() {
        EntryType::Directory => "directory",
        EntryType::Symlink => "symbolic link",
        EntryType::Link => "hard link",
        EntryType::Char | EntryType::Block => "device",
        EntryType::Fifo => "fifo",
        _ => return None,
    };
    (entry.size() > 0).then(|| ArchiveError::Data {
        archive: archive.to_owned(),
        member: printable(&entry.path_bytes()),
        kind,
        size: entry.size(),
    })
}

/// Name and kind of a member.
pub(super) fn describe<R: Read>(entry: &tar::Entry<'_, R>) -> (Option<String>, MemberKind) {
    let kind = entry.header().entry_type();
    let name = clean(&entry.path_bytes());
    let target = entry.link_name_bytes();
    let link = match (&name, target) {
        (Some(name), Some(target)) if kind.is_symlink() => link_target(name, &target),
        // A hard link names another member as that is named.
        (Some(_), Some(target)) if kind.is_hard_link() => clean(&target),
        _ => None,
    };
    let kind = match link {
        Some(target) => MemberKind::Link(target),
        None if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() => MemberKind::File,
        None => MemberKind::Other,
    };
    (name, kind)
}
