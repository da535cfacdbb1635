//! Hard link groups of layers, and where a layer's directory is now.
//!
//! What it is for: an object that layers have under many names goes up with all
//! of them, so the names have to be found: some of their directories may have
//! been renamed or removed, now or in an earlier mount.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dirs::{Dir, Slot};
use super::nodes::Node;
use super::{Where, Writable};
use crate::node::{Ino, Kind};
use crate::union::FsError;
use crate::union::upper::Entry;

impl Writable {
    /// Where the layers' directory `dir` is in the tree as it is now; nothing: it
    /// was removed or is hidden.
    pub(super) fn locate(&self, dir: Ino) -> Result<Option<Where>, FsError> {
        // Upwards to what is in the upper directory, downwards again.
        let mut trail = Vec::new();
        let mut at = dir;
        let mut here = loop {
            match self.node(at) {
                Some(Node::Dir(dir)) => break (!dir.is_gone()).then_some(Where::Upper(dir)),
                Some(_) => break None,
                None => {
                    let (parent, name) = self.lower.home(at)?;
                    trail.push((at, name));
                    at = parent;
                }
            }
        };
        while let Some((ino, name)) = trail.pop() {
            here = match here {
                Some(Where::Lower(_)) => Some(Where::Lower(ino)),
                Some(Where::Upper(parent)) => self.located_in(&parent, ino, &name)?,
                None => None,
            };
            if here.is_none() {
                // Not at home; it may have been moved in an earlier mount.
                self.scan()?;
                here = match self.node(ino) {
                    Some(Node::Dir(dir)) if !dir.is_gone() => Some(Where::Upper(dir)),
                    _ => None,
                };
            }
        }
        Ok(here)
    }

    fn located_in(&self, parent: &Dir, ino: Ino, name: &[u8]) -> Result<Option<Where>, FsError> {
        Ok(match self.slot(parent, name)? {
            None => {
                let below = self.in_layers(parent, name)?;
                below
                    .filter(|found| found.ino == ino)
                    .map(|_| Where::Lower(ino))
            }
            Some(Slot::Object(key, Kind::Dir, _)) => {
                let found = self.enter(parent, name, key)?;
                found.filter(|dir| dir.ino == ino).map(Where::Upper)
            }
            Some(_) => None,
        })
    }

    /// Gives every directory of the upper directory its node, once.
    fn scan(&self) -> Result<(), FsError> {
        if self.scanned.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut waiting: Vec<Arc<Dir>> = match self.node(Ino::ROOT) {
            Some(Node::Dir(root)) => vec![root],
            _ => Vec::new(),
        };
        while let Some(dir) = waiting.pop() {
            let mut below = Vec::new();
            let listed = self.upper.list(dir.key, &mut |name, entry| {
                if let Entry::Object(key, Kind::Dir) = entry {
                    below.push((name.to_vec(), key));
                }
            });
            match listed {
                Ok(()) => {}
                // It went while we looked.
                Err(_) if dir.is_gone() => continue,
                Err(error) => return Err(FsError::Upper(error)),
            }
            for (name, key) in below {
                waiting.extend(self.enter(&dir, &name, key)?);
            }
        }
        self.scanned.store(true, Ordering::Release);
        Ok(())
    }

    /// The names under which an object of a layer, not copied up, shows now.
    pub(super) fn names_now(&self, ino: Ino) -> Result<Vec<(Where, Vec<u8>)>, FsError> {
        let mut names = Vec::new();
        for (dir, name) in self.lower.names_of(ino)? {
            let Some(place) = self.locate(dir)? else {
                continue;
            };
            let shows = match &place {
                Where::Lower(_) => true,
                Where::Upper(dir) => {
                    self.slot(dir, &name)?.is_none() && self.layers_have(dir, &name)?
                }
            };
            if shows {
                names.push((place, name));
            }
        }
        Ok(names)
    }

    /// Under how many names an object of a layer, not copied up, shows now; looked at once.
    pub(super) fn links_now(&self, ino: Ino) -> Result<u32, FsError> {
        let known = self.table.lock().links(ino);
        let lost = match known {
            Ok(links) => return Ok(links),
            Err(lost) => lost,
        };
        let links = self.count_names_now(ino)?;
        self.table.lock().keep_links(ino, links, lost);
        Ok(links)
    }

    pub(super) fn count_names_now(&self, ino: Ino) -> Result<u32, FsError> {
        let count = self.names_now(ino)?.len();
        // No layer has so many.
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Finishes what a crash may have left of a group's copy-up: some names are in
    /// the upper directory, others not. Looked at once for each group.
    pub(super) fn settle(&self, ino: Ino, locked: bool) -> Result<(), FsError> {
        if self.frozen
            || ino.0 > self.lower.last_ino().0
            || self.table.lock().settled.contains(&ino)
        {
            return Ok(());
        }
        let names = self.lower.names_of(ino)?;
        if names.len() > 1 {
            let _changes = (!locked).then(|| self.changes.lock());
            self.join_group(ino, &names)?;
        }
        self.table.lock().settled.insert(ino);
        Ok(())
    }

    /// As [`Self::settle`]. A full disk hides no file from who only looks: all names
    /// lead to one object meanwhile, which just counts too few of them.
    pub(super) fn settle_if_can(&self, ino: Ino, locked: bool) -> Result<(), FsError> {
        match self.settle(ino, locked) {
            Err(FsError::Upper(_)) if !locked && self.key(ino).is_some() => Ok(()),
            settled => settled,
        }
    }

    fn join_group(&self, ino: Ino, names: &[(Ino, Vec<u8>)]) -> Result<(), FsError> {
        if self.key(ino).is_none() && !self.find_upper_name(ino, names)? {
            return Ok(());
        }
        let Some(key) = self.key(ino) else {
            return Ok(());
        };
        for (place, name) in self.names_now(ino)? {
            let dir = self.raise_dir_at(&place)?;
            self.make_impure(&dir)?;
            self.upper
                .link(key, dir.key, &name, true)
                .map_err(FsError::Upper)?;
            let kind = self.lower_kind(ino)?.kind;
            dir.update(|names| names.put(&name, Slot::Object(key, kind, ino), true));
        }
        Ok(())
    }

    /// Looks whether one of the names is in the upper directory as this very object,
    /// which then has its node.
    fn find_upper_name(&self, ino: Ino, names: &[(Ino, Vec<u8>)]) -> Result<bool, FsError> {
        for (dir, name) in names {
            let Some(Where::Upper(dir)) = self.locate(*dir)? else {
                continue;
            };
            if let Some(Slot::Object(key, kind, number)) = self.slot(&dir, name)?
                && kind != Kind::Dir
                && number == ino
                && let Some(held) = self.hold_upper(&dir, name, key, kind)?
            {
                // Whoever asks has the number counted; it stays known.
                drop(held);
                return Ok(self.key(ino).is_some());
            }
        }
        Ok(false)
    }
}
