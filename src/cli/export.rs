//! `lazyroot export`

use std::env;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use super::commit::{appc_name, left_out};
use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, human, print};
use crate::appc::AppcReference;
use crate::changed::Target;
use crate::commit::{self, Form as Kind, Packing};
use crate::digest::{AciId, ImageId};
use crate::export::{self, ExportError, Format, Options, Place, PlaceError};
use crate::image::appc::graph::Outline;
use crate::import::Progress;
use crate::reference::{DEFAULT_TAG, Reference};
use crate::store::{Store, private_directory};
use crate::view::Stack;

/// Where an image of another kind is made, unless TMPDIR says so: it may be large, and
/// `/tmp` may be memory.
const SCRATCH: &str = "/var/tmp";
/// Room for decoded files in there: nobody reads any.
const NO_CACHE: u64 = 0;

/// Write an image as an archive that other programs take.
///
/// Blobs that came in go out byte for byte; config, diff IDs and image ID never change,
/// unless an AppC image goes out in the form of others or another one as ACI: then all of its
/// tree is in one layer, and what the other kind cannot say is told.
/// The same image always makes the same archive. The file appears when it is whole.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image: name or ID.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The archive; `-` is standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its form. Default: aci for an AppC image, oci for others.
    #[arg(long, value_enum)]
    format: Option<Form>,
    /// Name of the image in the archive; may be repeated. Default: the name that IMAGE is, of
    /// an AppC image with its version as the tag (`latest` where it has none).
    /// Of an ACI that is made of another image `NAME:VERSION,LABEL=VALUE` (version and
    /// labels may be left out).
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Replace FILE if it is there.
    #[arg(short, long)]
    force: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Form {
    /// OCI archive: a tar of an OCI layout.
    Oci,
    /// What `docker save` writes, for all generations of `docker load`.
    Docker,
    /// App Container Image.
    Aci,
}

impl Form {
    fn format(self) -> Format {
        match self {
            Self::Oci => Format::Oci,
            Self::Docker => Format::Docker,
            Self::Aci => Format::Aci,
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let id = store.find(&args.image)?;
    let format = args.format.map_or_else(|| usual(id), Form::format);
    let kind = kind(args, id, format, &store)?;
    context.stop_by_signals()?;
    let progress = Shown::new(args.quiet);
    let write = |to: &mut dyn Write| {
        let options = Options {
            format,
            names: match &kind {
                Kind::Oci(names) | Kind::Docker(names) => names,
                Kind::Aci(_) => &[],
            },
            progress: &progress,
            stop: &context.stop,
        };
        match AciId::of_image(id).is_some() == (format == Format::Aci) {
            true => {
                let notes = export::export(&store, id, to, &options)?;
                Ok(notes.iter().map(ToString::to_string).collect())
            }
            false => converted(&store, id, to, &kind, &options, &progress),
        }
    };
    let piped = args.file.as_os_str() == "-";
    let outcome = match piped {
        true => to_stdout(write),
        false => to_file(&args.file, args.force, write),
    };
    progress.end();
    let (notes, bytes) = outcome?;
    store.touch(id);
    if !args.quiet {
        for note in notes {
            // Nobody there to read it is no reason to fail.
            let _ = writeln!(std::io::stderr(), "note: {note}");
        }
    }
    let size = bytes.map_or_else(String::new, |bytes| format!(" ({})", human(bytes)));
    match piped {
        true => Ok(()),
        false => print(format!("{}: {format} of {id}{size}\n", args.file.display()).as_bytes()),
    }
}

fn usual(id: ImageId) -> Format {
    match AciId::of_image(id) {
        Some(_) => Format::Aci,
        None => Format::Oci,
    }
}

/// What the archive is to be, and the names in it.
fn kind(args: &Args, id: ImageId, format: Format, store: &Store) -> Result<Kind, Failure> {
    let known = store.image(id)?.appc;
    Ok(match (format, &known) {
        (Format::Aci, Some(_)) if !args.names.is_empty() => return Err(ExportError::Named.into()),
        (Format::Aci, Some(outline)) => Kind::Aci(AppcReference {
            name: outline.name.clone(),
            labels: outline.labels.clone(),
        }),
        (Format::Aci, None) => Kind::Aci(name_of_aci(args, store)?),
        (Format::Oci, _) => Kind::Oci(names(args, known.as_ref(), store)?),
        (Format::Docker, _) => Kind::Docker(names(args, known.as_ref(), store)?),
    })
}

/// Whoever asks by a name wants that name in the archive; whoever asks by ID, none, as
/// with `docker save`.
fn names(args: &Args, appc: Option<&Outline>, store: &Store) -> Result<Vec<Reference>, Failure> {
    if !args.names.is_empty() {
        let names = args.names.iter().map(|name| name.parse::<Reference>());
        let names = names.collect::<Result<_, _>>();
        return names.map_err(|error| Failure::of(Exit::Usage, &error));
    }
    if let Some(outline) = appc {
        return Ok(Vec::from_iter(name_of_appc(&args.image, outline)?));
    }
    let named = args.image.parse::<Reference>().ok();
    let named = named.filter(|name| name.tag().is_some());
    let known = store.names()?;
    Ok(Vec::from_iter(
        named.filter(|name| known.contains_key(name)),
    ))
}

/// The name of an AppC image in an archive of the other kinds, if it was asked for by its
/// name: its own version is the tag, whether or not it was asked for by that. Without one it
/// is the latest, as in discovery (`spec/discovery.md`).
fn name_of_appc(asked: &str, outline: &Outline) -> Result<Option<Reference>, Failure> {
    let image = outline.reference();
    let is_meant = |asked: AppcReference| asked.fits(&image.name, &image.labels);
    if !appc_name(asked).is_ok_and(is_meant) {
        return Ok(None);
    }
    let name = image.name.as_str().parse::<Reference>();
    let tag = image.version().unwrap_or(DEFAULT_TAG);
    let named = name.and_then(|name| name.with_tag(tag)).map_err(|error| {
        let what = format!(
            "`{}:{tag}` is no name for such an archive: {error}",
            image.name
        );
        Failure::new(Exit::Usage, what).hint("--name NAME:TAG")
    });
    named.map(Some)
}

/// The name of an ACI that is made of another image: the one that is said, or the whole
/// name that it was asked by, with its tag as the version.
fn name_of_aci(args: &Args, store: &Store) -> Result<AppcReference, Failure> {
    match args.names.as_slice() {
        [name] => return appc_name(name),
        [] => {}
        _ => {
            let what = "an ACI has one name";
            return Err(Failure::new(Exit::Usage, what).hint("only one --name"));
        }
    }
    let named = args.image.parse::<Reference>().ok();
    let Some(name) = named.filter(|name| store.names().is_ok_and(|all| all.contains_key(name)))
    else {
        let what = format!("an ACI has a name, and `{}` is none", args.image);
        return Err(Failure::new(Exit::Usage, what).hint("--name NAME:VERSION"));
    };
    let whole = format!("{}/{}", name.domain(), name.path());
    let version = name.tag().map_or_else(String::new, |tag| format!(":{tag}"));
    appc_name(&format!("{whole}{version}")).map_err(|failure| failure.hint("--name NAME:VERSION"))
}

/// What is made on the way to an archive is not told layer by layer.
struct OnTheWay<'a>(&'a Shown);

impl Progress for OnTheWay<'_> {
    fn advance(&self, bytes: u64) {
        Progress::advance(self.0, bytes);
    }
}

/// Writes an image as one of the other kind: made in a store that is gone afterwards, so that
/// whatever is checked of an image that comes is checked of it.
fn converted(
    store: &Store,
    id: ImageId,
    to: &mut dyn Write,
    kind: &Kind,
    export: &Options<'_>,
    progress: &Shown,
) -> Result<Vec<String>, Failure> {
    let scratch = env::var_os("TMPDIR").map_or_else(|| PathBuf::from(SCRATCH), PathBuf::from);
    let made = private_directory(&scratch, "lazyroot-");
    let made = made.map_err(|error| {
        let what = format!(
            "cannot make a directory in `{}`: {error}",
            scratch.display()
        );
        Failure::new(Exit::Failed, what).hint("TMPDIR=DIR, with room for the image")
    })?;
    let made = Store::create(made.path(), NO_CACHE).map(|store| (made, store))?;
    let target = Target {
        image: id,
        stack: Stack::of(store, id)?,
        upper: None,
    };
    let options = commit::Options {
        form: kind,
        packing: match kind {
            // Its layers go out plain.
            Kind::Docker(_) => Packing::Plain,
            Kind::Oci(_) | Kind::Aci(_) => Packing::Gzip,
        },
        said: None,
        progress: &OnTheWay(progress),
        stop: export.stop,
    };
    let committed = commit::commit(store, &target, &made.1, &options)?;
    let notes = export::export(&made.1, committed.id, to, export)?;
    let notes = notes.iter().map(ToString::to_string);
    Ok(left_out(&committed).into_iter().chain(notes).collect())
}

type Outcome = Result<(Vec<String>, Option<u64>), Failure>;

fn to_stdout(write: impl FnOnce(&mut dyn Write) -> Result<Vec<String>, Failure>) -> Outcome {
    let out = std::io::stdout();
    if out.is_terminal() {
        let failure = Failure::new(Exit::Usage, "an archive is nothing for a terminal");
        return Err(failure.hint("lazyroot export IMAGE FILE"));
    }
    let mut out = std::io::BufWriter::with_capacity(1 << 20, out.lock());
    Ok((write(&mut out)?, None))
}

fn to_file(
    path: &Path,
    replace: bool,
    write: impl FnOnce(&mut dyn Write) -> Result<Vec<String>, Failure>,
) -> Outcome {
    let mut place = Place::open(path, replace)?;
    let notes = write(&mut place).map_err(|mut failure| {
        if failure.exit != Exit::Interrupted {
            failure.message = format!("cannot write `{}`: {}", path.display(), failure.message);
        }
        failure
    })?;
    Ok((notes, place.finish()?))
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        let exit = match &error {
            PlaceError::NoDirectory(_) => Exit::NotFound,
            _ => Exit::Failed,
        };
        let failure = Self::of(exit, &error);
        match &error {
            PlaceError::Exists(_) => failure.hint("another name, or --force to replace it"),
            PlaceError::Directory(path) => {
                failure.hint(format!("{}", path.join("IMAGE.tar").display()))
            }
            PlaceError::NoDirectory(_) => failure.hint("mkdir -p it first"),
            PlaceError::Io { .. } => failure,
        }
    }
}
