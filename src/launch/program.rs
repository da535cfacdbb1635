//! From process 1 to the command.

use std::convert::Infallible;
use std::ffi::{CString, NulError, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, accessat, statat};
use rustix::process::{Gid, Uid, setsid};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::spec::Spec;
use super::{LaunchError, broken, capabilities, failed, raw};

/// Becomes the command. Comes back only if it cannot.
pub(super) fn run(spec: &Spec) -> LaunchError {
    match become_it(spec) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn become_it(spec: &Spec) -> Result<Infallible, LaunchError> {
    if !spec.terminal {
        setsid().map_err(failed("leave the session of", "/proc/self"))?;
    }
    raw::keep_descriptors().map_err(broken("keep descriptors of", "/proc/self"))?;
    if !spec.privileged {
        capabilities::confine().map_err(failed("confine", "/proc/self"))?;
    }
    take_identity(spec).map_err(|error| LaunchError::Identity {
        uid: spec.identity.uid,
        gid: spec.identity.gid,
        source: error.into(),
    })?;
    if spec.no_new_privileges {
        set_no_new_privs(true).map_err(failed("confine", "/proc/self"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(spec.umask));
    rustix::process::chdir(&spec.directory).map_err(|error| LaunchError::Directory {
        path: PathBuf::from(&spec.directory),
        source: error.into(),
    })?;
    let Some(name) = spec.argv.first() else {
        return Err(LaunchError::NoProgram("".into()));
    };
    let search = spec.environment.iter().find(|(key, _)| key == "PATH");
    let search = search.map_or(OsStr::new(""), |(_, value)| value);
    let path = find(name, search)?;
    let text = |words: &[&OsStr]| {
        let bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        CString::new(bytes.concat())
    };
    let variables = spec.environment.iter();
    let variables = variables.map(|(name, value)| text(&[name, OsStr::new("="), value]));
    let exec = || {
        let argv = spec.argv.iter().map(|word| text(&[word]));
        let (argv, variables) = (
            argv.collect::<Result<Vec<_>, _>>()?,
            variables.collect::<Result<Vec<_>, _>>()?,
        );
        Ok(raw::exec(&text(&[path.as_os_str()])?, &argv, &variables))
    };
    let source = exec().unwrap_or_else(|error: NulError| error.into());
    Err(LaunchError::Program { path, source })
}

fn take_identity(spec: &Spec) -> rustix::io::Result<()> {
    let (uid, gid) = (
        Uid::from_raw(spec.identity.uid),
        Gid::from_raw(spec.identity.gid),
    );
    // With one user only, there are no others to be, and the kernel forbids to ask.
    if !spec.user_namespace {
        // The group of the process is among them, lest files be closed to it by their
        // group (CVE-2022-36109).
        let mut groups = vec![gid];
        groups.extend(spec.identity.groups.iter().map(|gid| Gid::from_raw(*gid)));
        set_thread_groups(&groups)?;
    }
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Where a program is, as a shell would look for it.
fn find(name: &OsStr, search: &OsStr) -> Result<PathBuf, LaunchError> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(source) if is_absent(&source) => Err(LaunchError::NoProgram(name.to_owned())),
            Err(source) => Err(LaunchError::Program { path, source }),
        };
    }
    if name.is_empty() {
        return Err(LaunchError::NoProgram(name.to_owned()));
    }
    let mut closed = None;
    for directory in search.as_bytes().split(|byte| *byte == b':') {
        // An empty one is the working directory (execvp(3)).
        let directory = match directory {
            b"" => OsStr::new("."),
            directory => OsStr::from_bytes(directory),
        };
        let path = Path::new(directory).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(source) if is_absent(&source) => {}
            Err(source) => {
                closed.get_or_insert(LaunchError::Program { path, source });
            }
        }
    }
    Err(closed.unwrap_or_else(|| LaunchError::NoProgram(name.to_owned())))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn executable(path: &Path) -> io::Result<()> {
    let stat = statat(CWD, path, AtFlags::empty())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?),
        FileType::Directory => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        _ => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_program_is_looked_for_as_a_shell_does() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "b", "b/prog"] {
            fs::create_dir(at(name)).unwrap();
        }
        for (name, mode) in [("a/data", 0o644), ("b/data", 0o755), ("a/only", 0o644)] {
            fs::write(at(name), "").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let search = format!("{}:/none:{}", at("a").display(), at("b").display());
        let code = |name: &str| match find(OsStr::new(name), OsStr::new(&search)) {
            Ok(path) => path.strip_prefix(dir.path()).unwrap().display().to_string(),
            Err(error) => error.exit_code().to_string(),
        };
        let absolute = |name: &str| at(name).display().to_string();
        for (name, outcome) in [
            ("data", "b/data"),
            ("only", "126"),
            ("prog", "126"),
            ("none", "127"),
            ("", "127"),
            (&absolute("b/data"), "b/data"),
            (&absolute("a/data"), "126"),
            (&absolute("a"), "126"),
            (&absolute("a/none"), "127"),
            (&absolute("a/data/x"), "127"),
        ] {
            assert_eq!(code(name), outcome, "{name}");
        }
    }
}
