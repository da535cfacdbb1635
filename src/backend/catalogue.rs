//! The store's images by name, for `browse`.
//!
//! Images are resolved when somebody looks them up, so a new import shows up
//! without a remount. Names are read again only when their table has changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::digest::ImageId;
use crate::fuse::Catalogue;
use crate::store::leases::Lease;
use crate::store::{Caches, Store, StoreError};
use crate::union::Union;
use crate::view;

/// Which table of names was read: it is replaced, never changed.
type Version = (u64, i64, i64, u64);

type Table = Arc<BTreeMap<String, ImageId>>;

/// The catalogue of a store.
#[derive(Debug)]
pub struct StoreCatalogue {
    store: Store,
    caches: Caches,
    lease: Option<Lease>,
    names: Mutex<Option<(Version, Table)>>,
}

impl StoreCatalogue {
    /// A catalogue; images that were opened stay pinned by `lease`.
    #[must_use]
    pub fn new(store: Store, caches: Caches, lease: Option<Lease>) -> Self {
        Self {
            store,
            caches,
            lease,
            names: Mutex::new(None),
        }
    }

    fn table(&self) -> Result<Table, String> {
        let told = |error: StoreError| chain(&error);
        let version = fs::metadata(self.store.names_path()).map_or((0, 0, 0, 0), |meta| {
            (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
        });
        let mut names = self.names.lock();
        if let Some((read, table)) = &*names
            && *read == version
        {
            return Ok(Arc::clone(table));
        }
        let all = self.store.names().map_err(told)?;
        let table = all
            .into_iter()
            .map(|(name, id)| (name.familiar(), id))
            .collect();
        let table = Arc::new(table);
        *names = Some((version, Arc::clone(&table)));
        Ok(table)
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Catalogue for StoreCatalogue {
    fn names(&self) -> Result<Vec<String>, String> {
        Ok(self.table()?.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> Result<Option<(String, Arc<Union>)>, String> {
        let Some(id) = self.table()?.get(name).copied() else {
            return Ok(None);
        };
        let view = view::open(&self.store, id, &self.caches, self.lease.as_ref());
        let view = view.map_err(|error| chain(&error))?;
        self.store.touch(id);
        Ok(Some((id.to_string(), view.union)))
    }

    fn id(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.table()?.get(name).map(ToString::to_string))
    }
}
