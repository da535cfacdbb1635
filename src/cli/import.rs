//! `lazyroot import`

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::discovery::note;
use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, print, print_json};
use crate::archive::{AciStream, Archive, ArchiveError};
use crate::digest::{AciId, ImageId};
use crate::discovery::{Place, signature_path};
use crate::image::appc::Manifest;
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
///
/// With --keyring the signature of an App Container Image is FILE.asc beside it: one that is not
/// accepted is an error, and so is none with --require-signature.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Archives or directories; `-` is standard input. One that cannot be imported does not keep the others.
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
    // Of the first failure, and of how many.
    let mut failed: Option<(Exit, usize)> = None;
    let mut not_tried = 0;
    for (number, path) in args.paths.iter().enumerate() {
        match one(path, args, limits, &store, context) {
            Ok(imported) => {
                if !args.json {
                    print_lines(&imported, &store)?;
                }
                all.extend(imported);
            }
            Err((failure, ends_all)) => {
                if failure.exit == Exit::Interrupted {
                    return Err(failure);
                }
                let (first, count) = failed.unwrap_or((failure.exit, 0));
                failed = Some((first, count + 1));
                if args.paths.len() == 1 {
                    return Err(failure);
                }
                failure.print();
                if ends_all {
                    not_tried = args.paths.len() - number - 1;
                    break;
                }
            }
        }
    }
    if args.json {
        print_json(&all)?;
    }
    match failed {
        None => Ok(()),
        Some((first, count)) => {
            let of = args.paths.len();
            let mut what = format!("{count} of {of} archives could not be imported");
            if not_tried > 0 {
                what = format!("{what}, and {not_tried} were not tried");
            }
            Err(Failure::new(first, what))
        }
    }
}

/// The images of one archive; or why there are none, and whether the next one would fail for the same reason.
fn one(
    path: &Path,
    args: &Args,
    limits: Limits,
    store: &Store,
    context: &Context,
) -> Result<Vec<Imported>, (Failure, bool)> {
    if context.stop.load(Ordering::Relaxed) {
        return Err((ImportError::Interrupted.into(), false));
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
    let (imported, note) = match open(path, &context.stop) {
        Ok(Archive::Aci(aci)) => take_aci(aci, path, store, &options, context),
        Ok(other) => (Ok(import::import(store, other, &options)), None),
        Err(error) => (Ok(Err(error)), None),
    };
    progress.end();
    if let Some(note) = note.filter(|_| !args.quiet) {
        // There may be nobody to read it.
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    let imported = imported.map_err(|failure| (failure, false))?;
    imported.map_err(|error| match context.stop.load(Ordering::Relaxed) {
        // What gave up a silent pipe only knows that it could not be read.
        true => (ImportError::Interrupted.into(), false),
        false => {
            let ends_all = error.is_of_store();
            (named(path, error), ends_all)
        }
    })
}

/// A failure that says of which archive it is.
fn named(path: &Path, error: ImportError) -> Failure {
    let mut failure = Failure::from(error);
    if failure.exit != Exit::Interrupted {
        failure.message = format!("cannot import `{}`: {}", path.display(), failure.message);
    }
    failure
}

/// Whether a path is standard input.
fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What came of an AppC image: it cannot be taken, or its signature is not accepted; and what
/// there is to say of that.
type Taken = (
    Result<Result<Vec<Imported>, ImportError>, Failure>,
    Option<String>,
);

/// Takes an AppC image, if its signature is accepted, as `pull` does.
fn take_aci(
    aci: AciStream,
    path: &Path,
    store: &Store,
    options: &Options<'_>,
    context: &Context,
) -> Taken {
    let settings = &context.discovery;
    let beside = signature_path(path);
    let any = |_: AciId, _: &Manifest| Ok(());
    let is_file = !is_stdin(path) && path.is_file();
    let has_keyring = settings.keyring.is_some();
    if is_file && (has_keyring || settings.require_signature) {
        return verified(path, store, options, context);
    }
    if settings.require_signature {
        let what = format!(
            "a signature is required, and `{}` is no file that has one beside it",
            aci.name()
        );
        let failure = Failure::new(Exit::Usage, what);
        let hint = "import FILE, with the signature in FILE.asc; or --require-signature=false";
        return (Err(failure.hint(hint)), None);
    }
    let note = match has_keyring {
        true => Some(format!("note: `{}` has no signature", aci.name())),
        false if is_file && matches!(beside.try_exists(), Ok(true)) => Some(format!(
            "note: `{}` was not looked at, as there is no keyring (--keyring DIR)",
            beside.display()
        )),
        false => None,
    };
    (Ok(import::import_aci(store, aci, &any, options)), note)
}

/// Takes the AppC image in a file, with its signature.
fn verified(path: &Path, store: &Store, options: &Options<'_>, context: &Context) -> Taken {
    let stop = &context.stop;
    let opened = context.discovery.appc().and_then(|discovery| {
        let given = discovery.given(path, &store.fetch_path(), stop)?;
        let archive = Archive::from_file(path.display().to_string(), given.open()?, stop);
        Ok((discovery, given, archive))
    });
    let (discovery, given, archive) = match opened {
        Ok(opened) => opened,
        Err(_) if stop.load(Ordering::Relaxed) => {
            return (Ok(Err(ImportError::Interrupted)), None);
        }
        Err(failure) => return (Err(failure), None),
    };
    let (seen, refused) = (Cell::new(None), Cell::new(None));
    let accept = |_: AciId, manifest: &Manifest| {
        let signer = discovery.signer(&given, manifest.name.as_str(), stop);
        match signer {
            Ok(signature) => {
                seen.set(note(&Place::File(path.to_owned()), &signature));
                Ok(())
            }
            Err(error) => {
                refused.set(Some(error));
                Err(ImportError::Refused)
            }
        }
    };
    let imported = match archive.map_err(ImportError::from) {
        Ok(Archive::Aci(aci)) => import::import_aci(store, aci, &accept, options),
        // Somebody writes to it.
        Ok(_) => Err(ImportError::NotAppc),
        Err(error) => Err(error),
    };
    match refused.take().filter(|_| !stop.load(Ordering::Relaxed)) {
        Some(error) => (Err(error.into()), None),
        None => (Ok(imported), seen.take()),
    }
}

fn open(path: &Path, stop: &Arc<AtomicBool>) -> Result<Archive, ImportError> {
    if !is_stdin(path) {
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

/// The images in words, one a line.
pub(super) fn print_lines(images: &[Imported], store: &Store) -> Result<(), Failure> {
    let others = others(images, store);
    let line = |image| print(line(image, others.as_ref()).as_bytes());
    images.iter().try_for_each(line)
}

/// The names that images have in the store.
type Others = BTreeMap<ImageId, Vec<Reference>>;

/// The names of all images, if one of these has got none. The images are there by now: a
/// table that cannot be read is no failure of theirs, and the next verb that needs it tells.
fn others(images: &[Imported], store: &Store) -> Option<Others> {
    let mut others = Others::new();
    let unnamed = |image: &Imported| image.names.is_empty() && image.appc.is_none();
    if images.iter().any(unnamed) {
        for (name, id) in store.names().ok()? {
            others.entry(id).or_default().push(name);
        }
    }
    Some(others)
}

/// One image in words.
fn line(image: &Imported, others: Option<&Others>) -> String {
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
        return format!("imported {id} {appc}{also}\n");
    }
    let named = match image.names.is_empty() {
        false => format!(" as {}", familiar(&image.names)),
        true => match others.map(|others| others.get(&image.id)) {
            None => String::new(),
            Some(None) => " without a name (lazyroot tag gives it one)".to_owned(),
            Some(Some(before)) => format!(" (it is {} already)", familiar(before)),
        },
    };
    let (new, kept) = (image.layers - image.layers_kept, image.layers_kept);
    let layers = if new == 1 { "layer" } else { "layers" };
    let were = if kept == 1 { "was" } else { "were" };
    format!(
        "imported {}{named}: {new} new {layers}, {kept} {were} there\n",
        image.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// The bugs: the table was read once an image, for minutes where there are many of both, and
    /// an import that was done failed for it.
    #[test]
    fn what_unnamed_images_are_called_already_is_read_once_and_may_be_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), 0).unwrap();
        let images = [1, 2].map(|salt| Imported {
            id: ImageId(Digest::sha256(&[salt])),
            appc: None,
            names: Vec::new(),
            layers: 1,
            layers_kept: 0,
        });
        let names = ["a:1", "b:1"].map(|name| (name.parse().unwrap(), images[0].id));
        let lock = store.lock().unwrap();
        store.write_names(&names.into(), &lock).unwrap();
        let lines = || {
            let others = others(&images, &store);
            let after = |image: &Imported| {
                let line = line(image, others.as_ref());
                let begin = format!("imported {}", image.id);
                line.strip_prefix(&begin).unwrap().to_owned()
            };
            images.each_ref().map(after)
        };
        let [first, second] = lines();
        assert_eq!(
            first,
            " (it is a:1, b:1 already): 1 new layer, 0 were there\n"
        );
        assert!(second.starts_with(" without a name ("), "{second}");

        std::fs::write(store.names_path(), b"{").unwrap();
        assert_eq!(lines(), [": 1 new layer, 0 were there\n"; 2]);
    }
}
