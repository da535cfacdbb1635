//! An image from a registry: layers are taken while they come.
//!
//! ```text
//! fetchers (3)   network > part files            each reads one layer after the other,
//! takers (2)     part files > index, seek map    the longest first; takers follow
//! ```
//!
//! The part file of a layer becomes its blob. It is named by the digest that it should
//! have, so what a killed pull left is taken as the beginning of the same layer, whole
//! layers included: read again, not fetched again. Its digest says in the end whether it
//! was; if not, all of that layer is fetched once more, from the registry itself. A layer
//! that another process is fetching is copied from its part as it comes there.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::layer::{self, LayerError};
use super::publish::publish;
use super::seekable::{AT_ONCE, FLUSH_EARLY, divide, expected, flush};
use super::{Context, Got, ImportError, Imported, Layers, Options, Progress, counted};
use crate::digest::{BlobId, DiffId};
use crate::http::FetchError;
use crate::http::part::{self, FORGOTTEN};
use crate::image::{
    self, Files, FoundImage, ImageError, JSON_MAX, LayerRef, Named, Platform, Want,
};
use crate::layer::seek::DecodeError;
use crate::layer::tar::TarError;
use crate::layer::write::BuildError;
use crate::reference::Reference;
use crate::registry::{self, Coming, Halt, Kind, Registry, RegistryError, Repository, Room};
use crate::store::layers::StagedLayer;
use crate::store::{Store, StoreError};

/// What is pulled, and how.
#[derive(Clone, Copy)]
pub struct Pull<'a> {
    /// Who is asked.
    pub registry: &'a Registry,
    /// The image.
    pub name: &'a Reference,
    /// For which platforms, one image each. The name is given to the one that suits this
    /// machine best, else to the first.
    pub wants: &'a [Want],
    /// Layers that are fetched at once; 0 is 1.
    pub at_once: usize,
    /// Largest sum of the layers of one image, in bytes, packed. Layers whose size the
    /// image does not say, of all images, have what is left of that together.
    pub max_size: u64,
    /// Told how far transfers are; [`Options::progress`] only which layers are done.
    pub transfers: &'a dyn registry::Progress,
}

impl std::fmt::Debug for Pull<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Pulls images, as [`Options`] says but for `names` and `want`.
///
/// # Errors
/// See [`ImportError`]; the store has no more images then than before. What was
/// fetched of them stays for the next time, unless it was not what it should have been.
pub fn pull(
    store: &Store,
    pull: &Pull<'_>,
    options: &Options<'_>,
) -> Result<Vec<Imported>, ImportError> {
    let work = || {
        Work {
            store,
            pull,
            options,
        }
        .run()
    };
    let imported = pull.registry.guarded(options.stop, work);
    let stopped = options.stop.load(Ordering::Relaxed);
    counted(
        store,
        imported.map_err(|error| match stopped {
            // What fails because we hung up is our doing.
            true => ImportError::Interrupted,
            false => error,
        }),
    )
}

struct Work<'a> {
    store: &'a Store,
    pull: &'a Pull<'a>,
    options: &'a Options<'a>,
}

impl Work<'_> {
    fn run(&self) -> Result<Vec<Imported>, ImportError> {
        let options = Options {
            names: &[],
            ..*self.options
        };
        let repository = self.pull.registry.repository(self.pull.name);
        let repository = repository.telling(self.pull.transfers);
        let found = self.find(&repository)?;
        let staging = self.store.stage()?;
        let lease = super::publish::lease(self.store)?;
        let parts = self.store.fetch_path();
        part::remove_parts(&parts, FORGOTTEN).map_err(|error| RegistryError::File {
            source: part::failed(&parts)(error),
        })?;
        let (kept, missing) = divide(self.store, &lease, &found, &options)?;
        let transfers = Transfers {
            work: self,
            repository: &repository,
            context: Context {
                staging: &staging,
                limits: options.limits,
                progress: &Silent,
                stop: options.stop,
            },
            room: Room::new(self.room(&found)),
            queue: Mutex::new(queue(missing)),
            coming: Mutex::default(),
            taken: Mutex::new(Ok(kept)),
            halt: AtomicBool::new(false),
        };
        transfers.run();
        let Transfers { coming, taken, .. } = transfers;
        let published = taken
            .into_inner()
            .and_then(|layers| publish(self.store, &staging, &lease, &found, layers, &options));
        if published.as_ref().is_err_and(is_a_lie) {
            coming
                .into_inner()
                .iter()
                .for_each(|coming| coming.discard());
        }
        published
    }

    /// The images, by their documents.
    fn find(&self, repository: &Repository<'_>) -> Result<Vec<FoundImage>, ImportError> {
        let halt: Halt<'_> = &|| self.options.stop.load(Ordering::Relaxed);
        let top = repository.top(JSON_MAX, halt)?;
        let documents = Documents {
            store: self.store,
            repository,
            halt,
            failed: RefCell::default(),
        };
        let mut found: Vec<FoundImage> = Vec::new();
        for want in self.pull.wants {
            let one = image::find_in_repository(&documents, &top.bytes, top.digest, want);
            let one = one.map_err(|error| match documents.failed.take() {
                Some(error) => error.into(),
                None => ImportError::from(error),
            })?;
            self.within(&one)?;
            let known = |other: &FoundImage| other.config_digest == one.config_digest;
            if !found.iter().any(known) {
                found.push(one);
            }
        }
        let host = Platform::host();
        let rank = |image: &&mut FoundImage| host.rank(&image.platform).unwrap_or(usize::MAX);
        if let Some(image) = found.iter_mut().min_by_key(rank) {
            let name = self.pull.name;
            image.names = vec![match name.digest() {
                Some(digest) => name.with_digest(digest),
                None => name.clone(),
            }];
        }
        Ok(found)
    }

    /// Refuses an image that says itself that it is too large.
    fn within(&self, image: &FoundImage) -> Result<(), ImportError> {
        let size = said(image);
        let limit = self.pull.max_size;
        if size <= limit {
            return Ok(());
        }
        Err(ImportError::Registry(RegistryError::Fetch {
            url: self.pull.name.familiar(),
            source: FetchError::TooLarge {
                size: Some(size),
                limit,
            },
        }))
    }

    /// What is left for layers whose size is not said, when each image says what it does.
    fn room(&self, found: &[FoundImage]) -> u64 {
        let most = found.iter().map(said).max().unwrap_or(0);
        self.pull.max_size.saturating_sub(most)
    }
}

/// How large an image says that it is; layers whose size it does not say are left out.
fn said(image: &FoundImage) -> u64 {
    let sizes = image.layers.iter().filter_map(|layer| layer.size);
    sizes.fold(0, u64::saturating_add)
}

/// The longest last, where it is taken from.
fn queue(missing: Vec<&LayerRef>) -> Vec<(usize, LayerRef)> {
    let mut all: Vec<LayerRef> = missing.into_iter().cloned().collect();
    all.sort_by_key(|layer| layer.size);
    all.into_iter().enumerate().collect()
}

/// The documents of a repository, as files.
struct Documents<'a> {
    store: &'a Store,
    repository: &'a Repository<'a>,
    halt: Halt<'a>,
    /// The error behind the one that a file has.
    failed: RefCell<Option<RegistryError>>,
}

impl Files for Documents<'_> {
    fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let (kind, digest) = match Named::of(name) {
            Some(Named::Manifest(digest)) => (Kind::Manifests, digest),
            Some(Named::Blob(digest)) => (Kind::Blobs, digest),
            None => return Ok(None),
        };
        // What the store has is not asked for; what is damaged there is.
        if let Ok(bytes) = self.store.small_blob(BlobId(digest)) {
            return Ok(Some(bytes));
        }
        match self.repository.document(kind, &digest, limit, self.halt) {
            Ok(document) => Ok(Some(document.bytes)),
            Err(error) => {
                let text = io::Error::other(error.to_string());
                *self.failed.borrow_mut() = Some(error);
                Err(text)
            }
        }
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.read(name, JSON_MAX)?.map(|bytes| bytes.len() as u64))
    }
}

/// How far taking is, nobody sees: it is how far fetching is.
struct Silent;

impl Progress for Silent {}

/// The layers that are on their way.
struct Transfers<'a> {
    work: &'a Work<'a>,
    repository: &'a Repository<'a>,
    context: Context<'a>,
    room: Room,
    queue: Mutex<Vec<(usize, LayerRef)>>,
    coming: Mutex<Vec<Arc<Coming>>>,
    taken: Mutex<Result<Layers, ImportError>>,
    /// Something went wrong with one of them.
    halt: AtomicBool,
}

/// A layer of which a part may be there by now.
type Begun = (usize, LayerRef, Arc<Coming>);

impl Transfers<'_> {
    /// Fetches and takes all of them; the outcome is in `taken`.
    fn run(&self) {
        let (begun, waiting) = unbounded();
        thread::scope(|scope| {
            for _ in 0..self.work.pull.at_once.max(1) {
                let begun = begun.clone();
                scope.spawn(move || self.fetch_all(&begun));
            }
            drop(begun);
            for _ in 0..AT_ONCE {
                let waiting = waiting.clone();
                scope.spawn(move || self.take_all(scope, &waiting));
            }
        });
    }

    fn halted(&self) -> bool {
        self.halt.load(Ordering::Relaxed) || self.context.stop.load(Ordering::Relaxed)
    }

    /// Keeps the first error, and ends all transfers.
    fn fail(&self, error: ImportError) {
        let mut taken = self.taken.lock();
        if taken.is_ok() {
            *taken = Err(error);
        }
        drop(taken);
        self.queue.lock().clear();
        if !self.halt.swap(true, Ordering::Relaxed) {
            self.work.pull.registry.shutdown();
        }
    }

    fn fetch_all(&self, begun: &Sender<Begun>) {
        while let Some((number, layer)) = self.next() {
            if self.halted() {
                return;
            }
            let coming = match self.open(number, &layer) {
                Ok(coming) => Arc::new(coming),
                Err(error) => return self.fail(error),
            };
            // Looked at after it is ours: whoever had it may be done.
            match self.meanwhile(&layer) {
                Ok(None) => {}
                Ok(Some(kept)) => {
                    coming.discard();
                    self.work.options.progress.layer_done(&layer.file, true);
                    self.got(layer.file, Got::Kept(kept));
                    continue;
                }
                Err(error) => return self.fail(error),
            }
            self.coming.lock().push(Arc::clone(&coming));
            // Who takes is there until the last one of us is gone.
            let _ = begun.send((number, layer.clone(), Arc::clone(&coming)));
            if let Err(error) = self.fetch(&coming, false) {
                return self.fail(self.explained(&layer, error));
            }
        }
    }

    /// The layer, if another process has brought it into the store by now.
    fn meanwhile(&self, layer: &LayerRef) -> Result<Option<DiffId>, ImportError> {
        let options = self.work.options;
        let Some(diff) = layer.diff.filter(|_| !options.again) else {
            return Ok(None);
        };
        // All that the images name is pinned.
        let record = self.work.store.has_layer(diff)?;
        Ok(record.map(|record| record.diff))
    }

    fn got(&self, file: String, got: Got) {
        if let Ok(all) = &mut *self.taken.lock() {
            all.insert(file, got);
        }
    }

    fn next(&self) -> Option<(usize, LayerRef)> {
        self.queue.lock().pop()
    }

    fn open(&self, number: usize, layer: &LayerRef) -> Result<Coming, ImportError> {
        let missing = || ImportError::MissingLayer(layer.file.clone());
        let BlobId(digest) = layer.blob.ok_or_else(missing)?;
        let parts = self.work.store.fetch_path();
        let private = self.context.staging.file(&format!("{number}.part"));
        Ok(Coming::open(digest, layer.size, &parts, &private)?)
    }

    fn fetch(&self, coming: &Coming, only_origin: bool) -> Result<(), RegistryError> {
        let halt = || self.halted();
        (self.repository).fetch(coming, only_origin, &self.room, &halt)
    }

    /// A layer that registries leave out is told by its media type.
    fn explained(&self, layer: &LayerRef, error: RegistryError) -> ImportError {
        let kind = layer.media_type.as_deref();
        match (error, layer.blob) {
            (RegistryError::NotFound { .. }, Some(BlobId(digest)))
                if kind.is_some_and(image::is_foreign) =>
            {
                ImportError::Image(ImageError::Foreign {
                    digest: digest.to_string(),
                    url: None,
                })
            }
            (error, _) => error.into(),
        }
    }

    fn take_all<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        waiting: &Receiver<Begun>,
    ) {
        for (number, layer, coming) in waiting {
            // What is there already would be decoded for nothing.
            if self.halted() {
                continue;
            }
            let layer_taken = match self.take(number, &layer, &coming) {
                Ok(Some(staged)) => staged,
                // Whoever fetches it says why.
                Ok(None) => continue,
                Err(error) => {
                    self.fail(error);
                    continue;
                }
            };
            if layer_taken.record.blob_size > FLUSH_EARLY && layer_taken.blob.is_some() {
                // On its way to the disk while others come.
                scope.spawn(move || flush(coming.path().to_owned()).map_err(|e| self.fail(e)));
            }
            self.work.options.progress.layer_done(&layer.file, false);
            self.got(layer.file, Got::Staged(Box::new(layer_taken)));
        }
    }

    /// Takes one layer; nothing where its transfer failed.
    fn take(
        &self,
        number: usize,
        layer: &LayerRef,
        coming: &Coming,
    ) -> Result<Option<StagedLayer>, ImportError> {
        match self.once(number, layer, coming) {
            Outcome::Taken(staged) => Ok(Some(staged)),
            Outcome::NotFetched => Ok(None),
            // Old bytes, or those of a mirror: what the registry itself has may be right.
            Outcome::Wrong(error) if coming.is_mixed() => {
                let why = format!("{} is fetched anew, as {error}", layer.file);
                self.work
                    .pull
                    .transfers
                    .again(self.work.pull.name.domain(), &why);
                coming.restart()?;
                let (fetched, outcome) = thread::scope(|scope| {
                    let fetched = scope.spawn(|| self.fetch(coming, true));
                    let outcome = self.once(number, layer, coming);
                    (fetched.join(), outcome)
                });
                fetched.expect("because fetching does not panic")?;
                match outcome {
                    Outcome::Taken(staged) => Ok(Some(staged)),
                    Outcome::NotFetched => Ok(None),
                    Outcome::Wrong(error) => Err(ImportError::layer(&layer.file, error)),
                    Outcome::Failed(error) => Err(error),
                }
            }
            Outcome::Wrong(error) => Err(ImportError::layer(&layer.file, error)),
            Outcome::Failed(error) => Err(error),
        }
    }

    fn once(&self, number: usize, layer: &LayerRef, coming: &Coming) -> Outcome {
        let taken = layer::take_there(
            &mut coming.reader(),
            coming.path(),
            expected(layer),
            &number.to_string(),
            &self.context,
        );
        let error = match taken {
            Ok(staged) => {
                if staged.blob.is_none() {
                    // It was packed again, so nothing needs what came.
                    coming.discard();
                }
                return Outcome::Taken(staged);
            }
            Err(error @ (LayerError::Interrupted | LayerError::Write(..))) => {
                return Outcome::Failed(ImportError::layer(&layer.file, error));
            }
            Err(error) => error,
        };
        // Whatever cannot be decoded is no riddle if it is not what was asked for.
        match (coming.found(), layer.blob) {
            (Ok(None), _) => Outcome::NotFetched,
            (Ok(Some(found)), Some(BlobId(declared))) if found != declared => {
                Outcome::Wrong(LayerError::BlobDigest { found, declared })
            }
            (Ok(Some(_)), _) => Outcome::Failed(ImportError::layer(&layer.file, error)),
            (Err(error), _) => {
                Outcome::Failed(ImportError::layer(&layer.file, LayerError::Read(error)))
            }
        }
    }
}

/// What became of one layer.
enum Outcome {
    Taken(StagedLayer),
    /// Its transfer failed.
    NotFetched,
    /// Other bytes came than the image names.
    Wrong(LayerError),
    Failed(ImportError),
}

/// Whether what came is not what it should be, so that nobody wants any of it.
fn is_a_lie(error: &ImportError) -> bool {
    match error {
        ImportError::Layer { source, .. } => match source {
            // The disk, and limits of ours: neither is in the bytes.
            LayerError::Interrupted
            | LayerError::Write(..)
            | LayerError::Read(_)
            | LayerError::Back(_)
            | LayerError::Thread(_)
            | LayerError::Decode(DecodeError::Limit { .. })
            | LayerError::Tar(TarError::Limit { .. })
            | LayerError::Build(BuildError::Limit { .. } | BuildError::Io(_)) => false,
            _ => true,
        },
        ImportError::Registry(error) => matches!(
            error,
            RegistryError::Size { .. } | RegistryError::Digest { .. }
        ),
        ImportError::Image(_) | ImportError::Dangling { .. } | ImportError::Tree(_) => true,
        ImportError::Store(error) => matches!(error, StoreError::Damaged { .. }),
        _ => false,
    }
}
