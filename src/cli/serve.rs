use super::report::Failure;
/// x
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) fn run(_args: &Args, _context: &super::Context) -> Result<(), Failure> { Ok(()) }
