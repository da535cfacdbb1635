//! Layers, described once and made three times.
//!
//! What it is for: one description of a stack of layers becomes tars for an image,
//! directories as kernel overlayfs wants its lower ones, and one plain directory
//! that has all of it unpacked. May assume: root, and a file system with
//! `trusted.*` attributes. Must not know what is done to the trees.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, lsetxattr,
    makedev, mknodat, utimensat,
};
use tar::{EntryType, Header};

use super::images::{Layer, Pack, Packed, contents};

/// Numbers without a pattern, the same for the same seed (xorshift).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn one_of(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len())]
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Few, so that what is made meets what is there.
pub(crate) const NAMES: [&str; 5] = ["a", "b", "c", "dd", "e f"];
pub(crate) const MODES: [u32; 6] = [0o644, 0o755, 0o600, 0o4755, 0o2775, 0o1777];
pub(crate) const OWNERS: [u32; 3] = [0, 1000, 70_000];

/// What one name of a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Dir {
        opaque: bool,
    },
    /// Told by seed and length.
    File(u64, usize),
    Symlink(String),
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
    /// Another name of a file of the same layer, or of a lower one.
    Link(String),
    Whiteout,
}

/// A name of a layer.
#[derive(Clone)]
pub(crate) struct Entry {
    /// Below the root; the root itself is empty.
    pub(crate) path: String,
    pub(crate) what: What,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path, what, mode, ..
        } = self;
        write!(f, "`{path}` {what:?} {mode:o} {}:{}", self.uid, self.gid)?;
        match self.xattrs.len() {
            0 => Ok(()),
            n => write!(f, " {n} xattrs"),
        }
    }
}

impl Entry {
    pub(crate) fn new(path: &str, what: What) -> Self {
        let mode = match what {
            What::Dir { .. } => 0o755,
            What::Symlink(_) => 0o777,
            _ => 0o644,
        };
        Self {
            path: path.to_owned(),
            what,
            mode,
            uid: 0,
            gid: 0,
            mtime: (1_000_000_000, 0),
            xattrs: Vec::new(),
        }
    }
}

/// Layers, the lowest first. In each one, what a name is in comes before it.
pub(crate) type Stack = Vec<Vec<Entry>>;

/// Which hard links a random stack has. Kernel overlayfs breaks them at copy-up,
/// and cannot have them over layers at all: [`unpack`] leaves those out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    None,
    InOneLayer,
    OverLayers,
}

/// The whole of a path above its last name.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub(crate) fn below(dir: &str, name: &str) -> String {
    match dir {
        "" => name.to_owned(),
        _ => format!("{dir}/{name}"),
    }
}

/// Whether `path` is `dir` or in it.
pub(crate) fn within(path: &str, dir: &str) -> bool {
    dir.is_empty()
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Makes random stacks.
struct Maker<'a> {
    dice: &'a mut Dice,
    links: Links,
    /// What all layers until now show: `true` for directories.
    shown: BTreeMap<String, What>,
    layer: Vec<Entry>,
}

/// A stack of up to four layers, all of it below `top` (the root: empty).
pub(crate) fn random(dice: &mut Dice, links: Links, top: &str) -> Stack {
    let layers = 1 + dice.below(3);
    let mut maker = Maker {
        dice,
        links,
        shown: BTreeMap::from([(top.to_owned(), What::Dir { opaque: false })]),
        layer: Vec::new(),
    };
    (0..=layers)
        .map(|_| {
            maker.layer = vec![Entry::new("", What::Dir { opaque: false })];
            for _ in 0..6 + maker.dice.below(12) {
                maker.add();
            }
            std::mem::take(&mut maker.layer)
        })
        .collect()
}

impl Maker<'_> {
    fn entry(&mut self, path: &str, what: What) -> Entry {
        let dice = &mut *self.dice;
        let mut entry = Entry::new(path, what);
        if matches!(entry.what, What::Whiteout | What::Link(_)) {
            return entry;
        }
        if !matches!(entry.what, What::Symlink(_)) {
            entry.mode = *dice.pick(&MODES);
        }
        entry.uid = *dice.pick(&OWNERS);
        entry.gid = *dice.pick(&OWNERS);
        entry.mtime.0 += dice.below(1_000_000) as i64;
        if dice.one_in(2) {
            entry.mtime.1 = dice.below(1_000_000_000) as i64;
        }
        if matches!(entry.what, What::Dir { .. } | What::File(..)) && dice.one_in(3) {
            // An empty value would take the keyword away (pax(1)).
            let value = vec![b'v'; 1 + dice.below(40)];
            entry.xattrs.push(("user.of-layer".into(), value));
        }
        if dice.one_in(8) {
            entry.xattrs.push(("trusted.of-layer".into(), b"t".into()));
        }
        entry
    }

    fn has(&self, path: &str) -> bool {
        self.layer.iter().any(|entry| entry.path == path)
    }

    /// Adds a directory, and those that it is in, to the layer.
    fn directory(&mut self, path: &str) {
        if !self.has(path) {
            if !path.is_empty() {
                self.directory(parent(path));
            }
            // The members of a layer are in it whatever lower ones have.
            let opaque = !path.is_empty() && self.dice.one_in(10);
            if opaque {
                self.shown.retain(|p, _| p == path || !within(p, path));
            }
            let entry = self.entry(path, What::Dir { opaque });
            self.shown.insert(path.to_owned(), entry.what.clone());
            self.layer.push(entry);
        }
    }

    fn add(&mut self) {
        let is_dir = |(path, what): (&String, &What)| {
            let open = matches!(what, What::Dir { .. }) && path.matches('/').count() < 3;
            open.then(|| path.clone())
        };
        let dirs: Vec<String> = self.shown.iter().filter_map(is_dir).collect();
        let dir = self.dice.pick(&dirs).clone();
        let path = below(&dir, self.dice.one_of(&NAMES));
        if self.layer.iter().any(|entry| within(&entry.path, &path)) {
            return;
        }
        let what = self.what();
        let made_here = |entry: &&Entry| matches!(entry.what, What::File(..));
        let what = match what {
            What::Link(_) => {
                let files: Vec<String> = match self.links {
                    Links::None => return,
                    Links::InOneLayer => self
                        .layer
                        .iter()
                        .filter(made_here)
                        .map(|e| e.path.clone())
                        .collect(),
                    Links::OverLayers => self
                        .shown
                        .iter()
                        .filter(|(_, what)| matches!(what, What::File(..)))
                        .map(|(path, _)| path.clone())
                        .collect(),
                };
                if files.is_empty() {
                    return;
                }
                What::Link(self.dice.pick(&files).clone())
            }
            what => what,
        };
        self.directory(&dir);
        // It may have gone when a directory above became opaque.
        if let What::Link(target) = &what
            && (!self.shown.contains_key(target) || within(target, &path))
        {
            return;
        }
        // Overlayfs shows a lower whiteout that hides nothing as a name without an
        // object, where it lists a directory of one layer as that is.
        if what == What::Whiteout && !self.shown.contains_key(&path) {
            return;
        }
        if matches!(what, What::Dir { .. }) {
            return self.directory_over(&path);
        }
        self.shown.retain(|p, _| !within(p, &path));
        let entry = self.entry(&path, what);
        if entry.what != What::Whiteout {
            self.shown.insert(path, entry.what.clone());
        }
        self.layer.push(entry);
    }

    fn directory_over(&mut self, path: &str) {
        if !matches!(self.shown.get(path), Some(What::Dir { .. })) {
            self.shown.remove(path);
        }
        self.directory(path);
    }

    fn what(&mut self) -> What {
        let dice = &mut *self.dice;
        let minor = 1 + dice.below(9) as u32;
        match dice.below(16) {
            0..5 => What::Dir { opaque: false },
            5..9 => {
                let len = *dice.pick(&[0, 5, 700, 5000, 100_000]);
                What::File(dice.below(1000) as u64, len)
            }
            9 => What::Symlink((*dice.pick(&["a", "b", "b/c", "nowhere", "."])).to_owned()),
            10 => What::Fifo,
            // Numbers for local use (kernel Documentation/admin-guide/devices.txt).
            11 => What::Char(60, minor),
            12 => What::Block(61, minor),
            13 => What::Link(String::new()),
            _ => What::Whiteout,
        }
    }
}

/// The layer as a tar, packed.
pub(crate) fn packed(entries: &[Entry], pack: Pack) -> Packed {
    let mut layer = Layer::new();
    for entry in entries {
        let Entry { path, what, .. } = entry;
        if *what == What::Whiteout {
            let name = path.rsplit('/').next().unwrap();
            let hides = below(parent(path), &format!(".wh.{name}"));
            layer.member(&hides, &mut Header::new_gnu(), &[]);
            continue;
        }
        let mut records: Vec<(String, Vec<u8>)> = entry
            .xattrs
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone()))
            .collect();
        let (seconds, nanos) = entry.mtime;
        if nanos != 0 {
            records.push(("mtime".into(), format!("{seconds}.{nanos:09}").into_bytes()));
        }
        layer.pax_records(&records);
        let mut header = header(entry);
        let bytes = match *what {
            What::File(seed, len) => contents(seed, len),
            _ => Vec::new(),
        };
        match what {
            What::Symlink(target) | What::Link(target) => layer.named(path, &mut header, target),
            _ => layer.member(&spelled(path), &mut header, &bytes),
        };
        if *what == (What::Dir { opaque: true }) {
            layer.member(&below(path, ".wh..wh..opq"), &mut Header::new_gnu(), &[]);
        }
    }
    layer.pack(pack)
}

fn spelled(path: &str) -> String {
    match path {
        "" => "./".to_owned(),
        _ => path.to_owned(),
    }
}

fn header(entry: &Entry) -> Header {
    let mut header = Header::new_gnu();
    let (kind, device) = match entry.what {
        What::Dir { .. } => (EntryType::Directory, None),
        What::File(..) | What::Whiteout => (EntryType::Regular, None),
        What::Symlink(_) => (EntryType::Symlink, None),
        What::Link(_) => (EntryType::Link, None),
        What::Fifo => (EntryType::Fifo, None),
        What::Char(major, minor) => (EntryType::Char, Some((major, minor))),
        What::Block(major, minor) => (EntryType::Block, Some((major, minor))),
    };
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(entry.mtime.0.cast_unsigned());
    if let Some((major, minor)) = device {
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
    }
    header
}

/// The layer in an empty directory, as overlayfs wants a lower one.
pub(crate) fn unpack(entries: &[Entry], dir: &Path) {
    for entry in entries {
        let at = dir.join(&entry.path);
        match entry.what {
            What::Whiteout => node(&at, FileType::CharacterDevice, (0, 0)),
            What::Link(ref target) if !dir.join(target).is_file() => {}
            _ => make(entry, dir, true),
        }
        if entry.what == (What::Dir { opaque: true }) {
            lsetxattr(&at, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }
    }
    attributes(entries, dir);
}

/// All layers one over the other in one directory, as who unpacks an image does it.
pub(crate) fn apply(stack: &[Vec<Entry>], dir: &Path) {
    for layer in stack {
        for entry in layer {
            let at = dir.join(&entry.path);
            let there = at.symlink_metadata().ok();
            let is_dir = there.as_ref().is_some_and(fs::Metadata::is_dir);
            let merges = is_dir && matches!(entry.what, What::Dir { .. });
            if is_dir && !merges {
                fs::remove_dir_all(&at).unwrap();
            } else if there.is_some() && !merges {
                fs::remove_file(&at).unwrap();
            }
            if entry.what == (What::Dir { opaque: true }) && merges {
                fs::remove_dir_all(&at).unwrap();
                make(entry, dir, true);
            } else if entry.what != What::Whiteout {
                make(entry, dir, !merges);
            }
        }
        // What a lower layer has set and this one does not mention is gone.
        for entry in layer {
            if matches!(entry.what, What::Dir { .. }) {
                for name in ["user.of-layer", "trusted.of-layer"] {
                    let _ = rustix::fs::lremovexattr(dir.join(&entry.path), name);
                }
            }
        }
        attributes(layer, dir);
    }
    // Each name that came or went has changed the time of a directory: say it again.
    let mut last: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in stack.iter().flatten() {
        let keeps = matches!(entry.what, What::Dir { opaque: false });
        last.retain(|path, _| keeps || !within(path, &entry.path));
        last.insert(&entry.path, entry);
    }
    for entry in last.values() {
        if matches!(entry.what, What::Dir { .. }) {
            time(entry, dir);
        }
    }
}

fn node(at: &Path, kind: FileType, (major, minor): (u32, u32)) {
    mknodat(
        CWD,
        at,
        kind,
        Mode::from_raw_mode(0o600),
        makedev(major, minor),
    )
    .unwrap();
}

fn make(entry: &Entry, dir: &Path, fresh: bool) {
    let at = dir.join(&entry.path);
    match &entry.what {
        What::Dir { .. } if entry.path.is_empty() || !fresh => {}
        What::Dir { .. } => fs::create_dir(&at).unwrap(),
        What::File(seed, len) => fs::write(&at, contents(*seed, *len)).unwrap(),
        What::Symlink(target) => std::os::unix::fs::symlink(target, &at).unwrap(),
        What::Link(target) => fs::hard_link(dir.join(target), &at).unwrap(),
        What::Fifo => node(&at, FileType::Fifo, (0, 0)),
        What::Char(major, minor) => node(&at, FileType::CharacterDevice, (*major, *minor)),
        What::Block(major, minor) => node(&at, FileType::BlockDevice, (*major, *minor)),
        What::Whiteout => unreachable!("made elsewhere"),
    }
}

fn attributes(entries: &[Entry], dir: &Path) {
    for entry in entries {
        let at = dir.join(&entry.path);
        if matches!(entry.what, What::Whiteout | What::Link(_)) {
            continue;
        }
        let owner = (
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        );
        chownat(CWD, &at, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if !matches!(entry.what, What::Symlink(_)) {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmod(&at, mode).unwrap();
        }
        for (name, value) in &entry.xattrs {
            lsetxattr(&at, name, value, XattrFlags::empty()).unwrap();
        }
    }
    for entry in entries.iter().rev() {
        if !matches!(entry.what, What::Whiteout | What::Link(_)) {
            time(entry, dir);
        }
    }
}

fn time(entry: &Entry, dir: &Path) {
    let (tv_sec, tv_nsec) = entry.mtime;
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let at = dir.join(&entry.path);
    utimensat(CWD, &at, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
