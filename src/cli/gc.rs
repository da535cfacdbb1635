//! `lazyroot gc`

use super::report::Failure;
use super::{Context, human, print, print_json};

/// Remove every layer and blob that no image and no running process needs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let swept = context.open()?.gc()?;
    if args.json {
        return print_json(&swept);
    }
    print(format!("freed {} in {} files\n", human(swept.bytes), swept.files).as_bytes())
}
