//! `lazyroot tag`

use super::Context;
use super::report::{Failure, chain};
use crate::reference::Reference;

/// Give an image one more name; a name that another image has moves to this one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or ID of the image.
    image: String,
    /// The new name: `example.org/team/app:1.2`.
    #[arg(value_parser = new_name)]
    name: Reference,
}

/// A name that an image can be given.
pub(super) fn new_name(text: &str) -> Result<Reference, String> {
    let name: Reference = text.parse().map_err(|error| chain(&error))?;
    match name.digest() {
        None => Ok(name),
        // It would be found by this text whatever it is.
        Some(_) => Err(
            "a name that is given cannot have a digest: that is of the image's own bytes".into(),
        ),
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let lock = store.lock()?;
    let id = store.find(&args.image)?;
    let mut names = store.names()?;
    names.insert(args.name.clone(), id);
    store.write_names(&names, &lock)?;
    Ok(())
}
