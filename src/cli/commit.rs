//! `lazyroot commit`

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, changes, civil, print, print_json};
use crate::appc::{AppcReference, SCHEME};
use crate::changed::ChangedError;
use crate::commit::{self, Change, CommitError, Committed, Form, Options, Packing, Said};
use crate::digest::{AciId, ImageId};
use crate::reference::Reference;

/// The last second of the year 9999: configs have four digits for a year (RFC 3339).
const LAST: u64 = 253_402_300_799;
/// Changes that a message names; the others are counted.
const NAMED: usize = 5;

/// Make an image of a container, or of an image and what was changed of it.
///
/// The new image has one layer more, and can be mounted at once. The same changes make
/// the same layer. A mount may be at work meanwhile: then every file comes as it
/// was at one moment, and what changed while it was read is told. An AppC image becomes one
/// that depends on no other. With --format it may become an image of the other kind: then
/// it has one layer with all that the tree has, and what that kind cannot say is told.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    of: changes::Args,
    /// The new image's name; of an AppC image `NAME:VERSION,LABEL=VALUE` (version and labels may be left out).
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is to be. Default: aci of an AppC image, oci of others.
    #[arg(long, value_enum)]
    format: Option<Format>,
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
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=LAST))]
    timestamp: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// No progress, and nothing about what is left out.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// OCI image.
    Oci,
    /// The same with a manifest of Docker's schema 2.
    Docker,
    /// App Container Image.
    Aci,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Compression {
    Gzip,
    Zstd,
    None,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.create()?;
    let target = args.of.target(&store)?;
    let form = form(&args.name, args.format, target.image)?;
    context.stop_by_signals()?;
    let now = args.timestamp.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    });
    let created = rfc3339(now);
    let progress = Shown::new(args.quiet);
    let options = Options {
        form: &form,
        packing: match args.compression {
            Compression::Gzip => Packing::Gzip,
            Compression::Zstd => Packing::Zstd,
            Compression::None => Packing::Plain,
        },
        said: Some(Said {
            message: args.message.as_deref(),
            author: args.author.as_deref(),
            changes: &args.changes,
            created: &created,
            now,
        }),
        progress: &progress,
        stop: &context.stop,
    };
    let committed = commit::commit(&store, &target, &store, &options);
    progress.end();
    let committed = committed?;
    if !args.quiet {
        warn(&committed);
    }
    if args.json {
        return print_json(&serde_json::json!({
            "id": committed.id,
            "members": committed.members,
            "left_out": left_out(&committed),
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

/// A moment as configs have it: `2026-01-31T23:59:00Z`.
fn rfc3339(seconds: u64) -> String {
    // A day has 86 400 seconds, so it fits.
    let (year, month, day) = civil((seconds / 86_400) as i64);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// What it is to be, with a name of that kind.
fn form(text: &str, format: Option<Format>, id: ImageId) -> Result<Form, Failure> {
    let usual = || match AciId::of_image(id) {
        Some(_) => Format::Aci,
        None => Format::Oci,
    };
    match format.unwrap_or_else(usual) {
        Format::Oci => Ok(Form::Oci(vec![docker_name(text)?])),
        Format::Docker => Ok(Form::Docker(vec![docker_name(text)?])),
        Format::Aci => appc_name(text).map(Form::Aci),
    }
}

fn docker_name(text: &str) -> Result<Reference, Failure> {
    let name = text
        .parse::<Reference>()
        .map_err(|error| Failure::of(Exit::Usage, &error))?;
    match name.tag() {
        Some(_) => Ok(name),
        None => Err(Failure::new(
            Exit::Usage,
            format!("`{text}` names a digest, which nobody knows before"),
        )),
    }
}

/// A name of an AppC image, with or without `appc:`.
pub(super) fn appc_name(text: &str) -> Result<AppcReference, Failure> {
    let whole = match text.starts_with(SCHEME) {
        true => text.to_owned(),
        false => format!("{SCHEME}{text}"),
    };
    whole.parse::<AppcReference>().map_err(|error| {
        let what = format!("`{text}` is no name of an AppC image: {error}");
        Failure::new(Exit::Usage, what).hint("NAME[:VERSION][,LABEL=VALUE]")
    })
}

/// What is not in the image, or not as it was.
pub(super) fn left_out(committed: &Committed) -> Vec<String> {
    let lost = committed.lost.iter().map(ToString::to_string);
    let lacks = committed.lacks.iter().map(ToString::to_string);
    lost.chain(lacks).collect()
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
    tell(left_out(committed));
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
            CommitError::NotForAppc(_) | CommitError::ZstdForDocker => Exit::Usage,
            CommitError::Manifest(..) => Exit::Damaged,
            CommitError::Identity(_)
            | CommitError::Pack(_)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_configs_have_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
