//! `lazyroot man`

use std::fs;
use std::path::PathBuf;

use super::report::{Exit, Failure};

/// Write the manual pages, one for each verb, into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory, `/usr/local/share/man/man1` for instance. Made if missing.
    directory: PathBuf,
}

pub(super) fn run(args: &Args, command: clap::Command) -> Result<(), Failure> {
    let written = fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(command, &args.directory));
    written.map_err(|error| {
        let what = format!(
            "cannot write manual pages to `{}`: {error}",
            args.directory.display()
        );
        Failure::new(Exit::Failed, what)
    })
}
