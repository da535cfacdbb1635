//! Registries: logins, pulling and pushing, against one on loopback that does everything
//! wrong that registries do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/images.rs"]
#[expect(dead_code, reason = "the tests of imports need more of it")]
mod images;
#[path = "support/web.rs"]
#[expect(dead_code, reason = "the tests of discovery need more of it")]
mod web;

#[path = "registry/faults.rs"]
mod faults;
#[path = "registry/lab.rs"]
mod lab;
#[path = "registry/pull.rs"]
mod pull;
#[path = "registry/puller.rs"]
mod puller;
#[path = "registry/push.rs"]
mod push;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/transfers.rs"]
mod transfers;
#[path = "registry/trust.rs"]
mod trust;
#[path = "registry/verbs.rs"]
mod verbs;
