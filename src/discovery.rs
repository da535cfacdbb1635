//! Where images come from that the store does not have: AppC discovery.
//!
//! What it is for: from a name and labels to one whole, verified, open file, by one
//! of three ways: *local* (a directory of ACIs and Docker archives), *simple* (a
//! template below a prefix) and *meta* (what the image's own host says in HTML). May
//! assume a directory to put parts of files into. Must not know the store, nor what
//! is inside an image: whoever imports it compares its manifest with what was wanted.
//!
//! | file | what it knows |
//! |---|---|
//! | `wanted` | names and labels |
//! | `template` | places from templates |
//! | `page` | `meta` tags of a page |
//! | `meta` | the walk from a name to its host |
//! | `download` | going on with a file that was cut |
//! | `keyring` | trusted keys and signatures |
//! | `error` | what went wrong, with all places |

mod download;
mod error;
mod keyring;
mod meta;
mod page;
mod template;
mod wanted;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::http::{Client, FetchError, Network, part};
use crate::reference::{DEFAULT_DOMAIN, DEFAULT_TAG, Reference};
use error::{is_absent, missed};
use template::{Ext, SIMPLE};

pub use error::{DiscoveryError, Tried};
pub use keyring::{Keyring, SignatureError, Signer};
pub use template::TemplateError;
pub use wanted::Wanted;

/// Largest signature file, in bytes; one signature has less than a thousand.
const SIGNATURE_MAX: u64 = 1 << 20;
/// Bytes of a local file that are copied at once.
const COPIED: u64 = 32 << 20;

/// Who wants to know how far fetching is.
pub trait Progress: Send + Sync {
    /// A transfer begins, or goes on: bytes that are there, and all, if known.
    fn begin(&self, _url: &str, _there: u64, _len: Option<u64>) {}
    /// So many more bytes came.
    fn advance(&self, _bytes: u64) {}
}

/// How an image is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// In a directory: `NAME-VERSION-OS-ARCH.aci`, `NAME:TAG.tar`, `NAME.tar`, where
    /// the slashes of a name are directories.
    Local(PathBuf),
    /// `{name}-{version}-{os}-{arch}.{ext}` below a prefix.
    Simple(Prefix),
    /// By the `ac-discovery` tags of `https://NAME?ac-discovery=1` and above.
    Meta,
}

/// Where simple discovery begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefix {
    /// A URL that the image's name is written right behind; `https://` alone is the host
    /// that the name begins with.
    Url(String),
    /// A directory.
    Dir(PathBuf),
}

/// A prefix that is neither a URL of http or https nor a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is neither an http or https URL nor a directory{}", as_path(.text))]
pub struct PrefixError {
    text: String,
}

/// How the directory of a file URL is written here.
fn as_path(text: &str) -> String {
    match text.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => format!("; write `{path}`"),
        _ => String::new(),
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let web = (text.strip_prefix("https://")).or_else(|| text.strip_prefix("http://"));
        match (text, web) {
            // The name must not become a part of the host's.
            (_, Some(host)) if !host.is_empty() && !host.contains('/') => {
                Ok(Self::Url(format!("{text}/")))
            }
            (_, Some(_)) => Ok(Self::Url(text.to_owned())),
            _ if text.is_empty() || text.contains("://") => Err(PrefixError {
                text: text.to_owned(),
            }),
            _ => Ok(Self::Dir(PathBuf::from(text))),
        }
    }
}

/// What discovery needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How images are looked for.
    pub method: Method,
    /// How requests are made.
    pub network: Network,
    /// Whose signatures count; without it none is looked at.
    pub keyring: Option<Keyring>,
    /// Whether an image without a signature is refused.
    pub require_signature: bool,
    /// Largest image that is fetched or taken from a directory, in bytes.
    pub max_size: u64,
}

/// A file of a machine or of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a URL.
    Url(String),
    /// On this machine.
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Where an image may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The image.
    pub image: Place,
    /// Its detached signature; Docker archives have none.
    pub signature: Option<Place>,
}

impl Candidate {
    /// Image and signature, by what a template makes of both.
    fn of(place: impl Fn(Ext) -> Result<Place, TemplateError>) -> Result<Self, TemplateError> {
        Ok(Self {
            image: place(Ext::Aci)?,
            signature: Some(place(Ext::Asc)?),
        })
    }
}

/// What discovery found.
#[derive(Debug)]
pub struct Found {
    /// What was looked for, as people write it.
    pub wanted: String,
    /// Name that keys are trusted for.
    pub name: String,
    /// How many bytes it must have, where somebody says it.
    pub size: Option<u64>,
    /// Where it may be, best first.
    pub candidates: VecDeque<Candidate>,
    /// Where the publisher's keys are said to be. They are never taken from there.
    pub keys: Vec<String>,
    /// Where nothing was.
    pub tried: Vec<Tried>,
}

/// What is known of who made an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// A trusted key signed it.
    Good(Signer),
    /// There is none, and none is required.
    Missing,
    /// There is no keyring, so nobody looked.
    Unchecked,
}

/// One image, whole and verified, in an open file.
#[derive(Debug)]
pub struct Fetched {
    /// Its bytes from their beginning. Nobody else writes to it if it was signed.
    pub file: File,
    /// Where it came from.
    pub from: Place,
    /// Who signed it.
    pub signature: Signature,
}

/// An image in a file that somebody gives, and the signature beside it. Whose it is, its
/// manifest says.
#[derive(Debug)]
pub struct Given {
    file: File,
    path: PathBuf,
    signature: Option<Vec<u8>>,
}

impl Given {
    /// Its bytes from their beginning: a copy where there is a signature.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Where the signature of a file is: beside it, as rkt has it.
#[must_use]
pub fn signature_path(image: &Path) -> PathBuf {
    let mut path = image.as_os_str().to_owned();
    path.push(".asc");
    path.into()
}

/// Looks for images, and fetches them.
#[derive(Debug)]
pub struct Discovery {
    method: Method,
    client: Client,
    keyring: Option<Keyring>,
    require_signature: bool,
    max_size: u64,
}

impl Discovery {
    /// Discovery by these settings.
    ///
    /// # Errors
    /// [`DiscoveryError::NoKeyring`].
    pub fn new(settings: Settings) -> Result<Self, DiscoveryError> {
        if settings.require_signature && settings.keyring.is_none() {
            return Err(DiscoveryError::NoKeyring);
        }
        Ok(Self {
            method: settings.method,
            client: Client::new(settings.network),
            keyring: settings.keyring,
            require_signature: settings.require_signature,
            max_size: settings.max_size,
        })
    }

    /// Whether signatures are looked at.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.keyring.is_some()
    }

    /// Where an AppC image may be. `stop` ends it soon; this value is of no use then.
    ///
    /// # Errors
    /// [`DiscoveryError`], with all places that were looked at.
    pub fn find(&self, wanted: &Wanted, stop: &AtomicBool) -> Result<Found, DiscoveryError> {
        let mut found = Found {
            wanted: wanted.to_string(),
            name: wanted.name().to_owned(),
            size: None,
            candidates: VecDeque::new(),
            keys: Vec::new(),
            tried: Vec::new(),
        };
        let fixed = match &self.method {
            Method::Local(dir) | Method::Simple(Prefix::Dir(dir)) => {
                Candidate::of(|ext| template::path(dir, SIMPLE, wanted, ext).map(Place::File))
            }
            Method::Simple(Prefix::Url(prefix)) => Candidate::of(|ext| {
                let rest = template::url(SIMPLE, wanted, ext)?;
                Ok(Place::Url(format!("{prefix}{rest}")))
            }),
            Method::Meta => {
                self.client
                    .guarded(stop, || meta::walk(&self.client, wanted, &mut found, stop));
                return match (stop.load(Ordering::Relaxed), found.candidates.is_empty()) {
                    (true, _) => Err(DiscoveryError::Interrupted),
                    (false, true) => Err(missed(found.wanted, found.tried, None)),
                    (false, false) => Ok(found),
                };
            }
        };
        found
            .candidates
            .push_back(fixed.map_err(|source| DiscoveryError::Template {
                wanted: wanted.to_string(),
                source,
            })?);
        Ok(found)
    }

    /// Where the archive of a Docker image may be: only in a local directory, as
    /// `NAME:TAG.tar` or, for the default tag, `NAME.tar`. NAME may be written short
    /// (`redis`), as the repository (`library/redis`) or with its registry.
    ///
    /// # Errors
    /// [`DiscoveryError::NotAppc`].
    pub fn find_archive(&self, wanted: &Reference) -> Result<Found, DiscoveryError> {
        let dir = match &self.method {
            Method::Local(dir) => dir,
            _ => return Err(DiscoveryError::NotAppc(wanted.familiar())),
        };
        let mut names = Vec::new();
        let full = wanted.to_string();
        let path = (full.strip_prefix(DEFAULT_DOMAIN)).and_then(|rest| rest.strip_prefix('/'));
        let path = path.unwrap_or(&full).to_owned();
        for name in [wanted.familiar(), path, full] {
            let bare = name
                .strip_suffix(&format!(":{DEFAULT_TAG}"))
                .map(str::to_owned);
            for name in [Some(name), bare].into_iter().flatten() {
                let path = dir.join(format!("{name}.tar"));
                if !names.contains(&path) {
                    names.push(path);
                }
            }
        }
        let candidate = |path| Candidate {
            image: Place::File(path),
            signature: None,
        };
        Ok(Found {
            wanted: wanted.familiar(),
            name: wanted.repository(),
            size: None,
            candidates: names.into_iter().map(candidate).collect(),
            keys: Vec::new(),
            tried: Vec::new(),
        })
    }

    /// Fetches what was found from the first place that has it, and leaves the places
    /// behind that for when it turns out to be something else. `into` is where parts of
    /// files stay when a transfer is cut; it may be shared by many. `stop` ends it soon;
    /// this value is of no use then.
    ///
    /// # Errors
    /// [`DiscoveryError`]; a signature that is not accepted ends it, whatever other
    /// places there are.
    pub fn fetch(
        &self,
        found: &mut Found,
        into: &Path,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<Fetched, DiscoveryError> {
        let mut hint = None;
        while let Some(candidate) = found.candidates.pop_front() {
            let got = self
                .client
                .guarded(stop, || self.get(&candidate, found, into, progress, stop));
            match got {
                Ok((file, signature)) => {
                    return Ok(Fetched {
                        file,
                        from: candidate.image,
                        signature,
                    });
                }
                Err(_) if stop.load(Ordering::Relaxed) => {
                    return Err(DiscoveryError::Interrupted);
                }
                Err(Failed::Fetch(place, error)) => {
                    hint = error.hint().or(hint);
                    found.tried.push(Tried::new(place, &error));
                }
                Err(Failed::Signature(source)) => {
                    return Err(DiscoveryError::Signature {
                        place: candidate.image,
                        source,
                        keys: std::mem::take(&mut found.keys),
                    });
                }
            }
        }
        let tried = std::mem::take(&mut found.tried);
        Err(missed(found.wanted.clone(), tried, hint))
    }

    /// Opens a file of an AppC image, with the signature that lies beside it. As in
    /// [`Self::fetch`] it is a copy below `into` that is verified.
    ///
    /// # Errors
    /// [`DiscoveryError`]; there is no signature, and one is required.
    pub fn given(
        &self,
        path: &Path,
        into: &Path,
        stop: &AtomicBool,
    ) -> Result<Given, DiscoveryError> {
        let failed = |place: &Path, error: FetchError| {
            let tried = Tried::new(Place::File(place.to_owned()), &error);
            missed(path.display().to_string(), vec![tried], error.hint())
        };
        let mut file = open(path).map_err(|error| failed(path, error))?;
        let beside = signature_path(path);
        let signature = match &self.keyring {
            Some(_) => self.signature(&Place::File(beside.clone())),
            None => Ok(None),
        };
        let signature = signature.map_err(|error| failed(&beside, error))?;
        if signature.is_none() && self.require_signature {
            return Err(not_accepted(path, SignatureError::Missing));
        }
        if signature.is_some() {
            let copied = copy(&file, path, into, u64::MAX, stop);
            file = copied.map_err(|error| failed(path, error))?;
        }
        Ok(Given {
            file,
            path: path.to_owned(),
            signature,
        })
    }

    /// Who signed a file that was given, whose image has this name.
    ///
    /// # Errors
    /// The signature is not accepted.
    pub fn signer(
        &self,
        given: &Given,
        name: &str,
        stop: &AtomicBool,
    ) -> Result<Signature, DiscoveryError> {
        let (keyring, bytes) = match (&self.keyring, &given.signature) {
            (Some(keyring), Some(bytes)) => (keyring, bytes),
            (Some(_), None) => return Ok(Signature::Missing),
            (None, _) => return Ok(Signature::Unchecked),
        };
        let signer = keyring.verify(name, bytes, &given.file, SystemTime::now(), stop);
        let signer = signer.map_err(|source| not_accepted(&given.path, source))?;
        Ok(Signature::Good(signer))
    }

    /// One candidate: its signature first, which is small and may spare the rest.
    fn get(
        &self,
        candidate: &Candidate,
        found: &Found,
        into: &Path,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<(File, Signature), Failed> {
        let signature = match (&self.keyring, &candidate.signature) {
            (Some(keyring), Some(place)) => {
                let bytes = self.signature(place);
                let bytes = bytes.map_err(|error| Failed::Fetch(place.clone(), error))?;
                bytes.map(|bytes| (keyring, bytes))
            }
            _ => None,
        };
        let limit = found.size.unwrap_or(u64::MAX).min(self.max_size);
        let failed = |error| {
            let error = match (error, found.size) {
                (FetchError::TooLarge { size, limit }, Some(declared)) if limit == declared => {
                    FetchError::OtherSize { size, declared }
                }
                (error, _) => error,
            };
            Failed::Fetch(candidate.image.clone(), error)
        };
        // An image that is not there is told before a signature that is not.
        let file = match &candidate.image {
            Place::Url(url) => {
                if signature.is_none() && self.require_signature {
                    let absent = self.client.get(url, None).err();
                    return Err(absent.map_or(Failed::Signature(SignatureError::Missing), failed));
                }
                download::download(&self.client, url, into, limit, progress, stop)
            }
            Place::File(path) => open(path).and_then(|file| within(file, path, limit)),
        };
        let file = file
            .and_then(|file| of_size(file, found.size, &candidate.image))
            .map_err(failed)?;
        let Some((keyring, bytes)) = signature else {
            return match (&self.keyring, self.require_signature) {
                (_, true) => Err(Failed::Signature(SignatureError::Missing)),
                (Some(_), false) => Ok((file, Signature::Missing)),
                (None, false) => Ok((file, Signature::Unchecked)),
            };
        };
        let file = match &candidate.image {
            Place::Url(_) => file,
            // What is verified must be what is imported, whoever writes to the original.
            Place::File(path) => copy(&file, path, into, limit, stop).map_err(failed)?,
        };
        let signer = keyring.verify(&found.name, &bytes, &file, SystemTime::now(), stop);
        Ok((file, Signature::Good(signer.map_err(Failed::Signature)?)))
    }

    /// A signature's bytes; nothing where there is none.
    fn signature(&self, place: &Place) -> Result<Option<Vec<u8>>, FetchError> {
        let bytes = match place {
            Place::Url(url) => self.client.page(url, SIGNATURE_MAX),
            Place::File(path) => open(path).and_then(|file| whole(&file, path)),
        };
        match bytes {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn not_accepted(path: &Path, source: SignatureError) -> DiscoveryError {
    DiscoveryError::Signature {
        place: Place::File(path.to_owned()),
        source,
        keys: Vec::new(),
    }
}

/// Why one candidate is not it.
enum Failed {
    /// It, or its signature, could not be had from there.
    Fetch(Place, FetchError),
    Signature(SignatureError),
}

/// A file that is one: a pipe would have us wait for ever, a directory has no bytes.
fn open(path: &Path) -> Result<File, FetchError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is not a file")),
        });
    opened.map_err(part::failed(path))
}

fn whole(file: &File, path: &Path) -> Result<Vec<u8>, FetchError> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let read = file.take(SIGNATURE_MAX + 1).read_to_end(&mut bytes);
    let len = read.map_err(part::failed(path))? as u64;
    match len > SIGNATURE_MAX {
        true => Err(FetchError::TooLarge {
            size: None,
            limit: SIGNATURE_MAX,
        }),
        false => Ok(bytes),
    }
}

/// A file that is no larger than it may be.
fn within(file: File, path: &Path, limit: u64) -> Result<File, FetchError> {
    let size = file.metadata().map_err(part::failed(path))?.len();
    match size > limit {
        true => Err(FetchError::TooLarge {
            size: Some(size),
            limit,
        }),
        false => Ok(file),
    }
}

/// A file that has as many bytes as are declared.
fn of_size(file: File, declared: Option<u64>, from: &Place) -> Result<File, FetchError> {
    let Some(declared) = declared else {
        return Ok(file);
    };
    let data = file.metadata().map_err(|source| FetchError::File {
        path: from.to_string(),
        source,
    });
    let size = data?.len();
    match size == declared {
        true => Ok(file),
        false => Err(FetchError::OtherSize {
            size: Some(size),
            declared,
        }),
    }
}

/// A copy without a name, from its beginning. The system shares the blocks where the
/// file system can. It ends when somebody wants to stop, or somebody adds to the
/// original without end.
fn copy(
    mut from: &File,
    path: &Path,
    into: &Path,
    limit: u64,
    stop: &AtomicBool,
) -> Result<File, FetchError> {
    std::fs::create_dir_all(into).map_err(part::failed(into))?;
    let mut to = tempfile::tempfile_in(into).map_err(part::failed(into))?;
    let mut size = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(part::failed(path)(io::Error::other("interrupted")));
        }
        let copied = io::copy(&mut io::Read::take(&mut from, COPIED), &mut to);
        let copied = copied.map_err(part::failed(path))?;
        size += copied;
        if size > limit {
            return Err(FetchError::TooLarge { size: None, limit });
        }
        if copied == 0 {
            to.rewind().map_err(part::failed(into))?;
            return Ok(to);
        }
    }
}
