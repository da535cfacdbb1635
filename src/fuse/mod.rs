//! STUB: a tree shown through FUSE; the only home of the crate `fuser`.
