//! `lazyroot gc`

use super::images::columns;
use super::report::Failure;
use super::{Context, human, print, print_json};

/// Remove every layer and blob that no image and no running process needs, and what
/// came of transfers that were cut.
///
/// Changes of writable mounts whose server was killed are shown and stay. A mount
/// with --upper goes on with them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Remove changes of mounts whose server was killed, too.
    #[arg(long)]
    uppers: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let mut swept = store.gc(args.uppers)?;
    let (files, bytes) = crate::discovery::remove_parts(&store.fetch_path())?;
    swept.files += files;
    swept.bytes += bytes;
    if args.json {
        return print_json(&swept);
    }
    let mut text = format!("freed {} in {} files\n", human(swept.bytes), swept.files);
    if !swept.uppers.is_empty() {
        text.push_str("changes of mounts that were killed (gc --uppers removes them):\n");
        let line = |upper: &crate::store::uppers::KeptUpper| {
            let image = upper.image.map_or_else(String::new, |id| id.to_string());
            [
                upper.path.join("upper").display().to_string(),
                human(upper.bytes),
                image,
            ]
        };
        text.push_str(&columns(&swept.uppers.iter().map(line).collect::<Vec<_>>()));
    }
    print(text.as_bytes())
}
