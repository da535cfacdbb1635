//! Image references as Docker writes them, parsed once.
//!
//! STUB: to be written. The type's shape is fixed.

use crate::digest::Digest;

/// `[domain/]path[:tag][@digest]`, with Docker's defaults filled in.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}
