//! `lazyroot gc`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::images::{columns, shown_names};
use super::report::{Exit, Failure, chain};
use super::{Context, human, message, parse_duration, parse_size, print, print_json};
use crate::mesos::{self, Image, ImageGcConfig, MessageError, What};
use crate::store::gc::choose::Why;
use crate::store::gc::exclude::Exclusion;
use crate::store::gc::headroom::Headroom;
use crate::store::gc::{Request, Swept};
use crate::store::uppers::KeptUpper;

/// Remove every layer and blob that no image and no running process needs, and what
/// came of transfers that were cut. Images stay, unless one of these says that they may
/// go: --all, --unnamed, --older-than, --to-size, --headroom. What one of them says
/// goes.
///
/// An image in use (by a mount, a container, an import) never goes, nor one that --keep
/// names, nor an AppC image that another which stays depends on.
///
/// Changes of writable mounts whose server was killed are shown and stay. A mount
/// with --upper goes on with them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Remove all images that are not in use.
    #[arg(long)]
    all: bool,
    /// Remove images without a name (another image may have got it).
    #[arg(long)]
    unnamed: bool,
    /// Remove images that were not used for so long: `90m`, `24h`, `7d`, `2w`.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Remove the least recently used images until the store is no larger: `20G`.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    to_size: Option<u64>,
    /// Do something only if less of the store's disk than this is free (0.1 is a tenth),
    /// and remove the least recently used images until it is.
    #[arg(long, value_name = "PART")]
    headroom: Option<Headroom>,
    /// The same by an `ImageGcConfig` of Mesos, which names images that stay, too; a file, or JSON.
    #[arg(
        long,
        alias = "image_gc_config",
        value_name = "JSON|FILE",
        conflicts_with = "headroom"
    )]
    image_gc_config: Option<String>,
    /// --all by a PRUNE_IMAGES call of Mesos, which names images that stay; a file, or JSON.
    #[arg(long, value_name = "JSON|FILE")]
    prune_images: Option<String>,
    /// An image that stays, by name or ID; may be repeated.
    #[arg(long, value_name = "IMAGE", num_args = 1..)]
    keep: Vec<String>,
    /// Remove changes of mounts whose server was killed, too.
    #[arg(long)]
    uppers: bool,
    /// Only print what would be removed.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn request(&self) -> Result<Request, Failure> {
        let mut keep: Vec<Exclusion> = self.keep.iter().cloned().map(Exclusion::Text).collect();
        let mut headroom = self.headroom;
        if let Some(text) = &self.image_gc_config {
            let config = told(text, "--image-gc-config", ImageGcConfig::parse)?;
            let part = Headroom::new(config.headroom);
            headroom = Some(part.map_err(|error| Failure::of(Exit::Usage, &error))?);
            keep.extend(config.excluded.into_iter().map(exclusion));
        }
        if let Some(text) = &self.prune_images {
            let excluded = told(text, "--prune-images", mesos::prune_images)?;
            keep.extend(excluded.into_iter().map(exclusion));
        }
        Ok(Request {
            uppers: self.uppers,
            all: self.all || self.prune_images.is_some(),
            unnamed: self.unnamed,
            older_than: self.older_than,
            max_size: self.to_size,
            headroom,
            keep,
            dry_run: self.dry_run,
            now: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        })
    }
}

fn exclusion(image: Image) -> Exclusion {
    match image.what {
        What::Docker(name) => Exclusion::Text(name.to_string()),
        What::Appc { id: Some(id), .. } => Exclusion::Text(id.to_string()),
        What::Appc { image, id: None } => Exclusion::Appc(image),
    }
}

/// A message that is given itself, or by the file that has it (as Mesos' flags are).
fn told<T>(
    given: &str,
    flag: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, MessageError>,
) -> Result<T, Failure> {
    let bytes = message::read(given).map_err(|mut failure| {
        failure.message = format!("{flag}: {}", failure.message);
        failure
    })?;
    parse(&bytes).map_err(|error| {
        let place = match given.trim_start().starts_with(['{', '[']) {
            true => String::new(),
            false => format!("`{given}`: "),
        };
        Failure::new(Exit::Usage, format!("{flag}: {place}{}", chain(&error)))
            .hint("lazyroot gc --help, and the documentation of Mesos")
    })
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let request = args.request()?;
    let store = context.open()?;
    let mut swept = store.collect(&request)?;
    if !swept.idle {
        let parts = store.fetch_path();
        let (files, bytes) = match args.dry_run {
            true => crate::http::part::count(&parts)?,
            false => crate::http::part::remove_all(&parts)?,
        };
        swept.files += files;
        swept.bytes += bytes;
    }
    if args.json {
        return print_json(&swept);
    }
    print(in_words(&request, &swept).as_bytes())
}

fn in_words(request: &Request, swept: &Swept) -> String {
    let mut text = String::new();
    for name in &swept.unknown {
        text.push_str(&format!("note: nothing is called `{name}`\n"));
    }
    if let (Some(disk), Some(headroom)) = (swept.disk, request.headroom) {
        let full = disk.percent();
        text.push_str(&format!(
            "the disk is {full:.1} % full (headroom {headroom})\n"
        ));
    }
    let verb = match request.dry_run {
        true => "would remove",
        false => "removed",
    };
    let lines: Vec<[String; 3]> = (swept.images.iter())
        .map(|image| {
            let id = &image.id.0.hex()[..12];
            let names = shown_names(&image.names, image.appc.as_ref(), id).join(", ");
            let why = match image.why {
                Why::All | Why::Size | Why::Headroom => String::new(),
                Why::Unnamed => "(no name)".to_owned(),
                Why::Unused => "(not used)".to_owned(),
            };
            [format!("{verb} image {names}"), human(image.bytes), why]
        })
        .collect();
    text.push_str(&columns(&lines));
    if !swept.idle {
        let verb = match request.dry_run {
            true => "would free",
            false => "freed",
        };
        let size = human(swept.bytes);
        text.push_str(&format!("{verb} {size} in {} files\n", swept.files));
    }
    if swept.short > 0 {
        let short = human(swept.short);
        text.push_str(&format!(
            "note: that is {short} less than asked for; all other images are in use or kept\n"
        ));
    }
    if !swept.uppers.is_empty() {
        text.push_str("changes of mounts that were killed (gc --uppers removes them):\n");
        let line = |upper: &KeptUpper| {
            let image = upper.image.map_or_else(String::new, |id| id.to_string());
            [
                upper.path.join("upper").display().to_string(),
                human(upper.bytes),
                image,
            ]
        };
        text.push_str(&columns(&swept.uppers.iter().map(line).collect::<Vec<_>>()));
    }
    text
}
