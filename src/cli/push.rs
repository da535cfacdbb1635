//! `lazyroot push`

use std::io::Write as _;

use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, human, print, print_json};
use crate::export::ExportError;
use crate::export::push::{self, Push, Pushed};
use crate::reference::Reference;
use crate::registry::{Arrival, Registry};

/// Bring an image into a registry.
///
/// Blobs go as they came into the store, each once, and none that the registry has. Where
/// the store kept the image's manifest, and all blobs that it names, it is that manifest,
/// with its digest. What is interrupted leaves no name there.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image: name or ID.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// What it is called there: HOST/NAME:TAG. Default: IMAGE.
    #[arg(value_name = "REF")]
    to: Option<Reference>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// No progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let id = store.find(&args.image)?;
    // An ID may look like a name.
    let named = args.image.parse::<Reference>().ok();
    let names = store.names()?;
    let named = named.filter(|name| names.contains_key(name));
    let to = match args.to.clone().or(named) {
        Some(to) => to,
        None => {
            let what = format!(
                "`{}` is not a name: what is it to be called there?",
                args.image
            );
            return Err(Failure::new(Exit::Usage, what).hint("lazyroot push IMAGE HOST/NAME:TAG"));
        }
    };
    context.stop_by_signals()?;
    let registry = Registry::new(context.registry.settings()?);
    let progress = Shown::new(args.quiet);
    let how = Push {
        to: &to,
        progress: &progress,
        stop: &context.stop,
    };
    let pushed = push::push(&store, id, &registry, &how);
    progress.end();
    let pushed = pushed.map_err(|error| told(error, &to))?;
    store.touch(id);
    if !args.quiet {
        for note in &pushed.notes {
            // Nobody there to read it is no reason to fail.
            let _ = writeln!(std::io::stderr(), "note: {note}");
        }
    }
    match args.json {
        true => print_json(&pushed),
        false => print(line(&pushed).as_bytes()),
    }
}

/// What a registry says is told with what it was about.
fn told(error: ExportError, to: &Reference) -> Failure {
    let of_registry = matches!(error, ExportError::Registry(_));
    let mut failure = Failure::from(error);
    if of_registry {
        failure.message = format!("cannot push `{}`: {}", to.familiar(), failure.message);
    }
    failure
}

fn line(pushed: &Pushed) -> String {
    let of = |arrival| {
        pushed
            .blobs
            .iter()
            .filter(move |blob| blob.arrival == arrival)
    };
    let sent: u64 = of(Arrival::Sent).map(|blob| blob.size).sum();
    format!(
        "{}: {} as {} ({} blobs sent, {}; {} mounted, {} there)\n",
        pushed.name.familiar(),
        pushed.id,
        pushed.digest,
        of(Arrival::Sent).count(),
        human(sent),
        of(Arrival::Mounted).count(),
        of(Arrival::There).count(),
    )
}
