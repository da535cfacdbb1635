//! `lazyroot remove`

use super::report::Failure;
use super::{Context, human, print};
use crate::store::{Store, StoreError};

/// Remove names and images, and what only they needed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A name: it goes, and the image too if that was its last. What its own manifest calls an AppC image is
    /// its last: it goes when there is no other. An ID: the image with all its names.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Also when a running mount uses it (the mount goes on: it has its files open), when other AppC images
    /// depend on it (they are broken then), or when the name of an AppC image is not its only one.
    #[arg(short, long)]
    force: bool,
    /// Keep layers and blobs until the next `lazyroot gc`.
    #[arg(long)]
    no_gc: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let removed = all(args, &store);
    // What was removed before a failure is swept all the same.
    if !args.no_gc {
        let swept = store.gc(false)?;
        print(format!("freed {} in {} files\n", human(swept.bytes), swept.files).as_bytes())?;
    }
    removed
}

/// Removes them. One that another of them needs goes after that, in whatever order they are named.
fn all(args: &Args, store: &Store) -> Result<(), Failure> {
    let mut left: Vec<&String> = args.images.iter().collect();
    while !left.is_empty() {
        let (before, mut needed) = (left.len(), None);
        let mut later = Vec::new();
        for image in left {
            let removed = match store.remove(image, args.force) {
                Err(error @ StoreError::Needed { .. }) => {
                    needed.get_or_insert(error);
                    later.push(image);
                    continue;
                }
                other => other?,
            };
            for name in &removed.names {
                print(format!("removed name {name}\n").as_bytes())?;
            }
            if let Some(id) = removed.image {
                print(format!("removed image {id}\n").as_bytes())?;
            }
        }
        if let Some(error) = needed.filter(|_| later.len() == before) {
            return Err(error.into());
        }
        left = later;
    }
    Ok(())
}
