//! Decoder states kept for the next use: making one costs more than decoding a
//! small file. Must not know what it keeps.

use std::fmt;
use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// States kept at most: as many as there are likely to be readers at a time.
const KEPT: usize = 16;

/// States that nobody uses now.
pub(super) struct Pool<T> {
    free: Mutex<Vec<T>>,
    make: fn() -> T,
    worth_keeping: fn(&T) -> bool,
}

impl<T> Pool<T> {
    /// An empty pool. What is not `worth_keeping` is dropped after its use.
    pub(super) const fn new(make: fn() -> T, worth_keeping: fn(&T) -> bool) -> Self {
        Self {
            free: Mutex::new(Vec::new()),
            make,
            worth_keeping,
        }
    }

    /// A state as its last user left it, or a new one.
    pub(super) fn lend(&'static self) -> Lent<T> {
        let free = self.free.lock().pop();
        Lent {
            state: Some(free.unwrap_or_else(self.make)),
            pool: self,
        }
    }
}

/// A state in use; goes back when dropped.
pub(super) struct Lent<T: 'static> {
    state: Option<T>,
    pool: &'static Pool<T>,
}

impl<T> fmt::Debug for Lent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent")
    }
}

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.state.as_ref().expect("because only drop takes it out")
    }
}

impl<T> DerefMut for Lent<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.state.as_mut().expect("because only drop takes it out")
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            if !(self.pool.worth_keeping)(&state) {
                return;
            }
            let mut free = self.pool.free.lock();
            if free.len() < KEPT {
                free.push(state);
            }
        }
    }
}
