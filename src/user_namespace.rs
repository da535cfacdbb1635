//! Whether a process has the machine's user namespace, or another.
//!
//! What it is for: root of another one may not do what root of the machine may, and the kernel has the
//! same number for both. Must not know what depends on it.

use std::fmt::Display;
use std::fs;

/// The machine's own (kernel include/uapi/linux/nsfs.h, `USER_NS_INIT_INO`).
const OF_MACHINE: &str = "user:[4026531837]";

/// Whether a process, by its number or `self`, is in the machine's user namespace; not if it cannot be
/// looked at.
#[must_use]
pub fn is_machines(process: impl Display) -> bool {
    let namespace = fs::read_link(format!("/proc/{process}/ns/user"));
    namespace.is_ok_and(|name| name.as_os_str() == OF_MACHINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_there_is_nowhere() {
        // Beyond the largest number of a process (PID_MAX_LIMIT).
        assert!(!is_machines(1 << 30));
        // Kernel threads have no other.
        assert_eq!(is_machines(2), is_machines("self"));
    }
}
