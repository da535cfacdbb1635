//! `lazyroot pull`

use std::io::Write as _;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, discovery, print, print_json};
use crate::appc::{self, AppcReference};
use crate::archive::Archive;
use crate::discovery::{Fetched, Signature, Wanted};
use crate::image::Want;
use crate::import::{self, ImportError, Options};
use crate::layer::Limits;
use crate::reference::Reference;

/// Fetch an image and take it into the store. Nothing is unpacked.
///
/// AppC images are written appc:NAME[:VERSION][,LABEL=VALUE...] and looked for as
/// --discovery says; os and arch are this machine's unless they are given. Docker
/// images are found in a local directory; registries cannot be asked yet.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: Asked,
    #[command(flatten)]
    discovery: discovery::Args,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

/// What `pull` was asked for.
#[derive(Debug, Clone)]
enum Asked {
    Appc(AppcReference),
    Docker(Reference),
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.starts_with(appc::SCHEME) {
            true => {
                (text.parse().map(Self::Appc)).map_err(|error: appc::AppcError| error.to_string())
            }
            false => (text.parse().map(Self::Docker))
                .map_err(|error: crate::reference::ReferenceError| error.to_string()),
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    context.stop_by_signals()?;
    let discovery = args.discovery.resolve(context)?;
    let store = context.create()?;
    let progress = Shown::new(args.quiet);
    // In the store, so that space for images is needed in one place only.
    let parts = store.fetch_path();
    let (found, names) = match &args.image {
        Asked::Appc(wanted) => {
            let wanted = Wanted::new(wanted.clone()).for_host();
            (discovery.find(&wanted, &context.stop), vec![])
        }
        Asked::Docker(name) => (discovery.find_archive(name), vec![name.clone()]),
    };
    let fetched = found.and_then(|found| discovery.fetch(found, &parts, &progress, &context.stop));
    let fetched = fetched.inspect_err(|_| progress.end())?;
    if !args.quiet {
        note(&fetched)?;
    }
    let options = Options {
        names: &names,
        want: &Want::host(),
        again: false,
        limits: Limits::default(),
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        progress: &progress,
        stop: &context.stop,
    };
    let from = fetched.from.to_string();
    let imported = Archive::from_file(from.clone(), fetched.file, &context.stop)
        .map_err(ImportError::from)
        .and_then(|archive| import::import(&store, archive, &options));
    progress.end();
    let imported = imported.map_err(|error| {
        let mut failure = Failure::from(error);
        if failure.exit != Exit::Interrupted {
            failure.message = format!("cannot import `{from}`: {}", failure.message);
        }
        failure
    })?;
    match args.json {
        true => print_json(&imported),
        false => {
            (imported.iter()).try_for_each(|image| print(super::import::line(image).as_bytes()))
        }
    }
}

/// Says what is known of who made the image.
fn note(fetched: &Fetched) -> Result<(), Failure> {
    let from = &fetched.from;
    let text = match &fetched.signature {
        Signature::Good(signer) => {
            let user = signer.user.as_deref().unwrap_or("a key without a name");
            format!("`{from}` is signed by {user} ({})\n", signer.fingerprint)
        }
        Signature::Missing => format!("note: `{from}` has no signature\n"),
        Signature::Unchecked => return Ok(()),
    };
    Ok(std::io::stderr().write_all(text.as_bytes())?)
}
