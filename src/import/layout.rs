//! What an ACI may have in it: `manifest` and `rootfs`, and nothing twice.
//!
//! What it is for: members of the archive become members of the layer, rooted at
//! `rootfs`; the manifest is kept (`spec/aci.md`, "Image Layout"). May assume
//! members as the tar reader hands them out. Must not know what is in the manifest.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_128;

use crate::image::appc::MANIFEST_MAX;
use crate::layer::tar::{Member, MemberKind};
use crate::tree_path::{PathError, TreePath, printable};

const MANIFEST: &[u8] = b"manifest";
const ROOTFS: &[u8] = b"rootfs";

/// Why an archive is no ACI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A path that leaves the archive, or is none.
    #[error("the member `{member}` is refused: {why}")]
    Path {
        /// Its path, printable.
        member: String,
        /// What is wrong with it.
        why: PathError,
    },
    /// Something else at the top.
    #[error("the member `{0}` is neither `manifest` nor below `rootfs`")]
    Stray(String),
    /// The same path again.
    #[error("the member `{0}` comes twice")]
    Twice(String),
    /// `manifest` is not a file, or `rootfs` not a directory.
    #[error("`{member}` must be {what}")]
    Kind {
        /// Which of the two.
        member: &'static str,
        /// What it must be.
        what: &'static str,
    },
    /// The manifest is too long to be one.
    #[error("`manifest` has {0} bytes; more than {MANIFEST_MAX} are not read")]
    Manifest(u64),
    /// A hard link to something that is not in `rootfs`.
    #[error("the hard link `{link}` leads to `{target}`, which is not below `rootfs`")]
    Link {
        /// The link.
        link: String,
        /// Where it leads.
        target: String,
    },
    /// One of the two is not there.
    #[error("it has no `{0}`")]
    Missing(&'static str),
}

/// The layout of one archive, while its members pass.
#[derive(Debug, Default)]
pub(super) struct Layout {
    manifest: Option<Vec<u8>>,
    in_manifest: bool,
    rootfs: bool,
    /// Hashes of the paths that have passed.
    seen: HashSet<u128>,
}

impl Layout {
    /// Takes a member; answers what it is in the layer, if it is part of that.
    pub(super) fn member(&mut self, mut member: Member) -> Result<Option<Member>, LayoutError> {
        self.in_manifest = false;
        let shown = || printable(&member.path);
        let path = TreePath::parse_relative(&member.path).map_err(|why| LayoutError::Path {
            member: shown(),
            why,
        })?;
        if path.is_root() {
            return Ok(None);
        }
        if !self.seen.insert(xxh3_128(path.as_bytes())) {
            return Err(LayoutError::Twice(shown()));
        }
        if path.as_bytes() == MANIFEST {
            return self.begin_manifest(&member).map(|()| None);
        }
        let Some(inside) = inside(&path) else {
            return Err(LayoutError::Stray(shown()));
        };
        if inside == b"." {
            if member.kind != MemberKind::Dir {
                return Err(LayoutError::Kind {
                    member: "rootfs",
                    what: "a directory",
                });
            }
            self.rootfs = true;
        }
        if member.kind == MemberKind::HardLink {
            let target = TreePath::parse(&member.link).ok();
            let target = target.as_ref().and_then(self::inside).map(<[u8]>::to_vec);
            member.link = target.ok_or_else(|| LayoutError::Link {
                link: shown(),
                target: printable(&member.link),
            })?;
        }
        member.path = inside.to_vec();
        Ok(Some(member))
    }

    fn begin_manifest(&mut self, member: &Member) -> Result<(), LayoutError> {
        if member.kind != MemberKind::File || member.sparse.is_some() {
            return Err(LayoutError::Kind {
                member: "manifest",
                what: "a regular file",
            });
        }
        if member.size > MANIFEST_MAX {
            return Err(LayoutError::Manifest(member.size));
        }
        self.manifest = Some(Vec::new());
        self.in_manifest = true;
        Ok(())
    }

    /// Data of the member that came last.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        if let (true, Some(manifest)) = (self.in_manifest, &mut self.manifest) {
            manifest.extend_from_slice(bytes);
        }
    }

    /// All members have passed: the manifest.
    pub(super) fn finish(self) -> Result<Vec<u8>, LayoutError> {
        let manifest = self.manifest.ok_or(LayoutError::Missing("manifest"))?;
        match self.rootfs {
            true => Ok(manifest),
            false => Err(LayoutError::Missing("rootfs")),
        }
    }
}

/// A path below `rootfs`, from there; `.` for `rootfs` itself.
fn inside(path: &TreePath) -> Option<&[u8]> {
    match path.as_bytes().strip_prefix(ROOTFS)? {
        [] => Some(b"."),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}
