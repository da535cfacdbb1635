//! A large file over HTTP: whole, or not at all.
//!
//! What it is for: fetching goes on where it was cut, also by another process after
//! a `kill -9`, and what it gives is one open file with every byte of one version of
//! the thing. Two files in a directory make that possible, named by the digest of
//! the URL:
//!
//! ```text
//! <sha256>.part   what came so far; locked by who is fetching
//! <sha256>.json   the mark (a strong ETag) of the version it is a part of
//! ```
//!
//! The mark is written after the part was emptied and before its first byte, so a
//! part never has bytes of another version than its mark says (*one part, one
//! version*). Both are gone as soon as the file is whole.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::header;

use super::Progress;
use crate::digest::Digest;
use crate::http::part::{self, FORGOTTEN, failed};
use crate::http::{Answer, Client, DRIP, FetchError};

/// Repetitions without any progress before it is given up.
const REPEATS: u32 = 5;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const CHUNK: usize = 128 << 10;

/// What a part is a part of.
#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Mark {
    url: String,
    etag: String,
    /// Bytes that a crash of the machine left may be zeros; those of a process are sound.
    boot: String,
}

/// A file that is being fetched.
#[derive(Debug)]
struct Part {
    file: File,
    path: PathBuf,
    /// Where its mark is; absent where another process has the part and this one
    /// works on a file without a name.
    mark_path: Option<PathBuf>,
    etag: Option<String>,
    len: u64,
}

/// Fetches `url` into a file below `dir`, which has no name any more in the end.
///
/// # Errors
/// [`FetchError`]; what came so far is kept where the server allows to go on.
pub(super) fn download(
    client: &Client,
    url: &str,
    dir: &Path,
    limit: u64,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<File, FetchError> {
    let mut part = Part::open(dir, url)?;
    match complete(client, url, &mut part, limit, progress, stop) {
        Ok(()) => part.finish(),
        Err(error) => {
            part.leave()?;
            Err(error)
        }
    }
}

/// Asks until all of it is there, or there is no more hope.
fn complete(
    client: &Client,
    url: &str,
    part: &mut Part,
    limit: u64,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<(), FetchError> {
    // Further than ever before counts, and not that something came: a server that
    // begins anew each time would be asked for ever.
    let (mut repeats, mut best) = (0, part.len);
    loop {
        let error = match once(client, url, part, limit, progress, stop) {
            Ok(()) => return Ok(()),
            // An answer that fails because we hung up is our doing.
            Err(_) if stop.load(Ordering::Relaxed) => return Err(FetchError::Interrupted),
            Err(error) => error,
        };
        repeats = if part.len >= best + DRIP {
            0
        } else {
            repeats + 1
        };
        best = best.max(part.len);
        if !error.is_transient() || repeats >= REPEATS {
            return Err(error);
        }
        log::debug!("`{url}` is asked for again: {error}");
        pause(client.network().pause, repeats, stop)?;
    }
}

/// Waits before the next try.
fn pause(first: Duration, repeats: u32, stop: &AtomicBool) -> Result<(), FetchError> {
    let until = Instant::now() + first.saturating_mul(1 << repeats.min(16)).min(PAUSE_MAX);
    while Instant::now() < until {
        if stop.load(Ordering::Relaxed) {
            return Err(FetchError::Interrupted);
        }
        std::thread::sleep(Duration::from_millis(20).min(first));
    }
    Ok(())
}

/// One request: the rest of the part, or all of it anew.
fn once(
    client: &Client,
    url: &str,
    part: &mut Part,
    limit: u64,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<(), FetchError> {
    let rest = part.etag.as_deref().filter(|_| part.len > 0);
    let asked_for_rest = rest.is_some();
    let answer = match client.get(url, rest.map(|etag| (part.len, etag))) {
        // There is nothing behind the part: it may be whole, but nobody says so.
        Err(FetchError::Status(416)) if part.len > 0 => {
            part.restart(url, None)?;
            return Err(FetchError::WrongPart);
        }
        other => other?,
    };
    let len = if answer.status == 206 {
        let len = range(&answer, part).filter(|_| asked_for_rest);
        if len.is_none() {
            part.restart(url, None)?;
            return Err(FetchError::WrongPart);
        }
        len
    } else {
        let len = length(&answer)?;
        part.restart(url, answer.header(header::ETAG))?;
        len
    };
    if len.is_some_and(|len| len > limit) {
        part.restart(url, None)?;
        return Err(FetchError::TooLarge { size: len, limit });
    }
    progress.begin(url, part.len, len);
    receive(client, answer, part, limit, progress, stop)?;
    match len {
        Some(len) if len != part.len => Err(FetchError::Cut { got: part.len, len }),
        _ => Ok(()),
    }
}

/// The length of a whole answer; nothing where it comes in chunks, whose end is told.
fn length(answer: &Answer) -> Result<Option<u64>, FetchError> {
    if answer.headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(None);
    }
    let len = answer.header(header::CONTENT_LENGTH);
    let len = len.and_then(|text| text.trim().parse().ok());
    len.map(Some).ok_or(FetchError::NoLength)
}

/// The whole length that an answer of one part tells, if it is the part that was
/// asked for: `bytes FIRST-LAST/LENGTH` (RFC 9110, section 14.4).
///
/// A length that is not told (`*`) will not do: the part may end before the whole.
fn range(answer: &Answer, part: &Part) -> Option<u64> {
    let text = answer
        .header(header::CONTENT_RANGE)?
        .strip_prefix("bytes ")?;
    let (span, whole) = text.split_once('/')?;
    let (first, _) = span.split_once('-')?;
    let whole = whole.parse().ok()?;
    let same = answer.header(header::ETAG) == part.etag.as_deref();
    (same && first.parse() == Ok(part.len) && part.len < whole).then_some(whole)
}

/// Writes an answer's bytes behind the part's.
fn receive(
    client: &Client,
    answer: Answer,
    part: &mut Part,
    limit: u64,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<(), FetchError> {
    let stall = client.network().stall;
    let mut body = answer.body.into_reader();
    let mut chunk = vec![0; CHUNK];
    let (mut since, mut came) = (Instant::now(), 0);
    loop {
        let got = body
            .read(&mut chunk)
            .map_err(|error| client.broken(error))?;
        if stop.load(Ordering::Relaxed) {
            return Err(FetchError::Interrupted);
        }
        if got == 0 {
            return Ok(());
        }
        if part.len + got as u64 > limit {
            part.restart("", None)?;
            return Err(FetchError::TooLarge { size: None, limit });
        }
        part.append(&chunk[..got])?;
        progress.advance(got as u64);
        came += got as u64;
        if since.elapsed() >= stall {
            if came < DRIP {
                return Err(FetchError::Stalled(stall));
            }
            (since, came) = (Instant::now(), 0);
        }
    }
}

impl Part {
    /// The part of `url`, locked; another file where somebody else has that.
    fn open(dir: &Path, url: &str) -> Result<Self, FetchError> {
        fs::create_dir_all(dir).map_err(failed(dir))?;
        part::remove_parts(dir, FORGOTTEN).map_err(failed(dir))?;
        let name = Digest::sha256(url.as_bytes()).hex();
        let path = dir.join(format!("{name}.part"));
        let Some(file) = part::locked(&path, true).map_err(failed(&path))? else {
            let file = tempfile::tempfile_in(dir).map_err(failed(dir))?;
            return Ok(Self {
                file,
                path,
                mark_path: None,
                etag: None,
                len: 0,
            });
        };
        let mark_path = dir.join(format!("{name}.json"));
        let len = file.metadata().map_err(failed(&path))?.len();
        let mark = fs::read(&mark_path).ok();
        let mark = mark.and_then(|text| serde_json::from_slice::<Mark>(&text).ok());
        let mark = mark.filter(|mark| mark.url == url && Some(&mark.boot) == boot().as_ref());
        let etag = mark.map(|mark| mark.etag);
        Ok(Self {
            len: if etag.is_some() { len } else { 0 },
            etag,
            file,
            path,
            mark_path: Some(mark_path),
        })
    }

    /// Nothing of it is left; what comes next is of the version with this ETag.
    fn restart(&mut self, url: &str, etag: Option<&str>) -> Result<(), FetchError> {
        self.file.set_len(0).map_err(failed(&self.path))?;
        (self.len, self.etag) = (0, None);
        // A weak mark is the same for contents that are not (RFC 9110, section 8.8.1).
        let strong = etag.filter(|etag| etag.starts_with('"'));
        let (Some(etag), Some(boot), Some(path)) = (strong, boot(), &self.mark_path) else {
            if let Some(path) = &self.mark_path {
                remove(path)?;
            }
            return Ok(());
        };
        let mark = Mark {
            url: url.to_owned(),
            etag: etag.to_owned(),
            boot,
        };
        let text = serde_json::to_vec(&mark).map_err(|error| failed(path)(error.into()))?;
        fs::write(path, text).map_err(failed(path))?;
        self.etag = Some(mark.etag);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        (self.file.seek(SeekFrom::Start(self.len)))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(failed(&self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Nothing is kept of what nothing came of: most names are wrong ones.
    fn leave(self) -> Result<(), FetchError> {
        match (&self.mark_path, self.len) {
            (Some(mark), 0) => remove(mark).and_then(|()| remove(&self.path)),
            _ => Ok(()),
        }
    }

    /// The file, from its beginning; its names are gone. The lock stays with it, so
    /// nobody who still has the name writes into what is being read.
    fn finish(mut self) -> Result<File, FetchError> {
        if let Some(mark) = &self.mark_path {
            // In this order: a part without its mark is never gone on with.
            remove(mark)?;
            remove(&self.path)?;
        }
        self.file.rewind().map_err(failed(&self.path))?;
        Ok(self.file)
    }
}

/// Which start of the machine this is; nothing where the kernel does not say.
fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

fn remove(path: &Path) -> Result<(), FetchError> {
    part::remove_name(path).map_err(failed(path))
}
