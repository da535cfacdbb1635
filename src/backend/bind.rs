//! The shared lazy mount itself, seen at one more place. Read-only.

use rustix::mount::mount_bind;

use super::{BackendError, Task, failed, lower};

/// Binds it; the name of the shared mount.
///
/// # Errors
/// The shared mount cannot be made, or the kernel refuses.
pub(super) fn provision(task: &Task<'_>) -> Result<String, BackendError> {
    lower::stand_on(task, |tree| {
        mount_bind(tree, task.rootfs).map_err(|error| failed("mount", task.rootfs)(error.into()))
    })
}
