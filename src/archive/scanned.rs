//! What is kept of a stream that has passed: its JSON, and the lengths of all.

use std::io::{self, Read};

use super::names::{MEMBERS_MAX, Node, Table};
use super::{Member, MemberKind};
use crate::image::{Files, JSON_MAX};
use crate::layer::seek::{SNIFF, Sniffed, sniff};

/// Bytes of JSON that are kept of one archive: more than a thousand images of
/// 100 KiB each, and little enough for memory.
const KEPT_MAX: u64 = 256 << 20;
/// How skopeo's `version` file begins: the one file that is no JSON and is read.
const DIR_MARK: &[u8] = b"Directory Transport Version";

/// The files of a stream, filled while it passes.
#[derive(Debug, Default)]
pub struct ScannedFiles {
    table: Table<Scanned>,
    kept: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Scanned {
    size: u64,
    bytes: Option<Vec<u8>>,
}

/// What became of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Its bytes were read and kept: it is JSON, and no layer.
    Kept,
    /// A file that may be a layer. Its bytes are still to be read.
    Layer,
    /// Nothing with bytes: a directory, a link, a name that nobody can ask for.
    Nothing,
}

impl ScannedFiles {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers a member, and keeps its bytes when they begin like JSON. No layer
    /// does: a layer begins like a tar or like a compressed stream.
    ///
    /// # Errors
    /// The stream fails, or a limit is passed.
    pub fn take(&mut self, member: &mut Member<'_>) -> io::Result<Taken> {
        let Some(name) = member.name().map(str::to_owned) else {
            return Ok(Taken::Nothing);
        };
        let size = member.size();
        let (node, taken) = match member.kind().clone() {
            MemberKind::Other => (Node::Other, Taken::Nothing),
            MemberKind::Link(target) => (Node::Link(target), Taken::Nothing),
            MemberKind::File if size <= JSON_MAX && is_kept(member.peek(SNIFF)?) => {
                self.kept += size;
                if self.kept > KEPT_MAX {
                    return Err(too_much("bytes of JSON", KEPT_MAX));
                }
                let mut bytes = Vec::new();
                member.read_to_end(&mut bytes)?;
                (
                    Node::File(Scanned {
                        size,
                        bytes: Some(bytes),
                    }),
                    Taken::Kept,
                )
            }
            MemberKind::File => (Node::File(Scanned { size, bytes: None }), Taken::Layer),
        };
        if !self.table.insert(name, node) {
            return Err(too_much("members", MEMBERS_MAX as u64));
        }
        Ok(taken)
    }

    /// The name under which the file behind `name` passed, links followed.
    ///
    /// # Errors
    /// Links that lead in a circle.
    pub fn member_of<'a>(&'a self, name: &'a str) -> io::Result<Option<&'a str>> {
        Ok(self.table.resolve(name)?.map(|(name, _)| name))
    }
}

fn is_kept(head: &[u8]) -> bool {
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    let json = matches!(first, Some(b'{' | b'[')) || head.starts_with(DIR_MARK);
    // The name of a layer's first file may begin with a bracket.
    json && sniff(head) != Sniffed::Tar
}

fn too_much(what: &str, limit: u64) -> io::Error {
    let what = format!("the archive has more than {limit} {what}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Files for ScannedFiles {
    fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        match self.table.resolve(name)? {
            None => Ok(None),
            Some((_, file)) if file.size > limit => Err(io::ErrorKind::FileTooLarge.into()),
            Some((
                _,
                Scanned {
                    bytes: Some(bytes), ..
                },
            )) => Ok(Some(bytes.clone())),
            Some((_, Scanned { size: 0, .. })) => Ok(Some(Vec::new())),
            Some(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it does not begin like JSON",
            )),
        }
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.table.resolve(name)?.map(|(_, file)| file.size))
    }
}
