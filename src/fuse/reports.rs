//! Each damaged thing is told once.
//!
//! What it is for: a program that reads a damaged file gets EIO each time, the
//! log gets one line. Must not know what is told.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use parking_lot::Mutex;

/// Things that are remembered. Who has more damaged files than this learns
/// nothing new from more lines, and the memory is bounded (16 KiB or so).
const REMEMBERED: usize = 1024;

/// What was told already.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<HashSet<u64>>);

impl Reports {
    /// Logs `line` unless `key` was told before.
    pub(super) fn once(&self, key: impl Hash, line: impl FnOnce() -> String) {
        if self.is_new(key) {
            log::error!("{}", line());
        }
    }

    fn is_new(&self, key: impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut told = self.0.lock();
        if told.len() >= REMEMBERED || !told.insert(hasher.finish()) {
            return false;
        }
        if told.len() == REMEMBERED {
            log::error!("{REMEMBERED} damaged things were told; further ones are not");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_told_once_and_the_memory_is_bounded() {
        let reports = Reports::default();
        assert!(reports.is_new((1, "a")));
        assert!(!reports.is_new((1, "a")));
        for key in 0..2 * REMEMBERED {
            let _ = reports.is_new(key);
        }
        assert_eq!(reports.0.lock().len(), REMEMBERED);
        assert!(!reports.is_new("new"));
    }
}
