//! `lazyroot launch` (hidden): the process that `run` starts to leave the namespaces.

use std::fs;
use std::process::ExitCode;

use super::report::{Exit, Failure, chain};
use crate::launch::spec::Spec;
use crate::launch::{self, LaunchError};

/// Launch what a spec says; started by `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The descriptor of a file with the spec in it.
    #[arg(long, value_name = "NUMBER")]
    spec: u32,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // A descriptor of our own for it: that number stays whose it is.
    let bytes = fs::read(format!("/proc/self/fd/{}", args.spec))?;
    let spec: Spec =
        serde_json::from_slice(&bytes).map_err(|error| Failure::of(Exit::Usage, &error))?;
    match launch::launch(&spec) {
        Ok(code) => Ok(code.into()),
        Err(error) => {
            launch_failure(&error).print();
            Ok(error.exit_code().into())
        }
    }
}

/// What the user reads; the exit code is another matter.
pub(super) fn launch_failure(error: &LaunchError) -> Failure {
    let failure = Failure::new(Exit::Failed, chain(error));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
