//! `lazyroot umount`

use std::path::PathBuf;

use super::report::{Exit, Failure, chain};
use crate::mounts::{self, MountError};

/// Undo mounts. The servers end by themselves.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where they are.
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// Also while they are in use: at once for newcomers, for others when they leave.
    #[arg(short, long)]
    lazy: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    for directory in &args.directories {
        mounts::unmount(directory, args.lazy).map_err(|error| failure(&error))?;
    }
    Ok(())
}

fn failure(error: &MountError) -> Failure {
    let exit = match error {
        MountError::Busy { .. } => Exit::InUse,
        MountError::NotMounted(_) | MountError::Path { .. } => Exit::NotFound,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, chain(error));
    match error {
        MountError::Busy { .. } => failure.hint("end what uses it, or umount --lazy"),
        MountError::NotOurs { .. } => failure.hint("umount(8)"),
        _ => failure,
    }
}
