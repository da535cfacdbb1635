//! A packed tree as a blob: compressed, both digests known at its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use flate2::write::GzEncoder;

use super::pack::{Packed, Packer, same};
use super::{CommitError, Context};
use crate::changed::Changed;
use crate::digest::{BlobId, DiffId, Hasher};
use crate::layer::Dialect;
use crate::layer::seek::Compression;
use crate::store::layers::LayerRecord;
use crate::tree_path::TreePath;
use crate::union::upper::Stat;
use crate::union::writable::{Said, Says};

/// Bytes that one zstd frame has of the tar: a layer of frames can be read anywhere.
const FRAME: usize = 1 << 20;
/// zstd's own default.
const LEVEL: i32 = 3;

/// How a new layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip: everybody takes it.
    Gzip,
    /// zstd in frames: smaller, and made in a third of the time.
    Zstd,
    /// Not at all.
    Plain,
}

/// A layer that was written.
pub(super) struct Written {
    pub(super) record: LayerRecord,
    pub(super) packed: Packed,
}

/// Writes a tree's members to a file. `before` is what comes before them.
pub(super) fn write(
    context: &Context<'_>,
    changed: &Changed,
    said: &[Said],
    dialect: Dialect,
    before: &[u8],
    path: &Path,
) -> Result<Written, CommitError> {
    let failed = |error| CommitError::Write(path.to_owned(), error);
    let advance = |bytes| context.options.progress.advance(bytes);
    let packer = Packer {
        tree: &changed.tree,
        dialect,
        live: changed.live,
        spool: context.staging.file(""),
        advance: &advance,
        stop: context.options.stop,
    };
    let hasher = match dialect {
        Dialect::Docker => Hasher::default(),
        Dialect::AppC => Hasher::sha512(),
    };
    let file = File::create(path).map_err(failed)?;
    let mut to = Layer::new(
        BufWriter::with_capacity(1 << 20, file),
        hasher,
        context.options.packing,
    );
    to.write_all(before).map_err(failed)?;
    let packed = packer.write(said, &mut to)?;
    packer.end(&mut to)?;
    let record = to.finish().map_err(failed)?;
    Ok(Written { record, packed })
}

/// What is not any more as it was packed. Asked only where a mount is at work.
pub(super) fn moved(
    context: &Context<'_>,
    changed: &Changed,
    whole: bool,
    said: &[Said],
    packed: &Packed,
) -> Result<Vec<TreePath>, CommitError> {
    if !changed.live {
        return Ok(Vec::new());
    }
    let again = context.open()?;
    let now = match whole {
        true => again.tree.whole()?,
        false => again.tree.layer()?,
    };
    let seen: BTreeMap<&TreePath, &Option<Stat>> = packed
        .seen
        .iter()
        .map(|(path, stat)| (path, stat))
        .collect();
    let paths = now.into_iter().map(|member| member.path);
    let mut moved: Vec<_> = paths.filter(|path| !seen.contains_key(path)).collect();
    for member in said {
        let Says::Object(dir, name) = &member.says else {
            continue;
        };
        let stat = match name.is_empty() {
            true => again.tree.attr(crate::node::Ino::ROOT).ok(),
            false => again.tree.lookup(*dir, name).ok().map(|known| known.stat),
        };
        let was = seen.get(&member.path).copied().unwrap_or(&None);
        let still = match (was, &stat) {
            (Some(was), Some(stat)) => same(was, stat),
            // Left out, as a socket.
            (None, _) => true,
            (Some(_), None) => false,
        };
        if !still {
            moved.push(member.path.clone());
        }
    }
    moved.sort();
    moved.dedup();
    Ok(moved)
}

/// The writer of a layer's tar.
struct Layer {
    diff: Hasher,
    tar_size: u64,
    to: Pipe,
}

enum Pipe {
    Gzip(Box<GzEncoder<Blob>>),
    Zstd { frame: Vec<u8>, to: Blob },
    Plain(Blob),
}

impl Layer {
    fn new(file: BufWriter<File>, diff: Hasher, packing: Packing) -> Self {
        let blob = Blob {
            // A plain layer's two digests are one.
            hasher: match packing {
                Packing::Plain => None,
                _ => Some(Hasher::default()),
            },
            size: 0,
            file,
        };
        let to = match packing {
            // Its header has no time and no name: the same tar makes the same blob.
            Packing::Gzip => {
                let level = flate2::Compression::new(6);
                Pipe::Gzip(Box::new(GzEncoder::new(blob, level)))
            }
            Packing::Zstd => Pipe::Zstd {
                frame: Vec::with_capacity(FRAME),
                to: blob,
            },
            Packing::Plain => Pipe::Plain(blob),
        };
        Self {
            diff,
            tar_size: 0,
            to,
        }
    }

    fn finish(mut self) -> io::Result<LayerRecord> {
        let (blob, compression) = match self.to {
            Pipe::Gzip(gzip) => (gzip.finish()?, Compression::Gzip),
            Pipe::Plain(blob) => (blob, Compression::Plain),
            Pipe::Zstd { frame, mut to } => {
                if !frame.is_empty() {
                    to.write_all(&zstd::bulk::compress(&frame, LEVEL)?)?;
                }
                (to, Compression::Zstd)
            }
        };
        let diff = std::mem::take(&mut self.diff).finish();
        let Blob {
            hasher,
            size,
            mut file,
        } = blob;
        file.flush()?;
        Ok(LayerRecord {
            diff: DiffId(diff),
            blob: BlobId(hasher.map_or(diff, Hasher::finish)),
            compression,
            blob_size: size,
            tar_size: self.tar_size,
        })
    }
}

impl Write for Layer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            Pipe::Gzip(gzip) => gzip.write_all(bytes)?,
            Pipe::Plain(blob) => blob.write_all(bytes)?,
            Pipe::Zstd { frame, to } => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(FRAME - frame.len()));
                    frame.extend_from_slice(now);
                    rest = later;
                    if frame.len() == FRAME {
                        to.write_all(&zstd::bulk::compress(frame, LEVEL)?)?;
                        frame.clear();
                    }
                }
            }
        }
        self.diff.update(bytes);
        self.tar_size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file of a blob.
struct Blob {
    hasher: Option<Hasher>,
    size: u64,
    file: BufWriter<File>,
}

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
