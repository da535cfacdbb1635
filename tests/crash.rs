//! What breaks under a writable mount: its server, or the layers below it.
//!
//! A server that gets SIGKILL loses nothing: every operation whose system call has
//! returned is there when the same upper directory is mounted again, and the one
//! that was under way is done or not. An unpacked copy, on which the same
//! operations are done again, says what has to be there.
//!
//! Needs root, `/dev/fuse` and overlayfs; says `SKIPPED` without.
//! `LAZYROOT_AGREEMENT_SEEDS=0-99` tries those seeds.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "crash/damage.rs"]
mod damage;
#[path = "live/images.rs"]
#[expect(dead_code, reason = "made for other tests")]
mod images;
#[path = "crash/killed.rs"]
mod killed;
#[path = "live/lab.rs"]
#[expect(dead_code, reason = "made for other tests")]
mod lab;
#[path = "agreement/layers.rs"]
mod layers;
#[path = "agreement/operations.rs"]
mod operations;
#[path = "agreement/scene.rs"]
mod scene;
#[path = "agreement/seeds.rs"]
#[expect(dead_code, reason = "made for other tests")]
mod seeds;
#[path = "agreement/walk.rs"]
mod walk;
