//! `lazyroot inspect`

use serde_json::Value;

use super::images::{columns, shown_names};
use super::report::{Exit, Failure};
use super::{Context, date, human, print, print_json};
use crate::appc::AppcReference;
use crate::digest::{AciId, BlobId, DiffId, ImageId};
use crate::image::Platform;
use crate::image::appc::graph::{Outline, Placed};
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
    /// Name and labels of an AppC image.
    #[serde(skip_serializing_if = "Option::is_none")]
    appc: Option<AppcReference>,
    /// IDs of all that an AppC image is made of, lowest first; nothing if a
    /// dependency is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<Vec<Placed>>,
    platform: Platform,
    source: crate::image::Source,
    imported: u64,
    last_used: u64,
    layers: Vec<Layer>,
    /// The manifest, when the image came with one.
    manifest: Option<Value>,
    /// Of an AppC image: nothing.
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

/// A blob that is JSON.
pub(super) fn json(store: &Store, blob: BlobId) -> Result<Value, Failure> {
    serde_json::from_slice(&store.small_blob(blob)?)
        .map_err(|error| Failure::new(Exit::Damaged, format!("blob {blob} is not JSON: {error}")))
}

fn report(store: &Store, id: ImageId) -> Result<Report, Failure> {
    let record = store.image(id)?;
    let config = match record.appc {
        None => json(store, BlobId(id.0))?,
        Some(_) => Value::Null,
    };
    let stack = match AciId::of_image(id) {
        None => None,
        // Damage of other images is theirs.
        Some(aci) => store.appc_images()?.stack(aci).ok(),
    };
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
        appc: record.appc.as_ref().map(Outline::reference),
        stack,
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
    let names = shown_names(&report.names, report.appc.as_ref(), "-");
    let when = |seconds: u64| date(i64::try_from(seconds).unwrap_or(0));
    let mut fields = vec![
        // As the manifests of dependents write it.
        (
            "ID",
            AciId::of_image(report.id).map_or(report.id.to_string(), |id| id.to_string()),
        ),
        ("Names", names.join(", ")),
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
    if let (Some(_), Some(manifest)) = (&report.appc, &report.manifest) {
        appc_fields(report, manifest, &mut fields);
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

/// Paths of a whitelist that are shown.
const SHOWN_PATHS: usize = 4;

/// What the manifest of an AppC image says, a line for each field.
fn appc_fields(report: &Report, manifest: &Value, fields: &mut Vec<(&'static str, String)>) {
    let made_of = match &report.stack {
        Some(stack) => format!("{} layers with its dependencies", stack.len()),
        None => "a dependency is missing (lazyroot ls says which)".to_owned(),
    };
    fields.push(("Made of", made_of));
    for key in ["dependencies", "annotations"] {
        for value in manifest
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            fields.push((key, value.to_string()));
        }
    }
    if let Some(Value::Array(paths)) = manifest.get("pathWhitelist")
        && !paths.is_empty()
    {
        let shown = paths.iter().take(SHOWN_PATHS).map(Value::to_string);
        let mut shown: Vec<String> = shown.collect();
        if paths.len() > SHOWN_PATHS {
            shown.push(format!("... ({} in all)", paths.len()));
        }
        fields.push(("pathWhitelist", shown.join(", ")));
    }
    let app = manifest.get("app").and_then(Value::as_object);
    for (key, value) in app.into_iter().flatten() {
        // The keys of a manifest that was taken are known; others are in --json.
        const KNOWN: [&str; 13] = [
            "exec",
            "user",
            "group",
            "supplementaryGIDs",
            "supplementaryGids",
            "eventHandlers",
            "workingDirectory",
            "environment",
            "isolators",
            "mountPoints",
            "ports",
            "userAnnotations",
            "userLabels",
        ];
        if let Some(known) = KNOWN.iter().find(|known| *known == key) {
            fields.push((known, value.to_string()));
        }
    }
}
