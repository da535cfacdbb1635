//! STUB: an image's layers into the store.
