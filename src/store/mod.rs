//! STUB: the content store on disk.
