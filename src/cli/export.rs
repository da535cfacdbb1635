//! `lazyroot export`

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, human, print};
use crate::digest::{AciId, ImageId};
use crate::export::{self, ExportError, Format, Note, Options, Place, PlaceError};
use crate::reference::Reference;

/// Write an image as an archive that other programs take.
///
/// Blobs that came in go out byte for byte; config, diff IDs and image ID never change.
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
    /// Name of the image in the archive; may be repeated. Default: the name that IMAGE is.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<Reference>,
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
    let names = names(args, format, &store.names()?);
    context.stop_by_signals()?;
    let progress = Shown::new(args.quiet);
    let options = Options {
        format,
        names: &names,
        progress: &progress,
        stop: &context.stop,
    };
    let piped = args.file.as_os_str() == "-";
    let outcome = match piped {
        true => to_stdout(|to| export::export(&store, id, to, &options)),
        false => to_file(&args.file, args.force, |to| {
            export::export(&store, id, to, &options)
        }),
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

/// Whoever asks by a name wants that name in the archive; whoever asks by ID, none, as
/// with `docker save`.
fn names(args: &Args, format: Format, known: &crate::store::images::Names) -> Vec<Reference> {
    if !args.names.is_empty() || format == Format::Aci {
        return args.names.clone();
    }
    let named = args.image.parse::<Reference>().ok();
    Vec::from_iter(named.filter(|name| known.contains_key(name) && name.tag().is_some()))
}

type Outcome = Result<(Vec<Note>, Option<u64>), Failure>;

fn to_stdout(write: impl FnOnce(&mut dyn Write) -> Result<Vec<Note>, ExportError>) -> Outcome {
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
    write: impl FnOnce(&mut dyn Write) -> Result<Vec<Note>, ExportError>,
) -> Outcome {
    let mut place = Place::open(path, replace)?;
    let notes = write(&mut place).map_err(|error| {
        let interrupted = matches!(error, ExportError::Interrupted);
        let mut failure = Failure::from(error);
        if !interrupted {
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
