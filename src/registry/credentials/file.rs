//! One file of logins: what it says, and changing it.
//!
//! Everything that is not understood is kept. The file is replaced by rename, belongs
//! to whom it belonged to, and is nobody else's to read; who changes it holds a lock on
//! its directory.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose::STANDARD};
use rustix::fs::FlockOperation;
use serde_json::{Map, Value};

use super::{CredentialsError, Login, Secret, host_of, named};

/// Largest file that is read, in bytes; a login has a few thousand at most.
const FILE_MAX: u64 = 1 << 20;
/// Symbolic links that are followed to the file, as the kernel does.
const LINKS_MAX: usize = 40;
/// Some programs leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file of logins, read.
#[derive(Debug)]
pub(super) struct AuthFile {
    path: PathBuf,
    all: Map<String, Value>,
    /// Held from reading to writing.
    lock: Option<File>,
}

impl AuthFile {
    /// Reads a file; one that is not there says nothing.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialsError> {
        let file = |all| Self {
            path: path.to_owned(),
            all,
            lock: None,
        };
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut text));
        match read {
            Err(error) if is_absent(&error) => return Ok(file(Map::new())),
            Err(error) => return Err(failed("read", path)(error)),
            Ok(_) => {}
        }
        let wrong = |what: String| CredentialsError::Malformed {
            path: path.to_owned(),
            what,
        };
        if text.len() as u64 > FILE_MAX {
            return Err(wrong(format!("it has more than {FILE_MAX} bytes")));
        }
        if text.trim_ascii().is_empty() {
            return Ok(file(Map::new()));
        }
        // Only the place: the words of the error may be a password.
        match serde_json::from_slice(&text) {
            Ok(Value::Object(all)) => Ok(file(all)),
            Ok(_) => Err(wrong("it is no JSON object".to_owned())),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                Err(wrong(format!(
                    "it is not JSON (line {line}, column {column})"
                )))
            }
        }
    }

    /// The same, to be changed: nobody else of us changes it meanwhile.
    pub(super) fn open(path: &Path) -> Result<Self, CredentialsError> {
        let path = target(path)?;
        let dir = directory(&path);
        (DirBuilder::new().recursive(true).mode(0o700))
            .create(dir)
            .map_err(failed("make", dir))?;
        let lock = File::open(dir).map_err(failed("open", dir))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", dir)(error.into()))?;
        let mut file = Self::read(&path)?;
        file.lock = Some(lock);
        Ok(file)
    }

    /// The entries: below `auths`, or all there is in a `.dockercfg`.
    fn entries(&self) -> Result<Option<&Map<String, Value>>, CredentialsError> {
        if self.is_flat() {
            return Ok(Some(&self.all));
        }
        match self.all.get("auths") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(entries)) => Ok(Some(entries)),
            Some(_) => Err(self.wrong("`auths` is no object")),
        }
    }

    fn entries_mut(&mut self) -> Result<&mut Map<String, Value>, CredentialsError> {
        if self.is_flat() {
            return Ok(&mut self.all);
        }
        let wrong = self.wrong("`auths` is no object");
        let auths = self.all.entry("auths").or_insert(Value::Null);
        if auths.is_null() {
            *auths = Value::Object(Map::new());
        }
        auths.as_object_mut().ok_or(wrong)
    }

    /// A file of the form before Docker 1.7: entries at its top. The other form may have
    /// anything there but logins.
    fn is_flat(&self) -> bool {
        let newer = ["auths", "credsStore", "credHelpers"];
        !newer.iter().any(|key| self.all.contains_key(*key))
            && (self.all.values()).any(|value| value["auth"].is_string())
    }

    /// The helper that keeps a host's logins.
    pub(super) fn helper(&self, host: &str) -> Option<&str> {
        let own = self.all.get("credHelpers").and_then(Value::as_object);
        let own = own.into_iter().flatten();
        let mut own = own.filter(|(key, _)| host_of(key) == host);
        let name = own.next().map(|(_, name)| name);
        let name = name.or_else(|| self.all.get("credsStore"))?.as_str()?;
        (!name.is_empty()).then_some(name)
    }

    /// All helpers: those of one host each, and the one of all hosts.
    pub(super) fn helpers(&self) -> Vec<(Option<String>, &str)> {
        let own = self.all.get("credHelpers").and_then(Value::as_object);
        let own = own.into_iter().flatten();
        let own = own.map(|(key, name)| (Some(host_of(key)), name));
        let all = self.all.get("credsStore").map(|name| (None, name));
        own.chain(all)
            .filter_map(|(host, name)| Some((host, name.as_str()?)))
            .filter(|(_, name)| !name.is_empty())
            .collect()
    }

    /// The login under a name, `host` or `host/team`.
    pub(super) fn login(&self, name: &str) -> Result<Option<Login>, CredentialsError> {
        for (key, entry) in self.entries()?.into_iter().flatten() {
            if is_key_of(key, name)
                && let Some(login) = self.parse(key, entry)?
            {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// Hosts that there is a login for.
    pub(super) fn hosts(&self) -> Result<Vec<String>, CredentialsError> {
        let entries = self.entries()?.into_iter().flatten();
        let told = entries.filter(|(_, entry)| is_filled(entry));
        Ok(told.map(|(key, _)| host_of(key)).collect())
    }

    /// What an entry says; nothing where it is a mark that a helper has it.
    fn parse(&self, key: &str, entry: &Value) -> Result<Option<Login>, CredentialsError> {
        let wrong = |what: &str| self.wrong(&format!("the entry of `{key}` {what}"));
        let Some(entry) = entry.as_object() else {
            return Err(wrong("is no object"));
        };
        let text = |field: &str| match entry.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(wrong(&format!("has a `{field}` that is no text"))),
        };
        if let Some(token) = text("identitytoken")? {
            return Ok(Some(Login::Identity(Secret::new(token))));
        }
        if let Some(token) = text("registrytoken")? {
            return Ok(Some(Login::Bearer(Secret::new(token))));
        }
        let pair = match text("auth")? {
            Some(auth) => {
                let pair = decode(auth);
                Some(
                    pair.ok_or_else(|| wrong("has an `auth` that is not base64 of USER:PASSWORD"))?,
                )
            }
            None => match (text("username")?, text("password")?) {
                (Some(user), Some(password)) => Some((user.to_owned(), password.to_owned())),
                _ => None,
            },
        };
        Ok(pair.map(|(user, password)| login(user, password)))
    }

    /// Puts a login under the name `key` of a host, in the place of all it had.
    pub(super) fn put(
        &mut self,
        host: &str,
        key: &str,
        login: &Login,
    ) -> Result<(), CredentialsError> {
        let entries = self.entries_mut()?;
        entries.retain(|key, _| named(key) != (host.to_owned(), ""));
        let entry = match login {
            Login::Password { user, password } => {
                let pair = format!("{user}:{}", password.reveal());
                [("auth", STANDARD.encode(pair))].into()
            }
            // As Docker has it: a user may stand beside it, and the form demands one.
            Login::Identity(token) => [
                ("auth", STANDARD.encode("<token>:")),
                ("identitytoken", token.reveal().to_owned()),
            ]
            .to_vec(),
            Login::Bearer(token) => [("registrytoken", token.reveal().to_owned())].into(),
        };
        let entry = entry.into_iter();
        let entry = entry.map(|(field, text)| (field.to_owned(), Value::String(text)));
        entries.insert(key.to_owned(), Value::Object(entry.collect()));
        Ok(())
    }

    /// Takes away all entries of a host, those of its teams too; whether there were any.
    pub(super) fn forget(&mut self, host: &str) -> Result<bool, CredentialsError> {
        if self.entries()?.is_none() {
            return Ok(false);
        }
        let entries = self.entries_mut()?;
        let before = entries.len();
        // What is no entry of a host stays: a flat file may have anything in it.
        entries.retain(|key, entry| !entry.is_object() || host_of(key) != host);
        Ok(entries.len() < before)
    }

    /// Forgets the login of a registry, but not those of what is below it; whether there was one.
    pub(super) fn forget_host(&mut self, host: &str) -> Result<bool, CredentialsError> {
        if self.entries()?.is_none() {
            return Ok(false);
        }
        let entries = self.entries_mut()?;
        let before = entries.len();
        entries.retain(|key, entry| !entry.is_object() || named(key) != (host.to_owned(), ""));
        Ok(entries.len() < before)
    }

    /// Replaces the file.
    pub(super) fn write(&self) -> Result<(), CredentialsError> {
        let failed = |error| failed("write", &self.path)(error);
        let mut text = Vec::new();
        // Docker's own hand: tabs.
        let form = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut to = serde_json::Serializer::with_formatter(&mut text, form);
        serde::Serialize::serialize(&self.all, &mut to).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let dir = directory(&self.path);
        // Of mode 0600 from its beginning (tempfile's default).
        let mut new = tempfile::Builder::new()
            .prefix(".lazyroot-")
            .tempfile_in(dir)
            .map_err(failed)?;
        new.write_all(&text).map_err(failed)?;
        keep_owner(&self.path, new.as_file()).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&self.path)
            .map_err(|error| failed(error.error))?;
        match &self.lock {
            Some(dir) => dir.sync_all().map_err(failed),
            None => Ok(()),
        }
    }

    fn wrong(&self, what: &str) -> CredentialsError {
        CredentialsError::Malformed {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }
}

/// Root who logs in for somebody (`sudo -E`) leaves the file to its owner.
fn keep_owner(path: &Path, new: &File) -> io::Result<()> {
    let old = match fs::metadata(path) {
        Ok(old) => old,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let made = new.metadata()?;
    match (old.uid(), old.gid()) == (made.uid(), made.gid()) {
        true => Ok(()),
        false => std::os::unix::fs::fchown(new, Some(old.uid()), Some(old.gid())),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CredentialsError {
    let path = path.to_owned();
    move |source| CredentialsError::File { what, path, source }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The file that symbolic links lead to: it is replaced, and they stay.
fn target(path: &Path) -> Result<PathBuf, CredentialsError> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&at) {
            Ok(to) => at = directory(&at).join(to),
            Err(_) => return Ok(at),
        }
    }
    Err(failed("follow", path)(rustix::io::Errno::LOOP.into()))
}

/// Whether an entry is a login, and no mark that a helper has it.
fn is_filled(entry: &Value) -> bool {
    let fields = ["auth", "identitytoken", "registrytoken", "username"];
    let mut values = fields.iter().filter_map(|field| entry[*field].as_str());
    values.any(|text| !text.is_empty())
}

fn is_key_of(key: &str, name: &str) -> bool {
    let (host, below) = named(key);
    match name.split_once('/') {
        Some((of, rest)) => host == of && below == rest,
        None => host == name && below.is_empty(),
    }
}

/// USER:PASSWORD in base64. Old clients filled it up with zeros.
fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(LENIENT.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    let password = password.trim_matches('\0');
    (!user.is_empty()).then(|| (user.to_owned(), password.to_owned()))
}

/// Helpers and some files say by the name of the user that it is none.
pub(super) fn login(user: String, secret: String) -> Login {
    let secret = Secret::new(secret);
    match &*user {
        "<token>" => Login::Identity(secret),
        _ => Login::Password {
            user,
            password: secret,
        },
    }
}
