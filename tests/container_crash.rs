//! Whoever works on containers gets SIGKILL before any of its system calls, and so do the
//! servers: `recover` then finds all that was ready, and nothing else.
//!
//! There are no points in the program where it could be told to fail: strace kills
//! it before the n-th call of a kind, so every call that changes something is one.
//!
//! Needs root, `/dev/fuse` and strace; says `SKIPPED` without.
//! `LAZYROOT_CRASH_RUNS=1000` kills so often; `LAZYROOT_CRASH_SEED=7` begins with that seed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "container_crash/commands.rs"]
mod commands;
#[path = "live/images.rs"]
#[expect(dead_code, reason = "made for other tests")]
mod images;
#[path = "live/lab.rs"]
#[expect(dead_code, reason = "made for other tests")]
mod lab;
#[path = "container_crash/scene.rs"]
mod scene;
#[path = "container_crash/servers.rs"]
mod servers;
#[path = "container_crash/strace.rs"]
mod strace;
#[path = "container_crash/together.rs"]
mod together;
