//! STUB: the mount table; mounting and unmounting.
