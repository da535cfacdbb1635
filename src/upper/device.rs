//! A program's own character device 0/0, which on disk would be a whiteout.
//!
//! What it is for: such a device is kept as an empty regular file with the mark
//! `lazyroot.device`, and shown as the device. So that nobody has to ask for marks
//! of every file, two hints say where to look: the file is empty and has the
//! sticky bit (rare for files; the device's own sticky bit is the mark's value),
//! and the directory that it lies in has the mark `lazyroot.devices`, set before
//! the file gets its name there and never removed. May assume: names change one at
//! a time. Must not know who asks.

use std::io;

use rustix::fs::{FileType, Mode, Stat, XattrFlags};

use super::reach::Opened;
use super::xattrs::{self, Of, Prefix};

const DEVICE: &str = "lazyroot.device";
const DEVICES: &str = "lazyroot.devices";
/// The mode bit that hints at such a file.
pub(super) const HINT: u16 = 0o1000;

/// Whether the file may be such a device.
pub(super) fn hints(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_size == 0
        && Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX)
}

/// Whether a file that hints at it is such a device: then whether the device has
/// the sticky bit.
///
/// # Errors
/// As getxattr(2).
pub(super) fn sticky(of: Of<'_>, prefix: Prefix) -> io::Result<Option<bool>> {
    let mark = of.get(prefix.mark(DEVICE).as_bytes())?;
    Ok(mark.map(|value| value == b"1"))
}

/// Marks a file as such a device, or changes the sticky bit of one.
///
/// # Errors
/// As setxattr(2).
pub(super) fn mark(file: &Opened, mode: u16, prefix: Prefix) -> io::Result<()> {
    let value = if mode & HINT == 0 { b"0" } else { b"1" };
    let name = prefix.mark(DEVICE);
    xattrs::set(file, name.as_bytes(), value, XattrFlags::empty())
}

/// Whether a directory may have such devices.
///
/// # Errors
/// As getxattr(2).
pub(super) fn may_be_in(dir: &Opened, prefix: Prefix) -> io::Result<bool> {
    let mark = Of::Object(dir).get(prefix.mark(DEVICES).as_bytes())?;
    Ok(mark.is_some())
}

/// A file that hints at being such a device is about to get a name in `dir`.
///
/// # Errors
/// As getxattr(2), setxattr(2).
pub(super) fn comes_to(dir: &Opened, stat: &Stat, prefix: Prefix) -> io::Result<()> {
    if !hints(stat) || may_be_in(dir, prefix)? {
        return Ok(());
    }
    let name = prefix.mark(DEVICES);
    xattrs::set(dir, name.as_bytes(), b"y", XattrFlags::empty())
}
