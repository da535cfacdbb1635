//! Transfers: discovery finds an image, and it is imported.

use std::io::Write as _;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::turn::{self, Turn};
use super::{Fetch, first};
use crate::appc::Labels;
use crate::archive::{Archive, ArchiveError};
use crate::cli::Context;
use crate::cli::discovery::note;
use crate::cli::progress::{Layers, Shown};
use crate::cli::report::{Exit, Failure, chain};
use crate::digest::ImageId;
use crate::discovery::{Discovery, DiscoveryError, Found, Place, Tried, Wanted};
use crate::image::appc::{Dependency, Manifest, graph};
use crate::image::{Platform, Want};
use crate::import::{self, ImportError, Imported, Options, Pull};
use crate::layer::Limits;
use crate::reference::Reference;
use crate::registry::Registry;
use crate::store::metrics::{Counter, Timer};
use crate::store::{Store, StoreError};

/// What transfers work with.
pub(super) struct Transfer<'a> {
    context: &'a Context,
    quiet: bool,
    platforms: &'a [Platform],
    store: Store,
    /// Absent where only registries are asked.
    discovery: Option<Discovery>,
}

/// How what was fetched gets into the store.
type Import<'a> = dyn Fn(Archive, &Options<'_>) -> Result<Vec<Imported>, ImportError> + 'a;

impl<'a> Transfer<'a> {
    pub(super) fn new(fetch: &Fetch<'a>, discovery: Option<Discovery>) -> Result<Self, Failure> {
        Ok(Self {
            context: fetch.context,
            quiet: fetch.quiet,
            platforms: fetch.platforms,
            store: fetch.context.create()?,
            discovery,
        })
    }

    /// The turn to fetch what is called so, when nobody else is at it.
    pub(super) fn turn(&self, called: &str) -> Result<Turn, Failure> {
        let waits = || {
            self.say(&format!(
                "waits for another process that fetches `{called}`"
            ))
        };
        // Who looks elsewhere, or wants a signature, does not take what comes to others.
        let Context {
            discovery,
            registry,
            ..
        } = self.context;
        let what = format!("{called} {discovery:?} {registry:?}");
        let turn = turn::take(&self.store.fetch_path(), &what, &self.context.stop, &waits)?;
        turn.ok_or_else(|| DiscoveryError::Interrupted.into())
    }

    fn appc_discovery(&self) -> Result<&Discovery, Failure> {
        let none = || Failure::new(Exit::Usage, "AppC images are in no registry");
        self.discovery.as_ref().ok_or_else(none)
    }

    /// A line for people, who may not be there to read it.
    fn say(&self, line: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// Says that nobody has looked at signatures, if that is so.
    pub(super) fn tell_unverified(&self) {
        if self
            .discovery
            .as_ref()
            .is_some_and(|discovery| !discovery.verifies())
        {
            self.say("note: no signature was looked at, as there is no keyring (--keyring DIR)");
        }
    }

    /// A Docker image, from the directory or from its registry; what is damaged in the
    /// store is made again.
    pub(super) fn docker(
        &self,
        name: &Reference,
        damage: Option<StoreError>,
    ) -> Result<Vec<Imported>, Failure> {
        let asks = self.context.discovery.asks_registries();
        if name.digest().is_some() && !asks {
            // A file's name says nothing of what is in it.
            let what = format!("`{name}` cannot be pulled by its digest from a directory");
            return Err(Failure::new(Exit::Usage, what)
                .hint("name it without `@`, or --discovery registry"));
        }
        self.counted(|| {
            if let Some(damage) = &damage {
                self.say(&format!("note: it is fetched again, as {}", chain(damage)));
            }
            let again = damage.is_some();
            let dir = self.discovery.as_ref();
            // An archive is found by its tag, and is one platform's.
            let asks_archive = !asks || (name.digest().is_none() && self.platforms.len() < 2);
            if let Some(discovery) = dir.filter(|_| asks_archive) {
                match self.archive(discovery, name, again) {
                    Err(failure) if failure.exit == Exit::NotFound && asks => {}
                    other => return other,
                }
            }
            self.registry(name, again)
        })
    }

    /// A Docker image out of an archive of the local directory.
    fn archive(
        &self,
        discovery: &Discovery,
        name: &Reference,
        again: bool,
    ) -> Result<Vec<Imported>, Failure> {
        let want = match self.platforms {
            [] => Want::host(),
            [one] => Want::only(one.clone()),
            _ => {
                let what = "of an archive in a directory one platform is taken at a time";
                return Err(Failure::new(Exit::Usage, what).hint("--discovery registry"));
            }
        };
        let want = want.named(name.clone());
        let found = discovery.find_archive(name)?;
        self.take(discovery, found, &|archive, options| {
            let names = [name.clone()];
            let options = Options {
                names: &names,
                want: &want,
                again,
                ..*options
            };
            import::import(&self.store, archive, &options)
        })
    }

    /// A Docker image from its registry.
    fn registry(&self, name: &Reference, again: bool) -> Result<Vec<Imported>, Failure> {
        let settings = &self.context.registry;
        let registry = Registry::new(settings.settings()?);
        let wants = match self.platforms {
            [] => vec![Want::host()],
            some => some.iter().cloned().map(Want::only).collect(),
        };
        let progress = Layers::new(self.quiet);
        let pull = Pull {
            registry: &registry,
            name,
            wants: &wants,
            at_once: settings.at_once,
            max_size: self.context.discovery.max_size,
            transfers: &progress,
        };
        let options = Options {
            again,
            progress: &progress,
            ..self.options(&wants[0], &progress)
        };
        let pulled = import::pull(&self.store, &pull, &options);
        progress.end();
        pulled.map_err(|error| {
            let hint = super::super::registry::hint(&error);
            let mut failure = Failure::from(error);
            failure.hint = hint;
            if !matches!(failure.exit, Exit::Interrupted | Exit::NotFound) {
                let name = name.familiar();
                failure.message = format!("cannot pull `{name}`: {}", failure.message);
            }
            failure
        })
    }

    /// Options as they mostly are.
    fn options<'b>(&'b self, want: &'b Want, progress: &'b dyn import::Progress) -> Options<'b> {
        Options {
            names: &[],
            want,
            again: false,
            limits: Limits::default(),
            now: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            progress,
            stop: &self.context.stop,
        }
    }

    /// One AppC image without its dependencies, if it is `needed` still when the turn
    /// comes; nothing was imported where another process did it. Of the image that was asked
    /// for (`is_top`) all that was said counts, also where there is an ID.
    pub(super) fn appc(
        &self,
        wanted: &graph::Wanted,
        is_top: bool,
        needed: &dyn Fn() -> Result<bool, Failure>,
    ) -> Result<(Option<ImageId>, Vec<Imported>), Failure> {
        let graph::Wanted {
            dependency: wanted,
            machine,
        } = wanted;
        let turn = match self.turn(&key(wanted, machine))? {
            Turn::Joined(id) => return Ok((Some(id), Vec::new())),
            Turn::Ours(turn) => turn,
        };
        if !needed()? {
            return Ok((None, Vec::new()));
        }
        let looked_for = Wanted::new(wanted.image.clone()).for_host().like(machine);
        let accept = |id, manifest: &Manifest| {
            import::check_wanted(wanted, id, manifest)?;
            let named = Dependency {
                id: wanted.id.filter(|_| !is_top),
                ..wanted.clone()
            };
            import::check_wanted(&named, id, manifest)
        };
        let imported = self.counted(|| {
            let discovery = self.appc_discovery()?;
            let mut found = discovery.find(&looked_for, &self.context.stop)?;
            found.size = wanted.size;
            self.take(discovery, found, &|archive, options| match archive {
                Archive::Aci(aci) => import::import_aci(&self.store, aci, &accept, options),
                Archive::Stored(_) | Archive::Stream(_) => Err(ImportError::NotAppc),
            })
        })?;
        let id = first(&imported)?;
        turn.done(id)?;
        Ok((Some(id), imported))
    }

    /// Looks for an image and takes it, and counts what came of that.
    fn counted(
        &self,
        pull: impl FnOnce() -> Result<Vec<Imported>, Failure>,
    ) -> Result<Vec<Imported>, Failure> {
        let begin = Instant::now();
        let pulled = pull();
        match &pulled {
            Ok(_) => self.store.observe(Timer::Pull, begin.elapsed()),
            // Somebody's wish is no failure.
            Err(failure) if failure.exit == Exit::Interrupted => {}
            Err(_) => self.store.count(Counter::PullErrors),
        }
        pulled
    }

    /// Fetches what was found and imports it; what is another image, or none, is passed
    /// over while there are other places.
    fn take(
        &self,
        discovery: &Discovery,
        mut found: Found,
        import: &Import<'_>,
    ) -> Result<Vec<Imported>, Failure> {
        let mut passed = false;
        loop {
            let (from, error) = match self.take_next(discovery, &mut found, import)? {
                Ok(images) => return Ok(images),
                Err(refused) => refused,
            };
            if error.is_other() && (passed || !found.candidates.is_empty()) {
                let why = match &error {
                    // It is said where.
                    ImportError::Archive(ArchiveError::NotAnArchive { seems, .. }) => seems.clone(),
                    error => chain(error),
                };
                found.tried.push(Tried {
                    place: from,
                    why,
                    absent: false,
                });
                passed = true;
                continue;
            }
            let mut failure = Failure::from(error);
            if failure.exit != Exit::Interrupted {
                failure.message = format!("cannot import `{from}`: {}", failure.message);
            }
            return Err(failure);
        }
    }

    /// Fetches from the next place that has something, and imports it; what came from where
    /// that cannot be imported.
    fn take_next(
        &self,
        discovery: &Discovery,
        found: &mut Found,
        import: &Import<'_>,
    ) -> Result<Result<Vec<Imported>, (Place, ImportError)>, Failure> {
        let progress = Shown::new(self.quiet);
        let stop = &self.context.stop;
        // In the store, so that space for images is needed in one place only.
        let parts = self.store.fetch_path();
        let fetched = discovery.fetch(found, &parts, &progress, stop);
        let fetched = fetched.inspect_err(|_| progress.end())?;
        if let Some(note) = note(&fetched.from, &fetched.signature) {
            self.say(&note);
        }
        let want = Want::host();
        let options = self.options(&want, &progress);
        let from = fetched.from;
        let imported = Archive::from_file(from.to_string(), fetched.file, stop)
            .map_err(ImportError::from)
            .and_then(|archive| import(archive, &options));
        progress.end();
        Ok(imported.map_err(|error| (from, error)))
    }
}

/// What tells transfers apart.
fn key(wanted: &Dependency, machine: &Labels) -> String {
    match wanted.id {
        Some(id) => format!("{} {id}", wanted.image),
        // The same words may mean another image for another machine.
        None => format!("{} {machine:?}", wanted.image),
    }
}
