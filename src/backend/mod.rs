//! STUB: ways to get a rootfs.
