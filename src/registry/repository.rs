//! One image's repository: documents, whoever has them, however often it takes.

use std::time::{Duration, Instant};

use ureq::http::{Method, header};

use super::endpoint::Endpoint;
use super::session::{Call, Target, shown};
use super::{Access, Progress, Registry, RegistryError, Silent};
use crate::causes;
use crate::digest::{Digest, Hasher};
use crate::reference::{DEFAULT_TAG, Reference};

/// What a manifest may be. Schema 1 is not asked for; a registry that has nothing else
/// gives it all the same, and it is refused by whoever reads it.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";
/// Repetitions without any progress before it is given up.
const REPEATS: u32 = 5;
/// Those of a mirror: another place is asked then.
const MIRROR_REPEATS: u32 = 1;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Longest pause that a registry may demand; more is an error that says so.
const WAIT_MAX: Duration = Duration::from_secs(90);
/// How often it is looked whether somebody wants to stop.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Asked now and then whether to stop.
pub type Halt<'a> = &'a (dyn Fn() -> bool + Sync);

/// The repository of an image, at its registry and its mirrors.
pub struct Repository<'a> {
    pub(super) registry: &'a Registry,
    pub(super) progress: &'a dyn Progress,
    name: Reference,
    /// In the order in which they are asked; the last one is the registry itself.
    pub(super) endpoints: Vec<Endpoint>,
}

impl std::fmt::Debug for Repository<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A document from a registry, and its digest as it was computed.
#[derive(Debug, Clone)]
pub struct Document {
    /// As it came.
    pub bytes: Vec<u8>,
    /// Of those bytes.
    pub digest: Digest,
}

/// Where a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Manifests and indexes.
    Manifests,
    /// Configs.
    Blobs,
}

impl<'a> Repository<'a> {
    pub(super) fn new(registry: &'a Registry, name: &Reference) -> Self {
        let settings = &registry.settings;
        let mirrors = settings.mirrors.iter();
        let mut endpoints: Vec<Endpoint> = mirrors
            .filter_map(|mirror| mirror.of(name, &settings.insecure))
            .collect();
        endpoints.push(Endpoint::origin(name, &settings.insecure));
        Self {
            registry,
            progress: &Silent,
            name: name.clone(),
            endpoints,
        }
    }

    /// The same, which tells somebody how far it is.
    #[must_use]
    pub fn telling(self, progress: &'a dyn Progress) -> Self {
        Self { progress, ..self }
    }

    /// What the image's name stands for: a manifest or an index.
    ///
    /// # Errors
    /// [`RegistryError`]; more than `limit` bytes.
    pub fn top(&self, limit: u64, halt: Halt<'_>) -> Result<Document, RegistryError> {
        let what = format!("`{}`", self.name.familiar());
        match self.name.digest() {
            Some(digest) => self.named(Kind::Manifests, &digest, limit, &what, halt),
            None => {
                let tag = self.name.tag().unwrap_or(DEFAULT_TAG);
                self.each(false, halt, |to| {
                    let target = format!("manifests/{tag}");
                    self.get(to, Kind::Manifests, &target, limit, &what, halt)
                        .map(|bytes| Document {
                            digest: Digest::sha256(&bytes),
                            bytes,
                        })
                })
            }
        }
    }

    /// A document by its digest.
    ///
    /// # Errors
    /// [`RegistryError`]; more than `limit` bytes; other bytes.
    pub fn document(
        &self,
        kind: Kind,
        digest: &Digest,
        limit: u64,
        halt: Halt<'_>,
    ) -> Result<Document, RegistryError> {
        let what = match kind {
            Kind::Manifests => format!("manifest {digest}"),
            Kind::Blobs => format!("blob {digest}"),
        };
        self.named(kind, digest, limit, &what, halt)
    }

    fn named(
        &self,
        kind: Kind,
        digest: &Digest,
        limit: u64,
        what: &str,
        halt: Halt<'_>,
    ) -> Result<Document, RegistryError> {
        let place = match kind {
            Kind::Manifests => "manifests",
            Kind::Blobs => "blobs",
        };
        let target = format!("{place}/{digest}");
        self.each(false, halt, |to| {
            let bytes = self.get(to, kind, &target, limit, what, halt)?;
            // What the registry says of itself counts for nothing.
            let mut hasher = Hasher::like(digest);
            hasher.update(&bytes);
            let found = hasher.finish();
            if found != *digest {
                return Err(RegistryError::Digest {
                    what: what.to_owned(),
                    registry: to.registry.clone(),
                    wanted: *digest,
                    found,
                });
            }
            Ok(Document {
                bytes,
                digest: found,
            })
        })
    }

    fn get(
        &self,
        to: &Endpoint,
        kind: Kind,
        target: &str,
        limit: u64,
        what: &str,
        halt: Halt<'_>,
    ) -> Result<Vec<u8>, RegistryError> {
        let once = || {
            let mut call = Call::new(Method::GET, Target::Below(target), Access::Pull);
            if kind == Kind::Manifests {
                call = call.header(header::ACCEPT, MANIFESTS);
            }
            let answer = self.registry.send(to, &call)?;
            let url = shown(&to.url(self.registry.https(to)?, target));
            if answer.status != 200 {
                return Err(self.registry.refusal(to, what, &url, answer));
            }
            let whole = self.registry.client.whole(answer, limit);
            whole.map_err(|source| RegistryError::Fetch { url, source })
        };
        self.retried(to, halt, |_| (once(), false))
    }

    /// Asks one after the other, until one has it.
    pub(super) fn each<T>(
        &self,
        only_origin: bool,
        halt: Halt<'_>,
        mut ask: impl FnMut(&Endpoint) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut last = None;
        for to in &self.endpoints {
            let is_silent = || self.registry.known.silent.lock().contains(&to.host);
            if to.mirror && (only_origin || is_silent()) {
                continue;
            }
            match ask(to) {
                Ok(found) => return Ok(found),
                // An answer that fails because we hung up is our doing.
                Err(_) if halt() => return Err(RegistryError::Interrupted),
                Err(error) => {
                    if to.mirror {
                        // What cannot be talked to is not tried for each of many layers.
                        if matches!(error, RegistryError::Fetch { .. }) {
                            self.registry.known.silent.lock().insert(to.host.clone());
                        }
                        self.progress.passed_over(&to.host, &causes::chain(&error));
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(RegistryError::Interrupted))
    }

    /// Tries again what may succeed later, after pauses that grow; what came further
    /// than before begins to count anew.
    pub(super) fn retried<T>(
        &self,
        to: &Endpoint,
        halt: Halt<'_>,
        mut once: impl FnMut(Option<&RegistryError>) -> (Result<T, RegistryError>, bool),
    ) -> Result<T, RegistryError> {
        let most = if to.mirror { MIRROR_REPEATS } else { REPEATS };
        let first = self.registry.client.network().pause;
        let (mut repeats, mut last) = (0, None);
        loop {
            let (outcome, further) = once(last.as_ref());
            let error = match outcome {
                Ok(done) => return Ok(done),
                Err(_) if halt() => return Err(RegistryError::Interrupted),
                Err(error) => error,
            };
            repeats = if further { 0 } else { repeats + 1 };
            let demanded = match &error {
                RegistryError::TooMany { wait, .. } | RegistryError::Status { wait, .. } => {
                    wait.unwrap_or_default()
                }
                _ => Duration::ZERO,
            };
            if !error.is_transient() || repeats >= most || demanded > WAIT_MAX {
                return Err(error);
            }
            self.progress.again(&to.host, &causes::chain(&error));
            let grown = first.saturating_mul(1 << repeats.min(16)).min(PAUSE_MAX);
            pause(demanded.max(jittered(grown)), halt)?;
            last = Some(error);
        }
    }
}

/// Half of it and something up to the other half, so that many who were cut off at once
/// do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 4];
    // Without any randomness it is the whole pause.
    let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    let part = match got {
        Ok(4) => f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX),
        _ => 1.0,
    };
    pause.mul_f64(0.5 + part / 2.0)
}

fn pause(time: Duration, halt: Halt<'_>) -> Result<(), RegistryError> {
    let until = Instant::now() + time;
    loop {
        if halt() {
            return Err(RegistryError::Interrupted);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_are_never_longer() {
        let all: Vec<Duration> = (0..50).map(|_| jittered(Duration::from_secs(1))).collect();
        assert!(all.iter().all(|p| (500..=1000).contains(&p.as_millis())));
        assert!(all.iter().any(|p| *p != all[0]));
    }

    #[test]
    fn who_wants_to_stop_does_not_wait() {
        let begun = Instant::now();
        let stopped = pause(Duration::from_secs(60), &|| true);
        assert!(matches!(stopped, Err(RegistryError::Interrupted)));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
