//! Logins for registries, where Docker's and Podman's programs keep them.
//!
//! What it is for: from a registry and a repository to the login that somebody stored
//! for it, and back: a login is stored, or forgotten, so that the other programs see it
//! too. May assume that whoever calls says which files there are. Must not know how a
//! login is shown to a registry, nor the environment.
//!
//! The files are Docker's `config.json` (docs.docker.com, "docker login"), the same as
//! containers-auth.json(5), and the older `.dockercfg`, which is the inside of `auths`
//! alone. A file may name programs that keep logins in its stead: credential helpers.
//! Files are asked one after the other, the first that has a login is believed.
//! In one file the longest name goes first (`HOST/TEAM/APP`, `HOST/TEAM`, `HOST`), and
//! for the same name a helper goes before what the file says.
//!
//! A secret is in no message: where something is wrong with a file or a helper's answer,
//! only its place is told.
//!
//! * `file`: one file: what it says, and changing it;
//! * `helper`: talking to a credential helper.

mod file;
mod helper;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use file::AuthFile;
use helper::Helper;

/// Docker Hub, as references name it.
const HUB: &str = "docker.io";
/// Docker Hub, as Docker's files and helpers name it.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// How long a helper may take; it may have to ask somebody for a passphrase.
const HELPER_MAX: Duration = Duration::from_secs(60);

/// Text that is not told to anybody but the one it is for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent or stored.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a registry is told of who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A user and his password (or an access token in its place).
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that a token server exchanges for others: `refresh_token` of OAuth 2.
    Identity(Secret),
    /// A token that the registry itself takes, as it is.
    Bearer(Secret),
}

/// A login, and who kept it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The login.
    pub login: Login,
    /// A file or a helper, for messages.
    pub from: String,
}

/// Why there is no answer whether there is a login, or why none was stored.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read, written, locked.
    #[error("cannot {what} `{path}`")]
    File {
        /// The verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it must be.
    #[error("`{path}` is no file of logins: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, without anything that may be secret.
        what: String,
    },
    /// A helper cannot be started.
    #[error("cannot run the credential helper `{program}`")]
    NoHelper {
        /// The program.
        program: String,
        /// The file that names it.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A helper failed, or said what makes no sense.
    #[error("the credential helper `{program}` failed: {what}")]
    Helper {
        /// The program.
        program: String,
        /// The file that names it.
        file: PathBuf,
        /// What it said.
        what: String,
    },
    /// There is no file that a login could be stored in.
    #[error("there is no place to store a login")]
    Nowhere,
}

impl CredentialsError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { .. } => None,
            Self::Malformed { path, .. } => Some(format!(
                "mend or remove {}, then log in again",
                path.display()
            )),
            Self::NoHelper { program, file, .. } => Some(format!(
                "install {program}, or take it out of {} (credsStore, credHelpers)",
                file.display()
            )),
            Self::Helper { file, .. } => Some(format!(
                "run the helper by hand, or take it out of {} (credsStore, credHelpers)",
                file.display()
            )),
            Self::Nowhere => Some("set HOME, or REGISTRY_AUTH_FILE to a file".to_owned()),
        }
    }
}

/// What became of the logins of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Who had one, and does not any more.
    pub from: Vec<String>,
    /// Files that have one still: they are another program's.
    pub left: Vec<PathBuf>,
}

/// Finds logins, and stores them.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// A login of one registry that goes before all others.
    only: Option<(String, Login)>,
    files: Vec<PathBuf>,
    patience: Duration,
    /// Where helpers are, if not where all programs are; for tests.
    path: Option<PathBuf>,
}

impl Default for Credentials {
    fn default() -> Self {
        Self::none()
    }
}

impl Credentials {
    /// Logins are looked for in these files, in this order; those that are not there are
    /// left out. The first one is where logins are stored.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self {
            only: None,
            files,
            patience: HELPER_MAX,
            path: None,
        }
    }

    /// Nobody is known anywhere.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Vec::new())
    }

    /// One login, for one registry.
    #[must_use]
    pub fn only(registry: &str, login: Login) -> Self {
        Self {
            only: Some((host_of(registry), login)),
            ..Self::none()
        }
    }

    /// Who somebody is, as [`Credentials::find`] has it.
    ///
    /// # Errors
    /// As there. Nothing is asked for anonymously that somebody wanted to be asked for
    /// by name.
    pub fn login(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Login>, CredentialsError> {
        let found = self.find(registry, repository)?;
        Ok(found.map(|found| found.login))
    }

    /// The login for a repository (`library/debian`) of a registry (`host`, `host:port`;
    /// Docker Hub is `docker.io`).
    ///
    /// # Errors
    /// A file cannot be read or makes no sense, a helper fails: that there is no login
    /// is not known then.
    pub fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Found>, CredentialsError> {
        let host = host_of(registry);
        if let Some((_, login)) = self.only.as_ref().filter(|(of, _)| *of == host) {
            return Ok(Some(Found {
                login: login.clone(),
                from: "the command line".to_owned(),
            }));
        }
        let names = names(&host, repository);
        for path in &self.files {
            let file = AuthFile::read(path)?;
            for name in &names {
                // Helpers know hosts.
                if *name == host
                    && let Some(program) = file.helper(&host)
                {
                    let helper = self.helper(program, path)?;
                    if let Some(login) = helper.get(server(&host))? {
                        let from = helper.program().to_owned();
                        return Ok(Some(Found { login, from }));
                    }
                }
                if let Some(login) = file.login(name)? {
                    let from = path.display().to_string();
                    return Ok(Some(Found { login, from }));
                }
            }
        }
        Ok(None)
    }

    /// Stores a login of a registry where the first file says; who keeps it now.
    ///
    /// # Errors
    /// The file or helper does not take it.
    pub fn store(&self, registry: &str, login: &Login) -> Result<String, CredentialsError> {
        let host = host_of(registry);
        let path = self.files.first().ok_or(CredentialsError::Nowhere)?;
        let mut file = AuthFile::open(path)?;
        if let Some(program) = file.helper(&host) {
            let helper = self.helper(program, path)?;
            helper.store(server(&host), login)?;
            let from = helper.program().to_owned();
            // What it said before must not stand in the way of the helper's.
            if file.forget_host(&host)? {
                file.write()?;
            }
            return Ok(from);
        }
        file.put(&host, server(&host), login)?;
        file.write()?;
        Ok(path.display().to_string())
    }

    /// Forgets all logins of a registry that the first file, or a helper that it names,
    /// has.
    ///
    /// # Errors
    /// A file or helper does not answer or does not do it.
    pub fn forget(&self, registry: &str) -> Result<Forgotten, CredentialsError> {
        let host = host_of(registry);
        let mut done = Forgotten {
            from: Vec::new(),
            left: Vec::new(),
        };
        let (path, others) = self.files.split_first().ok_or(CredentialsError::Nowhere)?;
        // Opened to be changed only if there is something: a directory would be made for it.
        let mut file = AuthFile::read(path)?;
        if let Some(program) = file.helper(&host) {
            let helper = self.helper(program, path)?;
            if helper.get(server(&host))?.is_some() {
                helper.erase(server(&host))?;
                done.from.push(helper.program().to_owned());
            }
        }
        if file.forget(&host)? {
            let mut file = AuthFile::open(path)?;
            if file.forget(&host)? {
                file.write()?;
            }
            done.from.push(path.display().to_string());
        }
        for path in others {
            if AuthFile::read(path)?.hosts()?.contains(&host) {
                done.left.push(path.clone());
            }
        }
        Ok(done)
    }

    /// Registries that the first file, or a helper that it names, has logins of.
    ///
    /// # Errors
    /// A file or helper does not answer.
    pub fn registries(&self) -> Result<Vec<String>, CredentialsError> {
        let path = self.files.first().ok_or(CredentialsError::Nowhere)?;
        let file = AuthFile::read(path)?;
        let mut all = file.hosts()?;
        for (host, program) in file.helpers() {
            let helper = self.helper(program, path)?;
            match host {
                Some(host) if helper.get(server(&host))?.is_none() => {}
                Some(host) => all.push(host),
                None => all.extend(helper.list()?.iter().map(|key| named(key).0)),
            }
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    fn helper(&self, name: &str, file: &Path) -> Result<Helper, CredentialsError> {
        Helper::new(name, file, self.patience, self.path.as_deref())
    }
}

/// A registry's host, with the names that Docker Hub has made one.
fn host_of(registry: &str) -> String {
    named(registry).0
}

/// Host, and what is below it, of a key of a file: `host`, `host:port`, `host/team`,
/// `https://host/v1/`. Behind a scheme only the host counts (moby's `ConvertToHostname`).
fn named(key: &str) -> (String, &str) {
    let bare = (key.strip_prefix("https://")).or_else(|| key.strip_prefix("http://"));
    let (host, below) = match bare {
        Some(bare) => (bare.split('/').next().unwrap_or(bare), ""),
        None => key.split_once('/').unwrap_or((key, "")),
    };
    // A repository does not end in a slash: this is the place of an old API.
    let below = match below {
        "v1/" | "v2/" => "",
        below => below.trim_end_matches('/'),
    };
    let host = host.to_ascii_lowercase();
    match &*host {
        "index.docker.io" | "registry-1.docker.io" => (HUB.to_owned(), below),
        _ => (host, below),
    }
}

/// All names that a login for a repository may be stored under, longest first.
fn names(host: &str, repository: &str) -> Vec<String> {
    let whole = format!("{host}/{repository}");
    let mut names = vec![whole.clone()];
    let slashes = whole.match_indices('/').map(|(at, _)| at);
    names.extend(slashes.rev().map(|at| whole[..at].to_owned()));
    names
}

/// What a host is called in Docker's files and by helpers.
fn server(host: &str) -> &str {
    match host {
        HUB => HUB_KEY,
        host => host,
    }
}

#[cfg(test)]
mod tests;
