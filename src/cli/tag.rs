//! `lazyroot tag`

use super::Context;
use super::report::Failure;
use crate::reference::Reference;

/// Give an image one more name; a name that another image has moves to this one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or ID of the image.
    image: String,
    /// The new name: `example.org/team/app:1.2`.
    name: Reference,
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
