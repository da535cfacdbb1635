//! `lazyroot diff`

use super::ls::kind;
use super::report::Failure;
use super::{Context, changes, print, print_json};
use crate::changed;
use crate::store::Caches;
use crate::tree_path::TreePath;
use crate::union::writable::{Difference, Differs};

/// Show what was changed in a container, or of an image: A added, C changed, D deleted.
///
/// Only what was changed is looked at. Of what was added or deleted with all that is in
/// it, a directory is named once if it was moved (`was` says from where) or deleted. A mount
/// may be at work meanwhile.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    changes: changes::Args,
    /// Print one JSON array; says also whether contents or attributes were changed.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let target = args.changes.target(&store)?;
    let caches = Caches::default();
    let lease = store.lease()?;
    let changed = changed::open(&store, &target, &caches, lease.as_ref())?;
    let changes = changed
        .tree
        .changes()
        .map_err(changed::ChangedError::from)?;
    if args.json {
        return print_json(&changes.iter().map(json).collect::<Vec<_>>());
    }
    let mut text = String::new();
    for change in &changes {
        let letter = match change.differs {
            Differs::Added => 'A',
            Differs::Changed { .. } => 'C',
            Differs::Deleted => 'D',
        };
        text.push_str(&format!("{letter} {}", change.path));
        if let Some(from) = &change.from {
            text.push_str(&format!(" (was {from})"));
        }
        text.push('\n');
    }
    print(text.as_bytes())
}

/// One change for programs.
#[derive(serde::Serialize)]
struct Json {
    change: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    type_was: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<bool>,
}

fn json(change: &Difference) -> Json {
    let mut json = Json {
        change: "added",
        path: text(&change.path),
        path_hex: hex(&change.path),
        kind: kind(change.kind).1,
        from: change.from.as_ref().map(text),
        type_was: None,
        contents: None,
        attributes: None,
    };
    match change.differs {
        Differs::Added => {}
        Differs::Deleted => json.change = "deleted",
        Differs::Changed {
            was,
            contents,
            attributes,
        } => {
            json.change = "changed";
            json.type_was = was.map(|was| kind(was).1);
            (json.contents, json.attributes) = (Some(contents), Some(attributes));
        }
    }
    json
}

fn text(path: &TreePath) -> String {
    format!("/{}", String::from_utf8_lossy(path.as_bytes()))
}

/// The bytes of a path that is no text.
fn hex(path: &TreePath) -> Option<String> {
    let bytes = [b"/", path.as_bytes()].concat();
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    std::str::from_utf8(&bytes).is_err().then(hex)
}
