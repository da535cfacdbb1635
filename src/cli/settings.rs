//! Settings: what was typed, the environment, config files and defaults become one.
//!
//! What it is for: each setting is named once, in [`Wishes`], for the command line,
//! the environment and config files alike. Must not know what verbs do with them.
//! A flag goes before the environment, that before a config file, that before the
//! default; flags of Mesos' agent ([`mesos`]) are flags.

mod file;
mod list;
pub(super) mod mesos;
mod words;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ArgMatches;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use serde_json::Value;

use super::discovery::{self, How};
use super::registry;
use super::report::{Exit, Failure};
use crate::backend::{AUTO, Choice, Kind};
use crate::discovery::Prefix;
use crate::registry::Mirror;

pub(super) use list::{Host, List};
pub(super) use words::{Containerizers, Isolation, Providers, Words};

/// What somebody wants of each setting; nothing where nothing is said.
#[derive(Debug, Clone, Default, clap::Args, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Settings")]
#[group(skip)]
pub(super) struct Wishes {
    /// The store that images are kept in.
    ///
    /// Default: /var/lib/lazyroot/store for root, $XDG_DATA_HOME/lazyroot/store
    /// (~/.local/share/lazyroot/store) for others.
    #[arg(long, global = true, env = "LAZYROOT_STORE", value_name = "DIR")]
    store: Option<PathBuf>,
    /// Bytes that uncompressed copies of layers may take on disk. Default: 20G.
    ///
    /// Layers that are one zstd frame are uncompressed once when something in them is
    /// first read.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_CACHE_SIZE",
        value_name = "BYTES",
        hide_short_help = true
    )]
    cache_size: Option<Size>,
    /// Whether mounts decode what is likely to be read next. Default: true.
    ///
    /// What a program reads first is noted, and in later mounts of the same image it is
    /// decoded a little ahead of it, by one thread.
    #[arg(
        long, global = true, env = "LAZYROOT_PREFETCH", value_name = "BOOL", value_parser = parse_bool,
        num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true
    )]
    prefetch: Option<bool>,
    /// Whether root's mounts keep idle processors awake in haste. Default: true.
    ///
    /// In a virtual machine an idle processor halts and is slow to wake. While requests
    /// follow one another closely, idle ones poll instead, on machines with up to
    /// eight of them.
    #[arg(
        long, global = true, env = "LAZYROOT_KEEP_AWAKE", value_name = "BOOL", value_parser = parse_bool,
        num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true
    )]
    keep_awake: Option<bool>,
    /// Where root file systems of containers are.
    ///
    /// Default: /var/lib/lazyroot/containers for root,
    /// $XDG_DATA_HOME/lazyroot/containers for others.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_ROOTFS_DIR",
        value_name = "DIR",
        hide_short_help = true
    )]
    rootfs_dir: Option<PathBuf>,
    /// How containers get their root file system: auto, fuse, overlay, bind, copy.
    /// Default: fuse.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_BACKEND",
        value_name = "HOW",
        value_parser = backend(),
        hide_possible_values = true,
        hide_short_help = true
    )]
    backend: Option<Choice>,
    /// Kinds of images that may be used. Default: appc,docker.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_PROVIDERS",
        value_name = "KINDS",
        hide_short_help = true
    )]
    providers: Option<Words<Providers>>,
    /// Containerizers of Mesos; `mesos` must be one of them, as it is this one's.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_CONTAINERIZERS",
        value_name = "NAMES",
        hide_short_help = true
    )]
    containerizers: Option<Words<Containerizers>>,
    /// Isolators of Mesos that containers are run with. Default: posix/cpu,posix/mem.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_ISOLATION",
        value_name = "NAMES",
        hide_short_help = true
    )]
    isolation: Option<Words<Isolation>>,
    /// Whether containers run as the user who wants them to. Default: true.
    #[arg(
        long, alias = "switch_user", global = true, env = "LAZYROOT_SWITCH_USER", value_name = "BOOL",
        value_parser = parse_bool, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_short_help = true
    )]
    switch_user: Option<bool>,
    /// Whether containers ignore what Docker and OCI images say of their command, variables, directory
    /// and user. Default: false.
    #[arg(
        long, alias = "docker_ignore_runtime", global = true, env = "LAZYROOT_DOCKER_IGNORE_RUNTIME",
        value_name = "BOOL", value_parser = parse_bool, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", hide_short_help = true
    )]
    docker_ignore_runtime: Option<bool>,
    /// Append the log of mounts to this file.
    ///
    /// Else it goes to the system's log, or without one to /var/log/lazyroot.log (not
    /// root: lazyroot/lazyroot.log in $XDG_STATE_HOME, ~/.local/state).
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_LOG",
        value_name = "FILE",
        hide_short_help = true
    )]
    log: Option<PathBuf>,
    /// Where images are looked for. Default: local where --local-dir is given, else meta.
    ///
    /// Docker images: local is the directory --local-dir alone, registry the registry
    /// alone; with simple and meta it is the directory first, then the registry. AppC
    /// images are in no registry: registry is meta for them.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_DISCOVERY",
        value_name = "HOW",
        value_enum,
        hide_short_help = true
    )]
    discovery: Option<How>,
    /// The directory of local discovery, and of Docker images.
    ///
    /// It has NAME-VERSION-OS-ARCH.aci, NAME:TAG.tar and NAME.tar; the slashes of a
    /// name are directories. Default: images beside the store.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_LOCAL_DIR",
        value_name = "DIR",
        hide_short_help = true
    )]
    local_dir: Option<PathBuf>,
    /// Where simple discovery begins: a directory, or a URL that is followed by
    /// NAME-VERSION-OS-ARCH.aci as it is written. Default: https://.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_DISCOVERY_PREFIX",
        value_name = "PREFIX",
        hide_short_help = true
    )]
    #[serde(deserialize_with = "parsed")]
    discovery_prefix: Option<Prefix>,
    /// Ask also without TLS. Whoever is on the way can then exchange what comes.
    #[arg(
        long, global = true, env = "LAZYROOT_ALLOW_HTTP", value_name = "BOOL", value_parser = parse_bool,
        num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true
    )]
    allow_http: Option<bool>,
    /// Directory of public OpenPGP keys whose signatures count.
    ///
    /// Files in it and in root.d count for every image, those in prefix.d/NAME for
    /// the image NAME and all below it. Without a keyring no signature is looked at.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_KEYRING",
        value_name = "DIR",
        hide_short_help = true
    )]
    keyring: Option<PathBuf>,
    /// Refuse images that have no signature (AppC images only have them).
    #[arg(
        long, global = true, env = "LAZYROOT_REQUIRE_SIGNATURE", value_name = "BOOL", value_parser = parse_bool,
        num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true
    )]
    require_signature: Option<bool>,
    /// Servers that are asked before a registry, as HOST:PORT/PREFIX, with commas between them.
    ///
    /// PORT and PREFIX may be left out. http:// before it is without TLS; REGISTRY= before all
    /// that names another registry than docker.io. What none of them has comes from the registry.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_MIRROR",
        value_name = "MIRRORS",
        hide_short_help = true
    )]
    mirror: Option<List<Mirror>>,
    /// Registries that are asked without TLS: HOST or HOST:PORT, with commas between them.
    ///
    /// Whoever is on the way sees passwords then. This machine's own registries are asked so
    /// without being named, if they speak no TLS.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_INSECURE",
        value_name = "HOSTS",
        hide_short_help = true
    )]
    insecure: Option<List<Host>>,
    /// Certificates (PEM) of authorities that vouch for registries, besides the system's.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_CACERT",
        value_name = "FILE",
        hide_short_help = true
    )]
    cacert: Option<PathBuf>,
    /// The only file of logins for registries: a config.json of docker's, an auth.json of
    /// podman's. Default: theirs (`lazyroot login --help`).
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_AUTH_FILE",
        value_name = "FILE",
        hide_short_help = true
    )]
    auth_file: Option<PathBuf>,
    /// Layers that are fetched at once from a registry. Default: 3.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_TRANSFERS",
        value_name = "NUMBER",
        hide_short_help = true
    )]
    transfers: Option<Transfers>,
    /// Largest image that is fetched, or taken from a directory. Default: 64G.
    #[arg(
        long,
        global = true,
        env = "LAZYROOT_MAX_SIZE",
        value_name = "BYTES",
        hide_short_help = true
    )]
    max_size: Option<Size>,
}

impl Wishes {
    /// Paths that are relative begin at `base`, which nobody asks for without one.
    fn below(mut self, base: impl Fn(&Path) -> Result<PathBuf, Failure>) -> Result<Self, Failure> {
        let prefix = match &mut self.discovery_prefix {
            Some(Prefix::Dir(path)) => Some(path),
            _ => None,
        };
        let paths = [
            &mut self.store,
            &mut self.rootfs_dir,
            &mut self.log,
            &mut self.local_dir,
            &mut self.keyring,
            &mut self.cacert,
            &mut self.auth_file,
        ];
        for path in paths.into_iter().flatten().chain(prefix) {
            if path.is_relative() {
                *path = base(path)?.join(&path);
            }
        }
        Ok(self)
    }
}

/// Where a path begins that was typed. The directory may have been removed since.
pub(super) fn here(path: &Path) -> Result<PathBuf, Failure> {
    env::current_dir().map_err(|error| {
        let path = path.display();
        let what = format!("`{path}` begins at the current directory, which is not there: {error}");
        Failure::new(Exit::Failed, what).hint("an absolute path, or cd elsewhere first")
    })
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        super::parse_size(text).map(Self)
    }
}

impl<'de> serde::Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "a number of bytes, 4096 or \"20G\"")]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(from)? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// How many transfers there may be at once: 1 to 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfers(u8);

impl FromStr for Transfers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| (1..=16).contains(number));
        number
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a number from 1 to 16"))
    }
}

impl<'de> serde::Deserialize<'de> for Transfers {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(from)?;
        number.to_string().parse().map_err(serde::de::Error::custom)
    }
}

fn parsed<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: std::fmt::Display>,
    D: serde::Deserializer<'de>,
{
    let text: String = serde::Deserialize::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Shells offer what a parser says that it takes.
fn backend() -> impl TypedValueParser<Value = Choice> {
    let words = Kind::ALL.map(Kind::word);
    PossibleValuesParser::new([AUTO].into_iter().chain(words)).try_map(|word| word.parse())
}

/// As Mesos' flags have it.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

/// One setting in force.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Setting {
    /// As in a config file; the flag is the same with two dashes.
    pub(super) name: &'static str,
    /// Nothing where there is none.
    pub(super) value: Value,
    /// Where it is said.
    pub(super) from: String,
}

/// All settings in force.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) store: PathBuf,
    pub(super) cache_size: u64,
    pub(super) prefetch: bool,
    pub(super) keep_awake: bool,
    pub(super) rootfs_dir: PathBuf,
    pub(super) backend: Choice,
    pub(super) providers: Words<Providers>,
    pub(super) isolation: Words<Isolation>,
    pub(super) switch_user: bool,
    pub(super) docker_ignore_runtime: bool,
    pub(super) log: Option<PathBuf>,
    pub(super) discovery: discovery::Settings,
    pub(super) registry: registry::Settings,
    /// All of them, for people.
    pub(super) list: Vec<Setting>,
}

/// Where settings may be said, besides the command line.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The ones that exist are read; what a later one says goes before an earlier one.
    pub(super) usual: Vec<PathBuf>,
    /// The only one, then; it must exist.
    pub(super) named: Option<PathBuf>,
}

/// What is in force where nobody says anything.
#[derive(Debug)]
pub(super) struct Defaults {
    /// Below it are store, containers and images.
    pub(super) data: PathBuf,
}

const CACHE_SIZE: u64 = 20 << 30;
const MAX_SIZE: u64 = 64 << 30;
/// As Docker has it.
const TRANSFERS: Transfers = Transfers(3);

impl Settings {
    /// Joins all sources.
    ///
    /// # Errors
    /// A config file that cannot be read or says what it cannot; flags that say
    /// the same thing twice.
    pub(super) fn resolve(
        typed: &Wishes,
        agent: mesos::Flags,
        matches: &ArgMatches,
        files: Files,
        defaults: &Defaults,
    ) -> Result<Self, Failure> {
        let agent = agent.wishes()?;
        let mut sources = Sources {
            agent: agent.wishes.below(here)?,
            agent_flags: agent.flags,
            typed: typed.clone().below(here)?,
            matches,
            files: files.read()?,
            list: Vec::new(),
        };
        sources.join(defaults)
    }
}

/// All that is said, and where.
struct Sources<'a> {
    agent: Wishes,
    /// Which flag of Mesos' agent has a setting.
    agent_flags: BTreeMap<&'static str, &'static str>,
    typed: Wishes,
    matches: &'a ArgMatches,
    /// What is said later goes first.
    files: Vec<(PathBuf, Wishes)>,
    list: Vec<Setting>,
}

impl Sources<'_> {
    fn join(&mut self, defaults: &Defaults) -> Result<Settings, Failure> {
        let below = |name: &str| Some(defaults.data.join(name));
        // Neither is used by what there is so far, but must be right.
        let _: Option<Words<Containerizers>> = self.pick(
            "containerizers",
            |all| all.containerizers.clone(),
            Some(Words::default()),
        )?;
        let store = self.must("store", |all| all.store.clone(), below("store"))?;
        let local_dir = self.named(|all| all.local_dir.clone()).is_some();
        let discovery = discovery::Settings {
            how: self.must(
                "discovery",
                |all| all.discovery,
                // Who names a directory does not expect the network to be asked.
                Some(if local_dir { How::Local } else { How::Meta }),
            )?,
            // Beside the store, wherever that is.
            local_dir: self.must(
                "local-dir",
                |all| all.local_dir.clone(),
                Some(store.with_file_name("images")),
            )?,
            prefix: self.must(
                "discovery-prefix",
                |all| all.discovery_prefix.clone(),
                Some(Prefix::Url("https://".to_owned())),
            )?,
            allow_http: self.must("allow-http", |all| all.allow_http, Some(false))?,
            keyring: self.pick("keyring", |all| all.keyring.clone(), None)?,
            require_signature: self.must(
                "require-signature",
                |all| all.require_signature,
                Some(false),
            )?,
            max_size: self
                .must("max-size", |all| all.max_size, Some(Size(MAX_SIZE)))?
                .0,
        };
        let registry = registry::Settings {
            mirrors: self
                .must("mirror", |all| all.mirror.clone(), Some(List::default()))?
                .0,
            insecure: self
                .must(
                    "insecure",
                    |all| all.insecure.clone(),
                    Some(List::default()),
                )?
                .0,
            cacert: self.pick("cacert", |all| all.cacert.clone(), None)?,
            auth_file: self.pick("auth-file", |all| all.auth_file.clone(), None)?,
            at_once: self
                .must("transfers", |all| all.transfers, Some(TRANSFERS))?
                .0
                .into(),
        };
        Ok(Settings {
            store,
            discovery,
            registry,
            cache_size: self
                .must("cache-size", |all| all.cache_size, Some(Size(CACHE_SIZE)))?
                .0,
            prefetch: self.must("prefetch", |all| all.prefetch, Some(true))?,
            keep_awake: self.must("keep-awake", |all| all.keep_awake, Some(true))?,
            rootfs_dir: self.must(
                "rootfs-dir",
                |all| all.rootfs_dir.clone(),
                below("containers"),
            )?,
            backend: self.must("backend", |all| all.backend, Some(Choice::Kind(Kind::Fuse)))?,
            providers: self.must(
                "providers",
                |all| all.providers.clone(),
                Some(Words::default()),
            )?,
            isolation: self.must(
                "isolation",
                |all| all.isolation.clone(),
                Some(Words::default()),
            )?,
            switch_user: self.must("switch-user", |all| all.switch_user, Some(true))?,
            docker_ignore_runtime: self.must(
                "docker-ignore-runtime",
                |all| all.docker_ignore_runtime,
                Some(false),
            )?,
            log: self.pick("log", |all| all.log.clone(), None)?,
            list: std::mem::take(&mut self.list),
        })
    }

    /// What anybody says of a setting.
    fn named<T>(&self, of: impl Fn(&Wishes) -> Option<T>) -> Option<T> {
        let files = self.files.iter().map(|(_, wishes)| wishes);
        [&self.agent, &self.typed]
            .into_iter()
            .chain(files)
            .find_map(of)
    }

    /// A setting that has a default.
    fn must<T: Tell>(
        &mut self,
        name: &'static str,
        of: impl Fn(&Wishes) -> Option<T>,
        default: Option<T>,
    ) -> Result<T, Failure> {
        let picked = self.pick(name, of, default)?;
        picked.ok_or_else(|| Failure::new(Exit::Usage, format!("`{name}` is not set")))
    }

    fn pick<T: Tell>(
        &mut self,
        name: &'static str,
        of: impl Fn(&Wishes) -> Option<T>,
        default: Option<T>,
    ) -> Result<Option<T>, Failure> {
        let id = name.replace('-', "_");
        let source = self.matches.value_source(&id);
        let (agent, typed) = (of(&self.agent), of(&self.typed));
        let flag = source == Some(ValueSource::CommandLine);
        let agent_flag = self.agent_flags.get(name).copied().unwrap_or(name);
        let (value, from) = match (agent, typed) {
            (Some(_), Some(_)) if flag => {
                let what = format!("--{name} and --{agent_flag} are the same setting");
                return Err(Failure::new(Exit::Usage, what).hint("only one of them"));
            }
            (Some(value), _) => (Some(value), format!("--{agent_flag}")),
            (None, Some(value)) if flag => (Some(value), format!("--{name}")),
            (None, Some(value)) => {
                let variable = format!("LAZYROOT_{}", id.to_ascii_uppercase());
                (Some(value), variable)
            }
            (None, None) => {
                let said = |(path, wishes): &(PathBuf, Wishes)| {
                    of(wishes).map(|value| (value, path.display().to_string()))
                };
                match self.files.iter().find_map(said) {
                    Some((value, path)) => (Some(value), path),
                    None => (default, "default".to_owned()),
                }
            }
        };
        self.list.push(Setting {
            name,
            value: value.as_ref().map_or(Value::Null, Tell::tell),
            from,
        });
        Ok(value)
    }
}

/// A value as people and scripts read it.
trait Tell {
    fn tell(&self) -> Value;
}

impl Tell for PathBuf {
    fn tell(&self) -> Value {
        Value::from(self.display().to_string())
    }
}

impl Tell for bool {
    fn tell(&self) -> Value {
        Value::from(*self)
    }
}

impl Tell for Size {
    fn tell(&self) -> Value {
        Value::from(self.0)
    }
}

impl Tell for Transfers {
    fn tell(&self) -> Value {
        Value::from(self.0)
    }
}

impl<T: std::fmt::Display> Tell for List<T> {
    fn tell(&self) -> Value {
        Value::from(self.to_string())
    }
}

impl Tell for Choice {
    fn tell(&self) -> Value {
        Value::from(self.to_string())
    }
}

impl Tell for How {
    fn tell(&self) -> Value {
        Value::from(self.word())
    }
}

impl Tell for Prefix {
    fn tell(&self) -> Value {
        match self {
            Self::Url(url) => Value::from(url.as_str()),
            Self::Dir(path) => path.tell(),
        }
    }
}

impl<V: words::Vocabulary> Tell for Words<V> {
    fn tell(&self) -> Value {
        Value::from(self.to_string())
    }
}
