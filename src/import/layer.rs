//! One layer: a stream of compressed bytes becomes blob, index and seek map in
//! a staging directory, in one pass, with bounded memory.
//!
//! ```text
//! this thread    read > decode > buffers        (the longest part: inflate)
//! `tree`         buffers > tar members, index
//! `hash`         the same buffers > diff ID, digests of files
//! `keep`         compressed bytes > blob file, blob digest; windows > seek map
//! ```

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Context;
use super::layout::{Layout, LayoutError};
use super::reframe::Reframed;
use crate::archive::Packing;
use crate::digest::{BlobId, DiffId, Digest, Hasher, Nested};
use crate::layer::blocks::BlockCache;
use crate::layer::read::{Index, Summary};
use crate::layer::seek::{
    Compression, DecodeError, MapWriter, Recorder, SNIFF, Sink, Sniffed, Stopped, WindowJob, sniff,
};
use crate::layer::tar::{Member, Stop, TarError, TarReader, Visitor};
use crate::layer::write::{BuildError, IndexBuilder};
use crate::layer::{Dialect, Limits, ReadError};
use crate::store::FileSource;
use crate::store::layers::{LayerRecord, Received, StagedLayer};

/// Bytes in one buffer; about a span.
const BUFFER: usize = 256 << 10;
/// Buffers on the way between two threads.
const QUEUE: usize = 8;

/// Why a layer cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// An ACI that is laid out otherwise than they are.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// It is nothing that a layer can be.
    #[error("it is neither a tar nor a compressed tar")]
    NotTar,
    /// Its bytes are not those that the image names.
    #[error("its digest is {found}, but the image says {declared}")]
    BlobDigest {
        /// Of the bytes that came.
        found: Digest,
        /// By the image's manifest.
        declared: Digest,
    },
    /// Which algorithm names it: images of Docker and OCI have diff IDs of SHA-256 in all that we know,
    /// and one of SHA-512 is the layer of an App Container Image.
    #[error("its diff ID is {0}: only sha256 is known there")]
    DiffAlgorithm(Digest),
    /// It unpacks to something else than the image names.
    #[error("it unpacks to {found}, but the image's config says {declared}")]
    DiffId {
        /// Of the bytes that came.
        found: Digest,
        /// By the image's config.
        declared: Digest,
    },
    /// It is shorter or longer than the image says.
    #[error("it has {found} bytes, but the image says {declared}")]
    Size {
        /// Of the bytes that came.
        found: u64,
        /// By the image's manifest.
        declared: u64,
    },
    /// Broken compression, or a limit.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Broken tar, or a limit.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A member that no layer may have, or a limit.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The archive cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// The store cannot be written.
    #[error("cannot write `{0}`")]
    Write(PathBuf, #[source] io::Error),
    /// What was written cannot be read back.
    #[error(transparent)]
    Back(#[from] ReadError),
    /// The system has no thread for us.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl LayerError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Decode(DecodeError::Limit { .. })
            | Self::Tar(TarError::Limit { .. })
            | Self::Build(BuildError::Limit { .. }) => {
                "if the image is to be trusted, raise it with --limit NAME=VALUE"
            }
            Self::Write(_, error) | Self::Build(BuildError::Io(error))
                if error.kind() == io::ErrorKind::StorageFull =>
            {
                "lazyroot gc, or a store on a larger disk with --store DIR"
            }
            Self::BlobDigest { .. } | Self::DiffId { .. } | Self::Size { .. } | Self::Decode(_) => {
                "the file is damaged or was changed: save or download the image again"
            }
            Self::Tar(_) | Self::NotTar => "save or download the image again",
            _ => return None,
        })
    }
}

/// What the image says of a layer, where it says it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expected {
    pub(super) blob: Option<BlobId>,
    pub(super) size: Option<u64>,
    pub(super) diff: Option<DiffId>,
}

impl Expected {
    /// Compares it with what came.
    pub(super) fn check(&self, layer: &StagedLayer) -> Result<(), LayerError> {
        let StagedLayer {
            record, received, ..
        } = layer;
        if let Some(declared) = self.size.filter(|size| *size != received.size) {
            return Err(LayerError::Size {
                found: received.size,
                declared,
            });
        }
        if let Some(BlobId(declared)) = self.blob.filter(|blob| *blob != received.blob) {
            return Err(LayerError::BlobDigest {
                found: received.blob.0,
                declared,
            });
        }
        if let Some(DiffId(declared)) = self.diff.filter(|diff| *diff != record.diff) {
            return Err(LayerError::DiffId {
                found: record.diff.0,
                declared,
            });
        }
        Ok(())
    }
}

/// Reads up to `head`'s capacity; shorter only at the end of the stream.
fn read_head(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(SNIFF);
    from.take(SNIFF as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// How a stream that begins with `head` is compressed.
pub(super) fn compression(head: &[u8]) -> Result<Compression, LayerError> {
    match sniff(head) {
        // Docker has written empty files for empty layers.
        Sniffed::Empty | Sniffed::Tar => Ok(Compression::Plain),
        Sniffed::Compressed(compression) => Ok(compression),
        // These are packed again before they come here.
        Sniffed::Bzip2 | Sniffed::Xz => Err(LayerError::NotTar),
        Sniffed::Json | Sniffed::Unknown => Err(LayerError::NotTar),
    }
}

/// Takes one layer from `from` into the staging directory, as files `name.*`.
///
/// # Errors
/// See [`LayerError`]. What was staged stays there until the staging
/// directory goes.
pub(super) fn take(
    from: &mut dyn Read,
    expected: Expected,
    name: &str,
    context: &Context<'_>,
) -> Result<StagedLayer, LayerError> {
    Ok(take_any(from, expected, name, None, None, context)?.0)
}

/// The same of a layer whose bytes, as they come from `from`, are in the file `there`,
/// which becomes the blob; nobody writes them again.
///
/// # Errors
/// Those of [`take`].
pub(super) fn take_there(
    from: &mut dyn Read,
    there: &Path,
    expected: Expected,
    name: &str,
    context: &Context<'_>,
) -> Result<StagedLayer, LayerError> {
    Ok(take_any(from, expected, name, None, Some(there), context)?.0)
}

/// Takes the layer of an ACI, and its manifest.
///
/// # Errors
/// Those of [`take`], and archives that are laid out otherwise.
pub(super) fn take_aci(
    from: &mut dyn Read,
    expected: Expected,
    name: &str,
    context: &Context<'_>,
) -> Result<(StagedLayer, Vec<u8>), LayerError> {
    let layout = Some(Layout::default());
    take_any(from, expected, name, layout, None, context)
}

/// As those above; the manifest is empty where there is no layout.
fn take_any(
    from: &mut dyn Read,
    expected: Expected,
    name: &str,
    layout: Option<Layout>,
    there: Option<&Path>,
    context: &Context<'_>,
) -> Result<(StagedLayer, Vec<u8>), LayerError> {
    if let (None, Some(DiffId(declared @ Digest::Sha512(_)))) = (&layout, expected.diff) {
        return Err(LayerError::DiffAlgorithm(declared));
    }
    let by = expected.blob.map(|blob| Hasher::like(&blob.0));
    let head = read_head(from).map_err(LayerError::Read)?;
    let packing = match sniff(&head) {
        Sniffed::Bzip2 => Some(Packing::Bzip2),
        Sniffed::Xz => Some(Packing::Xz),
        _ => None,
    };
    let taken = match packing {
        None => take_seekable(from, head, name, layout, by, there, context)?,
        Some(packing) => {
            let whole = io::Cursor::new(head).chain(from);
            let limits = context.limits;
            let by = by.unwrap_or_default();
            let reframed = Reframed::new(packing, whole, by, limits);
            let mut reframed = reframed.map_err(LayerError::Read)?;
            // How well we pack it again is nobody's fault.
            let ratio = u64::MAX;
            let limits = Limits { ratio, ..limits };
            let context = &Context { limits, ..*context };
            let outcome = read_head(&mut reframed)
                .map_err(LayerError::Read)
                .and_then(|head| {
                    take_seekable(&mut reframed, head, name, layout, None, None, context)
                });
            let (mut staged, manifest) = outcome.map_err(|error| match error {
                LayerError::Read(error) => match reframed.damage(&error) {
                    Some(damage) => LayerError::Decode(damage),
                    None => LayerError::Read(error),
                },
                other => other,
            })?;
            staged.received = reframed.received();
            (staged, manifest)
        }
    };
    expected.check(&taken.0)?;
    Ok(taken)
}

/// Takes a layer that is plain or packed so that one can seek in it; `head` is what
/// was read of it already, and `by` makes the digest that names the blob where there is one.
fn take_seekable(
    from: &mut dyn Read,
    head: Vec<u8>,
    name: &str,
    layout: Option<Layout>,
    by: Option<Hasher>,
    there: Option<&Path>,
    context: &Context<'_>,
) -> Result<(StagedLayer, Vec<u8>), LayerError> {
    let compression = compression(&head)?;
    let path = |suffix: &str| context.staging.file(&format!("{name}.{suffix}"));
    let (blob_path, map_path, index_path) = (path("blob"), path("map"), path("idx"));
    let create =
        |path: &Path| File::create(path).map_err(|error| LayerError::Write(path.to_owned(), error));
    let blob_file = match there {
        None => Some(create(&blob_path)?),
        Some(_) => None,
    };
    let map_file = BufWriter::new(create(&map_path)?);
    let index_file = BufWriter::with_capacity(BUFFER, create(&index_path)?);

    let (to_tree, tree_in) = bounded::<Vec<u8>>(QUEUE);
    let (to_hash, hash_in) = bounded::<Parsed>(QUEUE);
    let (hash_out, recycled) = bounded::<Vec<u8>>(2 * QUEUE + 2);
    let (to_keep, keep_in) = bounded::<Keep>(2 * QUEUE);
    let (keep_out, raw_recycled) = bounded::<Vec<u8>>(QUEUE + 2);

    thread::scope(|scope| {
        let limits = context.limits;
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let is_aci = layout.is_some();
        let hashing = Hashing::new(is_aci);
        let tree = named("tree")
            .spawn_scoped(scope, move || tree(&tree_in, &to_hash, layout, limits))
            .map_err(LayerError::Thread)?;
        let hash = named("hash")
            .spawn_scoped(scope, move || hashing.all(&hash_in, &hash_out))
            .map_err(LayerError::Thread)?;
        // A plain layer's two digests are one, unless they are of two algorithms; it is computed in `hash`.
        let one = compression == Compression::Plain
            && by.as_ref().is_none_or(|by| by.is_sha512() == is_aci);
        let by = (!one).then(|| by.unwrap_or_default());
        let keep = named("keep")
            .spawn_scoped(scope, move || {
                keep(&keep_in, &keep_out, blob_file, map_file, by)
            })
            .map_err(LayerError::Thread)?;

        let mut sink = Threads {
            to_tree,
            recycled,
            to_keep,
        };
        let decoded = decode(from, head, compression, &mut sink, &raw_recycled, context);
        drop(sink);
        // A thread that failed has stopped the decoding; its reason is the real one.
        let tree = tree.join().expect("because `tree` does not panic");
        let hash = hash.join().expect("because `hash` does not panic");
        let keep = keep.join().expect("because `keep` does not panic");
        let kept = keep.map_err(|error| LayerError::Write(blob_path.clone(), error))?;
        let (recorded, mut tree) = match (decoded, tree) {
            (Err(LayerError::Decode(DecodeError::Stopped)) | Ok(_), Err(error))
            | (Err(error), _) => return Err(error),
            (Ok(recorded), Ok(tree)) => (recorded, tree),
        };
        let record = LayerRecord {
            diff: DiffId(hash.diff),
            blob: BlobId(kept.digest.unwrap_or(hash.diff)),
            compression,
            blob_size: kept.len,
            tar_size: tree.len,
        };
        kept.map
            .finish(recorded, record.blob, record.diff)
            .and_then(|mut file| file.flush())
            .map_err(|error| LayerError::Write(map_path, error))?;
        let manifest = std::mem::take(&mut tree.manifest);
        tree.finish(hash, index_file)?
            .flush()
            .map_err(|error| LayerError::Write(index_path.clone(), error))?;
        let summary = summary(index_path)?;
        let staged = StagedLayer {
            received: Received {
                blob: record.blob,
                size: record.blob_size,
            },
            record,
            summary,
            name: name.to_owned(),
            blob: there.map(Path::to_owned),
        };
        Ok((staged, manifest))
    })
}

/// What the index that was just written says of itself.
fn summary(path: PathBuf) -> Result<Summary, ReadError> {
    let index = Index::open(Box::new(FileSource::open(path)?), BlockCache::new(0))?;
    Ok(index.summary())
}

/// Reads and decodes to the end; hands raw and decoded buffers to the threads.
fn decode(
    from: &mut dyn Read,
    head: Vec<u8>,
    compression: Compression,
    sink: &mut Threads,
    recycled: &Receiver<Vec<u8>>,
    context: &Context<'_>,
) -> Result<crate::layer::seek::Recorded, LayerError> {
    let mut recorder = Recorder::new(compression, context.limits);
    let mut next = head;
    loop {
        if context.stop.load(Ordering::Relaxed) {
            return Err(LayerError::Interrupted);
        }
        let filled = fill(from, next).map_err(LayerError::Read)?;
        if filled.is_empty() {
            return Ok(recorder.finish(sink)?);
        }
        context.progress.advance(filled.len() as u64);
        recorder.push(&filled, sink)?;
        let sent = sink.to_keep.send(Keep::Raw(filled));
        sent.map_err(|_| LayerError::Decode(DecodeError::Stopped))?;
        next = recycled.try_recv().unwrap_or_default();
    }
}

/// Adds to `buffer` until it is full or the stream ends.
fn fill(from: &mut dyn Read, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let have = buffer.len();
    buffer.reserve_exact(BUFFER.saturating_sub(have));
    from.take((BUFFER - have) as u64).read_to_end(&mut buffer)?;
    Ok(buffer)
}

/// The decoder's way to the other threads.
struct Threads {
    to_tree: Sender<Vec<u8>>,
    recycled: Receiver<Vec<u8>>,
    to_keep: Sender<Keep>,
}

impl Sink for Threads {
    fn buffer(&mut self) -> Vec<u8> {
        self.recycled
            .try_recv()
            .unwrap_or_else(|_| Vec::with_capacity(BUFFER))
    }

    fn bytes(&mut self, bytes: Vec<u8>) -> Result<(), Stopped> {
        self.to_tree.send(bytes).map_err(|_| Stopped)
    }

    fn window(&mut self, job: WindowJob) -> Result<(), Stopped> {
        self.to_keep.send(Keep::Window(job)).map_err(|_| Stopped)
    }
}

/// Work for the thread `keep`.
enum Keep {
    /// Compressed bytes as they came.
    Raw(Vec<u8>),
    /// A window to be packed.
    Window(WindowJob),
}

struct Kept<W: Write> {
    digest: Option<Digest>,
    len: u64,
    map: MapWriter<W>,
}

/// The thread that keeps the blob, where it is not kept yet, and packs windows.
fn keep<W: Write>(
    work: &Receiver<Keep>,
    done: &Sender<Vec<u8>>,
    mut blob: Option<File>,
    map: W,
    mut by: Option<Hasher>,
) -> io::Result<Kept<W>> {
    let mut map = MapWriter::new(map);
    let mut len = 0;
    for piece in work {
        match piece {
            Keep::Raw(mut bytes) => {
                if let Some(blob) = &mut blob {
                    blob.write_all(&bytes)?;
                }
                if let Some(by) = &mut by {
                    by.update(&bytes);
                }
                len += bytes.len() as u64;
                bytes.clear();
                // A full queue only means that this buffer is not needed again.
                let _ = done.try_send(bytes);
            }
            Keep::Window(job) => map.window(job.pack())?,
        }
    }
    Ok(Kept {
        digest: by.map(Hasher::finish),
        len,
        map,
    })
}

struct Tree {
    builder: IndexBuilder,
    len: u64,
    /// Of an ACI; else empty.
    manifest: Vec<u8>,
}

impl Tree {
    /// Writes the index.
    fn finish<W: Write>(mut self, hashed: Hashed, to: W) -> Result<W, LayerError> {
        self.builder.digests(hashed.files);
        Ok(self.builder.finish(DiffId(hashed.diff), self.len, to)?)
    }
}

/// A piece of the tar, and where in the tar lie the files that begin in it.
struct Parsed {
    bytes: Vec<u8>,
    files: Vec<Range<u64>>,
}

/// The thread that parses the tar.
fn tree(
    work: &Receiver<Vec<u8>>,
    to_hash: &Sender<Parsed>,
    layout: Option<Layout>,
    limits: Limits,
) -> Result<Tree, LayerError> {
    let mut growing = Growing::new(layout, limits);
    for bytes in work {
        let files = growing.push(&bytes)?;
        // `hash` takes all that comes.
        let _ = to_hash.send(Parsed { bytes, files });
    }
    growing.finish()
}

struct Hashed {
    diff: Digest,
    /// Of each file that the index wants one of.
    files: Vec<[u8; 32]>,
}

/// The digests of a tar and its files while their bytes come.
struct Hashing {
    hasher: Nested,
    /// Bytes so far.
    at: u64,
    /// Where the file that has begun ends.
    until: Option<u64>,
    files: Vec<[u8; 32]>,
}

impl Hashing {
    fn new(aci: bool) -> Self {
        Self {
            // An archive's digest is the image's ID.
            hasher: if aci {
                Nested::sha512()
            } else {
                Nested::default()
            },
            at: 0,
            until: None,
            files: Vec::new(),
        }
    }

    /// The thread that hashes.
    fn all(mut self, work: &Receiver<Parsed>, done: &Sender<Vec<u8>>) -> Hashed {
        for Parsed { mut bytes, files } in work {
            self.push(&bytes, &files);
            bytes.clear();
            let _ = done.try_send(bytes);
        }
        self.finish()
    }

    /// Takes the next bytes, and the files that begin in them.
    fn push(&mut self, mut bytes: &[u8], files: &[Range<u64>]) {
        self.end_file(&mut bytes);
        for file in files {
            self.hash_to(file.start, &mut bytes);
            self.hasher.begin_part();
            self.until = Some(file.end);
            self.end_file(&mut bytes);
        }
        self.hash_to(u64::MAX, &mut bytes);
    }

    /// Hashes the file that has begun, and ends it if it ends in these bytes.
    fn end_file(&mut self, bytes: &mut &[u8]) {
        let Some(until) = self.until else { return };
        self.hash_to(until, bytes);
        if self.at == until {
            self.until = None;
            if let Some(Digest::Sha256(digest)) = self.hasher.end_part() {
                self.files.push(digest);
            }
        }
    }

    /// Hashes up to this byte of the tar.
    fn hash_to(&mut self, until: u64, bytes: &mut &[u8]) {
        let len = usize::try_from(until.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let (now, later) = bytes.split_at(len.min(bytes.len()));
        self.hasher.update(now);
        self.at += now.len() as u64;
        *bytes = later;
    }

    fn finish(self) -> Hashed {
        Hashed {
            diff: self.hasher.finish(),
            files: self.files,
        }
    }
}

/// A [`Tree`] while its bytes come.
struct Growing {
    reader: TarReader,
    members: Members,
    len: u64,
}

impl Growing {
    fn new(layout: Option<Layout>, limits: Limits) -> Self {
        let dialect = match layout {
            None => Dialect::Docker,
            Some(_) => Dialect::AppC,
        };
        Self {
            reader: TarReader::new(limits),
            members: Members {
                builder: IndexBuilder::new(dialect, limits),
                layout,
                files: Vec::new(),
            },
            len: 0,
        }
    }

    /// Answers the files that begin in these bytes and whose digests the index wants.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<Range<u64>>, LayerError> {
        self.len += bytes.len() as u64;
        let pushed = self.reader.push(bytes, &mut self.members);
        pushed.map_err(|stop| match stop {
            Stop::Tar(error) => LayerError::Tar(error),
            Stop::Visitor(error) => error,
        })?;
        Ok(std::mem::take(&mut self.members.files))
    }

    fn finish(self) -> Result<Tree, LayerError> {
        self.reader.finish()?;
        let manifest = self.members.layout.map(Layout::finish).transpose()?;
        Ok(Tree {
            builder: self.members.builder,
            len: self.len,
            manifest: manifest.unwrap_or_default(),
        })
    }
}

/// Reads an ACI to its end and keeps nothing: its ID, its manifest, its index.
///
/// # Errors
/// Those of [`take_aci`] that are about the archive.
pub(super) fn check_aci(
    from: &mut dyn Read,
    limits: Limits,
    stop: &AtomicBool,
) -> Result<(DiffId, Vec<u8>, Index), LayerError> {
    let head = read_head(from).map_err(LayerError::Read)?;
    let packing = Packing::of(sniff(&head)).ok_or(LayerError::NotTar)?;
    let taken = Rc::new(Cell::new(0));
    let whole = Counted {
        from: io::Cursor::new(head).chain(from),
        taken: Rc::clone(&taken),
    };
    let whole = io::BufReader::with_capacity(BUFFER, whole);
    let mut plain = packing.unpack(whole).map_err(LayerError::Read)?;
    let mut growing = Growing::new(Some(Layout::default()), limits);
    let mut hashing = Hashing::new(true);
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(LayerError::Interrupted);
        }
        buffer = fill(&mut plain, buffer).map_err(LayerError::Read)?;
        if buffer.is_empty() {
            break;
        }
        let files = growing.push(&buffer)?;
        hashing.push(&buffer, &files);
        buffer.clear();
        limits.unpacking(growing.len, taken.get())?;
    }
    let mut tree = growing.finish()?;
    let manifest = std::mem::take(&mut tree.manifest);
    let hashed = hashing.finish();
    let diff = DiffId(hashed.diff);
    let sealed = tree.finish(hashed, Vec::new())?;
    let index = Index::open(Box::new(sealed), BlockCache::new(0))?;
    Ok((diff, manifest, index))
}

/// A stream, and how much of it was read.
struct Counted<R> {
    from: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(to)?;
        self.taken.set(self.taken.get() + got as u64);
        Ok(got)
    }
}

/// Takes members from the tar reader into the index.
struct Members {
    builder: IndexBuilder,
    /// Of an ACI.
    layout: Option<Layout>,
    /// Where in the tar files lie whose digests the index wants.
    files: Vec<Range<u64>>,
}

impl Visitor for Members {
    type Error = LayerError;

    fn member(&mut self, member: Member) -> Result<(), LayerError> {
        let member = match &mut self.layout {
            None => Some(member),
            Some(layout) => layout.member(member)?,
        };
        if let Some(member) = member {
            // The reader has made sure that this stays below the limits.
            let file = member.data_at..member.data_at.saturating_add(member.stored);
            self.builder.member(member)?;
            if self.builder.digest_later() {
                self.files.push(file);
            }
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        if let Some(layout) = &mut self.layout {
            layout.data(bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Row;
    use crate::node::Kind;

    /// A tar in which a shift by one file, or a cut in the wrong place, gives other digests.
    fn layer() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut put = |path: &str, kind: tar::EntryType, data: &[u8], link: &str| {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_mode(0o755);
            header.set_entry_type(kind);
            match link {
                "" => tar.append_data(&mut header, path, data).unwrap(),
                link => {
                    header.set_size(0);
                    tar.append_link(&mut header, path, link).unwrap();
                }
            }
        };
        let file = tar::EntryType::Regular;
        put("etc", tar::EntryType::Directory, b"", "");
        put("etc/empty", file, b"", "");
        put("etc/a", file, b"first", "");
        put("etc/a", file, b"instead of the first", "");
        put("etc/linked", tar::EntryType::Link, b"", "etc/a");
        put("etc/.wh.gone", file, b"data of a whiteout", "");
        put(".wh..wh.plnk/1.2", file, b"hidden", "");
        put("etc/shown", tar::EntryType::Link, b"", ".wh..wh.plnk/1.2");
        put("etc/symlink", tar::EntryType::Symlink, b"", "etc/a");
        put("etc/large", file, &vec![7; 3000], "");
        put("etc/block", file, &[8; 512], "");
        put("etc/last", file, b"", "");
        tar.into_inner().unwrap()
    }

    #[test]
    fn each_file_has_its_own_digest_wherever_buffers_end() {
        let tar = layer();
        for cut in [1, 511, 512, 513, 1024, tar.len()] {
            let limits = Limits::default();
            let mut growing = Growing::new(None, limits);
            let mut hashing = Hashing::new(false);
            for piece in tar.chunks(cut) {
                let files = growing.push(piece).unwrap();
                hashing.push(piece, &files);
            }
            let hashed = hashing.finish();
            assert_eq!(hashed.diff, Digest::sha256(&tar));
            let index = growing
                .finish()
                .unwrap()
                .finish(hashed, Vec::new())
                .unwrap();
            let index = Index::open(Box::new(index), BlockCache::new(0)).unwrap();
            let rows = (0..index.summary().rows).map(Row);
            let files: Vec<Row> = rows
                .filter(|&row| index.node(row).unwrap().attr.kind == Kind::File)
                .collect();
            assert_eq!(files.len(), 6);
            for row in files {
                let place = index.extents(row).unwrap();
                let stored = &tar[place.start as usize..][..place.size as usize];
                assert_eq!(
                    index.digest(row).unwrap(),
                    Digest::sha256(stored),
                    "cut {cut}"
                );
            }
        }
    }
}
