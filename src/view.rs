//! A stored image as one tree.
//!
//! What it is for: joining `store` and `union`, which do not know each other.
//! Opening is constant time per layer; nothing is walked.

use std::collections::HashMap;
use std::sync::Arc;

use crate::digest::{AciId, ChainId, Digest, ImageId};
use crate::image::appc::graph::Placed;
use crate::store::images::ImageRecord;
use crate::store::leases::Lease;
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

/// Opens an image. With a lease its layers are pinned before they are looked at,
/// so that nothing sweeps them while the lease lives.
///
/// # Errors
/// No such image, missing or damaged files.
pub fn open(
    store: &Store,
    id: ImageId,
    caches: &Caches,
    lease: Option<&Lease>,
) -> Result<View, StoreError> {
    let record = store.image(id)?;
    if let Some(aci) = AciId::of_image(id) {
        return open_appc(store, aci, record, caches, lease);
    }
    if let Some(lease) = lease {
        let layers: Vec<_> = record.layers.iter().map(|layer| layer.diff).collect();
        store.pin(lease, &layers)?;
    }
    let diffs: Vec<_> = record.layers.iter().map(|layer| layer.diff).collect();
    let stack = ChainId::of(&diffs).to_string();
    let layers = record
        .layers
        .iter()
        .map(|layer| store.open_layer(layer.diff, caches));
    let union = Arc::new(Union::new(layers.collect::<Result<_, _>>()?));
    Ok(View {
        record,
        union,
        identity: id.to_string(),
        stack,
    })
}

/// Opens an AppC image with the dependencies that the store has now.
fn open_appc(
    store: &Store,
    id: AciId,
    record: ImageRecord,
    caches: &Caches,
    lease: Option<&Lease>,
) -> Result<View, StoreError> {
    let stack = store.appc_images()?.stack(id)?;
    if let Some(lease) = lease {
        let layers: Vec<_> = stack.iter().map(|placed| placed.id.archive()).collect();
        store.pin(lease, &layers)?;
    }
    let mut lists = HashMap::new();
    let mut layers = Vec::new();
    for placed in &stack {
        let mut own = Vec::new();
        for &list in &placed.lists {
            let set = match lists.get(&list) {
                Some(set) => Arc::clone(set),
                None => store.open_whitelist(list, caches)?,
            };
            lists.insert(list, Arc::clone(&set));
            own.push(set);
        }
        layers.push((store.open_layer(placed.id.archive(), caches)?, own));
    }
    let identity = appc_identity(id, &stack);
    Ok(View {
        record,
        union: Arc::new(Union::restricted(layers)),
        stack: identity.clone(),
        identity,
    })
}
