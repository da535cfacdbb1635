//! `lazyroot images`

use super::report::Failure;
use super::{Context, date, human, print, print_json};
use crate::appc::AppcReference;
use crate::digest::ImageId;
use crate::image::appc::graph::Outline;
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// List the images of the store.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
    /// Print whole IDs only.
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

#[derive(serde::Serialize)]
struct Row {
    id: ImageId,
    names: Vec<Reference>,
    /// Name and labels of an AppC image.
    #[serde(skip_serializing_if = "Option::is_none")]
    appc: Option<AppcReference>,
    platform: String,
    layers: usize,
    /// Bytes of all its blobs.
    size: u64,
    imported: u64,
    last_used: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = match context.open() {
        // A store that nothing was imported into yet has no images.
        Err(StoreError::Missing(_)) if !args.json => return Ok(()),
        Err(StoreError::Missing(_)) => return print_json(&Vec::<Row>::new()),
        other => other?,
    };
    let names = store.names()?;
    let mut rows = Vec::new();
    for id in store.image_ids()? {
        let of_image = names
            .iter()
            .filter(|(_, to)| **to == id)
            .map(|(name, _)| name.clone());
        rows.push(row(&store, id, of_image.collect())?);
    }
    rows.sort_by(|a, b| (&a.names, &a.appc, a.id).cmp(&(&b.names, &b.appc, b.id)));
    if args.json {
        return print_json(&rows);
    }
    if args.quiet {
        let lines: String = rows.iter().map(|row| format!("{}\n", row.id)).collect();
        return print(lines.as_bytes());
    }
    print(table(&rows).as_bytes())
}

fn row(store: &Store, id: ImageId, names: Vec<Reference>) -> Result<Row, StoreError> {
    let record = store.image(id)?;
    let mut size = 0;
    for layer in &record.layers {
        size += store.layer(layer.diff)?.map_or(0, |layer| layer.blob_size);
    }
    Ok(Row {
        id,
        names,
        appc: record.appc.as_ref().map(Outline::reference),
        platform: record.platform.to_string(),
        layers: record.layers.len(),
        size,
        imported: record.imported,
        last_used: store.last_used(id)?,
    })
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        [
            "NAME",
            "ID",
            "PLATFORM",
            "LAYERS",
            "SIZE",
            "LAST USED (UTC)",
        ]
        .map(String::from),
    ];
    for row in rows {
        for name in shown_names(&row.names, row.appc.as_ref(), "-") {
            lines.push([
                name,
                row.id.0.hex()[..12].to_owned(),
                row.platform.clone(),
                row.layers.to_string(),
                human(row.size),
                date(i64::try_from(row.last_used).unwrap_or(0)),
            ]);
        }
    }
    columns(&lines)
}

/// All that an image is called, or what stands for nothing.
pub(super) fn shown_names(
    names: &[Reference],
    appc: Option<&AppcReference>,
    none: &str,
) -> Vec<String> {
    let mut all: Vec<String> = appc.iter().map(ToString::to_string).collect();
    all.extend(names.iter().map(Reference::familiar));
    if all.is_empty() {
        all.push(none.to_owned());
    }
    all
}

/// Widest column that others are aligned behind: no reference is longer. A cell with more
/// (what images say of themselves has no bound) moves only its own line.
const COLUMN_MAX: usize = 1024;

/// Lines with their columns aligned to the left, two blanks apart.
pub(super) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |n: usize| {
        lines
            .iter()
            .map(|line| line[n].chars().count())
            .max()
            .unwrap_or(0)
            .min(COLUMN_MAX)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let missing = width.saturating_sub(cell.chars().count());
            row.push_str(cell);
            row.extend(std::iter::repeat_n(' ', missing + 2));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}
