//! What a directory hands down: its group, and its default access control list.
//!
//! What it is for: mode, group and lists of what is made in a directory, as a
//! local file system computes them (acl(5), "Object creation and default ACLs";
//! inode(7), "set-group-ID bit" of directories). Pure; must not know where an
//! object is made.

use super::Maker;
use crate::node::{Attr, Kind};
use crate::union::Xattrs;

/// The xattr of an access control list.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The xattr of a directory's default access control list.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const SETGID: u16 = 0o2000;
/// `POSIX_ACL_XATTR_VERSION` (kernel include/uapi/linux/posix_acl_xattr.h), and the bytes of an entry.
const VERSION: [u8; 4] = 2u32.to_le_bytes();
const ENTRY: usize = 8;
// Tags of entries (kernel include/uapi/linux/posix_acl.h).
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What a directory hands down.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HandsDown {
    group: Option<u32>,
    /// Its default list, if that can be understood.
    default: Option<Vec<u8>>,
}

/// Mode, group and xattrs that an object begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begins {
    pub(super) mode: u16,
    pub(super) gid: u32,
    pub(super) xattrs: Xattrs,
}

impl HandsDown {
    pub(super) fn new(dir: &Attr, default: Option<Vec<u8>>) -> Self {
        Self {
            group: (dir.mode & SETGID != 0).then_some(dir.gid),
            default: default.filter(|list| entries(list).is_some()),
        }
    }

    /// Whether there is a default list.
    pub(super) fn has_list(&self) -> bool {
        self.default.is_some()
    }

    /// The group that the directory hands down.
    pub(super) fn group(&self) -> Option<u32> {
        self.group
    }

    /// How an object of that kind begins.
    pub(super) fn begin(&self, kind: Kind, maker: &Maker) -> Begins {
        let mut begins = Begins {
            mode: maker.mode & !maker.umask,
            gid: self.group.unwrap_or(maker.gid),
            xattrs: Vec::new(),
        };
        if kind == Kind::Symlink {
            begins.mode = 0o777;
            return begins;
        }
        if let Some(default) = &self.default {
            begins.mode = maker.mode;
            let (access, equivalent) = masked(default, &mut begins.mode);
            if !equivalent {
                begins.xattrs.push((ACCESS.to_vec(), access));
            }
            if kind == Kind::Dir {
                begins.xattrs.push((DEFAULT.to_vec(), default.clone()));
            }
        }
        if kind == Kind::Dir && self.group.is_some() {
            begins.mode |= SETGID;
        }
        begins
    }
}

/// Tag and permissions of each entry; nothing when this is no list.
fn entries(list: &[u8]) -> Option<Vec<(u16, u16)>> {
    let rest = list.strip_prefix(&VERSION)?;
    if rest.is_empty() || rest.len() % ENTRY != 0 {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (number(0), number(2))
    };
    Some(rest.chunks_exact(ENTRY).map(entry).collect())
}

/// The access list that a default list becomes for an object that is made with
/// `mode`, which takes part: each of the two masks the other. And whether the
/// mode alone says as much as the list.
fn masked(default: &[u8], mode: &mut u16) -> (Vec<u8>, bool) {
    let mut list = default.to_vec();
    let tags = entries(default).unwrap_or_default();
    let has_mask = tags.iter().any(|(tag, _)| *tag == MASK);
    let mut equivalent = true;
    for (number, (tag, perm)) in tags.into_iter().enumerate() {
        // Bits of the mode that the entry and the mode share.
        let shift = match tag {
            USER_OBJ => Some(6),
            OTHER => Some(0),
            MASK => Some(3),
            GROUP_OBJ if !has_mask => Some(3),
            _ => None,
        };
        equivalent &= !matches!(tag, USER | GROUP | MASK);
        if let Some(shift) = shift {
            let both = perm & (*mode >> shift) & 7;
            *mode = *mode & !(7 << shift) | both << shift;
            let at = VERSION.len() + number * ENTRY + 2;
            list[at..at + 2].copy_from_slice(&both.to_le_bytes());
        }
    }
    (list, equivalent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Device, Time};

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = VERSION.to_vec();
        for (tag, perm, id) in entries {
            list.extend_from_slice(&tag.to_le_bytes());
            list.extend_from_slice(&perm.to_le_bytes());
            list.extend_from_slice(&id.to_le_bytes());
        }
        list
    }

    fn dir(mode: u16, gid: u32) -> Attr {
        Attr {
            kind: Kind::Dir,
            mode,
            uid: 0,
            gid,
            size: 0,
            stored: 0,
            mtime: Time::default(),
            nlink: 2,
            rdev: Device::default(),
        }
    }

    const MAKER: Maker = Maker {
        uid: 7,
        gid: 8,
        mode: 0o666,
        umask: 0o077,
    };

    #[test]
    fn without_a_default_list_the_umask_counts() {
        let hands = HandsDown::new(&dir(0o755, 5), None);
        let begins = hands.begin(Kind::File, &MAKER);
        assert_eq!((begins.mode, begins.gid), (0o600, 8));
        assert!(begins.xattrs.is_empty());
    }

    #[test]
    fn a_setgid_directory_hands_down_its_group_and_to_directories_the_bit() {
        let hands = HandsDown::new(&dir(0o2755, 5), None);
        assert_eq!(hands.begin(Kind::File, &MAKER).gid, 5);
        assert_eq!(hands.begin(Kind::File, &MAKER).mode, 0o600);
        assert_eq!(hands.begin(Kind::Dir, &MAKER).mode, 0o2600);
    }

    #[test]
    fn a_default_list_counts_instead_of_the_umask() {
        let none = u32::MAX;
        let default = [
            (USER_OBJ, 7, none),
            (USER, 7, 4711),
            (GROUP_OBJ, 5, none),
            (MASK, 7, none),
            (OTHER, 0, none),
        ];
        let hands = HandsDown::new(&dir(0o755, 5), Some(list(&default)));
        let begins = hands.begin(Kind::File, &MAKER);
        // As `setfacl -d -m u:4711:rwx` and `touch` leave it on ext4.
        assert_eq!(begins.mode, 0o660);
        let access = [
            (USER_OBJ, 6, none),
            (USER, 7, 4711),
            (GROUP_OBJ, 5, none),
            (MASK, 6, none),
            (OTHER, 0, none),
        ];
        assert_eq!(begins.xattrs, [(ACCESS.to_vec(), list(&access))]);
        let begins = hands.begin(Kind::Dir, &MAKER);
        assert_eq!(begins.xattrs[1], (DEFAULT.to_vec(), list(&default)));
    }

    #[test]
    fn a_list_that_a_mode_can_say_is_no_list_of_its_own() {
        let none = u32::MAX;
        let default = [(USER_OBJ, 6, none), (GROUP_OBJ, 4, none), (OTHER, 0, none)];
        let hands = HandsDown::new(&dir(0o755, 5), Some(list(&default)));
        let begins = hands.begin(Kind::File, &MAKER);
        assert_eq!(begins.mode, 0o640);
        assert!(begins.xattrs.is_empty());
    }

    #[test]
    fn what_is_no_list_hands_nothing_down() {
        for bytes in [
            &b""[..],
            b"\x02\0\0\0",
            b"\x01\0\0\0abcdefgh",
            b"\x02\0\0\0abc",
        ] {
            assert!(!HandsDown::new(&dir(0o755, 5), Some(bytes.to_vec())).has_list());
        }
    }
}
