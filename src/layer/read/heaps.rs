//! What is of variable length: lists, targets, xattr sets, sparse maps.
//!
//! Nothing is allocated before it is clear that the file has so many bytes.

use super::{Index, Unresolved, Xattrs};
use crate::layer::format::{
    self, EXTENT, Listed, PAIR, SPARSE_HEAD, SparseHead, UNIT, UNRESOLVED, UnresolvedAt,
    XATTR_SET_MAX,
};
use crate::layer::tar::Extent;
use crate::layer::{ReadError, Row};
use crate::tree_path::{PATH_MAX, TreePath};

impl Index {
    /// `count` records of section 8.
    pub(super) fn links(&self, first: u32, count: u32) -> Result<Vec<(u32, u32)>, ReadError> {
        let section = self.header.sections.links;
        let len = count as usize * PAIR;
        // Its place is within the section, so the file bounds what is allocated.
        let at = self.place(section, u64::from(first) * PAIR as u64, len)?;
        let mut bytes = vec![0; len];
        self.file.read(at, &mut bytes)?;
        Ok(bytes
            .as_chunks::<PAIR>()
            .0
            .iter()
            .map(format::unpair)
            .collect())
    }

    pub(super) fn target_bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let at = self.place(self.header.sections.targets, offset, len)?;
        let mut bytes = vec![0; len];
        self.file.read(at, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn xattr_set(&self, unit: u32) -> Result<Xattrs, ReadError> {
        let section = self.header.sections.xattrs;
        let offset = u64::from(unit) * UNIT as u64;
        let at = self.place(section, offset, 4)?;
        let mut len = [0; 4];
        self.file.read(at, &mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len == 0 || len > XATTR_SET_MAX {
            return Err(self
                .file
                .corrupt(at, "a set of xattrs has an impossible length"));
        }
        let from = self.place(section, offset + 4, len)?;
        let mut bytes = vec![0; len];
        self.file.read(from, &mut bytes)?;
        let mut rest = bytes.as_slice();
        let mut set = Xattrs::new();
        while !rest.is_empty() {
            let Some((name, value)) = format::split_xattr(&mut rest) else {
                return Err(self.file.corrupt(at, "a set of xattrs is broken"));
            };
            if set.last().is_some_and(|last| last.0.as_slice() >= name) {
                return Err(self.file.corrupt(at, "the names of xattrs are not sorted"));
            }
            set.push((name.to_vec(), value.to_vec()));
        }
        Ok(set)
    }

    /// Where in its section a sparse map begins, and what it says of itself.
    pub(super) fn sparse_head(&self, unit: u32) -> Result<(u64, SparseHead), ReadError> {
        let offset = u64::from(unit) * UNIT as u64;
        let at = self.place(self.header.sections.sparse, offset, SPARSE_HEAD)?;
        let mut bytes = [0; SPARSE_HEAD];
        self.file.read(at, &mut bytes)?;
        let head = SparseHead::decode(&bytes)
            .ok_or_else(|| self.file.corrupt(at, "a sparse map is broken"))?;
        Ok((offset, head))
    }

    /// Length of the stored data, and the extents of a file of `size` bytes.
    pub(super) fn sparse_map(&self, unit: u32, size: u64) -> Result<(u64, Vec<Extent>), ReadError> {
        let (offset, SparseHead { stored, count }) = self.sparse_head(unit)?;
        let len = count as usize * EXTENT;
        let at = self.place(
            self.header.sections.sparse,
            offset + SPARSE_HEAD as u64,
            len,
        )?;
        let mut bytes = vec![0; len];
        self.file.read(at, &mut bytes)?;
        let map: Vec<Extent> = bytes
            .as_chunks::<EXTENT>()
            .0
            .iter()
            .map(format::extent)
            .collect();
        let mut before = 0;
        for extent in &map {
            let end = extent
                .offset
                .checked_add(extent.len)
                .filter(|&end| end <= size);
            let data_end = extent
                .stored_at
                .checked_add(extent.len)
                .filter(|&end| end <= stored);
            match (end, data_end) {
                (Some(end), Some(_)) if extent.len > 0 && extent.offset >= before => before = end,
                _ => {
                    return Err(self
                        .file
                        .corrupt(at, "a sparse map is not sorted within its file"));
                }
            }
        }
        Ok((stored, map))
    }

    pub(super) fn load_unresolved(&self) -> Result<Vec<Unresolved>, ReadError> {
        let section = self.header.sections.unresolved;
        let mut next = None;
        let mut links = Vec::with_capacity(self.header.summary.unresolved as usize);
        for number in 0..self.header.summary.unresolved {
            let at = section.start + u64::from(number) * UNRESOLVED as u64;
            let mut record = [0; UNRESOLVED];
            self.file.read(at, &mut record)?;
            let link = UnresolvedAt::decode(&record);
            // One behind the other: so all of them are not longer than the file.
            if next.is_some_and(|next| next != link.target) || link.len as usize > PATH_MAX {
                return Err(self
                    .file
                    .corrupt(at, "the target of a hard link is out of line"));
            }
            next = link.target.checked_add(link.len);
            links.push(self.unresolved_link(number, at, link)?);
        }
        Ok(links)
    }

    fn unresolved_link(
        &self,
        number: u32,
        at: u64,
        link: UnresolvedAt,
    ) -> Result<Unresolved, ReadError> {
        let dir = Row(link.dir);
        let entry = self.entry(link.entry)?;
        if entry.listed != Listed::Link(number) || !self.entries_of(dir)?.contains(&link.entry) {
            return Err(self.file.corrupt(at, "a hard link is not where it says"));
        }
        let bytes = self.target_bytes(u64::from(link.target), link.len as usize)?;
        let target = TreePath::parse(&bytes).ok();
        let target = target.filter(|target| target.as_bytes() == bytes && !target.is_root());
        let target = target.ok_or_else(|| {
            self.file
                .corrupt(at, "the target of a hard link is no path")
        })?;
        Ok(Unresolved {
            dir,
            name: self.named(&entry, <[u8]>::to_vec)?,
            target,
        })
    }
}
