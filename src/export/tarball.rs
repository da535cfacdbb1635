//! Members of an archive: nobody's, of no time, so that the same image always makes
//! the same bytes.

use tar::{EntryType, Header};

use super::ExportError;
use super::bytes::Watched;

/// What a tar is cut into.
const BLOCK: usize = 512;

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
        let mut header = header(name, EntryType::Regular)?;
        header.set_size(size);
        header.set_cksum();
        self.to.write(header.as_bytes())?;
        write(self.to)?;
        // Less than a block.
        let over = (size % BLOCK as u64) as usize;
        self.to.write(&[0; BLOCK][..(BLOCK - over) % BLOCK])
    }

    /// A small file.
    pub(super) fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.member(name, bytes.len() as u64, |to| to.write(bytes))
    }

    /// A symlink.
    pub(super) fn symlink(&mut self, name: &str, target: &str) -> Result<(), ExportError> {
        let mut header = header(name, EntryType::Symlink)?;
        header.set_link_name(target).map_err(ExportError::Write)?;
        header.set_cksum();
        self.to.write(header.as_bytes())
    }

    /// The end of the archive.
    pub(super) fn end(self) -> Result<(), ExportError> {
        self.to.write(&[0; 2 * BLOCK])
    }
}

fn header(name: &str, kind: EntryType) -> Result<Header, ExportError> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(name).map_err(ExportError::Write)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    Ok(header)
}

/// Bytes that members of these sizes take, headers included.
pub(super) fn room(sizes: impl IntoIterator<Item = u64>) -> u64 {
    let block = BLOCK as u64;
    let member = |size: u64| block + size.div_ceil(block) * block;
    sizes.into_iter().map(member).sum::<u64>() + 2 * block
}
