//! AppC images in the store: found by name and labels, and put on their dependencies.
//!
//! Which of several that fit is meant is fixed: one that can run where it is wanted for goes
//! before others (best platform first, then one that says nothing of platforms), then the
//! one imported last, then the greatest ID. "Where" is this machine for who names an image;
//! for a dependency it is what the image that wants it says of itself.
//!
//! A damaged record is an error for whoever could mean it, and for nobody else: see
//! `called`. To pass it over would be to take another image for the one that is meant.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::called::{Called, Key};
use super::{Caches, FileSource, Store, StoreError};
use crate::appc::{AppcReference, Identifier, Labels};
use crate::digest::{AciId, ImageId};
use crate::image::Platform;
use crate::image::appc::graph::{self, GraphError, Known, Placed};
use crate::image::appc::{Dependency, platform};
use crate::layer::path_set::PathSet;

/// The AppC images of a store, as of one look at it. Records are read when they are asked for.
#[derive(Debug)]
pub struct AppcImages {
    store: Store,
    called: Called,
    /// Images by their names; those of which it is not known under each name.
    by_key: HashMap<Key, Vec<AciId>>,
    unfiled: Vec<AciId>,
    read: Mutex<HashMap<AciId, Entry>>,
}

/// An image that was read.
#[derive(Debug, Clone)]
struct Entry {
    known: Known,
    imported: u64,
}

impl Entry {
    /// Its place among those that fit, the lowest first.
    fn rank(&self, wanted: &Platform) -> impl Ord + use<> {
        let mut offered = platform(&self.known.outline.labels);
        if offered.os == "unknown" {
            offered.os.clone_from(&wanted.os);
        }
        let silent = offered.os == wanted.os && offered.architecture == "unknown";
        let last = if silent { usize::MAX - 1 } else { usize::MAX };
        let runs = wanted.rank(&offered).unwrap_or(last);
        (runs, Reverse(self.imported), Reverse(self.known.id))
    }
}

/// The machine that these labels speak of; this one where they do not.
fn machine(labels: &Labels) -> Platform {
    let (said, host) = (platform(labels), Platform::host());
    match (said.os.as_str(), said.architecture.as_str()) {
        ("unknown", "unknown") => host,
        ("unknown", _) => Platform {
            os: host.os,
            ..said
        },
        (_, "unknown") => Platform {
            os: said.os,
            ..host
        },
        _ => said,
    }
}

impl AppcImages {
    /// An image's entry; nothing if it is not there (any more).
    fn entry(&self, id: AciId) -> Result<Option<Entry>, StoreError> {
        if let Some(entry) = self.read.lock().get(&id) {
            return Ok(Some(entry.clone()));
        }
        if !self.called.contains_key(&id) {
            return Ok(None);
        }
        let record = match self.store.image(id.image()) {
            Err(StoreError::NoImage(_)) => return Ok(None),
            other => other?,
        };
        let imported = record.imported;
        let entry = record.appc.map(|outline| Entry {
            known: Known {
                id,
                outline: Arc::new(outline),
            },
            imported,
        });
        self.read
            .lock()
            .extend(entry.clone().map(|entry| (id, entry)));
        Ok(entry)
    }

    /// All that fit.
    fn fitting(&self, wanted: &AppcReference) -> Result<Vec<Entry>, StoreError> {
        let filed = self.by_key.get(&Key::of(&wanted.name));
        let mut fitting = Vec::new();
        for &id in filed.into_iter().flatten().chain(&self.unfiled) {
            match self.entry(id) {
                Ok(entry) => fitting.extend(entry.filter(|entry| {
                    let outline = &entry.known.outline;
                    wanted.fits(&outline.name, &outline.labels)
                })),
                Err(error) if error.is_damage() => {
                    let told = self.store.told(id, &self.called[&id]);
                    if told.is_none_or(|told| wanted.fits(&told.name, &told.labels)) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(fitting)
    }

    fn best(&self, wanted: &AppcReference, on: &Platform) -> Result<Option<Known>, StoreError> {
        let fitting = self.fitting(wanted)?.into_iter();
        let best = fitting.min_by_key(|entry| entry.rank(on));
        Ok(best.map(|entry| entry.known))
    }

    /// Whether there is a record that is filed under this name, damaged or not.
    pub(super) fn is_filed(&self, name: &Identifier) -> bool {
        self.by_key.contains_key(&Key::of(name))
    }

    /// The image that is meant on this machine.
    ///
    /// # Errors
    /// The store cannot be read, or a record that could be that of the image is damaged.
    pub fn find(&self, wanted: &AppcReference) -> Result<Option<Known>, StoreError> {
        self.best(wanted, &Platform::host())
    }

    /// All of them by what they are called, those of one name together and in the order of
    /// preference. One whose record is damaged comes first, as it may be the one that is
    /// meant; `lost` hears of those of which not even the name is known.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn all(
        &self,
        lost: &mut dyn FnMut(ImageId, StoreError),
    ) -> Result<Vec<(AppcReference, AciId)>, StoreError> {
        let host = Platform::host();
        let mut named: BTreeMap<_, Vec<(AppcReference, AciId)>> = BTreeMap::new();
        let mut sound = Vec::new();
        for (&id, keys) in &self.called {
            match self.entry(id) {
                Ok(entry) => sound.extend(entry),
                Err(error) if error.is_damage() => match self.store.told(id, keys) {
                    Some(told) => named.entry(told.name.clone()).or_default().push((told, id)),
                    None => lost(id.image(), error),
                },
                Err(error) => return Err(error),
            }
        }
        sound.sort_by_cached_key(|entry| entry.rank(&host));
        for Entry { known, .. } in sound {
            let all = named.entry(known.outline.name.clone()).or_default();
            all.push((known.outline.reference(), known.id));
        }
        Ok(named.into_values().flatten().collect())
    }

    /// What an image is made of, lowest first.
    ///
    /// # Errors
    /// See [`graph::GraphError`]; a damaged record is told by where it is looked for.
    pub fn stack(&self, id: AciId) -> Result<Vec<Placed>, StoreError> {
        let top = self.entry(id)?;
        let top = top.ok_or_else(|| StoreError::NoImage(id.to_string()))?;
        let stack = graph::stack(top.known, &mut |wanted, of| self.dependency(wanted, of));
        stack.map_err(StoreError::from)
    }

    /// What is there for a dependency of an image with these labels.
    fn dependency(&self, wanted: &Dependency, of: &Labels) -> Result<Option<Known>, StoreError> {
        let exact = wanted.id.map(|id| self.entry(id)).transpose()?.flatten();
        if let Some(exact) = exact {
            return Ok(Some(exact.known));
        }
        let found = self.best(&wanted.image, &machine(of));
        match wanted.id {
            // It is missing; what else there is of that name is only told.
            Some(_) => Ok(found.ok().flatten()),
            None => found,
        }
    }

    /// Images that one depends on, as far as they are there; all that it is made of
    /// where none is missing.
    ///
    /// # Errors
    /// The store cannot be read, or a record that could be one of them is damaged.
    pub fn dependencies(&self, id: AciId) -> Result<BTreeSet<AciId>, StoreError> {
        let Some(top) = self.entry(id)? else {
            return Ok(BTreeSet::new());
        };
        let mut all = BTreeSet::new();
        match self.stack(id) {
            Ok(stack) => all.extend(stack.into_iter().map(|placed| placed.id)),
            Err(StoreError::Dependencies(graph)) => match *graph {
                GraphError::Lookup { source, .. } => return Err(source),
                // Those that are there are kept for when the others come.
                _ => {
                    let outline = &top.known.outline;
                    for wanted in &outline.dependencies {
                        let found = self.dependency(wanted, &outline.labels)?;
                        all.extend(found.map(|known| known.id));
                    }
                }
            },
            Err(error) => return Err(error),
        }
        all.remove(&id);
        Ok(all)
    }

    /// What the images are called that depend on one. Those that lack something, or of which something
    /// is damaged, are broken already.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn dependents(&self, id: AciId) -> Result<Vec<AppcReference>, StoreError> {
        let mut dependents = Vec::new();
        for &other in self.called.keys() {
            let needs = || -> Result<_, StoreError> {
                let needs = self.stack(other)?.iter().any(|placed| placed.id == id);
                let entry = self.entry(other)?.filter(|_| needs && other != id);
                Ok(entry.map(|entry| entry.known.outline.reference()))
            };
            match needs() {
                Ok(found) => dependents.extend(found),
                Err(StoreError::Dependencies(_) | StoreError::NoImage(_)) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        dependents.sort_by_cached_key(ToString::to_string);
        Ok(dependents)
    }
}

impl Store {
    /// Where the whitelist of an image lies, if it has one.
    #[must_use]
    pub fn whitelist_path(&self, id: AciId) -> PathBuf {
        self.root()
            .join("whitelists-v1")
            .join(format!("{id}.paths"))
    }

    /// What the store has of AppC images now.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn appc_images(&self) -> Result<AppcImages, StoreError> {
        let called = self.called()?;
        let mut by_key: HashMap<Key, Vec<AciId>> = HashMap::new();
        let mut unfiled = Vec::new();
        for (&id, keys) in &called {
            for key in keys {
                by_key.entry(key.clone()).or_default().push(id);
            }
            if keys.is_empty() {
                unfiled.push(id);
            }
        }
        Ok(AppcImages {
            store: self.clone(),
            called,
            by_key,
            unfiled,
            read: Mutex::default(),
        })
    }

    /// Opens the whitelist of an image: constant time.
    ///
    /// # Errors
    /// Missing or damaged files.
    pub fn open_whitelist(&self, id: AciId, caches: &Caches) -> Result<Arc<PathSet>, StoreError> {
        let source = FileSource::open(self.whitelist_path(id))?;
        let set = PathSet::open(id, Box::new(source), Arc::clone(&caches.blocks))?;
        Ok(Arc::new(set))
    }
}
