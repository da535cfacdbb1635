//! `lazyroot provision`

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::containers::{backend_failure, failure, keeper};
use super::report::{Exit, Failure};
use super::wanted::Wanted;
use super::{Context, logging, print, print_json, progress, serve};
use crate::container::{Containers, Provisioned, Request};
use crate::container_id::ContainerId;
use crate::digest::{AciId, BlobId, ImageId};
use crate::store::Store;

/// Give a container a root file system, and print where it is. It stays until it is
/// destroyed, also over a reboot (after `recover`).
///
/// Called again for the same container, it gets one more. An image that the store does not
/// have is fetched as --discovery says.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or ID of the image.
    #[arg(
        required_unless_present = "container_info",
        conflicts_with = "container_info"
    )]
    image: Option<String>,
    /// Name of the container. One in another is named by both: web1/helper.
    #[arg(long)]
    id: ContainerId,
    /// The container that it is in (--parent web1 --id helper is --id web1/helper).
    #[arg(long, value_name = "ID")]
    parent: Option<ContainerId>,
    /// Nothing can be written to it.
    #[arg(short, long, conflicts_with = "container_info")]
    read_only: bool,
    #[command(flatten)]
    wanted: Wanted,
    /// Print one JSON object: paths, layers, and how the image wants to be run.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    // Before anything is fetched for it.
    let backend = context.backend.settle();
    let backend = backend.map_err(|error| backend_failure(&error))?;
    let spare = serve::spare(backend);
    context.stop_by_signals()?;
    let id = match &args.parent {
        None => args.id.clone(),
        Some(parent) => parent
            .child(&args.id)
            .map_err(|error| Failure::of(Exit::Usage, &error))?,
    };
    let mut request = Request {
        id,
        backend,
        images: Vec::new(),
        hostname: None,
        volumes: Vec::new(),
        now: now(),
        new: false,
        transient: false,
    };
    match (&args.image, &args.wanted.container_info) {
        (_, Some(info)) => args.wanted.as_told(info, &mut request, context)?,
        (Some(image), None) => {
            let image = args.wanted.image(image, args.read_only, context)?;
            request.images.push(image);
        }
        (None, None) => {}
    }
    let store = context.open()?;
    // Before anything is made: the image may be removed by force meanwhile.
    let configs = match args.json {
        true => (request.images.iter())
            .map(|image| config(&store, image.id))
            .collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    let shown = progress::Written::new(args.wanted.quiet);
    let keeper = Containers {
        spare: spare.as_ref(),
        log: logging::of_server(context.log_file.as_deref(), &context.log),
        ..keeper(context, &store)
    };
    let made = keeper.provision(&request, &mut |bytes, objects| shown.tell(bytes, objects));
    shown.end();
    let made = made.map_err(|error| failure(&error))?;
    match args.json {
        true => print_json(&Report {
            made: &made,
            configs,
        }),
        false => print(paths(&made).as_bytes()),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What was made, with how the images want to be run.
#[derive(serde::Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    made: &'a Provisioned,
    /// For each rootfs: `config` of a Docker or OCI image's config, `app` of an AppC image's
    /// manifest; null where the image says nothing.
    configs: Vec<Value>,
}

fn paths(made: &Provisioned) -> String {
    let mut text = String::new();
    for rootfs in &made.rootfses {
        text.push_str(&rootfs.path.display().to_string());
        if let Some(path) = &rootfs.container_path {
            text.push_str(&format!(" -> {path}"));
        }
        text.push('\n');
    }
    text
}

fn config(store: &Store, image: ImageId) -> Result<Value, Failure> {
    let (blob, field) = match AciId::of_image(image) {
        None => (Some(BlobId(image.0)), "config"),
        Some(_) => (store.image(image)?.manifest, "app"),
    };
    let Some(blob) = blob else {
        return Ok(Value::Null);
    };
    let whole = super::inspect::json(store, blob)?;
    Ok(whole.get(field).cloned().unwrap_or_default())
}
