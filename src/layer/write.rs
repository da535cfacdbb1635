//! Members into an index.
//!
//! STUB: to be written. The types below are fixed.

use std::io::Write;

use super::tar::Member;
use super::{Dialect, Limits};
use crate::digest::{DiffId, Digest};

/// Why a member cannot be part of a layer. Names the member.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Hostile or senseless.
    #[error("the member `{member}` is refused: {what}")]
    Refused {
        /// The member's path, printable.
        member: String,
        /// Why, a fragment.
        what: String,
    },
    /// A limit passed.
    #[error("the layer passes the limit `{limit}`: {what}")]
    Limit {
        /// The limit's name.
        limit: &'static str,
        /// What is too large.
        what: String,
    },
    /// The writer below failed.
    #[error("cannot write the index")]
    Io(#[from] std::io::Error),
}

/// Collects members, then writes the index.
#[derive(Debug)]
pub struct IndexBuilder {}

impl IndexBuilder {
    /// An empty layer.
    #[must_use]
    pub fn new(_dialect: Dialect, _limits: Limits) -> Self {
        Self {}
    }

    /// Takes the next member. A later one of the same path replaces an earlier
    /// one, as unpacking in order would.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn member(&mut self, _member: Member) -> Result<(), BuildError> {
        unimplemented!()
    }

    /// The SHA-256 of the stored data of the file that came last (called once
    /// after each [`Self::member`] of kind file, before the next).
    pub fn digest(&mut self, _digest: Digest) {
        unimplemented!()
    }

    /// Writes the index, sealed (see `blocks`), and hands the writer back.
    ///
    /// # Errors
    /// What the writer answers, and limits.
    pub fn finish<W: Write>(self, _diff: DiffId, _tar_len: u64, _to: W) -> Result<W, BuildError> {
        unimplemented!()
    }
}
