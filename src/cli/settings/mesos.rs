//! The flags of Mesos' agent, by their own names: those of the first design of the
//! provisioner, and those of the last version that mean the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::discovery::How;
use super::super::report::{Exit, Failure};
use super::{List, Providers, Wishes, Words};
use crate::backend::Choice;
use crate::discovery::Prefix;
use crate::registry::Mirror;

/// All of them that have another name here.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(in super::super) struct Flags {
    #[arg(long = "provisioners", global = true, hide = true)]
    provisioners: Option<Words<Providers>>,
    #[arg(long = "image_providers", global = true, hide = true)]
    image_providers: Option<Words<Providers>>,
    #[arg(long = "provisioner_rootfs_dir", global = true, hide = true)]
    provisioner_rootfs_dir: Option<PathBuf>,
    #[arg(long = "provisioner_store_dir", global = true, hide = true)]
    provisioner_store_dir: Option<PathBuf>,
    #[arg(long = "provisioner_discovery", global = true, hide = true, value_enum)]
    provisioner_discovery: Option<How>,
    #[arg(long = "provisioner_local_dir", global = true, hide = true)]
    provisioner_local_dir: Option<PathBuf>,
    #[arg(long = "docker_local_archives_dir", global = true, hide = true)]
    docker_local_archives_dir: Option<PathBuf>,
    #[arg(long = "docker_registry", global = true, hide = true)]
    docker_registry: Option<String>,
    #[arg(long = "docker_config", global = true, hide = true)]
    docker_config: Option<String>,
    #[arg(long = "provisioner_backend", global = true, hide = true)]
    provisioner_backend: Option<Choice>,
    #[arg(long = "image_provisioner_backend", global = true, hide = true)]
    image_provisioner_backend: Option<Choice>,
    #[arg(long = "appc_simple_discovery_uri_prefix", global = true, hide = true)]
    appc_simple_discovery_uri_prefix: Option<Prefix>,
}

/// The flags in our words, and which flag says what.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) wishes: Wishes,
    pub(super) flags: BTreeMap<&'static str, &'static str>,
}

impl Said {
    /// The one of several flags that is given, for a setting.
    fn one<T>(
        &mut self,
        setting: &'static str,
        flags: impl IntoIterator<Item = (&'static str, Option<T>)>,
    ) -> Result<Option<T>, Failure> {
        let mut given = flags
            .into_iter()
            .filter_map(|(flag, value)| Some((flag, value?)));
        let Some((flag, value)) = given.next() else {
            return Ok(None);
        };
        if let Some((second, _)) = given.next() {
            let what = format!("--{flag} and --{second} are the same setting");
            return Err(Failure::new(Exit::Usage, what).hint("only one of them"));
        }
        self.flags.insert(setting, flag);
        Ok(Some(value))
    }
}

impl Flags {
    /// What they mean.
    pub(super) fn wishes(self) -> Result<Said, Failure> {
        let mut said = Said::default();
        let (archives, registry) = match self.docker_registry {
            Some(dir) if dir.starts_with('/') => (Some(PathBuf::from(dir)), None),
            Some(url) => (None, Some(registry(&url)?)),
            None => (None, None),
        };
        let dir = |path: Option<PathBuf>| path.map(from_root);
        said.wishes.providers = said.one(
            "providers",
            [
                ("provisioners", self.provisioners),
                ("image_providers", self.image_providers),
            ],
        )?;
        said.wishes.rootfs_dir = said.one(
            "rootfs-dir",
            [("provisioner_rootfs_dir", dir(self.provisioner_rootfs_dir))],
        )?;
        said.wishes.store = said.one(
            "store",
            [("provisioner_store_dir", dir(self.provisioner_store_dir))],
        )?;
        said.wishes.local_dir = said.one(
            "local-dir",
            [
                ("provisioner_local_dir", dir(self.provisioner_local_dir)),
                (
                    "docker_local_archives_dir",
                    dir(self.docker_local_archives_dir),
                ),
                ("docker_registry", archives),
            ],
        )?;
        said.wishes.mirror = said.one("mirror", [("docker_registry", registry)])?;
        let logins = self.docker_config.map(logins).transpose()?;
        said.wishes.auth_file = said.one("auth-file", [("docker_config", logins)])?;
        said.wishes.backend = said.one(
            "backend",
            [
                ("provisioner_backend", self.provisioner_backend),
                ("image_provisioner_backend", self.image_provisioner_backend),
            ],
        )?;
        said.wishes.discovery_prefix = said.one(
            "discovery-prefix",
            [(
                "appc_simple_discovery_uri_prefix",
                self.appc_simple_discovery_uri_prefix,
            )],
        )?;
        // The last version has no other way for AppC than the one behind its prefix.
        let by_prefix = said.wishes.discovery_prefix.is_some();
        let discovery = match self.provisioner_discovery {
            Some(how) => Some(("provisioner_discovery", Some(how))),
            None => by_prefix.then_some(("appc_simple_discovery_uri_prefix", Some(How::Simple))),
        };
        said.wishes.discovery = said.one("discovery", discovery)?;
        Ok(said)
    }
}

/// The documents have `tmp/mesos/store` as a default and mean `/tmp/mesos/store`.
fn from_root(path: PathBuf) -> PathBuf {
    match path.starts_with("tmp/mesos") {
        true => Path::new("/").join(path),
        false => path,
    }
}

/// `--docker_registry` that does not begin with `/` is a registry for names that name
/// none: one that is asked before docker.io.
fn registry(url: &str) -> Result<List<Mirror>, Failure> {
    let mirror = url.trim_end_matches('/').parse::<Mirror>();
    let mirror = mirror.map_err(|_| {
        let what =
            format!("--docker_registry={url}: it is neither a URL of a registry nor a directory");
        Failure::new(Exit::Usage, what).hint(
            "--docker_registry=https://HOST, or --docker_registry=/DIR with NAME:TAG.tar in it",
        )
    })?;
    Ok(List(vec![mirror]))
}

/// `--docker_config`: a file, with or without `file://`. The JSON itself, which Mesos takes
/// too, would be on the command line for everybody to read.
fn logins(text: String) -> Result<PathBuf, Failure> {
    if text.trim_start().starts_with('{') {
        let what = "--docker_config: logins on the command line can be read by everybody";
        return Err(
            Failure::new(Exit::Usage, what).hint("--docker_config=FILE, with the same in it")
        );
    }
    Ok(text.strip_prefix("file://").unwrap_or(&text).into())
}
