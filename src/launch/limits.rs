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
    /// What only has to be counted is left out where the machine cannot.
    pub if_there: bool,
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

    /// The same where there are these controllers.
    fn with(self, there: &str) -> Self {
        Self {
            cpu: self.cpu && has(there, "cpu"),
            memory: self.memory && has(there, "memory"),
            if_there: false,
            ..self
        }
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
        let table = mounts::all().map_err(|error| refused(first, error.to_string()))?;
        let top = table.iter().find(|mount| mount.fs_type == "cgroup2");
        if self.if_there {
            let there = top.map_or(Ok(String::new()), |top| controllers_at(&top.at))?;
            return self.with(&there).apply(keeper, container);
        }
        let top = top.ok_or_else(|| {
            refused(
                first,
                "control groups of version 2 are not mounted".to_owned(),
            )
        })?;
        self.apply_below(&top.at, keeper, container).map(Some)
    }

    /// The same below the group `top`.
    fn apply_below(
        &self,
        top: &Path,
        keeper: u32,
        container: &str,
    ) -> Result<ControlGroup, LaunchError> {
        let there = controllers_at(top)?;
        for (controller, what) in self.controllers() {
            if !has(&there, controller) {
                return Err(refused(what, lacking(top, controller, &there)));
            }
            let file = top.join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}"))
                .map_err(|error| refused(what, closed(&file, &error)))?;
        }
        sweep(top);
        let name = format!("{PREFIX}{keeper}-{}", container.replace('/', "."));
        let path = top.join(name);
        fs::create_dir(&path).map_err(broken("create", &path))?;
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
        Ok(group)
    }
}

/// Controllers that a group could hand to those below.
fn controllers_at(top: &Path) -> Result<String, LaunchError> {
    let path = top.join("cgroup.controllers");
    fs::read_to_string(&path).map_err(broken("read", path))
}

fn has(there: &str, controller: &str) -> bool {
    there.split_whitespace().any(|word| word == controller)
}

fn refused(what: &'static str, why: String) -> LaunchError {
    LaunchError::Limit { what, why }
}

/// Why a controller cannot be handed to groups below.
fn closed(file: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        // Only the top of all may have both, processes and groups with controllers
        // (cgroup-v2.rst, "No Internal Process Constraint").
        io::ErrorKind::ResourceBusy => {
            "; the group has processes of its own, as the top of a container does"
        }
        _ => "",
    };
    format!("`{}`: {error}{why}", file.display())
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

    /// A directory that looks like the top of the hierarchy; files of a new group are ordinary ones.
    fn top(controllers: &str) -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(top.path().join("cgroup.subtree_control"), "").unwrap();
        top
    }

    #[test]
    fn a_group_is_made_with_its_limits_and_goes_with_its_scope() {
        let top = top("cpuset cpu io memory pids\n");
        let limits = Limits {
            cpus: Some(1.5),
            bytes: Some(64 << 20),
            ..Limits::default()
        };
        let group = limits.apply_below(top.path(), 7, "a/b").unwrap();
        let path = group.path().to_owned();
        assert_eq!(path, top.path().join("lazyroot-7-a.b"));
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("memory.swap.max"), "67108864");
        let control = top.path().join("cgroup.subtree_control");
        // The kernel adds up what is written one by one.
        assert_eq!(fs::read_to_string(control).unwrap(), "+memory");
        for name in ["cpu.max", "memory.max", "memory.swap.max"] {
            fs::remove_file(path.join(name)).unwrap();
        }
        drop(group);
        assert!(!path.try_exists().unwrap());
    }

    #[test]
    fn what_the_machine_cannot_limit_is_refused_and_no_group_is_left() {
        let of = |cpu: bool, memory: bool| Limits {
            cpu,
            memory,
            ..Limits::default()
        };
        for (there, limits, says) in [
            ("pids\n", of(true, false), "cannot limit CPU time: "),
            ("cpu\n", of(true, true), "no controller `memory` (but cpu)"),
            ("\n", of(false, true), "no controller `memory` (but none)"),
        ] {
            let top = top(there);
            let refused = limits.apply_below(top.path(), 1, "x").unwrap_err();
            assert!(refused.to_string().contains(says), "{refused}");
            assert_eq!(fs::read_dir(top.path()).unwrap().count(), 2);
        }
        let busy = closed(Path::new("/x"), &io::ErrorKind::ResourceBusy.into());
        assert!(busy.contains("has processes of its own"), "{busy}");
    }

    #[test]
    fn what_only_has_to_be_counted_may_be_left_out_and_no_limit() {
        let all = Limits {
            cpu: true,
            memory: true,
            if_there: true,
            ..Limits::default()
        };
        for (there, names) in [
            ("cpu io memory\n", &["cpu", "memory"][..]),
            ("cpuset memory\n", &["memory"]),
            ("", &[]),
        ] {
            let with = all.with(there);
            let found: Vec<_> = with.controllers().map(|(name, _)| name).collect();
            assert_eq!(found, names);
        }
        let limited = Limits {
            bytes: Some(1 << 30),
            ..all
        };
        assert_eq!(limited.with("").controllers().count(), 1);
    }

    #[test]
    fn groups_of_dead_keepers_are_swept_and_no_others() {
        let top = top("cpu\n");
        let ours = std::process::id();
        // No process has that number (PID_MAX_LIMIT of the kernel is 4194304).
        let names = [format!("{PREFIX}{ours}-a"), "other-9999999-b".to_owned()];
        let dead = format!("{PREFIX}9999999-c");
        for name in names.iter().chain([&dead]) {
            fs::create_dir(top.path().join(name)).unwrap();
        }
        sweep(top.path());
        assert!(!top.path().join(&dead).try_exists().unwrap());
        for name in names {
            assert!(top.path().join(name).try_exists().unwrap());
        }
    }
}
