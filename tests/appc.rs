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
use lazyroot::node::{Ino, Kind, Time};
use lazyroot::store::{Caches, Store};
use lazyroot::union::Union;
use lazyroot::view;
use serde_json::{Value, json};
use tar::{EntryType, Header};

/// What a member of `rootfs` is; a directory's mode is told, all other attributes are
/// [`Attrs::of`] image and path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Dir(u32),
    File(&'static str),
    Symlink(&'static str),
    /// A hard link, by the path of its target.
    Link(&'static str),
    Char(u32, u32),
    Fifo,
}

/// All that there is to an object besides its kind and contents.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attrs {
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Time,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attrs {
    /// Attributes that tell which image's member it is: no two are the same.
    fn of(image: &str, path: &str, what: &What) -> Self {
        let digest = Digest::sha256(format!("{image} {path}").as_bytes());
        let number = |at: usize| {
            let bytes = digest.as_bytes()[4 * at..][..4].try_into().unwrap();
            u32::from_le_bytes(bytes)
        };
        let mut xattrs = BTreeMap::new();
        if matches!(what, What::Dir(_) | What::File(_)) {
            let told = format!("{image}/{path}").into_bytes();
            xattrs.insert(b"user.of".to_vec(), told);
        }
        Self {
            mode: match what {
                What::Dir(mode) => u16::try_from(*mode).unwrap(),
                What::Symlink(_) => 0o777,
                _ => (number(0) & 0o7777) as u16,
            },
            uid: number(1),
            gid: number(2),
            mtime: Time {
                seconds: i64::from(number(3)),
                nanos: number(4) % 1_000_000_000,
            },
            xattrs,
        }
    }

    /// Of a directory that no member names.
    fn implied() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: BTreeMap::new(),
        }
    }
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
        let begin = Tar::new().file("manifest", &manifest).dir("rootfs");
        let mut bytes = begin.open_end();
        for (path, what) in &self.members {
            add(&mut bytes, path, what, &Attrs::of(self.name(), path, what));
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn import(&self, bench: &Bench) -> String {
        let tar = self.tar();
        bench.pipe(&Packing::Gzip.pack(&tar), &[]).ok();
        id(&tar)
    }
}

/// One member and, before it, what only an extended header can say.
fn add(to: &mut Vec<u8>, path: &str, what: &What, attrs: &Attrs) {
    let records = attrs.xattrs.iter().map(|(name, value)| {
        let name = String::from_utf8_lossy(name);
        (format!("SCHILY.xattr.{name}"), value.clone())
    });
    let Time { seconds, nanos } = attrs.mtime;
    let mtime = format!("{seconds}.{nanos:09}").into_bytes();
    let mut said = Vec::new();
    let numbers = [("uid", attrs.uid), ("gid", attrs.gid)];
    let numbers = numbers.map(|(key, value)| (key.to_owned(), value.to_string().into_bytes()));
    let all = records.chain([("mtime".to_owned(), mtime)]).chain(numbers);
    for (key, value) in all {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let len = (1..).find(|n| n - n.to_string().len() == rest).unwrap();
        said.extend(format!("{len} {key}=").into_bytes());
        said.extend(value);
        said.push(b'\n');
    }
    let mut header = Header::new_ustar();
    header.set_mode(attrs.mode.into());
    let mut put = |kind: EntryType, path: &str, data: &[u8], device: (u32, u32), link: &str| {
        header.set_path(path).unwrap();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        header.set_cksum();
        to.extend_from_slice(header.as_bytes());
        to.extend_from_slice(data);
        to.resize(to.len().next_multiple_of(512), 0);
    };
    put(EntryType::XHeader, "x", &said, (0, 0), "");
    let path = format!("rootfs/{path}");
    let none = (0, 0);
    match what {
        What::Dir(_) => put(EntryType::Directory, &path, b"", none, ""),
        What::File(text) => put(EntryType::Regular, &path, text.as_bytes(), none, ""),
        What::Symlink(target) => put(EntryType::Symlink, &path, b"", none, target),
        What::Link(target) => put(
            EntryType::Link,
            &path,
            b"",
            none,
            &format!("rootfs/{target}"),
        ),
        What::Char(major, minor) => put(EntryType::Char, &path, b"", (*major, *minor), ""),
        What::Fifo => put(EntryType::Fifo, &path, b"", none, ""),
    }
}

/// `sha512-HEX` of an archive.
fn id(tar: &[u8]) -> String {
    let mut hasher = Hasher::sha512();
    hasher.update(tar);
    let id = lazyroot::digest::AciId::of_archive(DiffId(hasher.finish()));
    id.unwrap().to_string()
}

/// All there is in a tree, by path: what `tree-manifest` tells of it.
type Seen = BTreeMap<String, Node>;

/// One object of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    what: What2,
    attrs: Attrs,
    /// Objects with the same number are one. After [`grouped`]: the first of the names of an
    /// object that has several.
    object: Object,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Number(u64),
    Alone,
    With(String),
}

/// As [`What`], of anything that a test reads back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What2 {
    Dir,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Fifo,
}

/// The same with names instead of numbers, so that two trees can be compared.
fn grouped(mut seen: Seen) -> Seen {
    let mut names: BTreeMap<Object, Vec<String>> = BTreeMap::new();
    for (path, node) in &seen {
        names
            .entry(node.object.clone())
            .or_default()
            .push(path.clone());
    }
    for node in seen.values_mut() {
        let all = &names[&node.object];
        node.object = match &all[..] {
            [_] => Object::Alone,
            _ => Object::With(all[0].clone()),
        };
    }
    seen
}

/// Everything of an image of the store.
fn seen(bench: &Bench, image: &str) -> Seen {
    let store = Store::open(&bench.store, &bench.path("cache"), 1 << 20).unwrap();
    let id = store.find(image).unwrap();
    let view = view::open(&store, id, &Caches::default(), None).unwrap();
    let mut seen = Seen::new();
    walk(&view.union, Ino::ROOT, "", &mut seen);
    grouped(seen)
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
        let attr = found.attr;
        let what = match attr.kind {
            Kind::Dir => What2::Dir,
            Kind::Symlink => What2::Symlink(union.target(found.ino).unwrap()),
            Kind::Char => What2::Char(attr.rdev.major, attr.rdev.minor),
            Kind::Fifo => What2::Fifo,
            _ => {
                let mut bytes = vec![0; attr.size as usize];
                assert_eq!(union.read(found.ino, 0, &mut bytes).unwrap(), bytes.len());
                What2::File(bytes)
            }
        };
        let attrs = Attrs {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            mtime: attr.mtime,
            xattrs: union.xattrs(found.ino).unwrap().into_iter().collect(),
        };
        let object = Object::Number(found.ino.0);
        seen.insert(
            path.clone(),
            Node {
                what,
                attrs,
                object,
            },
        );
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
