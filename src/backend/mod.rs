//! Ways to get a rootfs.
//!
//! What it is for: starting what shows a tree, and knowing when it can be used.
//! Must not know images, nor what a container is.
//!
//! * [`fuse`]: our own program in the background, serving one FUSE mount.

pub mod fuse;
