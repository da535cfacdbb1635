//! *Everything a view has arrives*: what the copy backend writes is what unpacking the
//! layers one after the other gives, and what a mount shows.
//!
//! Needs root; says `SKIPPED` without. `PROPTEST_CASES` says how many stacks are copied.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

mod support;

#[path = "copy/arrives.rs"]
mod arrives;
#[path = "copy/disk.rs"]
mod disk;
#[path = "copy/refused.rs"]
mod refused;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use lazyroot::backend::copy::{Copied, CopyError, copy};
use lazyroot::union::Union;

/// Whether this process may make everything that an image can have.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: needs root");
    }
    root
}

/// A copy that nobody interrupts.
fn copied(union: &Union, to: &Path) -> Result<Copied, CopyError> {
    copy(union, to, &AtomicBool::new(false), &mut |_, _| {})
}
