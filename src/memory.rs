//! Memory that is free goes back to the system.
//!
//! What it is for: a server that is idle should be small, and the allocator keeps
//! what was freed. May assume nothing. Must not know what was freed.

#![expect(unsafe_code, reason = "no crate wraps malloc_trim(3)")]

/// Gives back what the allocator keeps (glibc; others do it by themselves).
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time from any thread (it is
    // MT-Safe), takes a plain number and frees no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
