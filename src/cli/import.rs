//! `lazyroot import`

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, print, print_json};
use crate::archive::{Archive, ArchiveError};
use crate::digest::AciId;
use crate::image::{Platform, Want};
use crate::import::{self, ImportError, Imported, Options};
use crate::layer::Limits;
use crate::reference::Reference;
use crate::store::Store;

/// Take images from archives into the store. Nothing is unpacked.
///
/// Docker archives (`docker save`, of all generations), OCI layouts (directory
/// or tar), `skopeo` directories and App Container Images are recognised by their
/// content, also when the whole is compressed with gzip, zstd, bzip2 or xz.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Archives or directories; `-` is standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Name for the image, instead of those in the archive; may be repeated.
    #[arg(long = "name", value_name = "NAME", value_parser = super::tag::new_name)]
    names: Vec<Reference>,
    /// Which image of a multi-platform index: `linux/arm64`, `arm/v7`. Default: this machine's.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Read every layer again, also those that the store has (mends a damaged store).
    #[arg(long)]
    again: bool,
    /// Raise or lower a limit on hostile layers: entries, unpacked (bytes), ratio.
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = parse_limit)]
    limits: Vec<(Limit, u64)>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    Entries,
    Unpacked,
    Ratio,
}

fn parse_limit(text: &str) -> Result<(Limit, u64), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    let limit = match name {
        "entries" => Limit::Entries,
        "unpacked" => Limit::Unpacked,
        "ratio" => Limit::Ratio,
        other => {
            return Err(format!(
                "there is no limit `{other}` (entries, unpacked, ratio)"
            ));
        }
    };
    Ok((limit, super::parse_size(value)?))
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut limits = Limits::default();
    for (limit, value) in &args.limits {
        match limit {
            Limit::Entries => limits.entries = *value,
            Limit::Unpacked => limits.unpacked = *value,
            Limit::Ratio => limits.ratio = *value,
        }
    }
    context.stop_by_signals()?;
    let store = context.create()?;
    let mut all = Vec::new();
    for path in &args.paths {
        if context.stop.load(Ordering::Relaxed) {
            return Err(ImportError::Interrupted.into());
        }
        let progress = Shown::new(args.quiet);
        let options = Options {
            names: &args.names,
            want: &args.platform.clone().map_or_else(Want::host, Want::only),
            again: args.again,
            limits,
            now: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            progress: &progress,
            stop: &context.stop,
        };
        let imported =
            open(path, &context.stop).and_then(|archive| import::import(&store, archive, &options));
        progress.end();
        let imported = imported.map_err(|error| {
            // What gave up a silent pipe only knows that it could not be read.
            let stopped = context.stop.load(Ordering::Relaxed);
            let error = if stopped {
                ImportError::Interrupted
            } else {
                error
            };
            let mut failure = Failure::from(error);
            if failure.exit != Exit::Interrupted {
                failure.message =
                    format!("cannot import `{}`: {}", path.display(), failure.message);
            }
            failure
        })?;
        if !args.json {
            imported
                .iter()
                .try_for_each(|image| print(line(image, &store)?.as_bytes()))?;
        }
        all.extend(imported);
    }
    if args.json { print_json(&all) } else { Ok(()) }
}

fn open(path: &Path, stop: &Arc<AtomicBool>) -> Result<Archive, ImportError> {
    if path.as_os_str() != "-" {
        return Ok(Archive::open(path, stop)?);
    }
    let name = "standard input".to_owned();
    match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(stdin) => Ok(Archive::from_file(name, File::from(stdin), stop)?),
        Err(source) => Err(ArchiveError::Open {
            archive: name,
            source,
        }
        .into()),
    }
}

/// One image in words.
pub(super) fn line(image: &Imported, store: &Store) -> Result<String, Failure> {
    let familiar = |names: &[Reference]| {
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        names.join(", ")
    };
    if let Some(appc) = &image.appc {
        let also = match image.names.is_empty() {
            true => String::new(),
            false => format!(" as {}", familiar(&image.names)),
        };
        let id =
            AciId::of_image(image.id).map_or_else(|| image.id.to_string(), |id| id.to_string());
        return Ok(format!("imported {id} {appc}{also}\n"));
    }
    let named = match image.names.is_empty() {
        false => format!("as {}", familiar(&image.names)),
        true => match &*store.names_of(image.id)? {
            [] => "without a name (lazyroot tag gives it one)".to_owned(),
            before => format!("(it is {} already)", familiar(before)),
        },
    };
    let (new, kept) = (image.layers - image.layers_kept, image.layers_kept);
    let layers = if new == 1 { "layer" } else { "layers" };
    let were = if kept == 1 { "was" } else { "were" };
    Ok(format!(
        "imported {} {named}: {new} new {layers}, {kept} {were} there\n",
        image.id
    ))
}
