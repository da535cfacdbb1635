//! `lazyroot login`

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::report::{Exit, Failure};
use super::{Context, print};
use crate::reference::{Reference, ReferenceError};
use crate::registry::{Credentials, Login, Registry, Secret};

/// Whose login it is where nobody says it.
pub(super) const DEFAULT_HOST: &str = crate::reference::DEFAULT_DOMAIN;
/// Longest password that is read, in bytes: tokens that are used as passwords have a few
/// thousand.
const PASSWORD_MAX: u64 = 64 << 10;
/// How often it is looked whether somebody wants to stop.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Log in to a registry, for pull and push.
///
/// The registry is asked whether it takes the login before it is stored: in --auth-file,
/// else in $REGISTRY_AUTH_FILE, else in $DOCKER_CONFIG/config.json or ~/.docker/config.json, where docker,
/// podman and skopeo find it too, or by the credential helper that this file names.
/// Without a helper the password is in the file as it is, for its owner to read.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The registry: HOST or HOST:PORT. Default: docker.io.
    #[arg(value_name = "HOST", value_parser = parse_host, default_value = DEFAULT_HOST, hide_default_value = true)]
    host: String,
    /// The user. Asked for on a terminal where it is not given.
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// Read the password, or a token in its place, from standard input.
    #[arg(long)]
    password_stdin: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    context.stop_by_signals()?;
    let terminal = io::stdin().is_terminal();
    let stop = &context.stop;
    let user = match &args.username {
        Some(user) => user.clone(),
        None if args.password_stdin || !terminal => {
            return Err(Failure::new(Exit::Usage, "there is no user").hint("--username USER"));
        }
        None => ask("Username: ", stop)?,
    };
    // `Basic` could not tell them apart (RFC 7617, section 2).
    if user.is_empty() || user.contains([':', '\n', '\0']) {
        return Err(Failure::new(Exit::Usage, "that is not the name of a user"));
    }
    let password = match (args.password_stdin, terminal) {
        (true, _) => whole_input()?,
        (false, true) => {
            let _quiet = Quiet::new()?;
            let password = ask("Password: ", stop);
            // The line's end was not shown either.
            let _ = writeln!(io::stderr());
            password?
        }
        (false, false) => {
            let failure = Failure::new(Exit::Usage, "there is no terminal to ask for the password");
            return Err(failure.hint("--password-stdin, with the password on standard input"));
        }
    };
    if password.is_empty() {
        return Err(Failure::new(Exit::Usage, "the password is empty"));
    }
    let login = Login::Password {
        user,
        password: Secret::new(password),
    };
    if !verify(&args.host, &login, context)? {
        // Nobody there to read it is no reason to fail.
        let _ = writeln!(
            io::stderr(),
            "note: {} asks nobody for a login, so nobody looked at this one",
            args.host
        );
    }
    let from = (context.registry.credentials()).store(&args.host, &login)?;
    print(format!("{}: logged in ({from})\n", args.host).as_bytes())
}

/// Asks the registry whether it takes a login; whether it looked at it.
fn verify(host: &str, login: &Login, context: &Context) -> Result<bool, Failure> {
    let mut settings = context.registry.settings()?;
    settings.credentials = Credentials::only(host, login.clone());
    let name = some_name(host).map_err(|error| Failure::of(Exit::Usage, &error))?;
    Ok(Registry::new(settings).check(&name, &context.stop)?)
}

/// The name of some image of a registry.
fn some_name(host: &str) -> Result<Reference, ReferenceError> {
    format!("{host}/x").parse()
}

/// A registry as somebody names it: as in the name of an image, or as Docker's `login`
/// takes it, with a scheme.
pub(super) fn parse_host(text: &str) -> Result<String, String> {
    let bare = (text.strip_prefix("https://")).or_else(|| text.strip_prefix("http://"));
    let host = match bare {
        Some(bare) => bare.split('/').next().unwrap_or(bare),
        None => text,
    };
    let wrong = |why: &str| Err(format!("`{text}` is not a registry: {why}"));
    if host.contains(['/', '@']) {
        return wrong("only HOST or HOST:PORT");
    }
    match some_name(host) {
        // Else it is no host to Docker, and the first part of a repository of its own.
        Ok(name) if name.path() == "x" || host.contains('.') => Ok(name.domain().to_owned()),
        Ok(_) => wrong("a host has a dot or a port, or is localhost"),
        Err(error) => Err(error.to_string()),
    }
}

/// All of standard input but the end of its last line.
fn whole_input() -> Result<String, Failure> {
    let mut text = Vec::new();
    (io::stdin().lock().take(PASSWORD_MAX + 1)).read_to_end(&mut text)?;
    if text.len() as u64 > PASSWORD_MAX {
        let what = format!("standard input has more than {PASSWORD_MAX} bytes: no password");
        return Err(Failure::new(Exit::Usage, what));
    }
    let text = String::from_utf8(text)
        .map_err(|_| Failure::new(Exit::Usage, "the password is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// One line of the terminal.
fn ask(prompt: &str, stop: &AtomicBool) -> Result<String, Failure> {
    let mut to = io::stderr().lock();
    write!(to, "{prompt}")?;
    to.flush()?;
    let stdin = io::stdin();
    loop {
        // Looked at first: a read that was begun does not end by a signal.
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut ready, Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Failure::new(Exit::Interrupted, "interrupted"));
        }
        if ready[0].revents().is_empty() {
            continue;
        }
        let mut line = String::new();
        stdin.read_line(&mut line)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
}

/// A terminal that does not show what is typed, as long as this lives.
struct Quiet(Termios);

impl Quiet {
    fn new() -> io::Result<Self> {
        let old = tcgetattr(io::stdin())?;
        let mut quiet = old.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(old))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that went away needs no echo.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_as_people_name_them() {
        for (text, host) in [
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("localhost", "localhost"),
            ("localhost:5000", "localhost:5000"),
            ("https://quay.io", "quay.io"),
            ("[::1]:5000", "[::1]:5000"),
        ] {
            assert_eq!(parse_host(text).as_deref(), Ok(host), "{text}");
        }
        for text in [
            "",
            "host",
            "quay.io/team",
            "a b.c",
            "user@quay.io",
            "quay.io:port",
            "library",
        ] {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }
}
