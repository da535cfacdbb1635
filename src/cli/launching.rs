//! What `run` and `bundle` decide alike: from an image's wishes and what was typed to
//! all that a launcher has to know.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Context;
use super::report::{Exit, Failure, chain};
use super::settings::here;
use crate::container::Shown;
use crate::container::record::HostVolume;
use crate::container_id::ContainerId;
use crate::digest::{AciId, BlobId, ImageId};
use crate::fork;
use crate::image::Config;
use crate::image::appc::Manifest;
use crate::image::identity::{Identity, UserWish};
use crate::launch::command::{self, Command, Typed, Wants};
use crate::launch::image_files::ImageFiles;
use crate::launch::network;
use crate::launch::spec::{Memory, Spec, Usage, Volume};
use crate::store::Store;
use crate::user_namespace;

/// Longest name of a machine (`HOST_NAME_MAX`).
const HOSTNAME_MAX: usize = 64;
/// Where Mesos has paths begin that are relative (its flag `sandbox_directory`).
const SANDBOX: &str = "/mnt/mesos/sandbox";
/// What a terminal is called, where nobody says it (Docker's).
const TERM: &str = "xterm";

/// How it is run.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Typing {
    /// Set a variable; without `=VALUE` to what it is here, if it is set at all.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Set the variables of a file, a NAME=VALUE in each line.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Run it as this one: names of the image or numbers.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Run it in this directory; made if it is not there.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run this, and nothing of the image's own; arguments follow the image. Empty: only
    /// the arguments.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "shell")]
    entrypoint: Option<OsString>,
    /// Give the only argument to the container's /bin/sh (CommandInfo's `shell` in Mesos).
    #[arg(long)]
    shell: bool,
    /// What the machine is called in there. Default: as the container.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Show a file or directory of the machine in there.
    #[arg(short, long, value_name = "HOST:PATH[:ro]")]
    volume: Vec<Binding>,
    /// A directory in memory, gone in the end. Options: size=BYTES, mode=OCTAL, nr_inodes=, uid=, gid= (as
    /// mount(8) has them), noexec, ro.
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    tmpfs: Vec<Memory>,
    /// Which network: the machine's, or none but the loopback interface.
    #[arg(long, value_name = "WHICH", value_enum, default_value = "host")]
    network: Network,
    /// Root in there may do all that root may, and sees all of /proc and /sys.
    #[arg(long)]
    privileged: bool,
}

/// Which network a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Network {
    /// The machine's.
    Host,
    /// Only one of its own, with nobody else in it.
    None,
}

/// A file or directory of the machine, and where it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Binding {
    source: PathBuf,
    target: String,
    read_only: bool,
}

impl FromStr for Binding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts: Vec<&str> = text.split(':').collect();
        let read_only = match parts.as_slice() {
            [_, _, "ro"] => true,
            [_, _, "rw"] | [_, _] => false,
            [_, _, other] => return Err(format!("`{other}` is neither ro nor rw")),
            _ => return Err("it must be HOST:PATH or HOST:PATH:ro".to_owned()),
        };
        parts.truncate(2);
        if !parts[0].contains('/') {
            return Err(format!(
                "volumes have no names; a directory here is ./{}",
                parts[0]
            ));
        }
        Ok(Self {
            source: PathBuf::from(parts[0]),
            target: absolute(parts[1])?,
            read_only,
        })
    }
}

/// Whether this process is root, and of no user namespace of its own: it may mount all that a command finds.
pub(super) fn is_machines_root() -> bool {
    rustix::process::geteuid().is_root() && user_namespace::is_machines("self")
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        let mut memory = Self {
            path: absolute(path)?,
            options: Vec::new(),
            no_exec: false,
            read_only: false,
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let name = option.split_once('=').map(|(name, _)| name);
            match (option, name) {
                ("noexec", _) => memory.no_exec = true,
                ("exec", _) => memory.no_exec = false,
                ("ro", _) => memory.read_only = true,
                ("rw", _) => memory.read_only = false,
                // It is so in any case.
                ("nosuid" | "nodev", _) => {}
                (_, Some("size" | "mode" | "nr_inodes" | "uid" | "gid")) => {
                    memory.options.push(option.to_owned());
                }
                _ => return Err(format!("`{option}` is no option of a directory in memory")),
            }
        }
        Ok(memory)
    }
}

fn absolute(text: &str) -> Result<String, String> {
    match text.starts_with('/') && !text.contains('\0') {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not an absolute path")),
    }
}

/// What else is known when it is decided.
pub(super) struct Given<'a> {
    pub(super) store: &'a Store,
    pub(super) id: &'a ContainerId,
    pub(super) root: &'a Shown,
    /// Other root file systems of the container.
    pub(super) others: &'a [Shown],
    pub(super) hostname: Option<&'a str>,
    pub(super) volumes: &'a [HostVolume],
    /// Where generated files go.
    pub(super) directory: &'a Path,
    pub(super) args: Vec<OsString>,
    pub(super) read_only: bool,
    pub(super) user_namespace: bool,
    pub(super) terminal: bool,
    /// Nothing is said of what is left out.
    pub(super) quiet: bool,
}

impl Typing {
    /// All that a launcher has to know; generated files are written.
    pub(super) fn spec(&self, given: &Given<'_>, context: &Context) -> Result<Spec, Failure> {
        let wants = wants(given.store, given.root.image, context)?;
        if !given.quiet {
            tell_left_out(&wants, context);
        }
        let typed = self.typed(given.args.clone(), context)?;
        let mut command = Command::merge(&wants, &typed).map_err(|error| {
            let failure = Failure::of(Exit::Usage, &error);
            match error.hint() {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
        let identity = identity(given, &command, context)?;
        let hostname = self.hostname(given)?;
        defaults(&mut command, &identity, &hostname, &wants, given.terminal);
        let own_network = self.network == Network::None;
        let files = network::generate(given.directory, &hostname, own_network);
        let files = files.map_err(|(path, error)| {
            Failure::new(
                Exit::Failed,
                format!("cannot write `{}`: {error}", path.display()),
            )
        })?;
        Ok(Spec {
            keeper: std::process::id(),
            rootfs: given.root.path.clone(),
            read_only: given.read_only,
            argv: command.argv,
            environment: command.environment,
            directory: command.directory,
            identity,
            umask: fork::callers_umask(),
            hostname,
            volumes: self.volumes(given, &wants)?,
            files,
            tmpfs: self.tmpfs.clone(),
            directories: wants
                .volumes
                .into_iter()
                .filter(|path| path.starts_with('/'))
                .collect(),
            own_network,
            user_namespace: given.user_namespace,
            privileged: self.privileged,
            no_new_privileges: wants.no_new_privileges || context.isolation.wants("linux/nnp"),
            terminal: given.terminal,
            job: false,
            control_group: None,
            usage: Usage::default(),
        })
    }

    fn typed(&self, args: Vec<OsString>, context: &Context) -> Result<Typed, Failure> {
        if self.user.is_some() && !context.switch_user {
            let what = "--user needs another user, and --switch-user=false forbids it";
            return Err(Failure::new(Exit::Usage, what));
        }
        let mut environment = Vec::new();
        for path in &self.env_file {
            let named = |exit, what: String| {
                Failure::new(exit, format!("cannot read `{}`: {what}", path.display()))
            };
            let bytes = fs::read(path).map_err(|error| named(Exit::NotFound, error.to_string()))?;
            let read = command::parse_env_file(&bytes).map_err(|what| named(Exit::Usage, what))?;
            environment.extend(read.into_iter().map(|(name, value)| {
                let value = value.map(OsString::from).or_else(|| env::var_os(&name));
                (name.into(), value)
            }));
        }
        environment.extend(self.env.iter().map(pair));
        Ok(Typed {
            shell: self.shell,
            entrypoint: self.entrypoint.clone(),
            args,
            environment,
            directory: self.workdir.clone(),
            user: self.user.clone(),
        })
    }

    fn hostname(&self, given: &Given<'_>) -> Result<String, Failure> {
        let said = self.hostname.as_deref().or(given.hostname);
        let name = match said {
            Some(name) => name.to_owned(),
            None => {
                let last = given.id.names().last().unwrap_or_default();
                last.chars().take(HOSTNAME_MAX - 1).collect()
            }
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        match !name.is_empty() && name.len() <= HOSTNAME_MAX && name.bytes().all(good) {
            true => Ok(name),
            false => {
                let what = format!(
                    "`{name}` is no name of a machine: letters, digits, `-`, `.`, `_`, at most {HOSTNAME_MAX}"
                );
                Err(Failure::new(Exit::Usage, what))
            }
        }
    }

    fn volumes(&self, given: &Given<'_>, wants: &Wants) -> Result<Vec<Volume>, Failure> {
        let mut all = Vec::new();
        for rootfs in given.others {
            all.push(Volume {
                source: rootfs.path.clone(),
                target: in_sandbox(rootfs.container_path.as_deref().unwrap_or("/")),
                read_only: rootfs.read_only,
            });
        }
        for volume in given.volumes {
            all.push(Volume {
                source: PathBuf::from(&volume.host_path),
                target: in_sandbox(&volume.container_path),
                read_only: volume.read_only,
            });
        }
        for volume in &self.volume {
            all.push(Volume {
                source: match volume.source.is_relative() {
                    true => here(&volume.source)?.join(&volume.source),
                    false => volume.source.clone(),
                },
                target: volume.target.clone(),
                read_only: volume.read_only,
            });
        }
        for volume in &mut all {
            let target = Path::new(&volume.target);
            volume.read_only |= wants.read_only.iter().any(|path| Path::new(path) == target);
        }
        for volume in &all {
            let shown = volume.source.display();
            if volume.source.is_relative() {
                let what = format!("the volume `{shown}` is not an absolute path of this machine");
                return Err(Failure::new(Exit::Usage, what));
            }
            if let Err(error) = fs::symlink_metadata(&volume.source) {
                let what = format!("the volume `{shown}` cannot be mounted: {error}");
                return Err(Failure::new(Exit::NotFound, what));
            }
        }
        // One that is in another comes after it.
        all.sort_by_key(|volume| volume.target.matches('/').count());
        Ok(all)
    }
}

/// Says what an image or an agent's settings want, and nobody does here (`spec/ace.md` of AppC demands
/// it of isolators).
fn tell_left_out(wants: &Wants, context: &Context) {
    // There is nobody left to tell when standard error is gone.
    let tell = |of: &str, what: &str| {
        let _ = writeln!(io::stderr(), "note: {of}, not done here: {what}");
    };
    let isolators = context.isolation.not_done();
    if !isolators.is_empty() {
        tell("of --isolation", &isolators.join(", "));
    }
    if !wants.left_out.is_empty() {
        tell("of what the image wants", &wants.left_out.join(", "));
    }
}

fn in_sandbox(path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{SANDBOX}/{path}"),
    }
}

/// `NAME=VALUE`, or the caller's own.
fn pair(text: &OsString) -> (OsString, Option<OsString>) {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        None => (text.clone(), env::var_os(text)),
        Some(at) => (
            OsString::from_vec(bytes[..at].to_vec()),
            Some(OsString::from_vec(bytes[at + 1..].to_vec())),
        ),
    }
}

/// How an image wants to be run.
fn wants(store: &Store, image: ImageId, context: &Context) -> Result<Wants, Failure> {
    let damaged = |what: String| Failure::new(Exit::Damaged, format!("image {image}: {what}"));
    if AciId::of_image(image).is_none() {
        if context.docker_ignore_runtime {
            return Ok(Wants::default());
        }
        let config = store.small_blob(BlobId(image.0))?;
        let config = Config::parse(&config).map_err(|error| damaged(error.to_string()))?;
        return Ok(config.config.into());
    }
    let blob = store.image(image)?.manifest;
    let blob = blob.ok_or_else(|| damaged("it has no manifest".to_owned()))?;
    let manifest = Manifest::parse(&store.small_blob(blob)?);
    let manifest = manifest.map_err(|error| damaged(chain(&error)))?;
    let wants = manifest
        .app
        .map(|app| Wants::of_app(manifest.name.as_str(), app));
    Ok(wants.unwrap_or_default())
}

fn identity(given: &Given<'_>, command: &Command, context: &Context) -> Result<Identity, Failure> {
    let files = ImageFiles::open(&given.root.path)?;
    let own = || match given.user_namespace {
        // That is who we are in there.
        true => UserWish::Docker("0:0".to_owned()),
        false => {
            let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
            UserWish::Docker(format!("{}:{}", uid.as_raw(), gid.as_raw()))
        }
    };
    let identity = match context.switch_user {
        true => Identity::of(&command.user, &files),
        false => Identity::of(&own(), &files),
    };
    let identity = identity.map_err(|error| {
        Failure::of(Exit::NotFound, &error).hint("--user UID:GID, numbers need not be known")
    })?;
    if given.user_namespace && (identity.uid, identity.gid) != (0, 0) {
        let what = format!(
            "the image is to run as user {}, and your user namespace has only root, who is you",
            identity.uid
        );
        return Err(Failure::new(Exit::Failed, what).hint("--user 0:0, or run it as root"));
    }
    Ok(identity)
}

fn defaults(
    command: &mut Command,
    identity: &Identity,
    hostname: &str,
    wants: &Wants,
    terminal: bool,
) {
    command.default_variable("PATH", command::PATH);
    command.default_variable("HOSTNAME", hostname);
    command.default_variable("HOME", &identity.home);
    if terminal {
        command.default_variable("TERM", TERM);
    }
    if wants.names_user {
        for name in ["USER", "LOGNAME"] {
            if let Some(user) = &identity.name {
                command.default_variable(name, user);
            }
        }
        if let Some(shell) = &identity.shell {
            command.default_variable("SHELL", shell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_read_as_docker_writes_them() {
        let of = |text: &str| text.parse::<Binding>();
        let volume = of("./a:/b:ro").unwrap();
        assert_eq!(volume.source, Path::new("./a"));
        assert!(volume.target == "/b" && volume.read_only);
        assert!(!of("/a:/b").unwrap().read_only && !of("/a:/b:rw").unwrap().read_only);
        for (text, why) in [
            ("/a", "it must be HOST:PATH or HOST:PATH:ro"),
            ("/a:b", "`b` is not an absolute path"),
            ("/a:/b:z", "`z` is neither ro nor rw"),
            (
                "name:/b",
                "volumes have no names; a directory here is ./name",
            ),
        ] {
            assert_eq!(of(text).unwrap_err(), why);
        }
    }
}
