//! A blob while it comes.
//!
//! What it is for: one thread fetches it into a file, others read that file meanwhile,
//! as far as it is there; so the network never waits for whoever decodes. The file is
//! `sha256-HEX.part` in a directory that many share, locked by who fetches. What a
//! killed process left of it is gone on with: the name says what it should become, and
//! its digest, computed by whoever reads it, whether it did.
//!
//! Who wants a blob that another process fetches copies what comes there into a file of
//! its own, and fetches the rest when nothing comes any more. It waits for bytes and not
//! for the other's lock, which that one has until its whole image is there: two who wait
//! for each other's locks would wait for ever.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use ureq::http::{Method, header};

use super::endpoint::Endpoint;
use super::repository::{Halt, LOOK, Repository};
use super::session::{Call, Target, shown};
use super::{Access, RegistryError};
use crate::digest::{self, Digest, Hasher};
use crate::http::part::{self, failed};
use crate::http::{Answer, DRIP, FetchError};

/// Bytes that are read of the network at once.
const CHUNK: usize = 256 << 10;

/// A blob that is wanted, and what there is of it.
#[derive(Debug)]
pub struct Coming {
    digest: Digest,
    size: Option<u64>,
    file: File,
    path: PathBuf,
    /// The file of another process that fetches the same.
    theirs: Option<File>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes that are there.
    len: u64,
    end: End,
    /// Some are of another process; an earlier one may have been killed with the machine.
    left: bool,
    /// Some are from a mirror.
    mirrored: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    /// That is all.
    Whole,
    /// No more comes.
    Failed,
}

impl Coming {
    /// The blob, with what `dir` has of it. Where another process is fetching it, a file
    /// at `private` is used.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub fn open(
        digest: Digest,
        size: Option<u64>,
        dir: &Path,
        private: &Path,
    ) -> Result<Self, RegistryError> {
        let file = |source| RegistryError::File { source };
        fs::create_dir_all(dir).map_err(|e| file(failed(dir)(e)))?;
        let shared = dir.join(format!("{}-{}.part", digest.algorithm(), digest.hex()));
        let (opened, path, theirs) = loop {
            let locked = part::locked(&shared, true).map_err(|e| file(failed(&shared)(e)))?;
            if let Some(opened) = locked {
                break (opened, shared, None);
            }
            let theirs = match File::open(&shared) {
                // It was whole, and is called otherwise by now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|e| file(failed(&shared)(e)))?,
            };
            let opened = (File::options().read(true).write(true))
                .create(true)
                .truncate(true)
                .open(private);
            let opened = opened.map_err(|e| file(failed(private)(e)))?;
            // The end of one whose length is not known is not seen.
            break (opened, private.to_owned(), size.map(|_| theirs));
        };
        let mut len = opened.metadata().map_err(|e| file(failed(&path)(e)))?.len();
        if size.is_some_and(|size| len > size) {
            opened.set_len(0).map_err(|e| file(failed(&path)(e)))?;
            len = 0;
        }
        Ok(Self {
            digest,
            size,
            file: opened,
            path,
            theirs,
            state: Mutex::new(State {
                len,
                end: End::Open,
                left: len > 0,
                mirrored: false,
            }),
            changed: Condvar::new(),
        })
    }

    /// Where it is, whole or not.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes from the first one on. Reading waits for what is not there yet, and
    /// fails when no more comes.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            coming: self,
            at: 0,
        }
    }

    /// Its digest, when all of it is there; nothing if that never happens.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn found(&self) -> io::Result<Option<Digest>> {
        let end = {
            let mut state = self.state.lock();
            while state.end == End::Open {
                self.changed.wait(&mut state);
            }
            state.end
        };
        match end {
            End::Whole => {
                let hasher = Hasher::like(&self.digest);
                Ok(Some(digest::of_reader_by(hasher, self.reader())?.0))
            }
            _ => Ok(None),
        }
    }

    /// Whether fetching all of it from the registry itself may give other bytes.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        let state = self.state.lock();
        state.mirrored || state.left
    }

    /// Begins anew.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn restart(&self) -> Result<(), RegistryError> {
        let mut state = self.state.lock();
        (self.file.set_len(0)).map_err(|e| RegistryError::File {
            source: failed(&self.path)(e),
        })?;
        state.len = 0;
        state.end = End::Open;
        (state.left, state.mirrored) = (false, false);
        Ok(())
    }

    /// Nothing of it is of use to anybody.
    pub fn discard(&self) {
        // While it is locked nobody else has the name, unless it was taken away before. One
        // that stays is swept.
        let ours = self.file.metadata().map(|data| (data.dev(), data.ino()));
        let named = fs::metadata(&self.path).map(|data| (data.dev(), data.ino()));
        if let (Ok(ours), Ok(named)) = (ours, named)
            && ours == named
        {
            let _ = part::remove_name(&self.path);
        }
    }

    fn len(&self) -> u64 {
        self.state.lock().len
    }

    fn append(&self, bytes: &[u8], at: u64, mirrored: bool) -> Result<(), FetchError> {
        (self.file.write_all_at(bytes, at)).map_err(failed(&self.path))?;
        let mut state = self.state.lock();
        state.len = at + bytes.len() as u64;
        state.mirrored |= mirrored;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn end(&self, end: End) {
        self.state.lock().end = end;
        self.changed.notify_all();
    }
}

/// How much may come of blobs of which nobody said before how long they are, together.
#[derive(Debug)]
pub struct Room {
    limit: u64,
    taken: Mutex<HashMap<Digest, u64>>,
}

impl Room {
    /// For so many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
        }
    }

    /// Takes room for all of a blob as far as it is known, instead of what was taken for it
    /// before.
    fn take(&self, blob: &Digest, size: u64) -> Result<(), FetchError> {
        let mut taken = self.taken.lock();
        let others = taken.iter().filter(|(other, _)| *other != blob);
        let others: u64 = others.map(|(_, size)| size).sum();
        let limit = self.limit - others;
        if size > limit {
            let size = Some(size);
            return Err(FetchError::TooLarge { size, limit });
        }
        taken.insert(*blob, size);
        Ok(())
    }
}

/// Reads a blob while it comes.
#[derive(Debug)]
pub struct Reader<'a> {
    coming: &'a Coming,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let there = {
            let mut state = self.coming.state.lock();
            loop {
                if self.at < state.len {
                    break state.len - self.at;
                }
                match state.end {
                    End::Open => self.coming.changed.wait(&mut state),
                    End::Whole => return Ok(0),
                    End::Failed => return Err(io::Error::other("its transfer ended early")),
                }
            }
        };
        let most = usize::try_from(there).unwrap_or(usize::MAX).min(to.len());
        let got = self.coming.file.read_at(&mut to[..most], self.at)?;
        if got == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

impl Repository<'_> {
    /// Fetches what is missing of a blob; whoever reads it is told the end. A mirror is
    /// not asked when `only_origin`. One of which it is not known how long it is takes
    /// its share of `room`.
    ///
    /// # Errors
    /// [`RegistryError`]; what came stays in the file.
    pub fn fetch(
        &self,
        coming: &Coming,
        only_origin: bool,
        room: &Room,
        halt: Halt<'_>,
    ) -> Result<(), RegistryError> {
        let followed = match &coming.theirs {
            Some(theirs) if !only_origin => self.follow(theirs, coming, halt),
            _ => Ok(()),
        };
        let outcome = followed
            .and_then(|()| self.each(only_origin, halt, |to| self.rest(to, coming, room, halt)));
        coming.end(match outcome {
            Ok(()) => End::Whole,
            Err(_) => End::Failed,
        });
        if outcome.is_err() && coming.len() == 0 {
            coming.discard();
        }
        outcome
    }

    /// Copies what another process fetches, until nobody does or nothing comes.
    fn follow(&self, theirs: &File, coming: &Coming, halt: Halt<'_>) -> Result<(), RegistryError> {
        let stall = self.registry.client.network().stall;
        let mut chunk = vec![0; CHUNK];
        let mut there = coming.len();
        self.progress.begin(&coming.digest, there, coming.size);
        let mut came = Instant::now();
        coming.state.lock().left = true;
        while coming.size != Some(there) {
            if halt() {
                return Err(RegistryError::Interrupted);
            }
            // Looked at first: what is written before it ends is read after it.
            let fetched = part::is_held(theirs);
            let most = coming.size.unwrap_or(0).saturating_sub(there);
            let most = usize::try_from(most).unwrap_or(CHUNK).min(CHUNK);
            let got = theirs.read_at(&mut chunk[..most], there);
            let file = |source| RegistryError::File { source };
            match got.map_err(|e| file(failed(&coming.path)(e)))? {
                0 if !fetched || came.elapsed() >= stall => break,
                0 => std::thread::sleep(LOOK),
                got => {
                    coming.append(&chunk[..got], there, false).map_err(file)?;
                    self.progress.advance(&coming.digest, got as u64);
                    there += got as u64;
                    came = Instant::now();
                }
            }
        }
        Ok(())
    }

    /// Asks until all of it is there, or there is no more hope.
    fn rest(
        &self,
        to: &Endpoint,
        coming: &Coming,
        room: &Room,
        halt: Halt<'_>,
    ) -> Result<(), RegistryError> {
        // Further than ever before counts, and not that something came: a server that
        // begins anew each time would be asked for ever.
        let mut best = coming.len();
        self.retried(to, halt, |_| {
            let outcome = self.once(to, coming, room, halt);
            let further = coming.len() >= best + DRIP;
            best = best.max(coming.len());
            (outcome, further)
        })
    }

    /// One request: what is behind what is there.
    fn once(
        &self,
        to: &Endpoint,
        coming: &Coming,
        room: &Room,
        halt: Halt<'_>,
    ) -> Result<(), RegistryError> {
        let there = coming.len();
        if coming.size == Some(there) {
            self.progress.begin(&coming.digest, there, coming.size);
            return Ok(());
        }
        let target = format!("blobs/{}", coming.digest);
        let url = shown(&to.url(self.registry.https(to)?, &target));
        let wrong = |source| RegistryError::Fetch {
            url: url.clone(),
            source,
        };
        let ask = |from: u64| {
            let mut call = Call::new(Method::GET, Target::Below(&target), Access::Pull);
            if from > 0 {
                call = call.header(header::RANGE, format!("bytes={from}-"));
            }
            self.registry.send(to, &call)
        };
        let mut answer = ask(there)?;
        let part = |answer: &Answer| range(answer).filter(|(first, _)| *first == there);
        let odd = match answer.status {
            416 => true,
            206 => part(&answer).is_none(),
            _ => false,
        };
        if odd && there > 0 {
            // It is shorter, or the server is odd: the whole of it tells which.
            answer = ask(0)?;
        }
        let (begin, len) = match answer.status {
            200 => (0, length(&answer)),
            206 => match part(&answer) {
                Some((_, whole)) => (there, Some(whole)),
                None => return Err(wrong(FetchError::WrongPart)),
            },
            _ => {
                let what = format!("blob {}", coming.digest);
                return Err(self.registry.refusal(to, &what, &url, answer));
            }
        };
        match (coming.size, len) {
            (Some(wanted), Some(found)) if wanted != found => {
                return Err(RegistryError::Size {
                    blob: coming.digest,
                    registry: to.registry.clone(),
                    wanted,
                    found,
                });
            }
            (None, Some(len)) if len < there => return Err(wrong(FetchError::WrongPart)),
            (None, Some(size)) => room.take(&coming.digest, size).map_err(wrong)?,
            _ => {}
        }
        let most = coming.size.or(len);
        self.progress
            .begin(&coming.digest, there, coming.size.or(len));
        let received = self.receive(to, answer, coming, begin, (most, room), halt);
        received.map_err(|error| match (error, coming.size) {
            (
                FetchError::TooLarge {
                    size: Some(found), ..
                },
                Some(wanted),
            ) => RegistryError::Size {
                blob: coming.digest,
                registry: to.registry.clone(),
                wanted,
                found,
            },
            (error, _) => wrong(error),
        })?;
        let got = coming.len();
        match coming.size.or(len) {
            Some(len) if got < len => Err(wrong(FetchError::Cut { got, len })),
            _ => Ok(()),
        }
    }

    /// Writes an answer's bytes, which begin at `at`, where they belong. What is there
    /// is not written again: a server that cannot go on begins anew. `most` is how long it
    /// is, and where nobody knows that it has to find room.
    fn receive(
        &self,
        to: &Endpoint,
        answer: Answer,
        coming: &Coming,
        mut at: u64,
        (most, room): (Option<u64>, &Room),
        halt: Halt<'_>,
    ) -> Result<(), FetchError> {
        let client = &self.registry.client;
        let stall = client.network().stall;
        let mut body = answer.body.into_reader();
        let mut chunk = vec![0; CHUNK];
        let (mut since, mut came) = (Instant::now(), 0);
        let mut there = coming.len();
        loop {
            let got = body.read(&mut chunk).map_err(|e| client.broken(e))?;
            if halt() {
                return Err(FetchError::Interrupted);
            }
            if got == 0 {
                return Ok(());
            }
            let end = at + got as u64;
            match most {
                Some(limit) if end > limit => {
                    let size = Some(end);
                    return Err(FetchError::TooLarge { size, limit });
                }
                Some(_) => {}
                None => room.take(&coming.digest, end.max(there))?,
            }
            if end > there {
                let known = usize::try_from(there - at.min(there)).unwrap_or(got);
                let new = &chunk[known.min(got)..got];
                coming.append(new, there, to.mirror)?;
                self.progress.advance(&coming.digest, new.len() as u64);
                there = end;
            }
            at = end;
            came += got as u64;
            if since.elapsed() >= stall {
                if came < DRIP {
                    return Err(FetchError::Stalled(stall));
                }
                (since, came) = (Instant::now(), 0);
            }
        }
    }
}

/// The length of a whole answer, where it is told.
fn length(answer: &Answer) -> Option<u64> {
    if answer.headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    answer.header(header::CONTENT_LENGTH)?.trim().parse().ok()
}

/// First byte and whole length of an answer of one part: `bytes FIRST-LAST/LENGTH`
/// (RFC 9110, section 14.4). A length that is not told (`*`) will not do: the part may
/// end before the whole.
fn range(answer: &Answer) -> Option<(u64, u64)> {
    let text = answer
        .header(header::CONTENT_RANGE)?
        .strip_prefix("bytes ")?;
    let (span, whole) = text.split_once('/')?;
    let (first, _) = span.split_once('-')?;
    let (first, whole): (u64, u64) = (first.trim().parse().ok()?, whole.trim().parse().ok()?);
    (first < whole).then_some((first, whole))
}
