//! Small image archives in memory, sound or damaged; and a store to put them into.
//!
//! What it is for: a test says which files an archive has, changes one of them,
//! and sees what the import says. Archives are lists of names and bytes until
//! the last moment, so every kind of damage is a change of such a list.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use flate2::write::GzEncoder;
use lazyroot::digest::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};

/// How something is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Packing {
    pub(crate) fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let mut to = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(bytes).unwrap();
                to.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(bytes, 1).unwrap(),
            Self::Bzip2 => {
                let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                to.write_all(bytes).unwrap();
                to.finish().unwrap()
            }
            Self::Xz => {
                let mut to = liblzma::write::XzEncoder::new(Vec::new(), 0);
                to.write_all(bytes).unwrap();
                to.finish().unwrap()
            }
        }
    }
}

/// A tar, written member by member; it believes whatever it is told.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.member(name, EntryType::Regular, "", bytes)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.member(name, EntryType::Directory, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.member(name, EntryType::Symlink, target, b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.member(name, EntryType::Link, target, b"")
    }

    fn member(self, name: &str, kind: EntryType, link: &str, bytes: &[u8]) -> Self {
        self.claiming(name, kind, link, bytes.len() as u64, bytes)
    }

    /// A member whose header claims `size` bytes, whatever follows.
    pub(crate) fn claiming(
        mut self,
        name: &str,
        kind: EntryType,
        link: &str,
        size: u64,
        bytes: &[u8],
    ) -> Self {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        // Not `set_path`: that refuses the names that these tests are about.
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(bytes);
        let len = self.0.len().next_multiple_of(512);
        self.0.resize(len, 0);
        self
    }

    /// Without the two empty blocks at its end.
    pub(crate) fn open_end(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// The files of an archive, in their order.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// What `files` make as a tar.
pub(crate) fn archive(files: &Files) -> Vec<u8> {
    files
        .iter()
        .fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes))
        .end()
}

/// What `files` make as a directory.
pub(crate) fn directory(files: &Files, at: &Path) {
    for (name, bytes) in files {
        let path = at.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// The bytes of the file whose name begins and ends so, to be changed.
pub(crate) fn edit<'a>(files: &'a mut Files, begins: &str, ends: &str) -> &'a mut Vec<u8> {
    let found = files
        .iter_mut()
        .find(|(name, _)| name.starts_with(begins) && name.ends_with(ends));
    &mut found.expect("there is such a file").1
}

/// Changes a JSON file.
pub(crate) fn edit_json(files: &mut Files, name: &str, change: impl FnOnce(&mut Value)) {
    let bytes = edit(files, name, name);
    let mut value = serde_json::from_slice(bytes).unwrap();
    change(&mut value);
    *bytes = serde_json::to_vec(&value).unwrap();
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Digest::sha256(bytes).to_string()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    Digest::sha256(bytes).hex()
}

/// A layer, packed.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) packed: Vec<u8>,
    pub(crate) diff: String,
    packing: Packing,
}

impl Layer {
    pub(crate) fn new(tar: &[u8], packing: Packing) -> Self {
        Self {
            packed: packing.pack(tar),
            diff: sha256(tar),
            packing,
        }
    }

    /// Bytes that are whatever they are, under a digest that is not looked at first.
    pub(crate) fn raw(packed: Vec<u8>) -> Self {
        Self {
            diff: sha256(&packed),
            packed,
            packing: Packing::Gzip,
        }
    }
}

/// An image that any kind of archive can be made of.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) layers: Vec<Layer>,
}

/// What a caller changes in a document before its digest is taken.
pub(crate) type Change<'a> = &'a dyn Fn(&mut Value);

/// Changes nothing.
pub(crate) const AS_IS: Change<'static> = &|_| {};

impl Image {
    pub(crate) fn new(name: &str, layers: Vec<Layer>) -> Self {
        let name = name.to_owned();
        Self { name, layers }
    }

    /// Two layers with a few files, told apart by `salt`.
    pub(crate) fn small(name: &str, salt: u8, packing: Packing) -> Self {
        let layers = [sound_layer(salt), sound_layer(salt + 100)];
        Self::new(name, layers.map(|tar| Layer::new(&tar, packing)).to_vec())
    }

    pub(crate) fn config(&self) -> Value {
        let diffs: Vec<&str> = self.layers.iter().map(|layer| &*layer.diff).collect();
        json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        })
    }

    /// `docker save`, 1.10 to 24: `manifest.json` comes last.
    pub(crate) fn docker(&self) -> Files {
        let config = serde_json::to_vec(&self.config()).unwrap();
        let config_file = format!("{}.json", hex(&config));
        let mut files = vec![(config_file.clone(), config)];
        let mut names = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let name = format!("{}/layer.tar", hex(&[number as u8]));
            files.push((name.clone(), layer.packed.clone()));
            names.push(name);
        }
        let manifest = json!([{ "Config": config_file, "RepoTags": [self.name], "Layers": names }]);
        files.push((
            "manifest.json".into(),
            serde_json::to_vec(&manifest).unwrap(),
        ));
        files
    }

    /// `docker save` before 1.10: layers that name their parents.
    pub(crate) fn legacy(&self) -> Files {
        let mut files = Files::new();
        let mut parent = None;
        for (number, layer) in self.layers.iter().enumerate() {
            let id = hex(&[number as u8, 7]);
            let mut said = json!({ "id": id, "os": "linux", "architecture": "amd64" });
            if let Some(parent) = parent {
                said["parent"] = Value::String(parent);
            }
            files.push((format!("{id}/VERSION"), b"1.0".to_vec()));
            files.push((format!("{id}/json"), serde_json::to_vec(&said).unwrap()));
            files.push((format!("{id}/layer.tar"), layer.packed.clone()));
            parent = Some(id);
        }
        let (repository, tag) = self.name.split_once(':').unwrap();
        let said = json!({ repository: { tag: parent.unwrap() } });
        files.push(("repositories".into(), serde_json::to_vec(&said).unwrap()));
        files
    }

    /// An OCI layout.
    pub(crate) fn oci(&self) -> Files {
        self.oci_with(AS_IS, AS_IS)
    }

    /// An OCI layout whose config and manifest say something else. All digests
    /// but those that are changed agree.
    pub(crate) fn oci_with(&self, config: Change<'_>, manifest: Change<'_>) -> Files {
        fn blob(files: &mut Files, bytes: &[u8], kind: &str) -> Value {
            let name = format!("blobs/sha256/{}", hex(bytes));
            if files.iter().all(|(there, _)| *there != name) {
                files.push((name, bytes.to_vec()));
            }
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": kind, "digest": sha256(bytes), "size": bytes.len() })
        }
        let mut files = vec![(
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        )];
        let mut said = self.config();
        config(&mut said);
        let bytes = serde_json::to_vec(&said).unwrap();
        let config = blob(&mut files, &bytes, "config.v1+json");
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let kind = match layer.packing {
                    Packing::Plain => "layer.v1.tar",
                    Packing::Gzip => "layer.v1.tar+gzip",
                    Packing::Zstd => "layer.v1.tar+zstd",
                    // The specification has no name for these.
                    Packing::Bzip2 | Packing::Xz => "layer.v1.tar",
                };
                blob(&mut files, &layer.packed, kind)
            })
            .collect();
        let mut said = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        manifest(&mut said);
        let bytes = serde_json::to_vec(&said).unwrap();
        let mut descriptor = blob(&mut files, &bytes, "manifest.v1+json");
        descriptor["annotations"] = json!({ "io.containerd.image.name": self.name });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        files.push(("index.json".into(), serde_json::to_vec(&index).unwrap()));
        files
    }

    /// `docker save` since 25: an OCI layout with a `manifest.json`.
    pub(crate) fn docker_25(&self) -> Files {
        let mut files = self.oci();
        let config = serde_json::to_vec(&self.config()).unwrap();
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
        let layers: Vec<String> = self.layers.iter().map(|l| blob(&l.packed)).collect();
        let manifest =
            json!([{ "Config": blob(&config), "RepoTags": [self.name], "Layers": layers }]);
        files.push((
            "manifest.json".into(),
            serde_json::to_vec(&manifest).unwrap(),
        ));
        files
    }
}

/// A layer's tar with a few files, told by `salt`.
pub(crate) fn sound_layer(salt: u8) -> Vec<u8> {
    let name = |text: &str| format!("{text}-{salt}");
    Tar::new()
        .dir("etc/")
        .file(&name("etc/hosts"), &noise(u64::from(salt) + 1, 700))
        .file(&name("etc/big"), &noise(u64::from(salt) + 2, 40_000))
        .file(&name("etc/empty"), b"")
        .link(&name("etc/again"), &name("etc/hosts"))
        .symlink(&name("etc/soft"), &name("hosts"))
        .end()
}

/// Names of the files of a layer made by [`sound_layer`].
pub(crate) fn sound_files(salt: u8) -> Vec<String> {
    ["hosts", "big", "empty", "again", "soft"]
        .map(|name| format!("/etc/{name}-{salt}"))
        .to_vec()
}

/// A row of numbers without a pattern, the same for the same seed.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound as u64) as usize
    }
}

/// Bytes that no packing makes shorter.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    (0..len).map(|_| dice.below(256) as u8).collect()
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; 128 and the signal that ended it.
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!err.contains("panicked"), "it must never panic: {err}");
        let signal = || 128 + output.status.signal().unwrap();
        Self {
            code: output.status.code().unwrap_or_else(signal),
            out: output.stdout,
            err,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.err);
        self
    }
}

/// A directory with a store in it.
#[derive(Debug)]
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    pub(crate) store: PathBuf,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        Self { dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file beside the store.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The program, on this store.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lazyroot"));
        command.env_clear().env("HOME", self.dir.path());
        command.arg("--store").arg(&self.store).args(args);
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        let ran = self.command(args).stdin(Stdio::null()).output();
        Ran::of(ran.unwrap())
    }

    /// `import`, of a file, with more arguments.
    pub(crate) fn import(&self, path: &Path, more: &[&str]) -> Ran {
        let mut args: Vec<&OsStr> = vec!["import".as_ref(), "--quiet".as_ref(), path.as_ref()];
        args.extend(more.iter().map(OsStr::new));
        self.run(&args)
    }

    /// `import -`, of these bytes through a pipe.
    pub(crate) fn pipe(&self, bytes: &[u8], more: &[&str]) -> Ran {
        let mut args = vec!["import", "--quiet", "-"];
        args.extend(more);
        let mut child = self
            .command(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut to = child.stdin.take().unwrap();
        let output = thread::scope(|scope| {
            // It may well end before it has read all: then the pipe breaks.
            scope.spawn(move || {
                let _ = to.write_all(bytes);
            });
            child.wait_with_output().unwrap()
        });
        Ran::of(output)
    }

    /// Every file of the store and what is in it, without the empty lock file and what is counted.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, String> {
        let locks = ["lock", "images-v1/names.watched"].map(|file| self.store.join(file));
        let mut files = BTreeMap::new();
        let mut todo = vec![self.store.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    // Only those are counted that come and go.
                    if dir.ends_with("staging") {
                        files.insert(entry.path(), "a directory".to_owned());
                    }
                    todo.push(entry.path());
                } else if !locks.contains(&entry.path()) && !dir.ends_with("metrics-v1") {
                    files.insert(entry.path(), sha256(&fs::read(entry.path()).unwrap()));
                }
            }
        }
        files
    }

    /// The program refuses, names all of `words`, and the store stays as it was.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, words: &[&str], act: impl FnOnce(&Self) -> Ran) -> Ran {
        let before = self.files();
        let images = self.run(&["images", "--quiet"]);
        let ran = act(self);
        assert_eq!(ran.code, code, "{}", ran.err);
        assert!(ran.err.starts_with("error: "), "{}", ran.err);
        for word in words {
            assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
        }
        assert_eq!(self.files(), before, "the store is as it was");
        let images = (images.code, images.text());
        let now = self.run(&["images", "--quiet"]);
        assert_eq!((now.code, now.text()), images);
        ran
    }
}
