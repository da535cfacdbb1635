//! `lazyroot inspect`

use serde_json::Value;

use super::images::columns;
use super::report::{Exit, Failure};
use super::{Context, date, human, print, print_json};
use crate::digest::{BlobId, DiffId, ImageId};
use crate::image::Platform;
use crate::layer::read::Summary;
use crate::layer::seek::Compression;
use crate::reference::Reference;
use crate::store::{Caches, Store, StoreError};

/// Show an image: names, manifest, config, layers and what each adds.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Name or ID of the image.
    image: String,
}

#[derive(serde::Serialize)]
struct Report {
    id: ImageId,
    names: Vec<Reference>,
    platform: Platform,
    source: crate::image::Source,
    imported: u64,
    last_used: u64,
    layers: Vec<Layer>,
    /// The manifest, when the image came with one.
    manifest: Option<Value>,
    config: Value,
}

#[derive(serde::Serialize)]
struct Layer {
    diff_id: DiffId,
    blob: BlobId,
    /// Digest that the manifest names, when another blob of the same layer is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    declared: Option<BlobId>,
    compression: Compression,
    compressed_bytes: u64,
    tar_bytes: u64,
    /// Who made it, from the config's history.
    created_by: Option<String>,
    adds: Summary,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let report = report(&store, store.find(&args.image)?)?;
    if args.json {
        print_json(&report)
    } else {
        print(text(&report).as_bytes())
    }
}

fn json(store: &Store, blob: BlobId) -> Result<Value, Failure> {
    serde_json::from_slice(&store.small_blob(blob)?)
        .map_err(|error| Failure::new(Exit::Damaged, format!("blob {blob} is not JSON: {error}")))
}

fn report(store: &Store, id: ImageId) -> Result<Report, Failure> {
    let record = store.image(id)?;
    let config = json(store, BlobId(id.0))?;
    // History has an entry for each layer, and some for no layer.
    let history = config
        .get("history")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut makers = history
        .filter(|entry| entry.get("empty_layer").and_then(Value::as_bool) != Some(true))
        .map(|entry| {
            entry
                .get("created_by")
                .and_then(Value::as_str)
                .map(str::to_owned)
        });
    let caches = Caches::default();
    let mut layers = Vec::new();
    for layer in &record.layers {
        let kept = store
            .layer(layer.diff)?
            .ok_or(StoreError::NoLayer(layer.diff))?;
        layers.push(Layer {
            diff_id: layer.diff,
            blob: kept.blob,
            declared: layer.declared.filter(|declared| *declared != kept.blob),
            compression: kept.compression,
            compressed_bytes: kept.blob_size,
            tar_bytes: kept.tar_size,
            created_by: makers.next().flatten(),
            adds: store.open_layer(layer.diff, &caches)?.index.summary(),
        });
    }
    let names = store.names()?;
    Ok(Report {
        id,
        names: names
            .into_iter()
            .filter(|(_, to)| *to == id)
            .map(|(name, _)| name)
            .collect(),
        platform: record.platform,
        source: record.source,
        imported: record.imported,
        last_used: store.last_used(id)?,
        layers,
        manifest: record
            .manifest
            .map(|manifest| json(store, manifest))
            .transpose()?,
        config,
    })
}

fn text(report: &Report) -> String {
    let names: Vec<String> = report.names.iter().map(Reference::familiar).collect();
    let when = |seconds: u64| date(i64::try_from(seconds).unwrap_or(0));
    let mut fields = vec![
        ("ID", report.id.to_string()),
        (
            "Names",
            if names.is_empty() {
                "-".to_owned()
            } else {
                names.join(", ")
            },
        ),
        ("Platform", report.platform.to_string()),
        (
            "Imported",
            format!(
                "{} UTC, last used {} UTC",
                when(report.imported),
                when(report.last_used)
            ),
        ),
    ];
    let run = report.config.get("config").unwrap_or(&Value::Null);
    let settings = [
        "User",
        "WorkingDir",
        "Entrypoint",
        "Cmd",
        "Env",
        "ExposedPorts",
        "Volumes",
        "StopSignal",
        "Labels",
    ];
    for key in settings {
        match run.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.is_empty() => {}
            Some(Value::String(text)) => fields.push((key, text.clone())),
            Some(other) => fields.push((key, other.to_string())),
        }
    }
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(key, value)| [format!("{key}:"), value])
        .collect();
    let mut lines = vec![
        [
            "LAYER", "BLOB", "UNPACKED", "FILES", "DIRS", "HIDES", "MADE BY",
        ]
        .map(String::from),
    ];
    for layer in &report.layers {
        let made: String = layer
            .created_by
            .as_deref()
            .unwrap_or("-")
            .chars()
            .take(60)
            .collect();
        let kind = format!("{:?}", layer.compression).to_lowercase();
        lines.push([
            layer.diff_id.0.hex()[..12].to_owned(),
            format!("{} {kind}", human(layer.compressed_bytes)),
            human(layer.tar_bytes),
            layer.adds.files.to_string(),
            layer.adds.dirs.to_string(),
            layer.adds.whiteouts.to_string(),
            made.replace(char::is_control, " "),
        ]);
    }
    format!("{}\n{}", columns(&fields), columns(&lines))
}
