//! `lazyroot pull`

use std::io::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use super::progress::Shown;
use super::report::{Exit, Failure};
use super::{Context, discovery, print, print_json};
use crate::appc::{self, AppcReference, Labels};
use crate::archive::Archive;
use crate::digest::AciId;
use crate::discovery::{Discovery, Fetched, Found, Signature, Wanted};
use crate::image::Want;
use crate::image::appc::Dependency;
use crate::image::appc::graph;
use crate::import::{self, ImportError, Imported, Options};
use crate::layer::Limits;
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// Fetch an image and take it into the store. Nothing is unpacked.
///
/// AppC images are written appc:NAME:VERSION,LABEL=VALUE (VERSION and labels may be left out) and looked for as
/// --discovery says; os and arch are this machine's unless they are given. Their
/// dependencies are fetched too where the store does not have them. Docker images are
/// found in a local directory; registries cannot be asked yet.
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
    let pull = Pull {
        discovery: args.discovery.resolve(context)?,
        store: context.create()?,
        quiet: args.quiet,
        stop: &context.stop,
    };
    let imported = match &args.image {
        Asked::Docker(name) => pull.docker(name)?,
        Asked::Appc(image) => pull.appc(image)?,
    };
    match args.json {
        true => print_json(&imported),
        false => imported
            .iter()
            .try_for_each(|image| print(super::import::line(image).as_bytes())),
    }
}

/// What one pull works with.
struct Pull<'a> {
    discovery: Discovery,
    store: Store,
    quiet: bool,
    stop: &'a Arc<AtomicBool>,
}

impl Pull<'_> {
    fn docker(&self, name: &Reference) -> Result<Vec<Imported>, Failure> {
        if name.digest().is_some() {
            // A file's name says nothing of what is in it.
            let what = format!("`{name}` cannot be pulled by its digest from a directory");
            return Err(Failure::new(Exit::Usage, what).hint("name it without `@`"));
        }
        let found = self.discovery.find_archive(name)?;
        self.take(found, &|archive, options| {
            let names = [name.clone()];
            let options = Options {
                names: &names,
                ..*options
            };
            import::import(&self.store, archive, &options)
        })
    }

    /// An image and every dependency that the store does not have.
    fn appc(&self, image: &AppcReference) -> Result<Vec<Imported>, Failure> {
        let asked = Dependency {
            image: image.clone(),
            id: None,
            size: None,
        };
        let mut all = self.one(&asked, &Labels::new())?;
        if !self.quiet && !self.discovery.verifies() {
            let text =
                b"note: no signature was looked at, as there is no keyring (--keyring DIR)\n";
            std::io::stderr().write_all(text)?;
        }
        let top = all.first().and_then(|image| AciId::of_image(image.id));
        let Some(top) = top else { return Ok(all) };
        let mut last = None;
        while let Some(missing) = self.missing(top)? {
            // What came is what was asked for: it would be the same again.
            if last.as_ref() == Some(&missing) {
                return Err(Failure::new(
                    Exit::Failed,
                    format!(
                        "the dependency `{}` is missing, though it was pulled",
                        missing.dependency.image
                    ),
                ));
            }
            let got = self.one(&missing.dependency, &missing.machine);
            all.extend(got.map_err(|mut failure| {
                failure.message = format!(
                    "a dependency of `{image}` cannot be pulled: {}",
                    failure.message
                );
                failure
            })?);
            last = Some(missing);
        }
        Ok(all)
    }

    /// A dependency that the store does not have.
    fn missing(&self, top: AciId) -> Result<Option<graph::Wanted>, Failure> {
        match self.store.appc_images()?.stack(top) {
            Ok(_) => Ok(None),
            Err(StoreError::Dependencies(error)) if error.missing().is_some() => {
                Ok(error.missing().cloned())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One AppC image without its dependencies, best for the machine that labels speak of.
    fn one(&self, wanted: &Dependency, machine: &Labels) -> Result<Vec<Imported>, Failure> {
        let looked_for = Wanted::new(wanted.image.clone()).for_host().like(machine);
        let found = self.discovery.find(&looked_for, self.stop)?;
        self.take(found, &|archive, options| match archive {
            Archive::Aci(aci) => import::import_aci(&self.store, aci, Some(wanted), options),
            Archive::Stored(_) | Archive::Stream(_) => Err(ImportError::NotAppc),
        })
    }

    /// Fetches what was found and imports it.
    fn take(&self, found: Found, import: &Import<'_>) -> Result<Vec<Imported>, Failure> {
        let progress = Shown::new(self.quiet);
        // In the store, so that space for images is needed in one place only.
        let parts = self.store.fetch_path();
        let fetched = self.discovery.fetch(found, &parts, &progress, self.stop);
        let fetched = fetched.inspect_err(|_| progress.end())?;
        if !self.quiet {
            note(&fetched)?;
        }
        let options = Options {
            names: &[],
            want: &Want::host(),
            again: false,
            limits: Limits::default(),
            now: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            progress: &progress,
            stop: self.stop,
        };
        let from = fetched.from.to_string();
        let imported = Archive::from_file(from.clone(), fetched.file, self.stop)
            .map_err(ImportError::from)
            .and_then(|archive| import(archive, &options));
        progress.end();
        imported.map_err(|error| {
            let mut failure = Failure::from(error);
            if failure.exit != Exit::Interrupted {
                failure.message = format!("cannot import `{from}`: {}", failure.message);
            }
            failure
        })
    }
}

/// How what was fetched gets into the store.
type Import<'a> = dyn Fn(Archive, &Options<'_>) -> Result<Vec<Imported>, ImportError> + 'a;

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
