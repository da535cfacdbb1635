//! Renames.
//!
//! What it is for: a name moves in one step of the upper directory, whatever it
//! stands for. A directory of layers goes up without anything below it and is marked
//! with the path of its lower part (`redirect`); one that has no lower part is
//! marked opaque where it would get one. Both marks are set before the move, and
//! say nothing new at the old place.

use std::sync::Arc;

use super::acl::HandsDown;
use super::dirs::{Dir, Slot};
use super::look::Held;
use super::nodes::Node;
use super::{Rename, Where, Writable, check_name};
use crate::node::{Device, Ino, Kind};
use crate::union::FsError;
use crate::union::upper::{Key, Mark, Marks, New, What};

/// One end of a rename.
struct End<'a> {
    dir: Arc<Dir>,
    name: &'a [u8],
    there: Option<Kind>,
    in_layers: bool,
}

impl Writable {
    fn end<'a>(&self, dir: Ino, name: &'a [u8]) -> Result<End<'a>, FsError> {
        let dir = self.changed_dir(dir)?;
        Ok(End {
            there: self.present(&dir, name)?,
            in_layers: self.layers_have(&dir, name)?,
            dir,
            name,
        })
    }

    /// Renames.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `NotDir`, `IsDir`, `NotEmpty`, `BelowItself`,
    /// `NameTooLong`, `Stale`, `Damaged`, `Upper`.
    pub fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename) -> Result<(), FsError> {
        check_name(from.1)?;
        check_name(to.1)?;
        let _changes = self.changes.lock();
        let moved = self.hold_with(from.0, from.1, true)?;
        // Where a removed directory was says nothing any more.
        if matches!(self.dir(to.0)?, Where::Upper(dir) if dir.is_gone()) {
            return Err(FsError::NotFound);
        }
        let replaced = match self.hold_with(to.0, to.1, true) {
            Ok(held) => Some(held),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        self.check_rename(&moved, replaced.as_ref(), (from.0, to.0), how)?;
        if replaced.as_ref().is_some_and(|held| held.ino == moved.ino) {
            // rename(2): two names of one object stay as they are.
            return Ok(());
        }
        let (from, to) = (self.end(from.0, from.1)?, self.end(to.0, to.1)?);
        match (how, replaced) {
            (Rename::Exchange, Some(other)) => self.exchange(&from, &to, &moved, &other),
            (_, replaced) => {
                // Looked up before: once the name has moved, only making it can fail.
                let left = match how {
                    Rename::Whiteout { owner, .. } => Some((owner, self.hands_down(&from.dir)?)),
                    _ => None,
                };
                self.move_over(&from, &to, &moved, replaced.as_ref())?;
                left.map_or(Ok(()), |(owner, hands)| {
                    self.leave_device(&from, owner, &hands)
                })
            }
        }
    }

    fn check_rename(
        &self,
        moved: &Held<'_>,
        replaced: Option<&Held<'_>>,
        dirs: (Ino, Ino),
        how: Rename,
    ) -> Result<(), FsError> {
        let moves_dir = self.is_dir(moved.ino)?;
        match how {
            Rename::NoReplace | Rename::Whiteout { replace: false, .. } if replaced.is_some() => {
                return Err(FsError::Exists);
            }
            Rename::Exchange if replaced.is_none() => return Err(FsError::NotFound),
            _ => {}
        }
        if moves_dir && self.is_below(dirs.1, moved.ino)? {
            return Err(FsError::BelowItself);
        }
        let Some(other) = replaced else {
            return Ok(());
        };
        let replaces_dir = self.is_dir(other.ino)?;
        if replaces_dir && self.is_below(dirs.0, other.ino)? {
            return Err(match how {
                Rename::Exchange => FsError::BelowItself,
                _ => FsError::NotEmpty,
            });
        }
        if how == Rename::Exchange {
            return Ok(());
        }
        match (moves_dir, replaces_dir) {
            _ if moved.ino == other.ino => Ok(()),
            (true, false) => Err(FsError::NotDir),
            (false, true) => Err(FsError::IsDir),
            (true, true) if !self.is_empty_dir(other.ino)? => Err(FsError::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Whether `dir` is `above` or lies below it.
    fn is_below(&self, dir: Ino, above: Ino) -> Result<bool, FsError> {
        let mut at = dir;
        loop {
            if at == above {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            at = self.parent(at)?;
        }
    }

    /// Makes an object fit to be at `to`.
    fn prepare(&self, ino: Ino, to: &End<'_>) -> Result<Key, FsError> {
        let key = self.raise(ino)?;
        match self.node(ino) {
            Some(Node::Dir(dir)) => {
                let marked = match dir.lower {
                    Some(lower) => {
                        let path = self.redirect_to(lower)?;
                        self.upper.mark(key, Mark::Redirect(&path))
                    }
                    None if to.in_layers => self.upper.mark(key, Mark::Opaque),
                    None => Ok(()),
                };
                marked.map_err(FsError::Upper)?;
            }
            _ => self.lead_below(ino)?,
        }
        if ino != self.own_number(key) {
            self.make_impure(&to.dir)?;
        }
        Ok(key)
    }

    fn move_over(
        &self,
        from: &End<'_>,
        to: &End<'_>,
        moved: &Held<'_>,
        replaced: Option<&Held<'_>>,
    ) -> Result<(), FsError> {
        let kind = from.there.ok_or(FsError::NotFound)?;
        let key = self.prepare(moved.ino, to)?;
        let (old, new) = ((from.dir.key, from.name), (to.dir.key, to.name));
        let known = replaced.and_then(|held| self.loses_a_name(held.ino));
        self.upper
            .rename(old, new, from.in_layers)
            .map_err(FsError::Upper)?;
        from.dir.update(|names| {
            if from.in_layers {
                names.put(from.name, Slot::Whiteout, true);
            } else {
                names.remove(from.name);
            }
        });
        self.now_at(to, Slot::Object(key, kind, moved.ino));
        match (replaced, to.there) {
            (Some(held), Some(Kind::Dir)) => self.lost_dir(held.ino),
            // As for an unlink: the name is gone, whatever comes.
            (Some(held), _) => {
                let _ = self.lost_a_name(held.ino, known);
            }
            (None, _) => {}
        }
        Ok(())
    }

    fn exchange(
        &self,
        one: &End<'_>,
        other: &End<'_>,
        first: &Held<'_>,
        second: &Held<'_>,
    ) -> Result<(), FsError> {
        let kinds = one.there.zip(other.there).ok_or(FsError::NotFound)?;
        let first_key = self.prepare(first.ino, other)?;
        let second_key = self.prepare(second.ino, one)?;
        self.upper
            .exchange((one.dir.key, one.name), (other.dir.key, other.name))
            .map_err(FsError::Upper)?;
        self.now_at(other, Slot::Object(first_key, kinds.0, first.ino));
        self.now_at(one, Slot::Object(second_key, kinds.1, second.ino));
        Ok(())
    }

    /// An object has come to a new place.
    fn now_at(&self, end: &End<'_>, slot: Slot) {
        end.dir
            .update(|names| names.put(end.name, slot, end.in_layers));
        if let Slot::Object(_, Kind::Dir, ino) = slot
            && let Ok(Where::Upper(dir)) = self.dir(ino)
        {
            dir.move_to(end.dir.ino, end.name);
        }
    }

    /// Leaves a 0/0 device that programs see where a name was moved away. A crash
    /// before it leaves nothing there, as if it had been removed.
    fn leave_device(
        &self,
        from: &End<'_>,
        (uid, gid): (u32, u32),
        hands: &HandsDown,
    ) -> Result<(), FsError> {
        let marks = Marks::default();
        let new = New {
            what: What::Char(Device::default()),
            mode: 0,
            uid,
            gid: hands.group().unwrap_or(gid),
            times: None,
            xattrs: &[],
            marks: &marks,
            parent_hands_down: hands.has_list(),
        };
        let made = self.upper.make(from.dir.key, from.name, &new);
        let (key, _) = made.map_err(FsError::Upper)?;
        self.upper.forget(key);
        let slot = Slot::Object(key, Kind::Char, self.own_number(key));
        from.dir
            .update(|names| names.put(from.name, slot, from.in_layers));
        Ok(())
    }
}
