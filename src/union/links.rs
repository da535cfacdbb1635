//! Hard links: across layers, and counted.
//!
//! What it is for: a hard link whose target lies in lower layers is stored by
//! the target's path. It stands for what that path leads to in the tree of the
//! layers strictly below its own, as if they had been unpacked one after the
//! other: the *same* object, with the same number. All such links of a union are
//! resolved once, when the first is met, from the lowest layer upwards (so that
//! a link to a link is no recursion). Most images have none, and pay nothing.

use super::cache::Bounded;
use super::numbers::Place;
use super::resolve::{Effort, LinkOf, Reached};
use super::stack::{Dir, Object, Step};
use super::{FsError, Union};
use crate::layer::read::{Hit, Node, Unresolved};
use crate::layer::{ReadError, Row};
use crate::node::Ino;
use crate::tree_path::TreePath;

/// Counts that are kept: about 1 MiB.
pub(super) const COUNTS_WEIGHT: usize = 16 << 10;

/// Directories that links of one layer lead into and that are kept: about 1 MiB.
const PARENTS_WEIGHT: usize = 128 << 10;

/// All hard links into lower layers, resolved.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// For each layer what its links lead to; nothing: nowhere.
    forward: Vec<Vec<Option<Object>>>,
    /// The same the other way: target, layer and number of the link, sorted.
    backward: Vec<(Ino, u32, u32)>,
}

impl Links {
    fn get(&self, layer: u32, n: u32) -> Option<Object> {
        *self.forward.get(layer as usize)?.get(n as usize)?
    }

    fn to(&self, ino: Ino) -> impl Iterator<Item = (u32, u32)> {
        let first = self.backward.partition_point(|link| link.0 < ino);
        let same = self
            .backward
            .iter()
            .skip(first)
            .take_while(move |link| link.0 == ino);
        same.map(|link| (link.1, link.2))
    }
}

impl Union {
    /// What the link `n` of a layer stands for.
    pub(super) fn link(&self, layer: u32, n: u32) -> Result<Option<Object>, FsError> {
        Ok(self.links()?.get(layer, n))
    }

    /// Without a bound: what takes too long was not imported.
    fn links(&self) -> Result<&Links, FsError> {
        self.links_within(&Effort::of_one())
    }

    fn links_within(&self, effort: &Effort<'_>) -> Result<&Links, FsError> {
        if let Some(links) = self.links.get() {
            return Ok(links);
        }
        // Others who come meanwhile wait instead of doing the same.
        let _building = self.building.lock();
        if let Some(links) = self.links.get() {
            return Ok(links);
        }
        let links = self.resolve_links(effort)?;
        Ok(self.links.get_or_init(|| links))
    }

    fn resolve_links(&self, effort: &Effort<'_>) -> Result<Links, FsError> {
        let mut links = Links::default();
        for (layer, shared) in (0u32..).zip(&self.layers) {
            let targets = match shared.index.summary().unresolved {
                0 => Vec::new(),
                _ => self.targets_of(layer, shared.index.unresolved()?, &links, effort)?,
            };
            for (n, target) in (0u32..).zip(&targets) {
                if let Some(target) = target {
                    let ino = self.numbers.of(target.place);
                    links.backward.push((ino, layer, n));
                }
            }
            links.forward.push(targets);
        }
        links.backward.sort_unstable();
        Ok(links)
    }

    /// What the links of one layer lead to; those of lower layers are known.
    fn targets_of(
        &self,
        layer: u32,
        unresolved: &[Unresolved],
        known: &Links,
        effort: &Effort<'_>,
    ) -> Result<Vec<Option<Object>>, FsError> {
        let root = self.root_of(layer as usize)?;
        let mut targets = Vec::with_capacity(unresolved.len());
        // Many links often lead into few directories.
        let parents: Bounded<TreePath, Option<Dir>> = Bounded::new(PARENTS_WEIGHT);
        for link in unresolved {
            let Some((parent, name)) = link.target.split_last() else {
                // The root is a directory, and those have no hard links.
                targets.push(None);
                continue;
            };
            let dir = match parents.get(&parent) {
                Some(dir) => dir,
                None => {
                    let dir = self.dir_below(&root, &parent, known, effort)?;
                    let weight = parent.as_bytes().len() / 8 + dir.as_ref().map_or(10, Dir::weight);
                    parents.put(parent, dir.clone(), weight);
                    dir
                }
            };
            targets.push(match &dir {
                Some(dir) => self.object_in(dir, name, known, effort)?,
                None => None,
            });
        }
        Ok(targets)
    }

    fn dir_below(
        &self,
        root: &Dir,
        path: &TreePath,
        links: &Links,
        effort: &Effort<'_>,
    ) -> Result<Option<Dir>, FsError> {
        let link_of: LinkOf<'_> = &|layer, n| Ok(links.get(layer, n));
        match self.walk(root, path, true, link_of, effort) {
            Ok(Reached::Dir(dir)) => Ok(Some(dir)),
            Ok(Reached::Object(_)) => Ok(None),
            Err(error @ (FsError::Damaged(_) | FsError::TooManySteps | FsError::Interrupted)) => {
                Err(error)
            }
            Err(_) => Ok(None),
        }
    }

    fn object_in(
        &self,
        dir: &Dir,
        name: &[u8],
        links: &Links,
        effort: &Effort<'_>,
    ) -> Result<Option<Object>, FsError> {
        effort.spend(dir.parts().len())?;
        Ok(match self.child(dir, name)? {
            Step::Object(object) => Some(object),
            Step::Link { layer, n } => links.get(layer, n),
            // Directories have no hard links.
            Step::Dir(_) | Step::Absent => None,
        })
    }

    /// How many names an object that is no directory has in this tree.
    pub(super) fn count_names(&self, place: Place, node: &Node) -> Result<u32, FsError> {
        let top = place.layer as usize + 1 == self.layers.len() && !self.is_restricted(place.layer);
        if top || (node.attr.nlink == 1 && !self.linked) {
            return Ok(node.attr.nlink);
        }
        let ino = self.numbers.of(place);
        let mut to_it = None;
        if self.linked {
            to_it = Some(self.links()?).filter(|links| links.to(ino).next().is_some());
            if node.attr.nlink == 1 && to_it.is_none() {
                // Whoever asks came by the one name there is.
                return Ok(1);
            }
        }
        if let Some(count) = self.counts.get(&ino) {
            return Ok(count);
        }
        let mut count = 0u32;
        for (dir, name) in self.index(place).names(place.row)? {
            count += u32::from(self.shows(place.sibling(dir), &name)?);
        }
        for (layer, n) in to_it.iter().flat_map(|links| links.to(ino)) {
            if let Some((dir, name)) = self.link_name(layer, n)? {
                count += u32::from(self.shows(Place { layer, row: dir }, name)?);
            }
        }
        let count = count.max(1);
        self.counts.put(ino, count, 1);
        Ok(count)
    }

    fn link_name(&self, layer: u32, n: u32) -> Result<Option<(Row, &[u8])>, ReadError> {
        let index = &self.layers[layer as usize].index;
        let link = index.unresolved()?.get(n as usize);
        Ok(link.map(|link| (link.dir, link.name.as_slice())))
    }

    /// The hard links of other layers that stand for an object: directory and name.
    pub(super) fn linked_names(&self, ino: Ino) -> Result<Vec<(Place, Vec<u8>)>, FsError> {
        let mut names = Vec::new();
        if self.linked {
            for (layer, n) in self.links()?.to(ino) {
                if let Some((row, name)) = self.link_name(layer, n)? {
                    names.push((Place { layer, row }, name.to_vec()));
                }
            }
        }
        Ok(names)
    }

    /// Whether the entry that the layer's directory `dir` has of that name is the
    /// one that the union shows.
    pub(super) fn shows(&self, dir: Place, name: &[u8]) -> Result<bool, ReadError> {
        let Some(merged) = self.dir_at(dir)? else {
            return Ok(false);
        };
        let mut asked = self.ask(&merged, name);
        for &part in merged
            .parts()
            .iter()
            .take_while(|part| part.layer > dir.layer)
        {
            if self.shown_hit(part, name, &mut asked)? != Hit::Absent {
                return Ok(false);
            }
        }
        if !self.is_restricted(dir.layer) {
            return Ok(true);
        }
        Ok(self.shown_hit(dir, name, &mut asked)? != Hit::Absent)
    }

    /// Where an object that is no directory is to be found: a name that shows, if
    /// there is one.
    pub(super) fn shown_name(&self, place: Place) -> Result<(Place, Vec<u8>), FsError> {
        let names = self.index(place).names(place.row)?;
        for (dir, name) in &names {
            if self.shows(place.sibling(*dir), name)? {
                return Ok((place.sibling(*dir), name.clone()));
            }
        }
        if self.linked {
            for (layer, n) in self.links()?.to(self.numbers.of(place)) {
                if let Some((row, name)) = self.link_name(layer, n)? {
                    let dir = Place { layer, row };
                    if self.shows(dir, name)? {
                        return Ok((dir, name.to_vec()));
                    }
                }
            }
        }
        let (dir, name) = names.into_iter().next().ok_or(FsError::Stale)?;
        Ok((place.sibling(dir), name))
    }

    /// Hard links that lead nowhere: path of the link and of its target.
    ///
    /// # Errors
    /// `TooManySteps`, `Interrupted`, `Damaged`.
    pub fn dangling_links<'a>(
        &'a self,
        effort: &Effort<'_>,
    ) -> Result<impl Iterator<Item = Result<(TreePath, TreePath), FsError>> + use<'a>, FsError>
    {
        let mut nowhere = Vec::new();
        if self.linked {
            let links = self.links_within(effort)?;
            for (layer, targets) in (0u32..).zip(&links.forward) {
                let targets = (0u32..).zip(targets).filter(|(_, target)| target.is_none());
                nowhere.extend(targets.map(|(n, _)| (layer, n)));
            }
        }
        Ok(nowhere.into_iter().map(|(layer, n)| {
            let links = self.layers[layer as usize].index.unresolved()?;
            let link = &links[n as usize];
            let dir = self.path_in_layer(Place {
                layer,
                row: link.dir,
            })?;
            Ok((dir.child(&link.name), link.target.clone()))
        }))
    }
}
