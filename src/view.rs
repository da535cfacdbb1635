//! A stored image as one tree.
//!
//! What it is for: joining `store` and `union`, which do not know each other.
//! Opening is constant time per layer; nothing is walked.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::digest::{AciId, ChainId, DiffId, Digest, ImageId};
use crate::image::appc::graph::Placed;
use crate::layer::path_set::PathSet;
use crate::store::images::ImageRecord;
use crate::store::leases::{Lease, Pins};
use crate::store::{Caches, Store, StoreError};
use crate::union::Union;

/// An image, opened for reading.
#[derive(Debug)]
pub struct View {
    /// What the store says of it.
    pub record: ImageRecord,
    /// Its tree.
    pub union: Arc<Union>,
    /// Stands for the tree: two views with the same identity are the same tree.
    pub identity: String,
    /// Names the stack of layers: changes that were made above it belong to it.
    pub stack: String,
}

/// What stands for the tree of an AppC image. Its ID alone does not: the store may
/// get another image that a dependency means.
#[must_use]
pub fn appc_identity(id: AciId, stack: &[Placed]) -> String {
    let mut text = String::new();
    for placed in stack {
        text.push_str(&placed.id.to_string());
        for list in &placed.lists {
            text.push(' ');
            text.push_str(&list.to_string());
        }
        text.push('\n');
    }
    format!("{id}+{}", Digest::sha256(text.as_bytes()).hex())
}

/// One layer of a tree.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StackLayer {
    /// The layer.
    pub diff: DiffId,
    /// Images whose whitelists it has to be on; of AppC images only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<AciId>,
}

impl fmt::Display for StackLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.diff)?;
        self.lists.iter().try_for_each(|list| write!(f, ",{list}"))
    }
}

impl FromStr for StackLayer {
    type Err = String;

    /// The way back from `Display`: from one process of ours to the next.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split(',');
        let wrong = |word: &str| format!("`{word}` is not a digest");
        let diff = words.next().unwrap_or_default();
        let lists = words.map(|word| word.parse().map_err(|_| wrong(word)));
        Ok(Self {
            diff: diff.parse().map_err(|_| wrong(diff))?,
            lists: lists.collect::<Result<_, _>>()?,
        })
    }
}

/// What an image is made of at this moment. It can be opened again when the store has
/// got other images that dependencies mean, and when the image's own record is gone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stack {
    /// Stands for the tree: changes that were made above it belong to it.
    pub identity: String,
    /// Lowest first.
    pub layers: Vec<StackLayer>,
    /// The images: one, or an AppC image with all that it depends on.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub images: BTreeSet<ImageId>,
}

impl Stack {
    /// What an image of the store is made of.
    ///
    /// # Errors
    /// No such image, missing dependencies, damaged records.
    pub fn of(store: &Store, id: ImageId) -> Result<Self, StoreError> {
        Ok(Self::of_record(store, &store.image(id)?)?.0)
    }

    /// The same, pinned: the image before it is looked at, and all that it is made of
    /// before this returns. What went in between is missing when it is opened.
    ///
    /// # Errors
    /// See [`Stack::of`]; the lease cannot be written.
    pub fn pinned(store: &Store, id: ImageId, lease: Option<&Lease>) -> Result<Self, StoreError> {
        let Some(lease) = lease else {
            return Self::of(store, id);
        };
        store.pin_images(lease, &[id])?;
        let stack = Self::of(store, id)?;
        store.pin_all(lease, &stack.pins())?;
        Ok(stack)
    }

    /// The stack, and what stands for the view of it.
    fn of_record(store: &Store, record: &ImageRecord) -> Result<(Self, String), StoreError> {
        let Some(aci) = AciId::of_image(record.id) else {
            let diffs: Vec<_> = record.layers.iter().map(|layer| layer.diff).collect();
            let layer = |&diff: &DiffId| StackLayer {
                diff,
                lists: Vec::new(),
            };
            let stack = Self {
                identity: ChainId::of(&diffs).to_string(),
                layers: diffs.iter().map(layer).collect(),
                images: BTreeSet::from([record.id]),
            };
            return Ok((stack, record.id.to_string()));
        };
        let placed = store.appc_images()?.stack(aci)?;
        let identity = appc_identity(aci, &placed);
        let layer = |placed: Placed| StackLayer {
            diff: placed.id.archive(),
            lists: placed.lists,
        };
        let stack = Self {
            identity: identity.clone(),
            images: placed.iter().map(|placed| placed.id.image()).collect(),
            layers: placed.into_iter().map(layer).collect(),
        };
        Ok((stack, identity))
    }

    /// What has to stay for it.
    #[must_use]
    pub fn pins(&self) -> Pins {
        Pins {
            layers: self.layers.iter().map(|layer| layer.diff).collect(),
            images: self.images.clone(),
        }
    }

    /// The tree. With a lease it is pinned before its layers are looked at, so that
    /// nothing sweeps them while the lease lives. Constant time per layer.
    ///
    /// # Errors
    /// Missing or damaged files.
    pub fn open(
        &self,
        store: &Store,
        caches: &Caches,
        lease: Option<&Lease>,
    ) -> Result<Arc<Union>, StoreError> {
        if let Some(lease) = lease {
            store.pin_all(lease, &self.pins())?;
        }
        let mut lists: HashMap<AciId, Arc<PathSet>> = HashMap::new();
        let mut layers = Vec::new();
        for layer in &self.layers {
            let mut own = Vec::new();
            for &list in &layer.lists {
                let set = match lists.get(&list) {
                    Some(set) => Arc::clone(set),
                    None => store.open_whitelist(list, caches)?,
                };
                lists.insert(list, Arc::clone(&set));
                own.push(set);
            }
            layers.push((store.open_layer(layer.diff, caches)?, own));
        }
        Ok(Arc::new(Union::restricted(layers)))
    }
}

/// Opens an image. With a lease it is pinned with its layers before they are looked
/// at, so that nothing removes them while the lease lives; an AppC image with all that
/// it depends on.
///
/// # Errors
/// No such image, missing or damaged files.
pub fn open(
    store: &Store,
    id: ImageId,
    caches: &Caches,
    lease: Option<&Lease>,
) -> Result<View, StoreError> {
    if let Some(lease) = lease {
        store.pin_images(lease, &[id])?;
    }
    let record = store.image(id)?;
    let (stack, identity) = Stack::of_record(store, &record)?;
    Ok(View {
        union: stack.open(store, caches, lease)?,
        record,
        identity,
        stack: stack.identity,
    })
}
