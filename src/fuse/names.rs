//! Names as paths: directories, their numbers, and what they had.
//!
//! Must not know images, nor what the kernel was told.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use crate::tree_path::NAME_MAX;

/// Numbers in slot 0, and slots. Each costs about a hundred bytes for as long as
/// the mount lives, so a catalogue that makes up names cannot eat the memory.
pub(super) const NUMBERS_MAX: usize = 1 << 20;

/// Numbers of names, from 1 (the root, the empty name) on.
#[derive(Debug, Default)]
pub(super) struct Names {
    paths: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u64>,
    /// What each directory had that was looked at.
    looks: HashMap<u64, Seen>,
}

/// A directory that was looked at.
#[derive(Debug)]
pub(super) struct Seen {
    /// Of what it had.
    pub(super) hash: u64,
    /// Since when it has that.
    pub(super) since: SystemTime,
    /// Whether the kernel may have been told something else before.
    pub(super) moved: bool,
}

impl Names {
    pub(super) fn number(&mut self, path: &str) -> Option<u64> {
        if let Some(&number) = self.numbers.get(path) {
            return Some(number);
        }
        if self.paths.len() >= NUMBERS_MAX {
            return None;
        }
        let path: Arc<str> = path.into();
        self.paths.push(Arc::clone(&path));
        let number = self.paths.len() as u64;
        self.numbers.insert(path, number);
        Some(number)
    }

    pub(super) fn path(&self, number: u64) -> Option<Arc<str>> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        self.paths.get(at).cloned()
    }

    /// Notes what a directory has now.
    pub(super) fn seen(&mut self, dir: u64, hash: u64) -> &mut Seen {
        let new = || Seen {
            hash,
            since: SystemTime::now(),
            moved: false,
        };
        let seen = self.looks.entry(dir).or_insert_with(new);
        if seen.hash != hash {
            *seen = new();
            seen.moved = true;
        }
        seen
    }

    /// Directory and name of a path; nothing for the root, or if nobody asked there.
    pub(super) fn entry(&self, path: &str) -> Option<(u64, String)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.numbers.get(parent)?;
        (!name.is_empty()).then(|| (*parent, name.to_owned()))
    }

    /// Directories that were looked at.
    pub(super) fn looked_at(&self) -> Vec<u64> {
        self.looks.keys().copied().collect()
    }
}

/// What a name directory has.
#[derive(Debug)]
pub(super) struct Contents {
    /// Each name, and whether an image has it.
    pub(super) children: BTreeMap<String, bool>,
    /// Whether an image has the name of the directory itself: then it is not seen.
    pub(super) image: bool,
}

impl Contents {
    pub(super) fn of(dir: &str, names: &[String]) -> Self {
        let mut children = BTreeMap::new();
        for full in names {
            if let Some(rest) = below(dir, full)
                && showable(full)
            {
                let (name, more) = rest.split_once('/').unwrap_or((rest, ""));
                *children.entry(name.to_owned()).or_insert(false) |= more.is_empty();
            }
        }
        let image = names.iter().any(|full| full == dir);
        Self { children, image }
    }

    /// Whether there is no such directory, unless it is the root.
    pub(super) fn gone(&self) -> bool {
        self.image || self.children.is_empty()
    }

    /// Another one when something else is to be told.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.children, self.image).hash(&mut hasher);
        hasher.finish()
    }
}

/// Whether a name can be shown: every part is a possible file name.
pub(super) fn showable(name: &str) -> bool {
    name.split('/').all(|part| {
        !matches!(part, "" | "." | "..") && part.len() <= NAME_MAX && !part.contains('\0')
    })
}

/// The path of `name` in the directory `dir` (empty: the root).
pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// What lies below `dir` in `path`, if `path` does.
pub(super) fn below<'a>(dir: &str, path: &'a str) -> Option<&'a str> {
    if dir.is_empty() {
        Some(path)
    } else {
        path.strip_prefix(dir)?.strip_prefix('/')
    }
}
