//! `lazyroot mount`

use std::path::PathBuf;

use super::Context;
use super::report::Failure;
use super::serve::{MountArgs, WriteArgs};

/// Show an image as a root file system. Returns when it can be used.
///
/// What is written goes to an upper directory and never to the image. Without
/// --upper it is one in the store, which is removed when the mount is undone.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or ID of the image.
    image: String,
    #[command(flatten)]
    mount: MountArgs,
    /// Nothing can be written. Ordinary users outside of a user namespace mount so.
    #[arg(short, long)]
    read_only: bool,
    /// Keep what is written here, also when the mount is gone; a later mount of the
    /// same image goes on with it. Made if missing. The format is that of
    /// overlayfs (-o upperdir=DIR is the same).
    #[arg(long, value_name = "DIR", conflicts_with = "read_only")]
    upper: Option<PathBuf>,
    /// An empty directory on the same file system, for what is being made.
    /// Default: the upper directory's name with .work behind it, removed at the end
    /// (-o workdir=DIR is the same).
    #[arg(long, value_name = "DIR", requires = "upper")]
    work: Option<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let writes = WriteArgs {
        read_only: args.read_only,
        upper: args.upper.clone(),
        work: args.work.clone(),
    };
    let image = Some(args.image.clone());
    args.mount.clone().mount(image, writes, context)
}
