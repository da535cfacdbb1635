//! `lazyroot commit`

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, print, print_json};
use crate::appc::{AppcReference, SCHEME};
use crate::changed::ChangedError;
use crate::commit::{self, Change, CommitError, Committed, Name, Options, Packing, Said};
use crate::digest::{AciId, ImageId};
use crate::reference::Reference;

/// Changes that a message names; the others are counted.
const NAMED: usize = 5;

/// Make an image of an image and what was changed of it.
///
/// The new image has one layer more, and can be mounted at once. The same changes make
/// the same layer. A mount may be at work meanwhile: then every file comes as it
/// was at one moment, and what changed while it was read is told. An AppC image becomes one
/// that depends on no other.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image that was changed: name or ID.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The upper directory of its changes, as given to `mount --upper`.
    #[arg(long, value_name = "DIR")]
    upper: PathBuf,
    /// The new image's name; of an AppC image NAME[:VERSION][,label=value].
    #[arg(value_name = "NAME")]
    name: String,
    /// What happened, for the image's history.
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Who did it.
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,
    /// How it is run from now on, as in a Dockerfile: 'CMD ["sh"]', 'ENV A=1'; may be repeated.
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<Change>,
    /// How the layer is compressed; zstd is faster, gzip is what every program takes.
    #[arg(long, value_enum, default_value = "gzip")]
    compression: Compression,
    /// The time of the commit, in seconds since 1970: the same one makes the same image. Default: now.
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// No progress, and nothing about what is left out.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Compression {
    Gzip,
    Zstd,
    None,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.create()?;
    let id = store.find(&args.image)?;
    let name = name(&args.name, id)?;
    context.stop_by_signals()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let progress = Shown::new(args.quiet);
    let options = Options {
        name: &name,
        packing: match args.compression {
            Compression::Gzip => Packing::Gzip,
            Compression::Zstd => Packing::Zstd,
            Compression::None => Packing::Plain,
        },
        said: Said {
            message: args.message.as_deref(),
            author: args.author.as_deref(),
            changes: &args.changes,
            now: args
                .timestamp
                .unwrap_or_else(|| now.map_or(0, |since| since.as_secs())),
        },
        progress: &progress,
        stop: &context.stop,
    };
    let committed = commit::commit(&store, id, &args.upper, &options);
    progress.end();
    let committed = committed?;
    if !args.quiet {
        warn(&committed);
    }
    if args.json {
        return print_json(&serde_json::json!({
            "id": committed.id,
            "members": committed.members,
            "left_out": committed.lacks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "moved": committed.moved.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    }
    let what = match committed.members {
        0 => "nothing was changed: no new layer".to_owned(),
        1 => "1 change".to_owned(),
        many => format!("{many} changes"),
    };
    print(format!("committed {} as {}: {what}\n", committed.id, args.name).as_bytes())
}

/// A name of the kind that the image is.
fn name(text: &str, id: ImageId) -> Result<Name, Failure> {
    let usage = |error: &dyn std::error::Error| Failure::of(Exit::Usage, error);
    if AciId::of_image(id).is_none() {
        let name = text.parse::<Reference>().map_err(|error| usage(&error))?;
        return match name.tag() {
            Some(_) => Ok(Name::Docker(name)),
            None => Err(Failure::new(
                Exit::Usage,
                format!("`{text}` names a digest, which nobody knows before"),
            )),
        };
    }
    let whole = match text.starts_with(SCHEME) {
        true => text.to_owned(),
        false => format!("{SCHEME}{text}"),
    };
    let name = whole.parse::<AppcReference>();
    let name = name.map_err(|error| Failure::new(Exit::Usage, format!("`{text}`: {error}")))?;
    Ok(Name::Appc(name))
}

/// Tells what is not in the image as it is in the tree.
fn warn(committed: &Committed) {
    let mut to = std::io::stderr().lock();
    let mut tell = |all: Vec<String>| {
        let more = all.len().saturating_sub(NAMED);
        for text in all.iter().take(NAMED) {
            // Nobody there to read it is no reason to fail.
            let _ = writeln!(to, "note: {text}");
        }
        if more > 0 {
            let _ = writeln!(to, "note: and {more} more; --json names all");
        }
    };
    tell(committed.lacks.iter().map(ToString::to_string).collect());
    let moved = committed.moved.iter();
    tell(
        moved
            .map(|path| format!("`{path}` changed while the image was made"))
            .collect(),
    );
}

impl From<ChangedError> for Failure {
    fn from(error: ChangedError) -> Self {
        match error {
            ChangedError::Store(error) => error.into(),
            ChangedError::Upper(error) => super::serve::unusable(&error),
            ChangedError::Tree(_) => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        let hint = error.hint();
        let exit = match error {
            CommitError::Changed(error) => return error.into(),
            CommitError::Store(error) => return error.into(),
            CommitError::Import(error) => return error.into(),
            CommitError::Interrupted => Exit::Interrupted,
            CommitError::NotAppcName(..)
            | CommitError::AppcName(..)
            | CommitError::NotForAppc(_) => Exit::Usage,
            CommitError::Pack(_)
            | CommitError::Restless
            | CommitError::Archive(_)
            | CommitError::Write(..) => Exit::Failed,
        };
        let failure = Self::of(exit, &error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
