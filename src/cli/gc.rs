//! `lazyroot gc`

use super::report::Failure;
use super::{Context, human, print, print_json};

/// Remove every layer and blob that no image and no running process needs, and what
/// came of transfers that were cut.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let mut swept = store.gc()?;
    let (files, bytes) = crate::discovery::remove_parts(&store.fetch_path())?;
    swept.files += files;
    swept.bytes += bytes;
    if args.json {
        return print_json(&swept);
    }
    print(format!("freed {} in {} files\n", human(swept.bytes), swept.files).as_bytes())
}
