//! Discovery against a web server on loopback that does everything wrong that web
//! servers do, and against directories.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "support/images.rs"]
#[expect(dead_code, reason = "the tests of imports need more of it")]
mod images;
#[path = "support/web.rs"]
#[expect(dead_code, reason = "the tests of registries need more of it")]
mod web;

#[path = "discovery/appc.rs"]
mod appc;
#[path = "discovery/download.rs"]
mod download;
#[path = "discovery/fetch.rs"]
mod fetch;
#[path = "discovery/finder.rs"]
mod finder;
#[path = "discovery/local.rs"]
mod local;
#[path = "discovery/meta.rs"]
mod meta;
#[path = "discovery/signatures.rs"]
mod signatures;
#[path = "discovery/verbs.rs"]
mod verbs;
