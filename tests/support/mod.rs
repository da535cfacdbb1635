//! What several integration tests need.

pub(crate) mod layers;
pub(crate) mod model;
pub(crate) mod stacks;

use lazyroot::union::Union;

use layers::{Entry, Maker};
use model::Tree;

/// The same layers as a union and as a model.
pub(crate) fn both(stack: &[Vec<Entry>]) -> (Union, Tree) {
    let (mut maker, mut tree) = (Maker::new(), Tree::new());
    let layers = stack
        .iter()
        .map(|entries| maker.layer(&tree.apply(entries)))
        .collect();
    (Union::new(layers), tree)
}
