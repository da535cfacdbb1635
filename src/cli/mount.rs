//! `lazyroot mount`

use super::Context;
use super::report::{Exit, Failure};
use super::serve::MountArgs;

/// Show an image as a root file system. Returns when it can be used.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or ID of the image.
    image: String,
    #[command(flatten)]
    mount: MountArgs,
    /// Nothing can be written (writable mounts are not there yet).
    #[arg(short, long)]
    read_only: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    if !args.read_only && !args.mount.asks_read_only() {
        let what = "writable mounts are not there yet";
        return Err(Failure::new(Exit::Usage, what).hint("lazyroot mount --read-only"));
    }
    args.mount.clone().mount(Some(args.image.clone()), context)
}
