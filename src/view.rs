//! A stored image as one tree.
//!
//! What it is for: joining `store` and `union`, which do not know each other.
//! Opening is constant time per layer; nothing is walked.

use std::sync::Arc;

use crate::digest::ImageId;
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
    if let Some(lease) = lease {
        let layers: Vec<_> = record.layers.iter().map(|layer| layer.diff).collect();
        store.pin(lease, &layers)?;
    }
    let layers = record
        .layers
        .iter()
        .map(|layer| store.open_layer(layer.diff, caches));
    let union = Arc::new(Union::new(layers.collect::<Result<_, _>>()?));
    Ok(View { record, union })
}
