//! `lazyroot remove`

use super::report::Failure;
use super::{Context, human, print};

/// Remove names and images, and what only they needed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A name: it goes, and the image too if that was its last. An ID: the image with all its names.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Also when a running mount uses it (the mount goes on: it has its files open).
    #[arg(short, long)]
    force: bool,
    /// Keep layers and blobs until the next `lazyroot gc`.
    #[arg(long)]
    no_gc: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    for image in &args.images {
        let removed = store.remove(image, args.force)?;
        for name in &removed.names {
            print(format!("removed name {name}\n").as_bytes())?;
        }
        if let Some(id) = removed.image {
            print(format!("removed image {id}\n").as_bytes())?;
        }
    }
    if args.no_gc {
        return Ok(());
    }
    let swept = store.gc()?;
    print(format!("freed {} in {} files\n", human(swept.bytes), swept.files).as_bytes())
}
