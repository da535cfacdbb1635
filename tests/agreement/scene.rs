//! One stack of layers, and its writable trees: ours, the kernel's, and a copy.
//!
//! What it is for: the same layers as an image and as directories, mounted by
//! whomever with any upper directory. May assume: root. Must not know what is done
//! to the trees.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::images::{Pack, Packed};
use super::lab::{Lab, alive, until};
use super::layers::{self, Stack};
use super::walk::{Walk, walk};

/// Who shows a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// `lazyroot mount`.
    Ours,
    /// Kernel overlayfs.
    Kernel,
    /// Nobody: a plain directory with everything unpacked.
    Plain,
}

/// Layers, in all their forms.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    stack: Stack,
    made: usize,
}

/// Where a writable tree keeps its changes.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
}

/// A writable tree, gone with its scope.
pub(crate) struct Shown {
    pub(crate) at: PathBuf,
    pub(crate) server: Option<u32>,
    who: Who,
}

impl Scene {
    /// Nothing, and `SKIPPED`, when this machine cannot do it.
    pub(crate) fn new(stack: Stack) -> Option<Self> {
        let lab = Lab::new()?;
        for (number, layer) in stack.iter().enumerate() {
            layers::unpack(layer, &lab.place(&format!("lower/{number}")));
        }
        let mut scene = Self {
            lab,
            stack,
            made: 0,
        };
        let changes = scene.changes();
        if let Err(error) = scene.overlay(&changes, &scene.lab.place("probe")) {
            println!("SKIPPED: needs overlayfs with an upper directory here: {error}");
            return None;
        }
        let _ = unmount(scene.lab.path("probe"), UnmountFlags::empty());
        Some(scene)
    }

    /// The layers as an image `app:1`; `packs` are taken in turn.
    pub(crate) fn import(&self, packs: &[Pack]) -> Vec<Packed> {
        let pack =
            |(number, layer): (usize, &Vec<_>)| layers::packed(layer, packs[number % packs.len()]);
        let packed: Vec<Packed> = self.stack.iter().enumerate().map(pack).collect();
        self.lab.import("app:1", &packed);
        packed
    }

    /// New directories for changes.
    pub(crate) fn changes(&mut self) -> Changes {
        self.made += 1;
        let dir = self.lab.place(&format!("changes/{}", self.made));
        Changes {
            upper: dir.join("upper"),
            work: dir.join("work"),
        }
    }

    /// Shows the layers and these changes at a new place. For [`Who::Plain`] the
    /// upper directory is the tree itself, made if it is not there.
    #[track_caller]
    pub(crate) fn show(&mut self, who: Who, changes: &Changes) -> Shown {
        self.made += 1;
        let at = match who {
            Who::Plain => changes.upper.clone(),
            _ => self.lab.place(&format!("at/{}", self.made)),
        };
        let mut server = None;
        match who {
            Who::Kernel => self.overlay(changes, &at).unwrap(),
            Who::Plain if at.is_dir() => {}
            Who::Plain => {
                fs::create_dir(&at).unwrap();
                layers::apply(&self.stack, &at);
            }
            Who::Ours => {
                let path = |path: &Path| path.to_str().unwrap().to_owned();
                let log = path(&self.log());
                let [at_path, upper, work] = [&at, &changes.upper, &changes.work].map(|p| path(p));
                let mut words = vec!["mount", "app:1", &at_path, "--upper", &upper];
                words.extend(["--work", &work, "--log", &log]);
                self.lab.run(&words);
                server = Some(self.lab.server(&at));
            }
        }
        Shown { at, server, who }
    }

    /// What our servers have logged.
    pub(crate) fn log(&self) -> PathBuf {
        self.lab.path("servers.log")
    }

    fn overlay(&self, changes: &Changes, at: &Path) -> rustix::io::Result<()> {
        for dir in [&changes.upper, &changes.work] {
            fs::create_dir_all(dir).unwrap();
        }
        let lower = |number| {
            let path = self.lab.path(&format!("lower/{number}"));
            path.to_str().unwrap().to_owned()
        };
        let lowers: Vec<String> = (0..self.stack.len()).rev().map(lower).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},metacopy=on,redirect_dir=on,index=off,xino=on",
            lowers.join(":"),
            changes.upper.display(),
            changes.work.display(),
        );
        let options = std::ffi::CString::new(options).unwrap();
        mount("overlay", at, "overlay", MountFlags::NODEV, &*options)
    }

    /// Every file of the store and of the unpacked layers, contents and all, but
    /// what is a cache, comes and goes, or tells the last use.
    pub(crate) fn lower_data(&self) -> [Walk; 4] {
        let look = super::walk::Look {
            now: i64::MAX,
            root: true,
            links: true,
        };
        ["blobs", "layers-v1", "seek-v1"]
            .map(|name| self.lab.store(name))
            .into_iter()
            .chain([self.lab.path("lower")])
            .map(|dir| walk(&dir, &look))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap()
    }
}

impl Shown {
    /// Unmounts; returns when nobody serves it any more.
    #[track_caller]
    pub(crate) fn end(self, scene: &Scene) {
        if self.who == Who::Plain {
            return;
        }
        // A child that another test has started this moment still has our descriptors.
        until("it is unmounted", || match self.who {
            Who::Ours => {
                let at = self.at.to_str().unwrap();
                let done = scene.lab.lazyroot(&["umount", at]).output().unwrap();
                assert!(matches!(done.status.code(), Some(0 | 4)), "{done:?}");
                done.status.success()
            }
            _ => match unmount(&self.at, UnmountFlags::empty()) {
                Err(Errno::BUSY) => false,
                done => done.map(|()| true).unwrap(),
            },
        });
        if let Some(server) = self.server {
            until("the server ends", || !alive(server));
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // After a failure, so that the next try has its place.
        if self.who != Who::Plain {
            let _ = unmount(&self.at, UnmountFlags::DETACH);
        }
    }
}
