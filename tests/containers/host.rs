//! A machine with a store and containers.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lazyroot::mounts;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::Value;

use super::images::Pack;
use super::lab::{Lab, alive, servers_below, signal, succeeded, until};

pub(crate) const KINDS: [&str; 4] = ["fuse", "overlay", "bind", "copy"];
/// Backends with a rootfs that can be written to.
pub(crate) const WRITABLE: [&str; 3] = ["fuse", "overlay", "copy"];
/// Backends that need a server.
pub(crate) const SERVED: [&str; 3] = ["fuse", "overlay", "bind"];

pub(crate) struct Host {
    pub(crate) lab: Lab,
}

impl Host {
    /// Nothing when this machine cannot mount.
    pub(crate) fn new() -> Option<Self> {
        Lab::new().map(|lab| Self { lab })
    }

    /// The same, with a small image `app:1`.
    pub(crate) fn with_image() -> Option<Self> {
        let host = Self::new()?;
        host.lab.image("app:1", Pack::Gzip, |layer| {
            layer
                .dir("etc", 0o755)
                .file("etc/says", b"one")
                .program("sleep", 0o755, "/bin/sleep");
        });
        Some(host)
    }

    pub(crate) fn rootfs_dir(&self) -> PathBuf {
        self.lab.path("containers")
    }

    /// The program, with this store and this directory for containers.
    pub(crate) fn lazyroot(&self, args: &[&str]) -> Command {
        let mut command = self.lab.lazyroot(args);
        command.arg("--rootfs-dir").arg(self.rootfs_dir());
        command.arg("--log").arg(self.lab.path("servers.log"));
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        succeeded(args, &self.lazyroot(args).output().unwrap())
    }

    /// Runs what must fail with this exit code; what it says.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.lazyroot(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[args, &["--json"]].concat())).unwrap()
    }

    /// Provisions one rootfs; where it is.
    #[track_caller]
    pub(crate) fn provision(&self, kind: &str, image: &str, id: &str) -> PathBuf {
        let words = ["provision", "-q", image, "--id", id, "--backend", kind];
        PathBuf::from(self.run(&words).trim_end())
    }

    #[track_caller]
    pub(crate) fn destroy(&self, id: &str) {
        let said = self.run(&["destroy", id]);
        assert_eq!(said, format!("destroyed {id}\n"));
    }

    #[track_caller]
    pub(crate) fn containers(&self) -> Vec<Value> {
        let Value::Array(all) = self.json(&["containers"]) else {
            panic!("no list")
        };
        all
    }

    /// Each container with its state.
    #[track_caller]
    pub(crate) fn states(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = self.containers().into_iter();
        all.map(|line| (text(&line["id"]), text(&line["state"])))
            .collect()
    }

    #[track_caller]
    pub(crate) fn state(&self, id: &str) -> String {
        let states = self.states();
        let found = states.iter().find(|(other, _)| other == id);
        found.unwrap_or_else(|| panic!("{states:?}")).1.clone()
    }

    /// The record of a container.
    pub(crate) fn record(&self, id: &str) -> PathBuf {
        let name = format!("{}.json", id.replace('/', "+"));
        self.lab.store("containers-v1").join(name)
    }

    pub(crate) fn servers(&self) -> Vec<(u32, PathBuf)> {
        servers_below(&self.lab.path(""))
    }

    /// Shared mounts that there are.
    pub(crate) fn lowers(&self) -> Vec<PathBuf> {
        let below = self.lab.store("lowers");
        let mut all: Vec<_> = mounts::all().unwrap().into_iter().map(|m| m.at).collect();
        all.retain(|at| at.starts_with(&below));
        all.sort();
        all
    }

    /// Kills all servers, as nothing ever asks for.
    pub(crate) fn kill_servers(&self) {
        for (pid, _) in self.servers() {
            signal(pid, Signal::KILL);
            until("a killed server is gone", || !alive(pid));
        }
    }

    /// As after a reboot: no server lives, nothing is mounted.
    pub(crate) fn loses_its_mounts(&self) {
        self.kill_servers();
        let all = mounts::below(&mounts::all().unwrap(), &self.lab.path(""));
        for mount in all.iter().rev() {
            unmount(&mount.at, UnmountFlags::DETACH).unwrap();
        }
    }

    /// No mount, no process, no file, no record, no lock.
    #[track_caller]
    pub(crate) fn nothing_is_left(&self) {
        // Leases of killed servers are swept when pins are read.
        self.run(&["gc"]);
        assert_eq!(self.states(), []);
        let below = mounts::below(&mounts::all().unwrap(), &self.lab.path(""));
        assert_eq!(below, []);
        until("servers end", || self.servers().is_empty());
        let rootfs_dir = self.rootfs_dir();
        assert_eq!(names(&rootfs_dir), [".trash"]);
        for empty in [
            rootfs_dir.join(".trash"),
            self.lab.store("containers-v1"),
            self.lab.store("lowers"),
            self.lab.store("leases"),
        ] {
            assert_eq!(names(&empty), [""; 0], "{}", empty.display());
        }
    }
}

/// What is in a directory, sorted; nothing if it is not there.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whether there is something at a path, be it a dead mount.
pub(crate) fn is_there(path: &Path) -> bool {
    !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}

/// Starts a program whose standard error is read.
pub(crate) fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until a program has said a line with these words.
#[track_caller]
pub(crate) fn hears(child: &mut Child, words: &str) {
    let mut line = String::new();
    let mut from = BufReader::new(child.stderr.as_mut().unwrap());
    while from.read_line(&mut line).unwrap() > 0 {
        if line.contains(words) {
            return;
        }
    }
    panic!("it only said: {line}");
}
