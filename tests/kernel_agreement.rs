//! The kernel is the second opinion: the same operations on our writable mount and
//! on kernel overlayfs come to the same, and either goes on with what the other
//! has written.
//!
//! Needs root, `/dev/fuse` and overlayfs; says `SKIPPED` without. Every tree is
//! made of a seed, which is printed; `LAZYROOT_AGREEMENT_SEEDS=100-199` tries those
//! instead of the few that are always tried. What fails is shortened by leaving
//! operations out as long as it still fails.
//!
//! Known differences to overlayfs, each with its reason where it is left out:
//! * hard links of layers: it breaks them at copy-up (`index=off`). Layers with
//!   such links are compared with an unpacked copy instead;
//! * a descriptor opened for reading before a copy-up reads old contents there
//!   ([`Hands::readers`]). With the copy it is compared;
//! * some of its copies up change an mtime
//!   ([`walk::differences_to_kernel`]). With the copy it may not;
//! * the root's attributes: there the empty upper directory's ([`Look::root`]);
//! * link counts and sizes of directories, atime and ctime: never looked at;
//! * a program's own 0/0 device: refused there, kept here. It has its own test.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "agreement/exchange.rs"]
mod exchange;
#[path = "live/images.rs"]
#[expect(dead_code, reason = "made for other tests")]
mod images;
#[path = "live/lab.rs"]
#[expect(dead_code, reason = "made for other tests")]
mod lab;
#[path = "agreement/layers.rs"]
mod layers;
#[path = "agreement/numbers.rs"]
mod numbers;
#[path = "agreement/operations.rs"]
mod operations;
#[path = "agreement/same.rs"]
mod same;
#[path = "agreement/scene.rs"]
mod scene;
#[path = "agreement/seeds.rs"]
mod seeds;
#[path = "agreement/walk.rs"]
mod walk;
