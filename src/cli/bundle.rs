//! `lazyroot bundle`

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::containers::failure;
use super::launching::{Given, Typing, is_machines_root};
use super::report::{Exit, Failure};
use super::{Context, print};
use crate::backend::Kind;
use crate::container::record::Record;
use crate::container::{ContainerError, Shown};
use crate::container_id::ContainerId;
use crate::launch::bundle;
use crate::mounts;

/// Make an OCI bundle of a container, for runc, crun and their like.
///
/// The bundle's root file system is the container's, where it is; the rest is said as `run`
/// would do it. Whoever destroys the container leaves the bundle without it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the container.
    id: ContainerId,
    /// The bundle: a new directory, or an empty one.
    dir: PathBuf,
    /// Arguments, instead of the image's own.
    #[arg(trailing_var_arg = true, value_name = "ARG")]
    args: Vec<OsString>,
    /// Nothing can be written to its root file system.
    #[arg(long)]
    read_only: bool,
    /// It is to have a terminal.
    #[arg(short, long)]
    terminal: bool,
    #[command(flatten)]
    typing: Typing,
    /// No notes.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.open()?;
    let record = match store.container::<Record>(&args.id)? {
        Some(record) if !record.destroying => record,
        Some(_) => return Err(failure(&ContainerError::Destroying(args.id.clone()))),
        None => return Err(failure(&ContainerError::Unknown(args.id.clone()))),
    };
    let ready = record.rootfses.iter().filter(|rootfs| rootfs.ready);
    let shown = ready.map(|rootfs| Shown::of(&record, rootfs));
    let (roots, others): (Vec<_>, Vec<_>) =
        shown.partition(|rootfs| rootfs.container_path.is_none());
    let Some(root) = roots.first() else {
        let what = format!("container `{}` has no root file system", args.id);
        let hint = format!("lazyroot provision --id {} IMAGE", args.id);
        return Err(Failure::new(Exit::NotFound, what).hint(hint));
    };
    is_mounted(root, &args.id)?;
    let dir = new_directory(&args.dir)?;
    let given = Given {
        store: &store,
        id: &args.id,
        root,
        others: &others,
        hostname: record.hostname.as_deref(),
        volumes: &record.volumes,
        directory: &dir,
        args: args.args.clone(),
        read_only: args.read_only || root.read_only,
        user_namespace: !is_machines_root(),
        terminal: args.terminal,
        quiet: args.quiet,
    };
    let spec = args.typing.spec(&given, context)?;
    let ids = (rustix::process::getuid(), rustix::process::getgid());
    let config = bundle::config(&spec, (ids.0.as_raw(), ids.1.as_raw()));
    let config = config.map_err(|error| Failure::of(Exit::Failed, &error))?;
    let text = serde_json::to_vec_pretty(&config);
    let text = text.map_err(|error| Failure::of(Exit::Failed, &error))?;
    let file = dir.join("config.json");
    fs::write(&file, text).map_err(|error| cannot("write", &file, &error))?;
    print(format!("{}\n", dir.display()).as_bytes())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot {what} `{}`: {error}", path.display());
    Failure::new(Exit::Failed, what)
}

fn is_mounted(root: &Shown, id: &ContainerId) -> Result<(), Failure> {
    let mount = mounts::mount_at(&root.path);
    let mount = mount.map_err(|error| Failure::of(Exit::Failed, &error))?;
    match mount.is_some() || root.backend == Kind::Copy {
        true => Ok(()),
        false => {
            let what = format!("the root file system of `{id}` is not mounted");
            Err(Failure::new(Exit::Failed, what).hint("lazyroot recover"))
        }
    }
}

/// A directory with nothing in it, absolute.
fn new_directory(dir: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(dir).map_err(|error| cannot("create", dir, &error))?;
    let mut entries = fs::read_dir(dir).map_err(|error| cannot("read", dir, &error))?;
    if entries.next().is_some() {
        let what = format!("`{}` is not empty", dir.display());
        return Err(Failure::new(Exit::InUse, what).hint("a new directory for each bundle"));
    }
    Ok(std::path::absolute(dir)?)
}
