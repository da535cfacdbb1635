//! Ways to get a rootfs.
//!
//! What it is for: starting what shows a tree, and knowing when it can be used.
//! Must not know what a container is.
//!
//! * [`fuse`]: our own program in the background, serving one FUSE mount.
//! * [`catalogue`]: the store's images by name, for a mount that shows them all.
//! * [`copy`](mod@copy): files on disk, written from a view.

pub mod catalogue;
pub mod copy;
pub mod fuse;
