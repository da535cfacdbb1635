//! `lazyroot validate`

use std::path::PathBuf;

use super::report::{Exit, Failure};
use super::{Context, print};
use crate::archive::Archive;
use crate::import::{self, ImportError};
use crate::layer::Limits;

/// Check App Container Images without taking them into the store.
///
/// Says what is wrong with the archive, its layout or its manifest, or prints the
/// image's ID and name.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// ACIs, compressed or not.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    for path in &args.files {
        let about = |failure: Failure| Failure {
            message: format!("`{}`: {}", path.display(), failure.message),
            ..failure
        };
        let archive = Archive::open(path, &context.stop);
        let archive = archive.map_err(|error| about(ImportError::from(error).into()))?;
        let Archive::Aci(aci) = archive else {
            let what = "it is no App Container Image: its first member is neither `manifest` nor \
                        `rootfs`";
            return Err(about(Failure::new(Exit::Failed, what)));
        };
        let checked = import::check_aci(aci, Limits::default(), &context.stop);
        let (id, manifest) = checked.map_err(|error| about(error.into()))?;
        let name = manifest.outline().reference();
        print(format!("{id} {name}\n").as_bytes())?;
    }
    Ok(())
}
