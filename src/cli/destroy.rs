//! `lazyroot destroy`

use super::containers::{failure, keeper};
use super::report::Failure;
use super::{Context, print};
use crate::container_id::ContainerId;

/// Destroy containers, with all that was written in them; those in them first.
///
/// Open files and running programs do not keep a container: it is gone from its
/// place at once, and they see what they have until they end.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names of containers.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ContainerId>,
    /// Say nothing.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    context.stop_by_signals()?;
    let store = context.open()?;
    let keeper = keeper(context, &store);
    let mut first = None;
    for id in &args.ids {
        match keeper.destroy(id) {
            Ok(()) if args.quiet => {}
            Ok(()) => print(format!("destroyed {id}\n").as_bytes())?,
            // The others are destroyed all the same.
            Err(error) if first.is_none() => first = Some(failure(&error)),
            Err(error) => failure(&error).print(),
        }
    }
    first.map_or(Ok(()), Err)
}
