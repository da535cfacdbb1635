//! Running mounts, through the program itself: from `lazyroot import` to the last
//! read of a mount whose store is being destroyed.
//!
//! Needs root and `/dev/fuse`; says `SKIPPED` without. A server that hangs takes
//! its users with it, so every place ([`lab::Lab`]) has a watchdog that ends its
//! servers.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "live/appc.rs"]
mod appc;
#[path = "live/browse.rs"]
mod browse;
#[path = "live/commits.rs"]
mod commits;
#[path = "live/crowd.rs"]
mod crowd;
#[path = "live/damage.rs"]
mod damage;
#[path = "live/images.rs"]
mod images;
#[path = "live/lab.rs"]
mod lab;
#[path = "live/life.rs"]
mod life;
#[path = "live/opens.rs"]
mod opens;
#[path = "live/programs.rs"]
mod programs;
#[path = "live/starts.rs"]
mod starts;
#[path = "live/user.rs"]
mod user;
#[path = "live/writes.rs"]
mod writes;
