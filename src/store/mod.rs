//! The content store on disk.
//!
//! What it is for: keeping what images are made of, each thing under the digest
//! of its bytes, so that nothing is kept twice and nothing half. May assume a
//! local file system with rename, fsync and flock. Must not know what an image
//! archive is, nor how layers become one tree.
//!
//! ```text
//! store/
//!   lock                         the short writer lock; held for renames only
//!   blobs/sha256/HEX             as received, digest checked: layers, configs, manifests
//!   blobs/sha512/HEX             likewise: ACIs that are not compressed
//!   layers-v1/sha256-HEX.idx     tree of a layer; HEX of its uncompressed tar (diff ID)
//!   layers-v1/sha256-HEX.json    which blob it is read from; written last: the layer is complete
//!   seek-v1/sha256-HEX.map       where the tar's bytes lie in one blob; HEX of the blob
//!   images-v1/sha256-HEX.json    one image (HEX of its config); its mtime is the last use
//!   images-v1/sha512-HEX.json    one AppC image (HEX of its uncompressed archive, its layer)
//!   images-v1/sha512-HEX.HEX.name  what it is called; the second HEX is the SHA-256 of its name
//!   whitelists-v1/sha512-HEX.paths  the paths that an AppC image is restricted to
//!   images-v1/names.json         names -> images (names.damaged: one that was put aside)
//!   images-v1/names.watched      flocked by mounts that show names; another with each change
//!   expanded-v1/sha256-HEX.tar   cache: layers that no random access can serve, uncompressed
//!   expanded-v1/sha256-HEX.spans cache: what more than one mount has read of other layers, uncompressed
//!   first-reads-v1/sha256-HEX.json  cache: in which order spans of an image were first read; HEX
//!                                of its uppermost layer
//!   leases/NAME                  what a running process needs; flocked by it, dead when unlocked
//!   fetch/                       parts of files whose transfer was cut; locks of transfers
//!   staging/NAME/                what an import is making; `lock` in it is flocked by it
//!   containers-v1/ID.json        what is said of one container, and what it pins
//!   lowers/NAME/                 one read-only mount that several containers share
//!   uppers/NAME/                 changes of one writable mount; `lock` in it is flocked by it
//!   trash/NAME                   renamed here by gc, then deleted outside the lock
//!   metrics-v1/values.json       what was counted (values.damaged: one that was put aside)
//! ```
//!
//! Who may write where: an import writes below its own `staging/NAME` and
//! renames from there; `images` alone writes names; `gc` alone removes, but for
//! a mount that is undone, which removes its own `uppers/NAME`.
//! Everything is published by stage, fsync, rename, fsync of the directory
//! (`expanded-v1/` is exempt: every byte of it is checked when it is read; so are
//! `first-reads-v1/`, which changes no answer, and `metrics-v1/`, neither worth a wait).
//! Invariants: *no image without its layers*, *no layer record without index,
//! map and blob*, *no blob without its digest*.

mod ahead;
pub mod appc;
mod aside;
mod called;
pub mod containers;
pub mod contents;
pub mod gc;
pub mod images;
mod kept;
pub mod layers;
pub mod leases;
pub mod metrics;
pub mod named_lock;
mod pace;
mod room;
mod spans;
pub mod staging;
pub mod uppers;
pub mod watch;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FlockOperation};
use tempfile::TempDir;

use crate::digest::{BlobId, DiffId, Hasher, ImageId};
use crate::image::appc::graph::GraphError;
use crate::layer::blocks::BlockCache;
use crate::layer::{ReadError, Source};
use crate::remove::RemoveError;
pub use ahead::FirstReads;
use aside::Aside;
pub use room::taken;
pub use spans::SpanCache;
use watch::Watchers;

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory is not there, and the caller only wanted to read.
    #[error("there is no store at `{0}`")]
    Missing(PathBuf),
    /// The store cannot be written to by this user.
    #[error("the store `{0}` cannot be written")]
    ReadOnly(PathBuf, #[source] io::Error),
    /// The file system is full (or a quota is).
    #[error("no space is left for `{0}`")]
    Full(PathBuf, #[source] io::Error),
    /// Any other failure of the system.
    #[error("cannot {what} `{path}`")]
    Io {
        /// The verb: `read`, `write`, `rename` ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of the store is not what it must be.
    #[error("`{path}` is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// An index, map or blob is not what it must be.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No image of that name or ID.
    #[error("image `{0}` is not in the store")]
    NoImage(String),
    /// The name of a Docker image and of another AppC image.
    #[error("`{0}` is a Docker image ({1}) and an AppC image ({2})")]
    TwoKinds(String, ImageId, ImageId),
    /// An AppC image whose dependencies make no stack.
    #[error(transparent)]
    Dependencies(#[from] Box<GraphError<StoreError>>),
    /// A short ID that several images begin with.
    #[error("`{0}` is the beginning of several image IDs: {1}")]
    Ambiguous(String, String),
    /// An image names a layer that the store does not have.
    #[error("layer {0} is not in the store")]
    NoLayer(DiffId),
    /// Something that is in use was to be removed.
    #[error("image `{0}` is in use by a mount, a container or an import")]
    InUse(String),
    /// Something that others are made of was to be removed.
    #[error("image `{image}` is needed by {}", some_of(by))]
    Needed {
        /// As it was named.
        image: String,
        /// The others.
        by: Vec<String>,
    },
    /// The own name of an AppC image was to be removed, and it has others.
    #[error(
        "image `{image}` is also called {}, which would go with it",
        some_of(names)
    )]
    Tagged {
        /// As it was named.
        image: String,
        /// The other names.
        names: Vec<String>,
    },
    /// Nothing can be swept while nobody knows what an image needs.
    #[error(
        "what {} needs cannot be known, so nothing is removed",
        list_of(images)
    )]
    Undecided {
        /// The images.
        images: Vec<ImageId>,
        /// What is wrong with the first of them.
        source: Box<StoreError>,
    },
    /// Something that was to be removed is not wholly gone.
    #[error(transparent)]
    Remove(RemoveError),
}

/// So many names are told in a sentence.
const TOLD: usize = 3;

/// Names in a sentence, the first few of them.
fn some_of(names: &[String]) -> String {
    let told: Vec<String> = names
        .iter()
        .take(TOLD)
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len().saturating_sub(TOLD) {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

/// Images in a sentence.
fn list_of(images: &[ImageId]) -> String {
    let names: Vec<String> = images.iter().map(|id| format!("`{id}`")).collect();
    format!("image {}", names.join(", "))
}

impl From<RemoveError> for StoreError {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::Io { what, path, source } => failed(what, &path)(source),
            RemoveError::Mounted(_) | RemoveError::Moved(_) => Self::Remove(error),
        }
    }
}

impl StoreError {
    /// Whether a file of the store is not what it must be.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Read(error) => error.is_damage(),
            _ => false,
        }
    }

    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing(_) => {
                "lazyroot import IMAGE.tar, or name another store with --store".into()
            }
            Self::ReadOnly(..) => "another store with --store DIR, or run as its owner".into(),
            Self::Full(..) => "lazyroot gc, or a store on a larger disk with --store DIR".into(),
            Self::NoImage(_) => {
                "lazyroot images shows what there is; lazyroot import FILE adds one".into()
            }
            Self::Ambiguous(..) => "more digits of the ID".into(),
            Self::TwoKinds(name, docker, _) => {
                format!("appc:{name} for the AppC image, {docker} for the other")
            }
            Self::Dependencies(graph) => match &**graph {
                GraphError::Lookup { source, .. } => return source.hint(),
                graph if graph.missing().is_some() => "lazyroot import the missing image".into(),
                _ => return None,
            },
            Self::Damaged { path, .. } if containers::is_record(path) => {
                "lazyroot recover puts the record aside".into()
            }
            Self::Read(error) if !error.is_damage() => return None,
            Self::Damaged { .. } | Self::Read(_) | Self::NoLayer(_) => {
                "lazyroot verify names all that is damaged; lazyroot import --again FILE mends it"
                    .into()
            }
            Self::Undecided { images, .. } => {
                let id = images.first().map_or_else(String::new, ToString::to_string);
                format!("lazyroot import --again FILE mends it; lazyroot remove {id} gives it up")
            }
            Self::InUse(_) => {
                "unmount it first; lazyroot remove --force drops name and image, and keeps the layers".into()
            }
            Self::Needed { .. } => {
                "lazyroot remove those first; with --force they are broken until it is imported again".into()
            }
            Self::Tagged { names, .. } => {
                let first = names.first().map_or("", String::as_str);
                format!("lazyroot remove {first} for a name alone; the ID, or --force, for all of it")
            }
            Self::Remove(error) => return error.hint(),
            Self::Io { .. } => return None,
        })
    }
}

/// Gives an I/O error its place and its kind.
pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(path, error),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied if what != "read" => {
            StoreError::ReadOnly(path, error)
        }
        _ => StoreError::Io {
            what,
            path,
            source: error,
        },
    }
}

/// A file that is read at any place, by many threads.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: PathBuf,
    len: u64,
}

impl FileSource {
    /// Opens a file of the store.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: PathBuf) -> Result<Self, ReadError> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((len, file)) => Ok(Self { file, path, len }),
            Err(source) => Err(ReadError::Io {
                file: path.display().to_string(),
                source,
            }),
        }
    }
}

impl Source for FileSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn will_need(&self, range: Range<u64>) {
        // Only a hint: a file system that takes none reads when it is asked to.
        let len = NonZeroU64::new(range.end.saturating_sub(range.start));
        if let Some(len) = len {
            let _ = rustix::fs::fadvise(&self.file, range.start, Some(len), Advice::WillNeed);
        }
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), ReadError> {
        self.file
            .read_exact_at(to, offset)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => ReadError::Corrupt {
                    file: self.name(),
                    offset,
                    what: "the file has become shorter".to_owned(),
                },
                _ => ReadError::Io {
                    file: self.name(),
                    source,
                },
            })
    }
}

/// Memory that all layers opened by one process share, bounded in bytes.
#[derive(Debug, Clone)]
pub struct Caches {
    /// Blocks of indexes and seek maps.
    pub blocks: Arc<BlockCache>,
    /// Decoded spans of layers.
    pub spans: Arc<SpanCache>,
}

impl Caches {
    /// Caches of the usual size: 8 MiB of blocks, 16 MiB of spans.
    fn new(ahead: bool, aside: Option<Aside>) -> Self {
        Self {
            blocks: BlockCache::new(8 << 20),
            spans: SpanCache::new(16 << 20, ahead, aside),
        }
    }

    /// Forgets all, so that an idle process is small.
    pub fn clear(&self) {
        self.blocks.clear();
        self.spans.clear();
    }
}

impl Default for Caches {
    /// They do not look ahead, and what does not fit is decoded again.
    fn default() -> Self {
        Self::new(false, None)
    }
}

/// A store, opened.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    /// Where `expanded-v1/` lies: the store, or the user's own cache directory.
    cache: PathBuf,
    /// Bytes that `expanded-v1/` may hold.
    cache_quota: u64,
    /// Whether mounts decode what is likely to be read next.
    prefetch: bool,
}

const DIRECTORIES: [&str; 12] = [
    "blobs/sha256",
    "blobs/sha512",
    "layers-v1",
    "whitelists-v1",
    "seek-v1",
    "images-v1",
    "expanded-v1",
    "first-reads-v1",
    "leases",
    "staging",
    "trash",
    "uppers",
];

/// The largest JSON file of the store that is read.
const JSON_MAX: u64 = 16 << 20;

impl Store {
    /// Opens a store to read from it; `own_cache` is where this user keeps what
    /// he decodes when he may not write to the store.
    ///
    /// # Errors
    /// When there is no store.
    pub fn open(root: &Path, own_cache: &Path, cache_quota: u64) -> Result<Self, StoreError> {
        let images = root.join("images-v1");
        if !images.is_dir() {
            // A file is no store, and none that could be made.
            return match fs::read_dir(root) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("read", root)(error))
                }
                _ => Err(StoreError::Missing(root.to_owned())),
            };
        }
        let writable = rustix::fs::access(root, rustix::fs::Access::WRITE_OK).is_ok();
        let cache = if writable { root } else { own_cache };
        Ok(Self {
            root: root.to_owned(),
            cache: cache.to_owned(),
            cache_quota,
            prefetch: true,
        })
    }

    /// Opens a store to write to it; makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn create(root: &Path, cache_quota: u64) -> Result<Self, StoreError> {
        for name in DIRECTORIES {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(failed("create", &path))?;
        }
        rustix::fs::access(root, rustix::fs::Access::WRITE_OK)
            .map_err(|error| failed("write", root)(error.into()))?;
        watch::make(root)?;
        let path = root.to_owned();
        Ok(Self {
            cache: path.clone(),
            root: path,
            cache_quota,
            prefetch: true,
        })
    }

    /// Whether mounts of its images decode what is likely to be read next, and note what
    /// was read; they do if nothing else is said.
    #[must_use]
    pub fn with_prefetch(self, prefetch: bool) -> Self {
        Self { prefetch, ..self }
    }

    /// Caches for a mount. If they are to look `ahead`, spans are decoded before readers want them.
    /// Spans that come back again and again go to a file without a name, of at most the size that
    /// uncompressed copies may have, and of a part of what is free on the disk.
    #[must_use]
    pub fn caches(&self, ahead: bool) -> Caches {
        let aside = Aside::new(self.cache.join("expanded-v1"), self.cache_quota);
        Caches::new(ahead, Some(aside))
    }

    /// See [`Self::with_prefetch`].
    #[must_use]
    pub fn prefetch(&self) -> bool {
        self.prefetch
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes that expanded layers may take.
    #[must_use]
    pub fn cache_quota(&self) -> u64 {
        self.cache_quota
    }

    /// Where parts of files stay whose transfer was cut. Nothing of the store's own is
    /// there, and whoever fetches makes it.
    #[must_use]
    pub fn fetch_path(&self) -> PathBuf {
        self.root.join("fetch")
    }

    /// Where a blob lies.
    #[must_use]
    pub fn blob_path(&self, blob: BlobId) -> PathBuf {
        self.root
            .join("blobs")
            .join(blob.0.algorithm())
            .join(blob.0.hex())
    }

    /// Where a layer's index lies.
    #[must_use]
    pub fn index_path(&self, diff: DiffId) -> PathBuf {
        self.root
            .join("layers-v1")
            .join(format!("{}.idx", diff.file_name()))
    }

    /// Where a layer's record lies.
    #[must_use]
    pub fn layer_path(&self, diff: DiffId) -> PathBuf {
        self.root
            .join("layers-v1")
            .join(format!("{}.json", diff.file_name()))
    }

    /// Where a blob's seek map lies.
    #[must_use]
    pub fn map_path(&self, blob: BlobId) -> PathBuf {
        self.root
            .join("seek-v1")
            .join(format!("{}.map", blob.file_name()))
    }

    /// Where an image's record lies.
    #[must_use]
    pub fn image_path(&self, image: ImageId) -> PathBuf {
        self.root
            .join("images-v1")
            .join(format!("{}.json", image.file_name()))
    }

    /// Where a layer lies uncompressed, if it was ever needed so.
    #[must_use]
    pub fn expanded_path(&self, diff: DiffId) -> PathBuf {
        self.cache
            .join("expanded-v1")
            .join(format!("{}.tar", diff.file_name()))
    }

    /// Where spans of a layer lie that more than one mount has read.
    #[must_use]
    pub fn kept_path(&self, diff: DiffId) -> PathBuf {
        self.expanded_path(diff).with_extension(kept::EXTENSION)
    }

    /// A small blob, digest checked.
    ///
    /// # Errors
    /// Missing, unreadable, or with another digest.
    pub fn small_blob(&self, blob: BlobId) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(blob);
        let bytes = read_small(&path)?;
        let mut hasher = Hasher::like(&blob.0);
        hasher.update(&bytes);
        if hasher.finish() == blob.0 {
            return Ok(bytes);
        }
        Err(StoreError::Damaged {
            path,
            what: "its digest is another".to_owned(),
        })
    }

    /// The short writer lock. Nothing slow may happen while it is held.
    ///
    /// # Errors
    /// When the lock file cannot be opened for writing.
    pub fn lock(&self) -> Result<StoreLock, StoreError> {
        let path = self.root.join("lock");
        let file = lock_options().open(&path).map_err(failed("write", &path))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", &path)(error.into()))?;
        Ok(StoreLock {
            file,
            root: self.root.clone(),
            names: AtomicBool::new(false),
        })
    }
}

/// The short writer lock, held until dropped. If names have changed, those who show
/// them have been told when it is gone.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
    root: PathBuf,
    /// Whether names or records of images may have changed.
    names: AtomicBool,
}

impl StoreLock {
    /// Names or records of images are about to change.
    fn changes_names(&self) {
        self.names.store(true, Ordering::Relaxed);
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        let watchers = match self.names.load(Ordering::Relaxed) {
            true => Watchers::call(&self.root),
            false => None,
        };
        // It would go with the file, but others need it while we wait.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        if let Some(watchers) = watchers {
            watchers.wait();
        }
    }
}

/// Reads a whole small file.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, StoreError> {
    // Most are smaller. Else it would grow from 32 bytes on, a read for each size.
    let mut bytes = Vec::with_capacity(4096);
    let file = File::open(path).map_err(failed("read", path))?;
    file.take(JSON_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if bytes.len() as u64 > JSON_MAX {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            what: format!("it is larger than {JSON_MAX} bytes"),
        });
    }
    Ok(bytes)
}

/// Nothing, where there is no such file any more.
pub(crate) fn gone_is_fine<T>(outcome: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match outcome {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// How a file is opened that a lock stands for. Only its owner may: flock(2) asks for no right to
/// write, and who has the lock of a store that is not his could hold up everybody.
pub(crate) fn lock_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options
}

/// A directory of its own below `directory`, whose name begins so, that nobody else may enter:
/// what it holds may have setuid programs, and locks.
pub(crate) fn private_directory(directory: &Path, prefix: &str) -> io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(directory)
}

/// Makes a directory and those above it, for others to look into and for nobody else to write:
/// who serves a writable mount has no umask.
fn make_directories(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755).create(path)
}

/// Flushes a directory, so that renames into it survive a crash.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", path))
}

/// Whether there is a file of this name.
pub(crate) fn present(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(failed("read", path))
}
