//! What several integration tests need.

pub(crate) mod layers;
pub(crate) mod model;
pub(crate) mod stacks;
