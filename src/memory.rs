//! Memory that is free goes back to the system.
//!
//! What it is for: a server that is idle should be small, and the allocator keeps
//! what was freed. May assume nothing. Must not know what is freed.

#![expect(unsafe_code, reason = "no crate wraps malloc_trim(3) and mallopt(3)")]

/// Bytes at the end of a thread's heap beyond which they are given back, while
/// memory is given back.
#[cfg(target_env = "gnu")]
const KEEP: libc::c_int = 128 << 10;
/// Larger blocks are mapped and unmapped one by one: those that requests of the kernel are read to,
/// of which little is ever used, and hardly any other.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 16 << 20;
/// As [`KEEP`], at all other times: twice the above, as glibc has it.
#[cfg(target_env = "gnu")]
const KEEP_BUSY: libc::c_int = 2 * MAPPED;

/// To be called before a server has threads. glibc would let this number go up to the size of the first
/// large block that is freed; the next ones of that size would be parts of heaps then, whose
/// beginnings it fills with zeroes: 130 KB for each thread that reads requests, before it reads any.
pub fn begin() {
    keep(true);
}

/// Runs what frees memory, so that it is the system's afterwards (glibc; other
/// allocators do it by themselves).
///
/// malloc_trim(3) alone does not give back the end of any heap but the first
/// (glibc `mtrim`), and the readers' heaps are all end once the caches are empty.
pub fn give_back(free: impl FnOnce()) {
    keep(false);
    free();
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time from any thread (it is
    // MT-Safe), takes a plain number and frees no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
    keep(true);
}

#[cfg_attr(not(target_env = "gnu"), expect(unused_variables, reason = "glibc's"))]
fn keep(busy: bool) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes plain numbers and holds the allocator's own lock;
    // a heap that another thread trims meanwhile by either number is as good.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, if busy { KEEP_BUSY } else { KEEP });
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
    }
}
