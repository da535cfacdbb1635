//! `lazyroot provision`

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::containers::{backend_failure, failure, keeper};
use super::fetch::{Asked, Fetch, Fetched, Policy};
use super::report::{Exit, Failure};
use super::{Context, print, print_json, progress};
use crate::container::record::HostVolume;
use crate::container::{Image, Provisioned, Request};
use crate::container_id::ContainerId;
use crate::container_info::{ContainerInfo, Dialect, Mode, SIZE_MAX, Source, What};
use crate::digest::{AciId, BlobId, ImageId};
use crate::store::Store;
use crate::store::metrics::Counter;

/// Give a container a root file system, and print where it is. It stays until it is
/// destroyed, also over a reboot (after `recover`).
///
/// Called again for the same container, it gets one more. An image that the store does not
/// have is fetched as --discovery says.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name or ID of the image.
    #[arg(required_unless_present = "container_info")]
    image: Option<String>,
    /// Name of the container. One in another is named by both: web1/helper.
    #[arg(long)]
    id: ContainerId,
    /// The container that it is in (--parent web1 --id helper is --id web1/helper).
    #[arg(long, value_name = "ID")]
    parent: Option<ContainerId>,
    /// What is wanted as Mesos' ContainerInfo in JSON: a file, `-` for standard input, or the
    /// JSON itself. Its volumes that are images are provisioned, too; its host name and
    /// directories of the host are kept for whoever launches something.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "read_only"])]
    container_info: Option<String>,
    /// Demand what the first design of ContainerInfo demanded: the ID of an AppC image.
    #[arg(long, requires = "container_info")]
    strict: bool,
    /// Nothing can be written to it.
    #[arg(short, long)]
    read_only: bool,
    /// When the image is fetched.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "missing")]
    pull: Policy,
    /// Fetch the image again (--pull always).
    #[arg(long, conflicts_with = "pull")]
    no_cache: bool,
    /// Print one JSON object: paths, layers, and how the image wants to be run.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    context.stop_by_signals()?;
    let id = match &args.parent {
        None => args.id.clone(),
        Some(parent) => parent
            .child(&args.id)
            .map_err(|error| Failure::of(Exit::Usage, &error))?,
    };
    // Before anything is fetched for it.
    let backend = context.backend.settle();
    let backend = backend.map_err(|error| backend_failure(&error))?;
    let mut request = Request {
        id,
        backend,
        images: Vec::new(),
        hostname: None,
        volumes: Vec::new(),
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    let mut came = Came::default();
    match (&args.image, &args.container_info) {
        (_, Some(info)) => args.as_told(info, &mut request, &mut came, context)?,
        (Some(image), None) => {
            let fetch = Fetch::new(context, args.quiet);
            let (id, fetched) = fetch.named(image, args.policy(true))?;
            came.note(&fetched);
            request.images.push(Image {
                id,
                title: familiar(image),
                read_only: args.read_only,
                container_path: None,
            });
        }
        (None, None) => {}
    }
    let store = context.open()?;
    came.count(&store);
    // Before anything is made: the image may be removed by force meanwhile.
    let configs = match args.json {
        true => (request.images.iter())
            .map(|image| config(&store, image.id))
            .collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    let shown = progress::Written::new(args.quiet);
    let made = keeper(context, &store).provision(&request, &mut |bytes, objects| {
        shown.tell(bytes, objects);
    });
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

/// How the images came.
#[derive(Default)]
struct Came {
    cached: u64,
    pulled: u64,
}

impl Came {
    fn note(&mut self, fetched: &Fetched) {
        match fetched {
            Fetched::Cached => self.cached += 1,
            Fetched::Pulled(_) => self.pulled += 1,
        }
    }

    fn count(&self, store: &Store) {
        let (cached, pulled) = (self.cached, self.pulled);
        store.tally(&[(Counter::CacheHits, cached), (Counter::CacheMisses, pulled)]);
    }
}

impl Args {
    fn policy(&self, cached: bool) -> Policy {
        match self.no_cache || !cached {
            true => Policy::Always,
            false => self.pull,
        }
    }

    /// What a ContainerInfo asks for.
    fn as_told(
        &self,
        text: &str,
        request: &mut Request,
        came: &mut Came,
        context: &Context,
    ) -> Result<(), Failure> {
        let dialect = match self.strict {
            true => Dialect::First,
            false => Dialect::Final,
        };
        let info = ContainerInfo::parse(&read(text)?, dialect).map_err(|error| {
            let mut failure = Failure::of(Exit::Usage, &error);
            failure.message = format!("ContainerInfo: {}", failure.message);
            failure.hint = error.hint().map(str::to_owned);
            failure
        })?;
        if !info.ignored.is_empty() && !self.quiet {
            let ignored = info.ignored.join(", ");
            writeln!(
                std::io::stderr(),
                "note: {ignored}: not for a provisioner, left alone"
            )?;
        }
        request.hostname = info.hostname;
        let fetch = Fetch::new(context, self.quiet);
        let mut add = |image: &crate::container_info::Image, path: Option<String>, read_only| {
            let asked = Asked::from(&image.what);
            let (id, fetched) = fetch.image(&asked, self.policy(image.cached))?;
            came.note(&fetched);
            request.images.push(Image {
                id,
                title: title(&image.what),
                read_only,
                container_path: path,
            });
            Ok::<_, Failure>(())
        };
        if let Some(image) = &info.image {
            add(image, None, false)?;
        }
        for volume in info.volumes {
            let read_only = volume.mode == Mode::ReadOnly;
            match volume.source {
                Source::Image(image) => add(&image, Some(volume.container_path), read_only)?,
                Source::HostPath(host_path) => request.volumes.push(HostVolume {
                    host_path,
                    container_path: volume.container_path,
                    read_only,
                }),
            }
        }
        Ok(())
    }
}

/// A message that is given as itself, as a file, or on standard input.
fn read(text: &str) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    if text.trim_start().starts_with('{') {
        return Ok(text.as_bytes().to_vec());
    }
    let path = PathBuf::from(text.strip_prefix("file://").unwrap_or(text));
    let mut bytes = Vec::new();
    // One more than is taken, so that it is seen to be too large.
    let limit = SIZE_MAX as u64 + 1;
    let got = match text {
        "-" => std::io::stdin().take(limit).read_to_end(&mut bytes),
        _ => std::fs::File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    got.map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("cannot read `{text}`: {error}"))
    })?;
    Ok(bytes)
}

fn title(what: &What) -> String {
    match what {
        What::Appc { image, .. } => image.to_string(),
        What::Docker(name) => name.familiar(),
    }
}

fn familiar(text: &str) -> String {
    match text.parse() {
        Ok(name) => crate::reference::Reference::familiar(&name),
        Err(_) => text.to_owned(),
    }
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
