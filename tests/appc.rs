//! AppC images from archive to tree: what is taken, what is refused, what is found,
//! and what their dependencies make of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/images.rs"]
#[expect(dead_code, reason = "the tests of imports need more of it")]
mod images;

#[path = "appc/damage.rs"]
mod damage;
#[path = "appc/export.rs"]
mod export;
#[path = "appc/layout.rs"]
mod layout;
#[path = "appc/rendering.rs"]
mod rendering;
#[path = "appc/store.rs"]
mod store;

use std::collections::BTreeMap;

use images::*;
use lazyroot::digest::{DiffId, Digest, Hasher};
use lazyroot::node::{Ino, Kind};
use lazyroot::store::{Caches, Store};
use lazyroot::union::Union;
use lazyroot::view;
use serde_json::{Value, json};

/// What a member of `rootfs` is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Dir(u32),
    File(&'static str),
    Symlink(&'static str),
}

/// An image, before it is an archive.
#[derive(Debug, Clone)]
struct Aci {
    manifest: Value,
    members: Vec<(&'static str, What)>,
}

impl Aci {
    fn new(name: &str, members: &[(&'static str, What)]) -> Self {
        let manifest = json!({
            "acKind": "ImageManifest",
            "acVersion": "0.8.11",
            "name": name,
            "labels": [{"name": "version", "value": "1.0.0"}],
        });
        let members = members.to_vec();
        Self { manifest, members }
    }

    /// The same with a field of the manifest.
    fn with(mut self, field: &str, value: Value) -> Self {
        self.manifest[field] = value;
        self
    }

    fn on(self, names: &[&str]) -> Self {
        let names: Vec<_> = names
            .iter()
            .map(|name| json!({"imageName": name}))
            .collect();
        self.with("dependencies", names.into())
    }

    fn listing(self, paths: &[&str]) -> Self {
        self.with("pathWhitelist", paths.into())
    }

    fn name(&self) -> &str {
        self.manifest["name"].as_str().unwrap()
    }

    fn tar(&self) -> Vec<u8> {
        let manifest = serde_json::to_vec(&self.manifest).unwrap();
        let mut tar = Tar::new().file("manifest", &manifest).dir("rootfs");
        let mut modes = Vec::new();
        for (path, what) in &self.members {
            let path = format!("rootfs/{path}");
            tar = match what {
                What::Dir(mode) => {
                    modes.push((tar.clone().open_end().len(), *mode));
                    tar.dir(&path)
                }
                What::File(text) => tar.file(&path, text.as_bytes()),
                What::Symlink(target) => tar.symlink(&path, target),
            };
        }
        let mut tar = tar.end();
        for (at, mode) in modes {
            let block = &mut tar[at..at + 512];
            let mut header = tar::Header::from_byte_slice(block).clone();
            header.set_mode(mode);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        tar
    }

    fn import(&self, bench: &Bench) -> String {
        let tar = self.tar();
        bench.pipe(&Packing::Gzip.pack(&tar), &[]).ok();
        id(&tar)
    }
}

/// `sha512-HEX` of an archive.
fn id(tar: &[u8]) -> String {
    let mut hasher = Hasher::sha512();
    hasher.update(tar);
    let id = lazyroot::digest::AciId::of_archive(DiffId(hasher.finish()));
    id.unwrap().to_string()
}

/// Path, mode and content of all there is in a tree.
type Seen = BTreeMap<String, (u16, What2)>;

/// As [`What`], of anything that a test reads back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What2 {
    Dir,
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

/// Everything of an image of the store.
fn seen(bench: &Bench, image: &str) -> Seen {
    let store = Store::open(&bench.store, &bench.path("cache"), 1 << 20).unwrap();
    let id = store.find(image).unwrap();
    let view = view::open(&store, id, &Caches::default(), None).unwrap();
    let mut seen = Seen::new();
    walk(&view.union, Ino::ROOT, "", &mut seen);
    seen
}

fn walk(union: &Union, dir: Ino, at: &str, seen: &mut Seen) {
    let mut names = Vec::new();
    union
        .list(dir, 0, &mut |listed| {
            names.push(listed.name.to_vec());
            true
        })
        .unwrap();
    for name in names
        .iter()
        .filter(|name| !matches!(name.as_slice(), b"." | b".."))
    {
        let found = union.lookup(dir, name).unwrap();
        let path = format!("{at}{}", String::from_utf8_lossy(name));
        let what = match found.attr.kind {
            Kind::Dir => What2::Dir,
            Kind::Symlink => What2::Symlink(union.target(found.ino).unwrap()),
            _ => {
                let mut bytes = vec![0; found.attr.size as usize];
                assert_eq!(union.read(found.ino, 0, &mut bytes).unwrap(), bytes.len());
                What2::File(bytes)
            }
        };
        seen.insert(path.clone(), (found.attr.mode, what));
        if found.attr.kind == Kind::Dir {
            walk(union, found.ino, &format!("{path}/"), seen);
        }
    }
}

#[track_caller]
fn json_of(bench: &Bench, args: &[&str]) -> Value {
    serde_json::from_slice(&bench.run(args).ok().out).unwrap()
}

/// The digest of bytes as the store names blobs.
fn blob(bytes: &[u8]) -> String {
    Digest::sha256(bytes).to_string()
}
