//! The upper directory against a real file system. Needs root, for `trusted.*`
//! and devices; each test says `SKIPPED` without.

#![expect(clippy::print_stdout, reason = "a test says when it is skipped")]

mod changes;
mod crash;
mod kernel;
mod looks;
mod objects;
mod takes;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Directory, UpperError};
use crate::node::{Device, Kind};
use crate::union::upper::{Entry, Key, Marks, New, Upper, What};

const PLAIN: Marks = Marks {
    opaque: false,
    redirect: None,
    metacopy: false,
    impure: false,
    origin: None,
};

/// An upper directory of its own for each test.
struct Lab {
    dir: TempDir,
    upper: Option<Directory>,
}

/// A directory in use; nothing without root.
fn lab() -> Option<Lab> {
    // Root of a user namespace has fewer ids, and no `trusted.*`.
    let ids = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let all_ids = ids.split_whitespace().eq(["0", "0", "4294967295"]);
    if !rustix::process::geteuid().is_root() || !all_ids {
        println!("SKIPPED: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
    match Directory::open(&upper, &work, "sha256:1") {
        // The temporary directory is on an overlay, say.
        Err(UpperError::Unfit { lacks, .. }) => {
            println!("SKIPPED: needs another file system: {lacks}");
            None
        }
        upper => Some(Lab {
            dir,
            upper: Some(upper.unwrap()),
        }),
    }
}

impl Lab {
    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn reopen(&mut self) -> &Directory {
        self.upper = None;
        let (upper, work) = (self.path("upper"), self.path("work"));
        self.upper
            .insert(Directory::open(&upper, &work, "sha256:1").unwrap())
    }

    fn up(&self) -> &Directory {
        self.upper.as_ref().unwrap()
    }

    fn root(&self) -> Key {
        self.up().root()
    }

    fn make(&self, dir: Key, name: &str, what: What<'_>) -> Key {
        self.up()
            .make(dir, name.as_bytes(), &new(what, 0o644))
            .unwrap()
            .0
    }

    fn find(&self, dir: Key, name: &str) -> Option<Entry> {
        self.up().find(dir, name.as_bytes()).unwrap()
    }

    fn key(&self, dir: Key, name: &str) -> Key {
        match self.find(dir, name) {
            Some(Entry::Object(key, _)) => key,
            other => panic!("{name} is {other:?}"),
        }
    }

    fn list(&self, dir: Key) -> Vec<(String, Entry)> {
        let mut all = Vec::new();
        let mut visit = |name: &[u8], entry| {
            all.push((String::from_utf8(name.to_vec()).unwrap(), entry));
        };
        self.up().list(dir, &mut visit).unwrap();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }

    /// Every name of a directory with what `find` says, after a check that
    /// `list` says the same.
    fn shown(&self, dir: Key) -> Vec<(String, Option<Kind>)> {
        let listed = self.list(dir);
        for (name, entry) in &listed {
            assert_eq!(self.find(dir, name), Some(*entry), "{name}");
        }
        let kind = |entry| match entry {
            Entry::Whiteout => None,
            Entry::Object(_, kind) => Some(kind),
        };
        listed.into_iter().map(|(n, e)| (n, kind(e))).collect()
    }

    /// What is left in the work directory besides the shared whiteout.
    fn left_over(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("work/work")).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "#whiteout").collect()
    }

    fn links(&self, below: &str) -> u64 {
        std::fs::symlink_metadata(self.path(below)).unwrap().nlink()
    }
}

/// A file, a directory with a whiteout in it, an empty one, and a whiteout.
fn furnished() -> Option<Lab> {
    let lab = lab()?;
    let root = lab.root();
    lab.make(root, "file", What::File(5));
    let dir = lab.make(root, "dir", What::Dir);
    lab.up().cover(dir, b"hidden").unwrap();
    lab.make(root, "empty", What::Dir);
    lab.up().cover(root, b"out").unwrap();
    Some(lab)
}

/// An object of root's without anything special.
fn new(what: What<'_>, mode: u16) -> New<'_> {
    New {
        what,
        mode,
        uid: 0,
        gid: 0,
        times: None,
        xattrs: &[],
        marks: &PLAIN,
        parent_hands_down: false,
    }
}

const NULL: Device = Device { major: 1, minor: 3 };

fn shown(all: &[(&str, Option<Kind>)]) -> Vec<(String, Option<Kind>)> {
    all.iter().map(|(n, k)| ((*n).to_owned(), *k)).collect()
}

fn errno(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap()
}
