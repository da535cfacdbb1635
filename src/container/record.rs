//! What is written down of a container.
//!
//! Invariant: *no rootfs without intent*. A record names a rootfs before anything of it
//! is made, and until everything of it is gone.

use std::path::{Path, PathBuf};

use crate::backend::Kind;
use crate::container_id::ContainerId;
use crate::digest::ImageId;
use crate::store::containers::Body;
use crate::store::leases::Pins;
use crate::view::Stack;

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// Its name.
    pub id: ContainerId,
    /// Where containers were kept when it was made.
    pub rootfs_dir: PathBuf,
    /// Seconds since 1970.
    pub created: u64,
    /// It was to be destroyed, and that is not done yet.
    #[serde(default)]
    pub destroying: bool,
    /// Nobody has it yet, but as the parent of another: one that was never ready.
    #[serde(default)]
    pub implicit: bool,
    /// It goes with the process that holds the lock of [`Record::run_lock`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transient: bool,
    /// What a launcher is to call the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Directories of the machine that a launcher is to show in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<HostVolume>,
    /// Its root file systems, in the order in which they were asked for.
    #[serde(default)]
    pub rootfses: Vec<Rootfs>,
}

/// A directory of the machine, for whoever launches something in the container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostVolume {
    /// On the machine.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// It is not to be written to.
    pub read_only: bool,
}

/// A root file system of a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rootfs {
    /// Random, and the name of its directory.
    pub name: String,
    /// It can be used. Until then it is an intent, and after a crash it is undone.
    pub ready: bool,
    /// How it is made.
    pub backend: Kind,
    /// It cannot be written to.
    pub read_only: bool,
    /// Which image it shows.
    pub image: ImageId,
    /// What that was called when it was asked for.
    pub title: String,
    /// What that was made of: it stays what it is.
    pub stack: Stack,
    /// The shared mount that it stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<String>,
    /// Where in the container it is wanted, if it is not its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_path: Option<String>,
}

impl Body for Record {
    fn pins(&self) -> Pins {
        let mut pins = Pins::default();
        for rootfs in &self.rootfses {
            let Pins { layers, images } = rootfs.stack.pins();
            pins.layers.extend(layers);
            pins.images.extend(images);
            pins.images.insert(rootfs.image);
        }
        pins
    }
}

/// The directory of a container: nested ones are below those that they are in.
#[must_use]
pub fn directory(rootfs_dir: &Path, id: &ContainerId) -> PathBuf {
    let mut path = rootfs_dir.to_owned();
    for (depth, name) in id.names().enumerate() {
        if depth > 0 {
            path.push("containers");
        }
        path.push(name);
    }
    path
}

/// Where things lie that are being removed: on the file system of the containers, and
/// no container is called so.
#[must_use]
pub fn trash(rootfs_dir: &Path) -> PathBuf {
    rootfs_dir.join(".trash")
}

impl Record {
    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        directory(&self.rootfs_dir, &self.id)
    }

    /// The file whose lock somebody holds for as long as a transient container is wanted.
    #[must_use]
    pub fn run_lock(&self) -> PathBuf {
        self.directory().join("run")
    }

    fn below(&self, rootfs: &Rootfs, what: &str) -> PathBuf {
        let mut path = self.directory();
        path.extend(["backends", &rootfs.backend.to_string(), what, &rootfs.name]);
        path
    }

    /// Where a root file system of it is.
    #[must_use]
    pub fn path(&self, rootfs: &Rootfs) -> PathBuf {
        self.below(rootfs, "rootfses")
    }

    /// Where the changes to it are, and what else belongs to it.
    #[must_use]
    pub fn scratch(&self, rootfs: &Rootfs) -> PathBuf {
        self.below(rootfs, "scratch")
    }
}

impl Rootfs {
    /// Changes to it are kept in an upper directory.
    #[must_use]
    pub fn has_upper(&self) -> bool {
        !self.read_only && matches!(self.backend, Kind::Fuse | Kind::Overlay)
    }

    /// It stands on a mount that others may share.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self.backend {
            Kind::Overlay | Kind::Bind => true,
            Kind::Fuse | Kind::Copy => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_container_lies_below_the_one_that_it_is_in() {
        let id = "a/b/c".parse().unwrap();
        let path = directory(Path::new("/r"), &id);
        assert_eq!(path, Path::new("/r/a/containers/b/containers/c"));
    }
}
