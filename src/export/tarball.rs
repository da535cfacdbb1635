//! Members of an archive: nobody's, of no time, so that the same image always makes
//! the same bytes.

use tar::{EntryType, Header};

use super::ExportError;
use super::bytes::Watched;

/// What a tar is cut into.
const BLOCK: usize = 512;
/// What the member is called that has a long name.
const LONG_NAME: &str = "././@LongLink";
/// Bytes of a name in a header.
const NAME_MAX: usize = 100;

/// A tar that is being written.
pub(super) struct Tarball<'a, 'b> {
    pub(super) to: &'a mut Watched<'b>,
}

impl Tarball<'_, '_> {
    /// A member: `write` gives its bytes, `size` of them.
    pub(super) fn member(
        &mut self,
        name: &str,
        size: u64,
        write: impl FnOnce(&mut Watched<'_>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut header = self.header(name, EntryType::Regular)?;
        header.set_size(size);
        header.set_cksum();
        self.to.write(header.as_bytes())?;
        write(self.to)?;
        self.fill(size)
    }

    /// Ends the block that a member of this size has begun.
    fn fill(&mut self, size: u64) -> Result<(), ExportError> {
        // Less than a block.
        let over = (size % BLOCK as u64) as usize;
        self.to.write(&[0; BLOCK][..(BLOCK - over) % BLOCK])
    }

    /// The header of a member without bytes. A name that it has no room for (one by a SHA-512)
    /// goes before it, in a member of its own (GNU tar manual, "Basic Tar Format", type `L`).
    fn header(&mut self, name: &str, kind: EntryType) -> Result<Header, ExportError> {
        let mut header = plain(kind);
        if header.set_path(name).is_err() {
            let mut long = plain(EntryType::GNULongName);
            long.set_path(LONG_NAME).map_err(ExportError::Write)?;
            let size = name.len() as u64 + 1;
            long.set_size(size);
            long.set_cksum();
            self.to.write(long.as_bytes())?;
            self.to.write(name.as_bytes())?;
            self.to.write(&[0])?;
            self.fill(size)?;
            // For readers that know no such member.
            let short = name.get(..NAME_MAX).unwrap_or_default();
            header.set_path(short).map_err(ExportError::Write)?;
        }
        Ok(header)
    }

    /// A small file.
    pub(super) fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.member(name, bytes.len() as u64, |to| to.write(bytes))
    }

    /// A symlink.
    pub(super) fn symlink(&mut self, name: &str, target: &str) -> Result<(), ExportError> {
        let mut header = self.header(name, EntryType::Symlink)?;
        header.set_link_name(target).map_err(ExportError::Write)?;
        header.set_cksum();
        self.to.write(header.as_bytes())
    }

    /// The end of the archive.
    pub(super) fn end(self) -> Result<(), ExportError> {
        self.to.write(&[0; 2 * BLOCK])
    }
}

fn plain(kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// Bytes that members of these sizes take, headers included.
pub(super) fn room(sizes: impl IntoIterator<Item = u64>) -> u64 {
    let block = BLOCK as u64;
    let member = |size: u64| block + size.div_ceil(block) * block;
    sizes.into_iter().map(member).sum::<u64>() + 2 * block
}
