//! The store's images by name, for `browse`.
//!
//! Images are resolved when somebody looks them up, so a new import shows up
//! without a remount. Names are read again only when their table has changed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::appc::{AppcReference, SCHEME};
use crate::causes::chain;
use crate::digest::{AciId, ImageId};
use crate::fuse::{Catalogue, Changes};
use crate::store::appc::AppcImages;
use crate::store::leases::Lease;
use crate::store::{Caches, Store, StoreError};
use crate::union::Union;
use crate::view;

/// Which table of names was read: it is replaced, never changed, like the records
/// beside it. Both replacements change the directory.
type Version = [(u64, i64, i64, u64); 2];

/// What was read, and of which version.
type Known = Option<(Version, Arc<Table>)>;

/// What there is, as of one version of the store.
#[derive(Debug)]
struct Table {
    names: BTreeMap<String, ImageId>,
    appc: AppcImages,
    /// What AppC images are with their dependencies, once somebody asked.
    identities: Mutex<HashMap<AciId, Identity>>,
}

/// What stands for an image's tree, see [`Catalogue::id`].
type Identity = Result<Option<String>, String>;

/// The catalogue of a store.
#[derive(Debug)]
pub struct StoreCatalogue {
    store: Store,
    caches: Caches,
    lease: Option<Lease>,
    names: Arc<Mutex<Known>>,
}

impl StoreCatalogue {
    /// A catalogue; images that were opened stay pinned by `lease`.
    #[must_use]
    pub fn new(store: Store, caches: Caches, lease: Option<Lease>) -> Self {
        Self {
            store,
            caches,
            lease,
            names: Arc::default(),
        }
    }

    fn table(&self) -> Result<Arc<Table>, String> {
        let told = |error: StoreError| chain(&error);
        let path = self.store.names_path();
        let directory = path.parent().unwrap_or(&path);
        let version = [&path, directory].map(|path| {
            fs::metadata(path).map_or((0, 0, 0, 0), |meta| {
                (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
            })
        });
        let mut names = self.names.lock();
        if let Some((read, table)) = &*names
            && *read == version
        {
            return Ok(Arc::clone(table));
        }
        let all = self.store.names().map_err(told)?;
        let mut damaged = |id, error: StoreError| {
            log::error!("image {id} cannot be shown: {}", chain(&error));
        };
        let appc = self.store.appc_images().map_err(told)?;
        let shown = appc_names(appc.all(&mut damaged).map_err(told)?);
        let all = all.into_iter().map(|(name, id)| (name.familiar(), id));
        let table = Arc::new(Table {
            names: shown.into_iter().chain(all).collect(),
            appc,
            identities: Mutex::default(),
        });
        *names = Some((version, Arc::clone(&table)));
        Ok(table)
    }
}

impl Table {
    /// What stands for an image's tree now; nothing, and a line in the log, where a
    /// dependency is missing.
    fn identity(&self, id: ImageId) -> Identity {
        let Some(aci) = AciId::of_image(id) else {
            return Ok(Some(id.to_string()));
        };
        let mut identities = self.identities.lock();
        if let Some(known) = identities.get(&aci) {
            return known.clone();
        }
        let identity = match self.appc.stack(aci) {
            Ok(stack) => Ok(Some(view::appc_identity(aci, &stack))),
            Err(StoreError::Dependencies(error)) if error.missing().is_some() => {
                log::warn!("image {aci} cannot be shown: {error}");
                Ok(None)
            }
            Err(error) => Err(chain(&error)),
        };
        identities.insert(aci, identity.clone());
        identity
    }
}

/// Names of AppC images as they are shown: `appc:NAME:VERSION` for the one that is
/// meant by that; others of the same name and version by all of their labels.
fn appc_names(images: Vec<(AppcReference, AciId)>) -> BTreeMap<String, ImageId> {
    let mut names = BTreeMap::new();
    for (image, id) in images {
        let id = id.image();
        let short = format!("{SCHEME}{}", image.called());
        let whole = image.to_string();
        if *names.entry(short).or_insert(id) != id {
            names.entry(whole).or_insert(id);
        }
    }
    names
}

impl Catalogue for StoreCatalogue {
    fn names(&self) -> Result<Vec<String>, String> {
        Ok(self.table()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> Result<Option<(String, Arc<Union>)>, String> {
        let table = self.table()?;
        let Some(id) = table.names.get(name).copied() else {
            return Ok(None);
        };
        if table.identity(id)?.is_none() {
            return Ok(None);
        }
        let view = view::open(&self.store, id, &self.caches, self.lease.as_ref());
        let view = view.map_err(|error| chain(&error))?;
        self.store.touch(id);
        Ok(Some((view.identity, view.union)))
    }

    fn id(&self, name: &str) -> Result<Option<String>, String> {
        let table = self.table()?;
        match table.names.get(name) {
            Some(id) => table.identity(*id),
            None => Ok(None),
        }
    }

    fn watch(&self) -> Result<Changes, String> {
        let told = |error: StoreError| chain(&error);
        let mut watch = self.store.watch().map_err(told)?;
        let names = Arc::clone(&self.names);
        Ok(Box::new(move || {
            watch.wait().map_err(told)?;
            // Two changes within a tick of the file system's clock look like one.
            *names.lock() = None;
            Ok(())
        }))
    }
}
