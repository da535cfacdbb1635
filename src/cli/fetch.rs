//! An image that is wanted: found in the store, or fetched into it.
//!
//! What it is for: verbs say which image, and whether one that the store has will do;
//! they get its ID, and it is whole then, with its dependencies. Several processes
//! that want the same image share one transfer ([`turn`]).

mod stored;
#[cfg(test)]
mod tests;
mod transfer;
mod turn;

use std::str::FromStr;

use super::Context;
use super::report::{Exit, Failure};
use crate::appc::{self, AppcReference, Labels};
use crate::digest::{AciId, ImageId};
use crate::image::Platform;
use crate::image::appc::Dependency;
use crate::image::appc::graph::Wanted;
use crate::import::Imported;
use crate::mesos::What;
use crate::reference::Reference;
use crate::store::{Store, StoreError};
use stored::Stored;
use transfer::Transfer;
use turn::Turn;

/// An image that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// By name and labels, and by ID, where that is said.
    Appc {
        image: AppcReference,
        id: Option<AciId>,
    },
    /// By name.
    Docker(Reference),
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.starts_with(appc::SCHEME) {
            true => (text.parse())
                .map(|image| Self::Appc { image, id: None })
                .map_err(|error: appc::AppcError| error.to_string()),
            false => (text.parse().map(Self::Docker))
                .map_err(|error: crate::reference::ReferenceError| error.to_string()),
        }
    }
}

impl From<&What> for Asked {
    fn from(what: &What) -> Self {
        match what {
            What::Appc { image, id } => Self::Appc {
                image: image.clone(),
                id: *id,
            },
            What::Docker(name) => Self::Docker(name.clone()),
        }
    }
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Policy {
    /// When the store does not have it, or not all of it.
    Missing,
    /// Now.
    Always,
    /// Not at all.
    Never,
}

/// How an image came.
#[derive(Debug)]
pub(super) enum Fetched {
    /// The store had it, or another process fetched it meanwhile.
    Cached,
    /// It was fetched, or something that it depends on; in this order.
    Pulled(Vec<Imported>),
}

/// Finds images and fetches them.
pub(super) struct Fetch<'a> {
    context: &'a Context,
    quiet: bool,
    /// Those that somebody asked for; else it is this machine's.
    platforms: &'a [Platform],
}

impl<'a> Fetch<'a> {
    /// With the settings of `context`, whose `stop` ends it; `quiet` says nothing.
    pub(super) fn new(context: &'a Context, quiet: bool) -> Self {
        Self {
            context,
            quiet,
            platforms: &[],
        }
    }

    /// The same for these platforms, if there are any.
    pub(super) fn platforms(self, platforms: &'a [Platform]) -> Self {
        Self { platforms, ..self }
    }

    /// An image, whole; fetched as `policy` says.
    pub(super) fn image(
        &self,
        asked: &Asked,
        policy: Policy,
    ) -> Result<(ImageId, Fetched), Failure> {
        let (word, kind) = match asked {
            Asked::Appc { .. } => ("appc", "AppC"),
            Asked::Docker(_) => ("docker", "Docker"),
        };
        self.enabled(word, kind)?;
        if let (Asked::Appc { .. }, Some(platform)) = (asked, self.platforms.first()) {
            let what = "--platform is for Docker images; an AppC image is asked for by its labels";
            return Err(Failure::new(Exit::Usage, what).hint(format!(
                "appc:NAME,os={},arch={}",
                platform.os, platform.architecture
            )));
        }
        let (id, fetched) = match asked {
            Asked::Docker(name) => self.docker(name, policy)?,
            Asked::Appc { image, id } => self.appc(image, *id, policy)?,
        };
        self.context.open()?.touch(id);
        Ok((id, fetched))
    }

    /// The image that somebody names as he likes: by name, by AppC reference, by (the
    /// beginning of) its ID. What has no name cannot be fetched.
    pub(super) fn named(&self, text: &str, policy: Policy) -> Result<(ImageId, Fetched), Failure> {
        let asked = || {
            text.parse()
                .map_err(|what: String| Failure::new(Exit::Usage, what))
        };
        if policy == Policy::Always {
            return self.image(&asked()?, policy);
        }
        let found = match self.store()? {
            Some(store) => store.find(text).map(|id| (id, store)),
            None => Err(StoreError::Missing(self.context.store.clone())),
        };
        let (id, store) = match found {
            Ok(found) => found,
            Err(StoreError::NoImage(_) | StoreError::Missing(_)) if policy == Policy::Missing => {
                return self.image(&asked()?, policy).map_err(|mut failure| {
                    failure.message = format!(
                        "image `{text}` is not in the store, and cannot be fetched: {}",
                        failure.message
                    );
                    failure
                });
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(aci) = AciId::of_image(id) {
            // A damaged record is told by whoever needs more of it than this.
            let outline = store.image(id)?.appc;
            let image = outline.map(|outline| outline.reference());
            let image = image.ok_or_else(|| StoreError::NoImage(text.to_owned()))?;
            return self.image(
                &Asked::Appc {
                    image,
                    id: Some(aci),
                },
                policy,
            );
        }
        let suits = self.suits(&store, id)?;
        match text.parse::<Reference>() {
            // Of an index that is named by its digest the store may have another platform's.
            Ok(name)
                if store.names()?.get(&name) == Some(&id)
                    || (!suits && name.digest().is_some()) =>
            {
                self.image(&Asked::Docker(name), policy)
            }
            _ if !suits => {
                let what = format!("image `{text}` is for {}", store.image(id)?.platform);
                Err(Failure::new(Exit::NotFound, what).hint("its name, to fetch the other one"))
            }
            _ => {
                self.enabled("docker", "Docker")?;
                store.touch(id);
                Ok((id, Fetched::Cached))
            }
        }
    }

    /// Whether an image is for the platforms that are asked for.
    fn suits(&self, store: &Store, id: ImageId) -> Result<bool, StoreError> {
        if self.platforms.is_empty() {
            return Ok(true);
        }
        let platform = store.image(id)?.platform;
        let mut asked = self.platforms.iter();
        Ok(asked.all(|asked| asked.rank(&platform).is_some()))
    }

    /// Whether images of a kind may be used.
    fn enabled(&self, word: &str, kind: &str) -> Result<(), Failure> {
        let providers = &self.context.providers;
        if providers.has(word) {
            return Ok(());
        }
        let what = format!("{kind} images are not enabled (providers: {providers})");
        Err(Failure::new(Exit::Usage, what).hint(format!("--providers {providers},{word}")))
    }

    /// The store, if there is one yet.
    fn store(&self) -> Result<Option<Store>, Failure> {
        match self.context.open() {
            Err(StoreError::Missing(_)) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    fn docker(&self, name: &Reference, policy: Policy) -> Result<(ImageId, Fetched), Failure> {
        let look = || match self.store()? {
            Some(store) => Ok::<_, Failure>(stored::docker(&store, name, self.platforms)?),
            None => Ok(Stored::Not),
        };
        let mut damage = None;
        if policy != Policy::Always {
            match (look()?, policy) {
                (Stored::Whole(id), _) => return Ok((id, Fetched::Cached)),
                (Stored::Damaged(error), Policy::Never) => return Err(error.into()),
                (Stored::Not, Policy::Never) => {
                    return Err(StoreError::NoImage(name.familiar()).into());
                }
                (Stored::Part, Policy::Never) => return Err(not_whole(&name.familiar())),
                (Stored::Damaged(error), _) => damage = Some(error),
                (Stored::Not | Stored::Part, _) => {}
            }
        }
        let transfer = Transfer::new(self, self.context.discovery.docker()?)?;
        let called = match self.platforms {
            [] => name.familiar(),
            some => {
                let some: Vec<String> = some.iter().map(ToString::to_string).collect();
                format!("{} ({})", name.familiar(), some.join(", "))
            }
        };
        let turn = match transfer.turn(&called)? {
            Turn::Joined(id) => return Ok((id, Fetched::Cached)),
            Turn::Ours(turn) => turn,
        };
        // Another process may have been faster.
        if policy != Policy::Always
            && let Stored::Whole(id) = look()?
        {
            return Ok((id, Fetched::Cached));
        }
        let imported = transfer.docker(name, damage)?;
        let id = first(&imported)?;
        turn.done(id)?;
        Ok((id, Fetched::Pulled(imported)))
    }

    /// An image and every dependency that the store does not have.
    fn appc(
        &self,
        image: &AppcReference,
        id: Option<AciId>,
        policy: Policy,
    ) -> Result<(ImageId, Fetched), Failure> {
        let mut top = Wanted {
            dependency: Dependency {
                image: image.clone(),
                id,
                size: None,
            },
            machine: Labels::new(),
        };
        let missing = |top: &Wanted| match self.store()? {
            Some(store) => stored::missing(&store, top),
            None => Ok(Some(top.clone())),
        };
        let mut transfer = None;
        let (mut all, mut last) = (Vec::new(), None);
        if policy == Policy::Always {
            let transfer =
                transfer.insert(Transfer::new(self, Some(self.context.discovery.appc()?))?);
            let (id, imported) = transfer.appc(&top, true, &|| Ok(true))?;
            all.extend(imported);
            // From now on it is that very image.
            top.dependency.id = id.and_then(AciId::of_image).or(top.dependency.id);
        }
        while let Some(wanted) = missing(&top)? {
            let is_top = wanted == top;
            if policy == Policy::Never {
                return Err(self.not_there(&wanted.dependency)?);
            }
            // What came is what was asked for: it would be the same again.
            if last.as_ref() == Some(&wanted) {
                let what = if is_top { "image" } else { "dependency" };
                let what = format!(
                    "the {what} `{}` is missing, though it was pulled",
                    wanted.dependency.image
                );
                return Err(Failure::new(Exit::Failed, what));
            }
            let transfer = match &transfer {
                Some(transfer) => transfer,
                None => transfer.insert(Transfer::new(self, Some(self.context.discovery.appc()?))?),
            };
            let needed = || Ok(missing(&top)?.as_ref() == Some(&wanted));
            let came = transfer.appc(&wanted, is_top, &needed);
            let (id, imported) = came.map_err(|failure| match is_top {
                true => failure,
                false => of_dependency(image, failure),
            })?;
            all.extend(imported);
            last = Some(wanted);
            if is_top {
                top.dependency.id = id.and_then(AciId::of_image).or(top.dependency.id);
            }
        }
        let found = match (top.dependency.id, self.store()?) {
            (None, Some(store)) => stored::find(&store, &top.dependency)?,
            (id, _) => id,
        };
        let id = found.ok_or_else(|| StoreError::NoImage(image.to_string()))?;
        let fetched = match all.is_empty() {
            true => Fetched::Cached,
            false => {
                if let Some(transfer) = &transfer {
                    transfer.tell_unverified();
                }
                Fetched::Pulled(all)
            }
        };
        Ok((id.image(), fetched))
    }

    /// An AppC image is not in the store, or not whole, and must not be fetched.
    fn not_there(&self, wanted: &Dependency) -> Result<Failure, Failure> {
        let found = match self.store()? {
            Some(store) => stored::find(&store, wanted)?,
            None => None,
        };
        let called = wanted.image.to_string();
        Ok(match found {
            Some(_) => not_whole(&called),
            None => StoreError::NoImage(called).into(),
        })
    }
}

/// The image that was imported for one that was asked for: of several platforms the one
/// that has the name.
fn first(imported: &[Imported]) -> Result<ImageId, Failure> {
    let named = imported.iter().find(|image| !image.names.is_empty());
    let id = named.or(imported.first()).map(|image| image.id);
    id.ok_or_else(|| Failure::new(Exit::Failed, "there is no image in what was fetched"))
}

fn not_whole(called: &str) -> Failure {
    let what = format!("image `{called}` is in the store, but not all of it");
    Failure::new(Exit::Damaged, what).hint("lazyroot pull, or lazyroot import it again")
}

fn of_dependency(image: &AppcReference, mut failure: Failure) -> Failure {
    failure.message = format!(
        "a dependency of `{image}` cannot be pulled: {}",
        failure.message
    );
    failure
}
