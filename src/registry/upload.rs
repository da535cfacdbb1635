//! What goes to a registry.
//!
//! What it is for: blobs and manifests, each once, however often it takes (OCI
//! distribution specification, "Pushing"). A blob that the registry has is not sent; one that
//! another repository there has is mounted, where the registry does that. A blob goes in one piece,
//! which every registry takes; when the connection breaks in the middle of a large one, it goes on in pieces,
//! each behind what the registry says it has. Must not know manifests: it is given their bytes.

use std::cell::Cell;
use std::fs::File;

use ureq::http::{HeaderName, Method, header};

use super::endpoint::Endpoint;
use super::repository::{Halt, Repository};
use super::session::{Call, Payload, Target, shown};
use super::{Access, RegistryError};
use crate::digest::Digest;
use crate::http::{self, Answer, FetchError};

/// Bytes of a piece; a blob that is shorter is not cut.
const PIECE: u64 = 16 << 20;
/// Largest piece that a registry may demand, in bytes.
const PIECE_MAX: u64 = 1 << 30;
/// What a registry says of its pieces.
const PIECE_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// What a blob is, on its way.
const BYTES: &str = "application/octet-stream";

/// How a blob got there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrival {
    /// It was there.
    There,
    /// Another repository had it.
    Mounted,
    /// It was sent.
    Sent,
}

/// An upload that the registry has begun.
struct Session {
    /// Where it goes on.
    url: String,
    /// Bytes that are there.
    at: u64,
    /// Bytes of a piece.
    piece: u64,
}

/// What is sent.
struct Outgoing<'a> {
    blob: &'a Digest,
    file: &'a File,
    len: u64,
    /// Told of bytes that left, and with a negative number of those that leave again.
    told: &'a (dyn Fn(i64) + Sync),
    /// What it was told in all.
    sum: Cell<u64>,
    /// The request that ends the upload was made, and its answer is not known.
    closing: Cell<bool>,
}

impl Outgoing<'_> {
    /// So many bytes are there, as far as is known.
    fn so_far(&self, bytes: u64) {
        let told = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        (self.told)(told(bytes) - told(self.sum.replace(bytes)));
    }
}

/// What became of a wish to mount, and to upload else.
enum Begun {
    Mounted,
    Session(Session),
}

impl Repository<'_> {
    /// The registry itself: a mirror takes nothing.
    fn origin(&self) -> Result<&Endpoint, RegistryError> {
        self.endpoints.last().ok_or(RegistryError::Interrupted)
    }

    /// Brings a blob there: the first `len` bytes of a file. `from` is another
    /// repository of that registry which may have it. `told` is told how many bytes left.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn upload(
        &self,
        blob: &Digest,
        file: &File,
        len: u64,
        from: Option<&str>,
        told: &(dyn Fn(i64) + Sync),
        halt: Halt<'_>,
    ) -> Result<Arrival, RegistryError> {
        let to = self.origin()?;
        if self.has(to, blob, halt)? {
            return Ok(Arrival::There);
        }
        let mut session = None;
        if let Some(from) = from {
            match self.retried(to, halt, |_| (self.begin(to, blob, Some(from)), false)) {
                Ok(Begun::Mounted) => return Ok(Arrival::Mounted),
                Ok(Begun::Session(begun)) => session = Some(begun),
                Err(RegistryError::Interrupted) => return Err(RegistryError::Interrupted),
                // Who may not read there, or cannot mount, sends it.
                Err(_) => {}
            }
        }
        let what = Outgoing {
            blob,
            file,
            len,
            told,
            sum: Cell::new(0),
            closing: Cell::new(false),
        };
        let mut pieces = false;
        // Further than ever before counts: a registry that forgets what it took would be
        // sent the same for ever.
        let mut best = 0;
        self.retried(to, halt, |last| {
            if last.is_some() {
                // It may have taken the last of it before the answer was lost.
                if what.closing.take() && matches!(self.has_now(to, blob), Ok(true)) {
                    what.so_far(len);
                    return (Ok(()), true);
                }
                // Those that fit in one piece have nothing to go on with.
                pieces = len > PIECE;
                if let Some(old) = session.take().filter(|_| pieces) {
                    match self.resumed(to, &old) {
                        Ok(resumed) => session = resumed,
                        Err(error) => {
                            session = Some(old);
                            return (Err(error), false);
                        }
                    }
                }
            }
            let outcome = self.send_all(to, &what, &mut session, pieces);
            let now = session.as_ref().map_or(0, |session| session.at);
            let further = now > best;
            best = best.max(now);
            (outcome, further)
        })?;
        Ok(Arrival::Sent)
    }

    /// Brings a manifest there, under a tag or its digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn put_manifest(
        &self,
        kind: &str,
        bytes: &[u8],
        name: &str,
        halt: Halt<'_>,
    ) -> Result<(), RegistryError> {
        let to = self.origin()?;
        let target = format!("manifests/{name}");
        let once = || {
            let mut call = Call::new(Method::PUT, Target::Below(&target), Access::Push);
            call = call.header(header::CONTENT_TYPE, kind);
            call.payload = Payload::Bytes(bytes);
            let answer = self.registry.send(to, &call)?;
            self.expect(to, &[200, 201, 202], "the manifest", &target, answer)
        };
        self.retried(to, halt, |_| (once(), false)).map(|_| ())
    }

    /// Whether the registry has a blob.
    fn has(&self, to: &Endpoint, blob: &Digest, halt: Halt<'_>) -> Result<bool, RegistryError> {
        self.retried(to, halt, |_| (self.has_now(to, blob), false))
    }

    /// The same, asked once.
    fn has_now(&self, to: &Endpoint, blob: &Digest) -> Result<bool, RegistryError> {
        let target = format!("blobs/{blob}");
        let call = Call::new(Method::HEAD, Target::Below(&target), Access::Push);
        let answer = self.registry.send(to, &call)?;
        match answer.status {
            404 => Ok(false),
            _ => self
                .expect(to, &[200], "the blob", &target, answer)
                .map(|_| true),
        }
    }

    /// Begins an upload.
    fn begin(
        &self,
        to: &Endpoint,
        blob: &Digest,
        from: Option<&str>,
    ) -> Result<Begun, RegistryError> {
        let mut target = "blobs/uploads/".to_owned();
        if let Some(from) = from {
            let blob = blob.to_string();
            target = format!(
                "{target}?{}",
                http::query(&[("mount", &blob), ("from", from)])
            );
        }
        let mut call = Call::new(Method::POST, Target::Below(&target), Access::Push);
        call.mount_from = from;
        call.payload = Payload::Bytes(&[]);
        let answer = self.registry.send(to, &call)?;
        if answer.status == 201 && from.is_some() {
            return Ok(Begun::Mounted);
        }
        let answer = self.expect(to, &[202], "an upload", &target, answer)?;
        let base = to.url(self.registry.https(to)?, &target);
        let least = number(&answer, PIECE_MIN).unwrap_or(0);
        Ok(Begun::Session(Session {
            url: self.location(to, &base, &answer)?,
            at: 0,
            piece: PIECE.max(least.min(PIECE_MAX)),
        }))
    }

    /// An upload that was cut, as far as it came; nothing if the registry has forgotten it.
    ///
    /// # Errors
    /// What may be better the next time.
    fn resumed(&self, to: &Endpoint, old: &Session) -> Result<Option<Session>, RegistryError> {
        let call = Call::new(Method::GET, Target::Url(&old.url), Access::Push);
        let answer = self.registry.send(to, &call)?;
        // Some say 200.
        if !matches!(answer.status, 200 | 204) {
            let refused = self.registry.refusal(to, "the upload", &old.url, answer);
            return match refused.is_transient() {
                true => Err(refused),
                false => Ok(None),
            };
        }
        let at = received(&answer);
        let url = self.location(to, &old.url, &answer).ok();
        let piece = old.piece;
        Ok((at.zip(url)).map(|(at, url)| Session { url, at, piece }))
    }

    /// One try to send a blob, from where the session is.
    fn send_all(
        &self,
        to: &Endpoint,
        what: &Outgoing<'_>,
        session: &mut Option<Session>,
        pieces: bool,
    ) -> Result<(), RegistryError> {
        let mut at = match session.take() {
            Some(session) => session,
            None => match self.begin(to, what.blob, None)? {
                Begun::Session(session) => session,
                Begun::Mounted => return Ok(()),
            },
        };
        what.so_far(at.at);
        if at.at > what.len {
            // It has more than there is: not ours.
            return Err(self.confused(to, &at.url));
        }
        while pieces && at.at < what.len {
            let len = at.piece.min(what.len - at.at);
            let range = format!("{}-{}", at.at, at.at + len - 1);
            let sent = self.patch(to, what, &at, len, range);
            let answer = match sent {
                Ok(answer) => answer,
                Err(error) => {
                    *session = Some(at);
                    return Err(error);
                }
            };
            let url = self.location(to, &at.url, &answer)?;
            let there = received(&answer).unwrap_or(at.at + len);
            if there <= at.at || there > at.at + len {
                return Err(self.confused(to, &at.url));
            }
            // What it did not take of the piece is sent again.
            what.so_far(there);
            at = Session {
                url,
                at: there,
                ..at
            };
        }
        let url = with_digest(&at.url, what.blob);
        let mut call = Call::new(Method::PUT, Target::Url(&url), Access::Push);
        call = call.header(header::CONTENT_TYPE, BYTES);
        let left = what.len - at.at;
        what.closing.set(true);
        let ended = self
            .counted(to, call, what, at.at, left)
            .and_then(|answer| self.expect(to, &[201, 204], "the blob", &url, answer));
        ended.map(|_| ()).inspect_err(|_| *session = Some(at))
    }

    fn patch(
        &self,
        to: &Endpoint,
        what: &Outgoing<'_>,
        at: &Session,
        len: u64,
        range: String,
    ) -> Result<Answer, RegistryError> {
        let call = Call::new(Method::PATCH, Target::Url(&at.url), Access::Push)
            .header(header::CONTENT_TYPE, BYTES)
            .header(header::CONTENT_RANGE, range);
        let answer = self.counted(to, call, what, at.at, len)?;
        self.expect(to, &[202], "a piece of the blob", &at.url, answer)
    }

    /// A request with bytes of the blob, which are told while they leave, and told back
    /// when they did not arrive.
    fn counted(
        &self,
        to: &Endpoint,
        call: Call<'_>,
        what: &Outgoing<'_>,
        from: u64,
        len: u64,
    ) -> Result<Answer, RegistryError> {
        let tell = |bytes: u64| what.so_far(what.sum.get() + bytes);
        let payload = match len {
            0 => Payload::Bytes(&[]),
            len => Payload::File {
                file: what.file,
                from,
                len,
                told: &tell,
            },
        };
        let outcome = self.registry.send(to, &Call { payload, ..call });
        match &outcome {
            Ok(answer) if answer.status < 300 => what.so_far(from + len),
            _ => what.so_far(from),
        }
        outcome
    }

    fn expect(
        &self,
        to: &Endpoint,
        statuses: &[u16],
        what: &str,
        target: &str,
        answer: Answer,
    ) -> Result<Answer, RegistryError> {
        match statuses.contains(&answer.status) {
            true => Ok(answer),
            false => {
                let whole = target.contains("://");
                let url = if whole {
                    target.to_owned()
                } else {
                    to.url(true, target)
                };
                Err(self.registry.refusal(to, what, &url, answer))
            }
        }
    }

    /// Where an upload goes on. Not from TLS to none.
    fn location(
        &self,
        to: &Endpoint,
        base: &str,
        answer: &Answer,
    ) -> Result<String, RegistryError> {
        let at = answer.header(header::LOCATION);
        let url = at.and_then(|at| http::join(base, at));
        let url = url.ok_or_else(|| self.confused(to, base))?;
        match http::is_https(base) && !http::is_https(&url) {
            true => Err(RegistryError::Fetch {
                url: shown(base),
                source: FetchError::Downgrade(shown(&url)),
            }),
            false => Ok(url),
        }
    }

    fn confused(&self, _to: &Endpoint, url: &str) -> RegistryError {
        RegistryError::Fetch {
            url: shown(url),
            source: FetchError::WrongPart,
        }
    }
}

fn number(answer: &Answer, name: HeaderName) -> Option<u64> {
    answer.header(name)?.trim().parse().ok()
}

/// How many bytes the registry has of an upload: `Range: 0-LAST`. `0-0` is one byte, or
/// none: registries disagree, and none is right at the beginning.
fn received(answer: &Answer) -> Option<u64> {
    let range = answer.header(header::RANGE)?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

fn with_digest(url: &str, blob: &Digest) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!(
        "{url}{mark}{}",
        http::query(&[("digest", &blob.to_string())])
    )
}
