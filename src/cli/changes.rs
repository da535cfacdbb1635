//! Changes that somebody means: those of a container, or those in an upper directory.

use std::path::{Path, PathBuf};

use super::containers::failure;
use super::report::{Exit, Failure};
use crate::changed::Target;
use crate::container::ContainerError;
use crate::container::record::{Record, Rootfs};
use crate::container_id::ContainerId;
use crate::store::Store;
use crate::view::Stack;

/// Whose changes.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The container; with --upper the image: name or ID.
    #[arg(value_name = "CONTAINER|IMAGE")]
    of: String,
    /// The upper directory of the image's changes, as given to `mount --upper`.
    #[arg(long, value_name = "DIR")]
    upper: Option<PathBuf>,
    /// Which root file system of the container, by (the beginning of) its name. Default: the
    /// first one that can be written to.
    #[arg(long, value_name = "NAME", conflicts_with = "upper")]
    rootfs: Option<String>,
}

impl Args {
    /// Where they are.
    pub(super) fn target(&self, store: &Store) -> Result<Target, Failure> {
        match &self.upper {
            Some(upper) => of_image(store, &self.of, upper),
            None => self.of_container(store),
        }
    }

    fn of_container(&self, store: &Store) -> Result<Target, Failure> {
        let id: ContainerId = match self.of.parse() {
            Ok(id) => id,
            Err(error) => {
                return Err(Failure::of(Exit::Usage, &error)
                    .hint("--upper DIR for the changes of an image"));
            }
        };
        let record = store.container::<Record>(&id)?;
        let record = record.ok_or_else(|| match store.find(&self.of) {
            Ok(_) => Failure::new(Exit::Usage, format!("`{id}` is an image and no container"))
                .hint("--upper DIR for the changes of an image"),
            Err(_) => failure(&ContainerError::Unknown(id.clone())),
        })?;
        let rootfs = self.rootfs_of(&record)?;
        if !rootfs.has_upper() {
            let what = format!(
                "`{}` of container `{id}` has no upper directory (backend {}{})",
                rootfs.name,
                rootfs.backend,
                if rootfs.read_only { ", read-only" } else { "" }
            );
            return Err(Failure::new(Exit::Usage, what)
                .hint("containers of the backends fuse and overlay keep their changes apart"));
        }
        Ok(Target {
            image: rootfs.image,
            stack: rootfs.stack.clone(),
            upper: Some(record.scratch(rootfs).join("upper")),
        })
    }

    fn rootfs_of<'a>(&self, record: &'a Record) -> Result<&'a Rootfs, Failure> {
        let missing = |what: String| Failure::new(Exit::NotFound, what);
        let ready = || record.rootfses.iter().filter(|rootfs| rootfs.ready);
        let Some(name) = &self.rootfs else {
            let first = ready().find(|rootfs| rootfs.has_upper()).or(ready().next());
            return first.ok_or_else(|| {
                missing(format!("container `{}` has no root file system", record.id))
            });
        };
        let mut named = ready().filter(|rootfs| rootfs.name.starts_with(name.as_str()));
        match (named.next(), named.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(missing(format!(
                "container `{}` has no root file system `{name}`",
                record.id
            ))
            .hint("lazyroot containers names them")),
            (Some(_), Some(_)) => Err(Failure::new(
                Exit::Usage,
                format!("`{name}` is the beginning of several names"),
            )),
        }
    }
}

fn of_image(store: &Store, image: &str, upper: &Path) -> Result<Target, Failure> {
    let image = store.find(image)?;
    Ok(Target {
        image,
        stack: Stack::of(store, image)?,
        upper: Some(upper.to_owned()),
    })
}
