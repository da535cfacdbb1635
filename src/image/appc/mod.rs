//! What an AppC image says: its manifest, and what images depend on each other.
//!
//! What it is for: the manifest of an ACI, wholly checked, and the order in which
//! the root file systems of an image and its dependencies lie above each other.
//! May assume bytes that somebody else has read. Must not know archives, the store, or
//! where missing images come from.
//!
//! * [`Manifest`] is one manifest, parsed and checked; `app` and `isolators` are
//!   parts of it, `field` finds values and says where they are.
//! * [`graph`](mod@graph) puts dependencies in order.
//!
//! Rules are those of the App Container specification 0.8.11; "schema" is its
//! reference code, which decides where the prose is silent.

mod app;
mod field;
pub mod graph;
mod isolators;
mod manifest;

pub use app::{App, EventHandler, MountPoint, Port};
pub use field::ManifestError;
pub use isolators::{Isolator, NO_NEW_PRIVILEGES};
pub use manifest::{Dependency, MANIFEST_MAX, Manifest, platform};
pub(super) use manifest::{arch_of, is_time};
