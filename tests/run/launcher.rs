//! A place with images that have a busybox in them, and containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::images::{Layer, Pack, Packed, layout_of};
use super::lab::{Lab, has, succeeded};

const PROGRAMS: &str = "cat echo env false grep hostname id ip kill ls mkdir mount ps pwd readlink \
    sh sleep sort stat stty test touch trap true tty umount wc";

pub(crate) struct Launcher {
    pub(crate) lab: Lab,
}

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Launcher {
    /// With the image `app:1`; nothing when this machine cannot run it.
    pub(crate) fn new() -> Option<Self> {
        let lab = Lab::new()?;
        if !has("busybox") {
            return None;
        }
        let here = Self { lab };
        here.image(
            "app:1",
            &json!({"Cmd": ["sh"], "Env": ["PATH=/bin", "A=image"]}),
            |_| (),
        );
        Some(here)
    }

    /// An image with programs, users, and whatever else.
    pub(crate) fn image(&self, name: &str, run: &Value, more: impl FnOnce(&mut Layer)) {
        let packed = layer(more);
        let dir = tempfile::tempdir_in(self.lab.path("")).unwrap();
        layout_of(dir.path(), &[packed], run);
        let args = [
            "import",
            "--quiet",
            "--name",
            name,
            dir.path().to_str().unwrap(),
        ];
        succeeded(&args, &self.command(&args).output().unwrap());
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.lab.path("containers")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.lab.lazyroot(args);
        command
            .env("LAZYROOT_ROOTFS_DIR", self.containers())
            .env("LAZYROOT_LOG", self.lab.path("log"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.command(&[&["run"], args].concat())
            .output()
            .unwrap()
            .into()
    }

    /// Runs a script in `app:1`, which must end well; what it prints.
    #[track_caller]
    pub(crate) fn script(&self, options: &[&str], script: &str) -> String {
        let ran = self.run(&[options, &["app:1", "--", "sh", "-c", script]].concat());
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{options:?}: {ran:?}");
        ran.out
    }

    /// What there is, a line each: name, state.
    pub(crate) fn known(&self) -> Vec<(String, String)> {
        let args = ["containers", "--json"];
        let json = succeeded(&args, &self.command(&args).output().unwrap());
        let all: Vec<Value> = serde_json::from_str(&json).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut known: Vec<_> = all
            .iter()
            .map(|one| (text(&one["id"]), text(&one["state"])))
            .collect();
        known.sort();
        known
    }

    /// Nothing of any container is left: no record, no directory, no mount.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        assert_eq!(self.known(), []);
        let names = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let left: Vec<_> = fs::read_dir(self.containers())
            .unwrap()
            .map(names)
            .collect();
        assert_eq!(left, [".trash"]);
        let trash = self.containers().join(".trash");
        assert_eq!(fs::read_dir(trash).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = self.containers();
        assert!(!mounts.contains(place.to_str().unwrap()), "{mounts}");
    }
}

/// An image with programs, as a directory.
pub(crate) fn layout_with_programs(dir: &Path) {
    layout_of(dir, &[layer(|_| ())], &json!({"Env": ["PATH=/bin"]}));
}

fn layer(more: impl FnOnce(&mut Layer)) -> Packed {
    let mut layer = Layer::new();
    layer
        .dir("bin", 0o755)
        .program("bin/busybox", 0o755, "/bin/busybox");
    for name in PROGRAMS.split_whitespace() {
        layer.symlink(&format!("bin/{name}"), "busybox");
    }
    layer
        .dir("tmp", 0o1777)
        .file("tmp/kept", b"")
        .dir("etc", 0o755);
    layer.file(
        "etc/passwd",
        b"root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\n",
    );
    layer.file("etc/group", b"root:x:0:\nwww:x:33:\naudio:x:29:www\n");
    more(&mut layer);
    layer.pack(Pack::Gzip)
}
