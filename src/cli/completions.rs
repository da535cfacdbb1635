//! `lazyroot completions`

use super::print;
use super::report::Failure;

/// Print a completion script for a shell.
///
/// bash: `lazyroot completions bash > /etc/bash_completion.d/lazyroot`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args, mut command: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "lazyroot", &mut script);
    print(&script)
}
