//! Where logins for registries are, by the environment.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::registry::{Credentials, CredentialsError};

use super::report::{Exit, Failure};

/// The logins of whoever runs this; those of one file, if somebody names it.
pub(super) fn credentials(named: Option<&Path>) -> Credentials {
    if let Some(file) = named {
        return Credentials::new(vec![file.to_owned()]);
    }
    let uid = rustix::process::geteuid().as_raw();
    Credentials::new(files(|name| env::var_os(name), env::home_dir(), uid))
}

/// The files that logins may be in, the one that is written to first.
///
/// `REGISTRY_AUTH_FILE` is the only one then, as with the programs that have it
/// (podman-login(1)). Else Docker's file, then those of containers-auth.json(5), then
/// the one of Docker before 1.7.
fn files(
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
    uid: u32,
) -> Vec<PathBuf> {
    let dir = |name: &str| {
        let value = variable(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    if let Some(file) = dir("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = home.filter(|home| home.is_absolute());
    let below = |path: &str| home.as_ref().map(|home| home.join(path));
    let docker = dir("DOCKER_CONFIG").or_else(|| below(".docker"));
    let runtime = dir("XDG_RUNTIME_DIR").map(|dir| dir.join("containers"));
    let runtime = runtime.unwrap_or_else(|| format!("/run/containers/{uid}").into());
    let config = dir("XDG_CONFIG_HOME").or_else(|| below(".config"));
    let all = [
        docker.map(|dir| dir.join("config.json")),
        Some(runtime.join("auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
        below(".dockercfg"),
    ];
    all.into_iter().flatten().collect()
}

impl From<CredentialsError> for Failure {
    fn from(error: CredentialsError) -> Self {
        let failure = Self::of(Exit::Failed, &error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], home: Option<&str>) -> Vec<String> {
        let variable = |name: &str| {
            let mut known = variables.iter().filter(|(known, _)| *known == name);
            known.next().map(|(_, value)| OsString::from(value))
        };
        let files = files(variable, home.map(PathBuf::from), 7).into_iter();
        files.map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn logins_are_where_docker_and_podman_have_them() {
        let usual = [
            "/h/.docker/config.json",
            "/run/containers/7/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.dockercfg",
        ];
        assert_eq!(of(&[], Some("/h")), usual);
        assert_eq!(of(&[("DOCKER_CONFIG", "")], Some("/h")), usual);
        assert_eq!(of(&[], None), ["/run/containers/7/auth.json"]);
        let moved = [
            ("DOCKER_CONFIG", "/d"),
            ("XDG_RUNTIME_DIR", "/r"),
            ("XDG_CONFIG_HOME", "/c"),
        ];
        let wanted = [
            "/d/config.json",
            "/r/containers/auth.json",
            "/c/containers/auth.json",
            "/h/.dockercfg",
        ];
        assert_eq!(of(&moved, Some("/h")), wanted);
    }

    #[test]
    fn a_file_that_is_named_is_the_only_one() {
        let named = [("REGISTRY_AUTH_FILE", "/a.json"), ("DOCKER_CONFIG", "/d")];
        assert_eq!(of(&named, Some("/h")), ["/a.json"]);
    }
}
