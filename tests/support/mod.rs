//! What several integration tests need.

pub mod layers;
pub mod model;
