//! What `stat` tells, in the kernel's words.
//!
//! Must not know where attributes come from.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};

use crate::node::{Attr, DIR_SIZE, Device, Kind, Time};
use crate::union::upper::Stat;

/// `st_blksize`.
pub(super) const BLOCK: u32 = 4096;
/// `st_blocks` counts these, whatever the block size is (inode(7)).
const SECTOR: u64 = 512;

/// The kind in fuser's words.
pub(super) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

/// A moment; one that the system cannot say becomes 1970.
fn moment(time: Time) -> SystemTime {
    let epoch = SystemTime::UNIX_EPOCH;
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 {
        epoch.checked_sub(whole)
    } else {
        epoch.checked_add(whole)
    };
    let nanos = Duration::from_nanos(time.nanos.into());
    second
        .and_then(|second| second.checked_add(nanos))
        .unwrap_or(epoch)
}

/// The kernel's 32 bit layout of a device number: 12 bits of major within 20
/// bits of minor (`new_encode_dev`, include/linux/kdev_t.h; fuse decodes
/// `fuse_attr.rdev` by `new_decode_dev`). What does not fit is cut off, as the
/// kernel itself has no such devices.
fn rdev(device: Device) -> u32 {
    let Device { major, minor } = device;
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// What the kernel's layout of a device number says.
pub(super) fn device(rdev: u32) -> Device {
    Device {
        major: rdev >> 8 & 0xfff,
        minor: rdev & 0xff | rdev >> 12 & 0xf_ff00,
    }
}

/// A moment that fuser passes on. Before 1970 it takes the nanoseconds away, too,
/// where the kernel (timespec(3type)) has them added to whole seconds that were
/// rounded down: what it made of both is taken apart again.
pub(super) fn time(moment: SystemTime) -> Time {
    let (since, before) = match moment.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (since, false),
        Err(error) => (error.duration(), true),
    };
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Time {
        seconds: if before { -seconds } else { seconds },
        nanos: since.subsec_nanos(),
    }
}

/// Attributes of the object of a writable tree with the number `number`.
pub(super) fn stat(number: u64, of: &Stat) -> FileAttr {
    FileAttr {
        atime: moment(of.atime),
        ctime: moment(of.ctime),
        ..attr(number, &of.attr)
    }
}

/// Attributes of the object with the number `number`.
pub(super) fn attr(number: u64, of: &Attr) -> FileAttr {
    let time = moment(of.mtime);
    let stored = match of.kind {
        Kind::Dir => DIR_SIZE,
        Kind::File => of.stored,
        // A short target lies within the inode, so it has no blocks.
        _ => 0,
    };
    FileAttr {
        ino: INodeNo(number),
        size: of.shown_size(),
        blocks: stored.div_ceil(SECTOR),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(of.kind),
        perm: of.mode,
        nlink: of.nlink,
        uid: of.uid,
        gid: of.gid,
        rdev: rdev(of.rdev),
        blksize: BLOCK,
        flags: 0,
    }
}

/// A directory that no layer has: the mount's own.
pub(super) fn directory(number: u64, mtime: SystemTime, entries: usize) -> FileAttr {
    // 2 + subdirectories; every entry is one. Beyond u32 nobody counts.
    let nlink = u32::try_from(entries).unwrap_or(u32::MAX).saturating_add(2);
    FileAttr {
        ino: INodeNo(number),
        size: DIR_SIZE,
        blocks: DIR_SIZE / SECTOR,
        atime: mtime,
        mtime,
        ctime: mtime,
        crtime: mtime,
        kind: FileType::Directory,
        perm: 0o755,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_keeps_its_nanoseconds() {
        let at = moment(Time {
            seconds: -2,
            nanos: 250_000_000,
        });
        let before = SystemTime::UNIX_EPOCH.duration_since(at).unwrap();
        assert_eq!(before, Duration::from_millis(1750));
    }

    #[test]
    fn no_time_at_all_makes_a_panic() {
        for seconds in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX] {
            for nanos in [0, 999_999_999, u32::MAX] {
                let _ = moment(Time { seconds, nanos });
            }
        }
    }

    #[test]
    fn device_numbers_have_the_kernels_layout() {
        assert_eq!(rdev(Device { major: 1, minor: 3 }), 0x103);
        // 10:4096 is the first minor that leaves the old 16 bit layout far behind.
        assert_eq!(
            rdev(Device {
                major: 10,
                minor: 4096
            }),
            0x0100_0a00
        );
        assert_eq!(
            rdev(Device {
                major: 0xfff,
                minor: 0xf_ffff
            }),
            u32::MAX
        );
    }

    #[test]
    fn the_kernels_device_numbers_come_back_as_they_went() {
        for (major, minor) in [(1, 3), (10, 4096), (0xfff, 0xf_ffff), (0, 0)] {
            let one = Device { major, minor };
            assert_eq!(device(rdev(one)), one);
        }
    }

    #[test]
    fn a_time_before_1970_is_what_the_kernel_said() {
        let epoch = SystemTime::UNIX_EPOCH;
        let table = [
            (epoch + Duration::new(5, 7), 5, 7),
            (epoch, 0, 0),
            // fuser, told of -5 s and 7 ns.
            (epoch - Duration::new(5, 7), -5, 7),
            (epoch - Duration::new(5, 0), -5, 0),
        ];
        for (moment, seconds, nanos) in table {
            assert_eq!(time(moment), Time { seconds, nanos });
        }
    }

    #[test]
    fn blocks_count_what_is_stored_not_the_size() {
        let file = Attr {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 1 << 30,
            stored: 513,
            mtime: Time::default(),
            nlink: 1,
            rdev: Device::default(),
        };
        let shown = attr(7, &file);
        assert_eq!((shown.size, shown.blocks, shown.ino.0), (1 << 30, 2, 7));
    }
}
