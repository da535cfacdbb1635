//! What of the kernel's files root in a container does not get: Docker's lists
//! (`oci/defaults.go`). They are the machine's, whichever namespace one is in.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

use super::root::read_only;
use super::{LaunchError, failed};

/// Not seen at all.
pub(super) const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];

/// Not written to.
pub(super) const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn build() -> Result<(), LaunchError> {
    for path in READ_ONLY {
        match mount_bind_recursive(path, path) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(failed("bind", path))?,
        }
        read_only(path)?;
    }
    for path in MASKED {
        let Ok(meta) = std::fs::symlink_metadata(Path::new(path)) else {
            // This kernel has none.
            continue;
        };
        let hidden = match meta.is_dir() {
            true => mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, c"size=0k"),
            false => mount_bind("/dev/null", path),
        };
        hidden.map_err(failed("hide", path))?;
    }
    Ok(())
}
