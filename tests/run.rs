//! `lazyroot run` and `lazyroot bundle`, through the program itself: what runs in there, what
//! it can reach, and what is left when it has ended.
//!
//! Needs root, `/dev/fuse` and a static busybox; says `SKIPPED` without.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "run/bundle.rs"]
mod bundle;
#[path = "run/command.rs"]
mod command;
#[path = "run/confined.rs"]
mod confined;
#[path = "run/ends.rs"]
mod ends;
#[path = "live/images.rs"]
#[expect(dead_code, reason = "shared with the tests of running mounts")]
mod images;
#[path = "live/lab.rs"]
#[expect(dead_code, reason = "shared with the tests of running mounts")]
mod lab;
#[path = "run/launcher.rs"]
mod launcher;
#[path = "run/terminal.rs"]
mod terminal;
#[path = "run/user.rs"]
mod user;
#[path = "run/volumes.rs"]
mod volumes;
