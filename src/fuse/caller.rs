//! Who asks.
//!
//! What it is for: rights of a process that the kernel leaves to a file system
//! to look at. Looked at only where an answer depends on it: it takes reading
//! /proc. Must not know what is asked.

use std::fs;

use crate::user_namespace;

/// capability.h
const CAP_FSETID: u32 = 4;
/// capability.h
const CAP_SYS_ADMIN: u32 = 21;

/// What /proc tells of a process; empty when it cannot be seen.
fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn has(status: &str, capability: u32) -> bool {
    let bits = field(status, "CapEff").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & 1 << capability != 0)
}

/// Whether a process has CAP_SYS_ADMIN on the machine, in whose own user namespace the kernel looks for it before it
/// tells values of `trusted.*` (`xattr_permission` in fs/xattr.c). Its user says nothing: the kernel tells
/// none to a file system that allows idmapped mounts.
pub(super) fn is_privileged(pid: u32) -> bool {
    user_namespace::is_machines(pid) && has(&status(pid), CAP_SYS_ADMIN)
}

/// Whether a process may leave setuid and setgid bits as they are (CAP_FSETID).
/// One of another user namespace has its capabilities there and not here.
pub(super) fn keeps_set_id(pid: u32) -> bool {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let (his, ours) = (namespace(&pid.to_string()), namespace("self"));
    his.is_some() && his == ours && has(&status(pid), CAP_FSETID)
}

/// Whether a process is in a group, by the one it acts with or by another.
pub(super) fn is_in_group(pid: u32, acts_with: u32, group: u32) -> bool {
    let all = status(pid);
    let mut groups = field(&all, "Groups").unwrap_or("").split_whitespace();
    acts_with == group || groups.any(|one| one.parse() == Ok(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nGroups:\t4 27 \nCapEff:\t0000000000000010\n";

    #[test]
    fn capabilities_are_single_bits() {
        assert!(has(STATUS, CAP_FSETID) && !has(STATUS, CAP_SYS_ADMIN));
        assert!(!has("", CAP_FSETID));
    }

    #[test]
    fn who_cannot_be_seen_has_no_rights() {
        // Beyond the largest number of a process (PID_MAX_LIMIT).
        let nobody = 1 << 30;
        assert!(!is_privileged(nobody) && !keeps_set_id(nobody) && !is_in_group(nobody, 1, 2));
    }

    #[test]
    fn the_group_one_acts_with_counts() {
        assert!(is_in_group(1 << 30, 7, 7));
    }
}
