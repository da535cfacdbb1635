//! Stored bytes on their way out: counted, stopped when somebody asks, and compared
//! with their digest.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::Ordering;

use super::{ExportError, Options};
use crate::digest::{BlobId, Digest, Hasher};
use crate::layer::blocks::BlockCache;
use crate::layer::seek::SeekMap;
use crate::store::layers::LayerRecord;
use crate::store::{FileSource, Store, StoreError};

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;

/// Where an archive goes, and who watches.
pub(super) struct Watched<'a> {
    to: &'a mut dyn Write,
    options: &'a Options<'a>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(to: &'a mut dyn Write, options: &'a Options<'a>) -> Self {
        Self { to, options }
    }

    /// So much is to come.
    pub(super) fn expect(&self, bytes: u64) {
        self.options.progress.begin(bytes);
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(ExportError::Interrupted);
        }
        self.to.write_all(bytes).map_err(ExportError::Write)?;
        self.options.progress.advance(bytes.len() as u64);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), ExportError> {
        self.to.flush().map_err(ExportError::Write)
    }

    /// Writes a layer's blob as it is stored.
    ///
    /// # Errors
    /// Its digest or length is another.
    pub(super) fn blob(&mut self, store: &Store, layer: &LayerRecord) -> Result<(), ExportError> {
        let path = store.blob_path(layer.blob);
        let failed = |source| StoreError::Io {
            what: "read",
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(failed)?;
        let mut buffer = vec![0; BUFFER];
        let mut hasher = Hasher::like(&layer.blob.0);
        let mut left = layer.blob_size;
        loop {
            let got = file.read(&mut buffer).map_err(failed)?;
            // What is longer than the archive has room for must not be written.
            left = match left.checked_sub(got as u64) {
                Some(left) if got > 0 || left == 0 => left,
                _ => {
                    let what = format!("it has not the {} bytes of its record", layer.blob_size);
                    return Err(damaged(store, layer.blob, what));
                }
            };
            if got == 0 {
                break;
            }
            hasher.update(&buffer[..got]);
            self.write(&buffer[..got])?;
        }
        same(hasher.finish(), layer.blob.0, store, layer.blob)
    }

    /// Writes a layer's tar, whatever it is stored as.
    ///
    /// # Errors
    /// Its digest or length is another.
    pub(super) fn tar(&mut self, store: &Store, layer: &LayerRecord) -> Result<(), ExportError> {
        let map = FileSource::open(store.map_path(layer.blob))?;
        let map = SeekMap::open(Box::new(map), BlockCache::new(1 << 20))?;
        let blob = FileSource::open(store.blob_path(layer.blob))?;
        if (map.tar_len(), map.diff_id()) != (layer.tar_size, layer.diff) {
            let what = "its seek map is that of another layer".to_owned();
            return Err(damaged(store, layer.blob, what));
        }
        let mut hasher = Hasher::like(&layer.diff.0);
        let mut outcome = Ok(());
        map.decode_all(&blob, &mut |_, bytes| {
            hasher.update(bytes);
            outcome = self.write(bytes);
            outcome.is_ok()
        })?;
        outcome?;
        same(hasher.finish(), layer.diff.0, store, layer.blob)
    }
}

fn damaged(store: &Store, blob: BlobId, what: String) -> ExportError {
    let path = store.blob_path(blob);
    StoreError::Damaged { path, what }.into()
}

fn same(found: Digest, wanted: Digest, store: &Store, blob: BlobId) -> Result<(), ExportError> {
    match found == wanted {
        true => Ok(()),
        false => Err(damaged(
            store,
            blob,
            format!("it gives {found}, not {wanted}"),
        )),
    }
}
