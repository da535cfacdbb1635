//! One layer: a stream of compressed bytes becomes blob, index and seek map in
//! a staging directory, in one pass, with bounded memory.
//!
//! ```text
//! this thread    read > decode > buffers        (the longest part: inflate)
//! `tree`         buffers > diff ID, tar members, digests of files, index
//! `keep`         compressed bytes > blob file, blob digest; windows > seek map
//! ```

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
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
use crate::layer::tar::{Member, MemberKind, Stop, TarError, TarReader, Visitor};
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
    let head = read_head(from).map_err(LayerError::Read)?;
    let packing = match sniff(&head) {
        Sniffed::Bzip2 => Some(Packing::Bzip2),
        Sniffed::Xz => Some(Packing::Xz),
        _ => None,
    };
    let taken = match packing {
        None => take_seekable(from, head, name, layout, there, context)?,
        Some(packing) => {
            let whole = io::Cursor::new(head).chain(from);
            let limits = context.limits;
            let mut reframed = Reframed::new(packing, whole, limits).map_err(LayerError::Read)?;
            // How well we pack it again is nobody's fault.
            let ratio = u64::MAX;
            let limits = Limits { ratio, ..limits };
            let context = &Context { limits, ..*context };
            let outcome = read_head(&mut reframed)
                .map_err(LayerError::Read)
                .and_then(|head| take_seekable(&mut reframed, head, name, layout, None, context));
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
/// was read of it already.
fn take_seekable(
    from: &mut dyn Read,
    head: Vec<u8>,
    name: &str,
    layout: Option<Layout>,
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
    let (tree_out, recycled) = bounded::<Vec<u8>>(QUEUE + 2);
    let (to_keep, keep_in) = bounded::<Keep>(2 * QUEUE);
    let (keep_out, raw_recycled) = bounded::<Vec<u8>>(QUEUE + 2);

    thread::scope(|scope| {
        let limits = context.limits;
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let tree = named("tree")
            .spawn_scoped(scope, move || tree(&tree_in, &tree_out, layout, limits))
            .map_err(LayerError::Thread)?;
        // A plain layer's two digests are one; it is computed in `tree`.
        let hash = compression != Compression::Plain;
        let keep = named("keep")
            .spawn_scoped(scope, move || {
                keep(&keep_in, &keep_out, blob_file, map_file, hash)
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
        let keep = keep.join().expect("because `keep` does not panic");
        let kept = keep.map_err(|error| LayerError::Write(blob_path.clone(), error))?;
        let (recorded, tree) = match (decoded, tree) {
            (Err(LayerError::Decode(DecodeError::Stopped)) | Ok(_), Err(error))
            | (Err(error), _) => return Err(error),
            (Ok(recorded), Ok(tree)) => (recorded, tree),
        };
        let record = LayerRecord {
            diff: DiffId(tree.diff),
            blob: BlobId(kept.digest.unwrap_or(tree.diff)),
            compression,
            blob_size: kept.len,
            tar_size: tree.len,
        };
        kept.map
            .finish(recorded, record.blob, record.diff)
            .and_then(|mut file| file.flush())
            .map_err(|error| LayerError::Write(map_path, error))?;
        tree.builder
            .finish(record.diff, record.tar_size, index_file)?
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
        Ok((staged, tree.manifest))
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
    hash: bool,
) -> io::Result<Kept<W>> {
    let mut map = MapWriter::new(map);
    let mut hasher = Hasher::default();
    let mut len = 0;
    for piece in work {
        match piece {
            Keep::Raw(mut bytes) => {
                if let Some(blob) = &mut blob {
                    blob.write_all(&bytes)?;
                }
                if hash {
                    hasher.update(&bytes);
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
        digest: hash.then(|| hasher.finish()),
        len,
        map,
    })
}

struct Tree {
    builder: IndexBuilder,
    diff: Digest,
    len: u64,
    /// Of an ACI; else empty.
    manifest: Vec<u8>,
}

/// The thread that hashes and parses the tar.
fn tree(
    work: &Receiver<Vec<u8>>,
    done: &Sender<Vec<u8>>,
    layout: Option<Layout>,
    limits: Limits,
) -> Result<Tree, LayerError> {
    let mut growing = Growing::new(layout, limits);
    for mut bytes in work {
        growing.push(&bytes)?;
        bytes.clear();
        let _ = done.try_send(bytes);
    }
    growing.finish()
}

/// A [`Tree`] while its bytes come.
struct Growing {
    reader: TarReader,
    members: Members,
    len: u64,
}

impl Growing {
    fn new(layout: Option<Layout>, limits: Limits) -> Self {
        let (dialect, hasher) = match layout {
            None => (Dialect::Docker, Nested::default()),
            // Its digest is the image's ID.
            Some(_) => (Dialect::AppC, Nested::sha512()),
        };
        Self {
            reader: TarReader::new(limits),
            members: Members {
                builder: IndexBuilder::new(dialect, limits),
                layout,
                hasher,
                file: None,
            },
            len: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        let mut pass = Pass {
            members: &mut self.members,
            rest: bytes,
            at: self.len,
        };
        let pushed = self.reader.push(bytes, &mut pass);
        pass.members.hasher.update(pass.rest);
        self.len += bytes.len() as u64;
        pushed.map_err(|stop| match stop {
            Stop::Tar(error) => LayerError::Tar(error),
            Stop::Visitor(error) => error,
        })
    }

    fn finish(self) -> Result<Tree, LayerError> {
        self.reader.finish()?;
        let manifest = self.members.layout.map(Layout::finish).transpose()?;
        Ok(Tree {
            builder: self.members.builder,
            diff: self.members.hasher.finish(),
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
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(LayerError::Interrupted);
        }
        buffer = fill(&mut plain, buffer).map_err(LayerError::Read)?;
        if buffer.is_empty() {
            break;
        }
        growing.push(&buffer)?;
        buffer.clear();
        limits.unpacking(growing.len, taken.get())?;
    }
    let tree = growing.finish()?;
    let diff = DiffId(tree.diff);
    let sealed = tree.builder.finish(diff, tree.len, Vec::new())?;
    let index = Index::open(Box::new(sealed), BlockCache::new(0))?;
    Ok((diff, tree.manifest, index))
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

/// Takes members from the tar reader into the index, and hashes files.
struct Members {
    builder: IndexBuilder,
    /// Of an ACI.
    layout: Option<Layout>,
    /// Of the tar, and of the file that comes.
    hasher: Nested,
    /// Where the next byte of that file lies in the tar.
    file: Option<u64>,
}

/// One piece of the tar on its way through the reader.
struct Pass<'a> {
    members: &'a mut Members,
    /// What was not hashed yet, and where in the tar it lies.
    rest: &'a [u8],
    at: u64,
}

impl Pass<'_> {
    /// Hashes up to this byte of the tar.
    fn hash_to(&mut self, until: u64) {
        let len = usize::try_from(until.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let (now, later) = self.rest.split_at(len.min(self.rest.len()));
        self.members.hasher.update(now);
        self.rest = later;
        self.at += now.len() as u64;
    }
}

impl Visitor for Pass<'_> {
    type Error = LayerError;

    fn member(&mut self, member: Member) -> Result<(), LayerError> {
        self.members.file = None;
        let member = match &mut self.members.layout {
            None => Some(member),
            Some(layout) => layout.member(member)?,
        };
        if let Some(member) = member {
            if member.kind == MemberKind::File {
                self.hash_to(member.data_at);
                self.members.hasher.begin_part();
                self.members.file = Some(member.data_at);
            }
            self.members.builder.member(member)?;
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        if let Some(layout) = &mut self.members.layout {
            layout.data(bytes);
        }
        if let Some(at) = &mut self.members.file {
            *at += bytes.len() as u64;
            let until = *at;
            self.hash_to(until);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), LayerError> {
        if self.members.file.take().is_some()
            && let Some(digest) = self.members.hasher.end_part()
        {
            self.members.builder.digest(digest);
        }
        Ok(())
    }
}
