//! `lazyroot browse`

use super::Context;
use super::report::Failure;
use super::serve::{MountArgs, WriteArgs};

/// Show every image of the store by name in one read-only mount.
///
/// `debian:12` is a directory, `example.org/team/app:1` is one three levels
/// down. An image is opened when somebody looks into it; a new import shows up
/// by itself.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    mount: MountArgs,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    args.mount
        .clone()
        .mount(None, WriteArgs::default(), context)
}
