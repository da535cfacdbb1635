//! Control groups: limits on CPU time and memory, version 2 only
//! (kernel, `admin-guide/cgroup-v2.rst`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{LaunchError, broken};
use crate::mounts;

/// How long a share of the CPU is counted over, in microseconds (the kernel's default).
const PERIOD: u64 = 100_000;
/// Groups of ours begin so; then come the keeper's process and the container.
const PREFIX: &str = "lazyroot-";

/// What is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// CPU time has to be counted by a control group.
    pub cpu: bool,
    /// Memory has to.
    pub memory: bool,
    /// So many CPUs, 0.5 is half of one.
    pub cpus: Option<f64>,
    /// So many bytes.
    pub bytes: Option<u64>,
}

/// A control group of one container; gone with its scope.
#[derive(Debug)]
pub struct ControlGroup {
    path: PathBuf,
}

impl Limits {
    fn controllers(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let cpu = (self.cpu || self.cpus.is_some()).then_some(("cpu", "CPU time"));
        let memory = (self.memory || self.bytes.is_some()).then_some(("memory", "memory"));
        cpu.into_iter().chain(memory)
    }

    /// The files of a group, and what is written into them.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if let Some(cpus) = self.cpus {
            // Below one millisecond the kernel refuses.
            let quota = (cpus * PERIOD as f64).round().max(1000.0);
            all.push(("cpu.max", format!("{quota:.0} {PERIOD}")));
        }
        if let Some(bytes) = self.bytes {
            all.push(("memory.max", bytes.to_string()));
            // As much again, as Docker has it.
            all.push(("memory.swap.max", bytes.to_string()));
        }
        all
    }

    /// A control group with these limits; nothing where nothing is to be counted.
    ///
    /// # Errors
    /// The machine has no such control groups, or does not let us use them.
    pub fn apply(&self, keeper: u32, container: &str) -> Result<Option<ControlGroup>, LaunchError> {
        let Some((_, first)) = self.controllers().next() else {
            return Ok(None);
        };
        let refused = |what, why: String| LaunchError::Limit { what, why };
        let table = mounts::all().map_err(|error| refused(first, error.to_string()))?;
        let top = table.iter().find(|mount| mount.fs_type == "cgroup2");
        let top = top.ok_or_else(|| {
            refused(
                first,
                "control groups of version 2 are not mounted".to_owned(),
            )
        })?;
        let top = &top.at;
        let read = |name: &str| {
            let path = top.join(name);
            fs::read_to_string(&path).map_err(broken("read", path))
        };
        let there = read("cgroup.controllers")?;
        for (controller, what) in self.controllers() {
            if !there.split_whitespace().any(|word| word == controller) {
                return Err(refused(what, lacking(top, controller, &there)));
            }
            let file = top.join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}"))
                .map_err(|error| refused(what, format!("`{}`: {error}", file.display())))?;
        }
        sweep(top);
        let path = top.join(format!("{PREFIX}{keeper}-{}", container.replace('/', ".")));
        fs::create_dir(&path)
            .map_err(|error| refused(first, format!("`{}`: {error}", path.display())))?;
        let group = ControlGroup { path };
        for (name, value) in self.settings() {
            let file = group.path.join(name);
            match fs::write(&file, value) {
                // A kernel without swap.
                Err(error)
                    if name == "memory.swap.max" && error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(broken("write", file))?,
            }
        }
        Ok(Some(group))
    }
}

fn lacking(top: &Path, controller: &str, there: &str) -> String {
    let there = match there.trim() {
        "" => "none",
        some => some,
    };
    format!(
        "the control groups at `{}` have no controller `{controller}` (but {there}); version 1 may hold it",
        top.display()
    )
}

/// Removes groups whose keepers were killed. A group with processes in it stays.
fn sweep(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let keeper = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let keeper = keeper.and_then(|rest| rest.split('-').next());
        let dead = keeper
            .is_some_and(|pid| matches!(Path::new("/proc").join(pid).try_exists(), Ok(false)));
        if dead {
            // The next one tries again.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

impl ControlGroup {
    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // What was killed a moment ago may be in it still; the next one sweeps.
        let _ = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_the_kernel_wants_them() {
        for (cpus, text) in [
            (0.5, "50000 100000"),
            (2.0, "200000 100000"),
            (0.0001, "1000 100000"),
        ] {
            let limits = Limits {
                cpus: Some(cpus),
                ..Limits::default()
            };
            assert_eq!(limits.settings(), [("cpu.max", text.to_owned())]);
            assert_eq!(
                limits.controllers().collect::<Vec<_>>(),
                [("cpu", "CPU time")]
            );
        }
        let limits = Limits {
            bytes: Some(1 << 20),
            ..Limits::default()
        };
        let names: Vec<_> = limits
            .settings()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["memory.max", "memory.swap.max"]);
        assert!(Limits::default().apply(1, "x").unwrap().is_none());
    }
}
