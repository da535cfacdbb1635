//! Talking to a credential helper: `docker-credential-NAME get|store|erase|list`
//! (github.com/docker/docker-credential-helpers, README and `credentials/helper.go`).
//!
//! A server's name or JSON goes to its standard input, JSON or an error in words comes
//! from its standard output. Its standard error is the user's: some ask there.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::file::login;
use super::{CredentialsError, Login};

/// Longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// Longest part of a helper's own words in an error, in characters.
const WORDS_MAX: usize = 200;
/// Between two looks whether it is done.
const LOOK: Duration = Duration::from_millis(5);
/// What every helper says where it has nothing (`credentials/error.go`).
const NOTHING: &str = "credentials not found in native keychain";
/// The user beside a secret that is an identity token.
const TOKEN: &str = "<token>";

/// A program that keeps logins.
#[derive(Debug)]
pub(super) struct Helper {
    program: String,
    /// The file that names it.
    file: PathBuf,
    patience: Duration,
    /// Where programs are, if not where they are for us.
    path: Option<PathBuf>,
}

impl Helper {
    pub(super) fn new(
        name: &str,
        file: &Path,
        patience: Duration,
        path: Option<&Path>,
    ) -> Result<Self, CredentialsError> {
        let helper = Self {
            program: format!("docker-credential-{name}"),
            file: file.to_owned(),
            patience,
            path: path.map(Path::to_owned),
        };
        // Only programs on the path: a name is not to lead elsewhere.
        match name.contains(['/', '\0']) {
            true => Err(helper.failed("its name has a slash in it")),
            false => Ok(helper),
        }
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// The login of a server, if it has one.
    pub(super) fn get(&self, server: &str) -> Result<Option<Login>, CredentialsError> {
        let Some(answer) = self.ask("get", server, None)? else {
            return Ok(None);
        };
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|_| self.failed("its answer is not JSON"))?;
        let text = |field: &str| answer[field].as_str().map(str::to_owned);
        match (text("Username"), text("Secret")) {
            (Some(user), Some(secret)) if user.is_empty() && secret.is_empty() => Ok(None),
            (Some(user), Some(secret)) => Ok(Some(login(user, secret))),
            _ => Err(self.failed("its answer has no `Username` and `Secret`")),
        }
    }

    pub(super) fn store(&self, server: &str, login: &Login) -> Result<(), CredentialsError> {
        let (user, secret) = match login {
            Login::Password { user, password } => (user.as_str(), password),
            Login::Identity(token) => (TOKEN, token),
            Login::Bearer(_) => {
                return Err(
                    self.failed("helpers do not keep tokens that a registry takes as they are")
                );
            }
        };
        let secret = secret.reveal();
        let what = json!({ "ServerURL": server, "Username": user, "Secret": secret });
        self.ask("store", &what.to_string(), Some(secret))
            .map(|_| ())
    }

    pub(super) fn erase(&self, server: &str) -> Result<(), CredentialsError> {
        self.ask("erase", server, None).map(|_| ())
    }

    /// Servers that it has logins of.
    pub(super) fn list(&self) -> Result<Vec<String>, CredentialsError> {
        let answer = self.ask("list", "", None)?.unwrap_or_default();
        match serde_json::from_slice(&answer) {
            Ok(Value::Object(all)) => Ok(all.into_iter().map(|(server, _)| server).collect()),
            Ok(Value::Null) => Ok(Vec::new()),
            _ => Err(self.failed("its list is no JSON object")),
        }
    }

    /// What it answers; nothing if it has nothing. `secret` is not told on.
    fn ask(
        &self,
        verb: &str,
        input: &str,
        secret: Option<&str>,
    ) -> Result<Option<Vec<u8>>, CredentialsError> {
        let mut command = Command::new(&self.program);
        command
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command
            .spawn()
            .map_err(|source| CredentialsError::NoHelper {
                program: self.program.clone(),
                file: self.file.clone(),
                source,
            })?;
        let (tell, told) = mpsc::channel();
        if let (Some(mut to), Some(from)) = (child.stdin.take(), child.stdout.take()) {
            let input = input.to_owned();
            // On its own: a helper may neither read nor end, and leave children that
            // hold the pipe.
            thread::spawn(move || {
                // One that does not want to hear it says why in its answer.
                let _ = to.write_all(input.as_bytes());
                drop(to);
                let mut answer = Vec::new();
                let outcome = from.take(ANSWER_MAX + 1).read_to_end(&mut answer);
                let _ = tell.send(outcome.map(|_| answer));
            });
        }
        let until = Instant::now() + self.patience;
        let answer = match told.recv_timeout(self.patience) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.end(&mut child);
                return Err(self.failed(&format!("its answer cannot be read: {error}")));
            }
            Err(_) => return Err(self.too_slow(&mut child, verb)),
        };
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < until => thread::sleep(LOOK),
                Ok(None) => return Err(self.too_slow(&mut child, verb)),
                Err(error) => return Err(self.failed(&format!("it cannot be waited for: {error}"))),
            }
        };
        if answer.len() as u64 > ANSWER_MAX {
            return Err(self.failed("its answer is too long"));
        }
        if status.success() {
            return Ok(Some(answer));
        }
        let said = words(&answer, secret.unwrap_or_default());
        if said == NOTHING {
            return Ok(None);
        }
        match said.is_empty() {
            true => Err(self.failed(&format!("{status}"))),
            false => Err(self.failed(&said)),
        }
    }

    fn too_slow(&self, child: &mut Child, verb: &str) -> CredentialsError {
        self.end(child);
        let seconds = self.patience.as_secs_f32();
        self.failed(&format!("no answer to `{verb}` within {seconds} s"))
    }

    fn end(&self, child: &mut Child) {
        // It may be gone already.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn failed(&self, what: &str) -> CredentialsError {
        CredentialsError::Helper {
            program: self.program.clone(),
            file: self.file.clone(),
            what: what.to_owned(),
        }
    }
}

/// The first line of an error in words, of characters that a terminal only shows, and
/// without the secret.
fn words(answer: &[u8], secret: &str) -> String {
    let mut text = String::from_utf8_lossy(answer).into_owned();
    if !secret.is_empty() {
        text = text.replace(secret, "***");
    }
    let line = text.trim().lines().next().unwrap_or_default();
    let shown = line.chars().filter(|c| !c.is_control());
    shown.take(WORDS_MAX).collect()
}
