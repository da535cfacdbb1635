//! `lazyroot logout`

use std::io::Write as _;

use super::report::{Exit, Failure};
use super::{Context, print};
use crate::registry::Credentials;

/// Forget the login of a registry.
///
/// It is taken out of the file that `lazyroot login` and `docker login` write
/// (--auth-file, else $REGISTRY_AUTH_FILE, else $DOCKER_CONFIG/config.json, else ~/.docker/config.json),
/// and out of the credential helper that this file names.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The registry: HOST or HOST:PORT. Default: docker.io.
    #[arg(value_name = "HOST", value_parser = super::login::parse_host)]
    host: Option<String>,
    /// Forget the logins of all registries.
    #[arg(long, conflicts_with = "host")]
    all: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let credentials = context.registry.credentials();
    if args.all {
        let all = credentials.registries()?;
        return match all.is_empty() {
            true => Err(Failure::new(
                Exit::NotFound,
                "there is no login of any registry",
            )),
            false => all.iter().try_for_each(|host| forget(&credentials, host)),
        };
    }
    let host = args.host.as_deref();
    forget(&credentials, host.unwrap_or(super::login::DEFAULT_HOST))
}

fn forget(credentials: &Credentials, host: &str) -> Result<(), Failure> {
    let done = credentials.forget(host)?;
    for path in &done.left {
        // Nobody there to read it is no reason to fail.
        let path = path.display();
        let _ = writeln!(
            std::io::stderr(),
            "note: `{path}`, which is another program's, has a login of {host} still"
        );
    }
    match done.from.is_empty() {
        true => Err(Failure::new(
            Exit::NotFound,
            format!("there is no login of {host}"),
        )),
        false => {
            let from = done.from.join(", ");
            print(format!("{host}: logged out ({from})\n").as_bytes())
        }
    }
}
