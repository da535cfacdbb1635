//! The life of containers, through the program itself: provision, use, destroy,
//! recover, over all backends.
//!
//! Needs root and `/dev/fuse`; says `SKIPPED` without. Crashes at every step are the
//! subject of other tests: here a server dies, a record is damaged, somebody is inside.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "live/images.rs"]
#[expect(dead_code, reason = "the tests of mounts need more of it")]
mod images;
#[path = "live/lab.rs"]
#[expect(dead_code, reason = "the tests of mounts need more of it")]
mod lab;
#[path = "agreement/walk.rs"]
#[expect(dead_code, reason = "the comparison with overlayfs needs more of it")]
mod walk;

#[path = "containers/appc.rs"]
mod appc;
#[path = "containers/changes.rs"]
mod changes;
#[path = "containers/counted.rs"]
mod counted;
#[path = "containers/crowd.rs"]
mod crowd;
#[path = "containers/destroyed.rs"]
mod destroyed;
#[path = "containers/host.rs"]
mod host;
#[path = "containers/inside.rs"]
mod inside;
#[path = "containers/meanwhile.rs"]
mod meanwhile;
#[path = "containers/records.rs"]
mod records;
#[path = "containers/recovered.rs"]
mod recovered;
#[path = "containers/refused.rs"]
mod refused;
#[path = "containers/several.rs"]
mod several;
#[path = "containers/shared.rs"]
mod shared;
#[path = "containers/told.rs"]
mod told;
#[path = "containers/trees.rs"]
mod trees;
#[path = "containers/user.rs"]
mod user;
