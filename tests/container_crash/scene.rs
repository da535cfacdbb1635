//! Containers that are ready, and what must be true of them after every recovery.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lazyroot::mounts::{self, Mount};
use serde_json::Value;

use super::images::{Layer, Pack};
use super::lab::{Lab, can_mount, servers_below, succeeded, until};
use super::strace::is_there;

pub(crate) const BACKENDS: [&str; 4] = ["fuse", "overlay", "bind", "copy"];

/// Containers that are there all the time; those of `other:1` are for tests.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    /// Each with its rootfs.
    kept: BTreeMap<String, PathBuf>,
}

impl Scene {
    /// Nothing when this machine cannot.
    pub(crate) fn new() -> Option<Self> {
        if !can_mount() || !is_there() {
            return None;
        }
        let lab = Lab::new()?;
        for (name, says) in [("app:1", "app"), ("other:1", "other")] {
            let mut base = Layer::new();
            base.dir("etc", 0o755)
                .file("etc/base", b"base")
                .file("etc/gone", b"gone");
            let mut top = Layer::new();
            top.dir("etc", 0o755)
                .file("etc/.wh.gone", b"")
                .file("etc/says", says.as_bytes());
            lab.import(name, &[base.pack(Pack::Gzip), top.pack(Pack::Plain)]);
        }
        let mut scene = Self {
            lab,
            kept: BTreeMap::new(),
        };
        for backend in BACKENDS {
            scene.keep(&format!("kept-{backend}"), backend);
        }
        scene.keep("kept-fuse/inner", "overlay");
        Some(scene)
    }

    fn keep(&mut self, id: &str, backend: &str) {
        let path = self.provision(id, backend, "app:1");
        if backend != "bind" {
            let mut file = File::create(path.join("etc/written")).unwrap();
            file.write_all(id.as_bytes()).unwrap();
            file.sync_all().unwrap();
        }
        self.kept.insert(id.to_owned(), path);
    }

    pub(crate) fn command(&self, backend: &str, args: &[&str]) -> Command {
        let mut command = self.lab.lazyroot(&["--rootfs-dir"]);
        command
            .arg(self.rootfs_dir())
            .args(["--backend", backend])
            .args(args);
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        succeeded(args, &self.command("fuse", args).output().unwrap())
    }

    /// A new rootfs.
    #[track_caller]
    pub(crate) fn provision(&self, id: &str, backend: &str, image: &str) -> PathBuf {
        let args = ["provision", "--quiet", "--id", id, image];
        let said = succeeded(&args, &self.command(backend, &args).output().unwrap());
        let path = PathBuf::from(said.trim_end());
        assert_eq!(
            fs::read(path.join("etc/base")).unwrap(),
            b"base",
            "{args:?}"
        );
        path
    }

    fn rootfs_dir(&self) -> PathBuf {
        self.lab.path("containers")
    }

    pub(crate) fn kept(&self, id: &str) -> &Path {
        &self.kept[id]
    }

    pub(crate) fn mounts(&self) -> Vec<Mount> {
        mounts::below(&mounts::all().unwrap(), &self.lab.path(""))
    }

    /// What each container is said to be.
    pub(crate) fn states(&self) -> BTreeMap<String, Value> {
        let all: Vec<Value> = serde_json::from_str(&self.run(&["containers", "--json"])).unwrap();
        let with_id = |one: Value| (one["id"].as_str().unwrap().to_owned(), one);
        all.into_iter().map(with_id).collect()
    }

    /// `recover` works, and has nothing to do when it is called again.
    #[track_caller]
    pub(crate) fn recover(&self, why: &dyn std::fmt::Debug) {
        let output = self.command("fuse", &["recover"]).output().unwrap();
        assert!(output.status.success(), "{why:?}: {output:?}");
        let again = self.run(&["recover", "--json"]);
        assert_eq!(again.trim(), "[]", "{why:?}, after {output:?}");
    }

    /// *All that was ready is, and nothing is without a record.* `others` may be there, too.
    #[track_caller]
    pub(crate) fn is_whole(&self, others: &[&str], why: &dyn std::fmt::Debug) {
        let states = self.states();
        for (id, path) in &self.kept {
            let state = states.get(id).map(|one| one["state"].clone());
            assert_eq!(state, Some("ready".into()), "{why:?}: {id}");
            let read = |name: &str| fs::read_to_string(path.join(name)).ok();
            assert_eq!(read("etc/says").as_deref(), Some("app"), "{why:?}: {id}");
            assert_eq!(read("etc/gone"), None, "{why:?}: {id}");
            if id != "kept-bind" {
                assert_eq!(read("etc/written").as_ref(), Some(id), "{why:?}: {id}");
            }
        }
        let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
        for (id, one) in &states {
            assert!(
                self.kept.contains_key(id) || others.contains(&&**id),
                "{why:?}: {id}"
            );
            let state = one["state"].as_str().unwrap();
            assert!(["ready", "-"].contains(&state), "{why:?}: {id} is {state}");
            for rootfs in one["rootfses"].as_array().unwrap() {
                names.insert(rootfs["name"].as_str().unwrap().to_owned());
                places.insert(PathBuf::from(rootfs["path"].as_str().unwrap()));
            }
        }
        self.no_mount_is_orphaned(&places, why);
        self.no_file_is_orphaned(&states, &names, why);
        let serves = |at: &PathBuf| self.mounts().iter().any(|mount| mount.at == *at);
        until("servers without a mount end", || {
            let all = servers_below(&self.lab.path(""));
            all.iter().all(|(_, at)| serves(at))
        });
    }

    #[track_caller]
    fn no_mount_is_orphaned(&self, places: &BTreeSet<PathBuf>, why: &dyn std::fmt::Debug) {
        let mounts = self.mounts();
        let lowers = self.lab.store("lowers");
        let mut stacked = BTreeSet::new();
        for mount in &mounts {
            assert!(stacked.insert(&mount.at), "{why:?}: twice {mount:?}");
            let lower = mount.at.starts_with(&lowers);
            assert!(lower || places.contains(&mount.at), "{why:?}: {mount:?}");
        }
        for entry in fs::read_dir(&lowers).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let tree = entry.path().join("tree");
            let option = format!("lowerdir={}", tree.display());
            let own = mounts.iter().find(|mount| mount.at == tree);
            let used = mounts.iter().any(|mount| {
                mount.fs_options.contains(&option)
                    || own.is_some_and(|own| own.device == mount.device && own.at != mount.at)
            });
            let key = name.strip_suffix(".lock");
            let of_key = |key: &str| {
                let mut all = fs::read_dir(&lowers).unwrap().flatten();
                all.any(|entry| {
                    entry
                        .file_name()
                        .to_str()
                        .unwrap()
                        .starts_with(&format!("{key}-"))
                })
            };
            assert!(
                used || key.is_some_and(of_key),
                "{why:?}: nobody needs {name}"
            );
        }
    }

    #[track_caller]
    fn no_file_is_orphaned(
        &self,
        states: &BTreeMap<String, Value>,
        names: &BTreeSet<String>,
        why: &dyn std::fmt::Debug,
    ) {
        assert_eq!(list(&self.rootfs_dir().join(".trash")), [""; 0], "{why:?}");
        let mut open = vec![(self.rootfs_dir(), String::new())];
        while let Some((dir, above)) = open.pop() {
            for name in list(&dir).into_iter().filter(|name| name != ".trash") {
                let id = format!("{above}{name}");
                assert!(states.contains_key(&id), "{why:?}: the directory of {id}");
                let own = dir.join(name);
                for backend in list(&own.join("backends")) {
                    for kind in list(&own.join("backends").join(&backend)) {
                        let of = list(&own.join("backends").join(&backend).join(kind));
                        let known = of.iter().all(|name| names.contains(name));
                        assert!(known, "{why:?}: {of:?} of {id}");
                    }
                }
                open.push((own.join("containers"), format!("{id}/")));
            }
        }
        for name in list(&self.lab.store("containers-v1")) {
            let id = name.strip_suffix(".json").or(name.strip_suffix(".lock"));
            let id = id.map(|id| id.replace('+', "/"));
            assert!(
                id.is_some_and(|id| states.contains_key(&id)),
                "{why:?}: {name}"
            );
        }
        assert_eq!(list(&self.lab.store("staging")), [""; 0], "{why:?}");
    }

    /// What was interrupted works.
    #[track_caller]
    pub(crate) fn can_be_used(&self, id: &str, backend: &str, why: &dyn std::fmt::Debug) {
        let path = self.provision(id, backend, "other:1");
        assert_eq!(
            fs::read(path.join("etc/says")).unwrap(),
            b"other",
            "{why:?}"
        );
        self.destroy(id.split('/').next().unwrap());
    }

    #[track_caller]
    pub(crate) fn destroy(&self, id: &str) {
        self.run(&["destroy", "--quiet", id]);
        let (file, outer) = (id.replace('/', "+"), id);
        let record = self.lab.store("containers-v1").join(format!("{file}.json"));
        assert!(fs::symlink_metadata(record).is_err(), "{outer}");
    }
}

pub(crate) fn list(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
