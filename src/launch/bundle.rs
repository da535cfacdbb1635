//! The same launch as an OCI bundle: what `runc`, `crun` and their like want to be told
//! (`runtime-spec`, `config.md`, `config-linux.md`). Pure.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::capabilities::KEPT;
use super::masks;
use super::spec::{Spec, Volume};

/// The version whose words are used; all runtimes of today know it.
const VERSION: &str = "1.0.2";

/// JSON has text only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not UTF-8, and a bundle has nothing else", .0.display())]
pub struct NotText(pub OsString);

/// `config.json` of a bundle whose root file system is where the spec says. `ids` are user and group
/// of whoever is root in a user namespace.
///
/// # Errors
/// Something to be said is no text.
pub fn config(spec: &Spec, ids: (u32, u32)) -> Result<Value, NotText> {
    let text = |word: &OsString| match word.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(NotText(word.clone())),
    };
    let args = spec.argv.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let pair =
        |(name, value): &(OsString, OsString)| Ok(format!("{}={}", text(name)?, text(value)?));
    let environment = spec
        .environment
        .iter()
        .map(pair)
        .collect::<Result<Vec<_>, _>>()?;
    // As when we launch it ourselves: the process's own group is among them.
    let own = [spec.identity.gid];
    let groups: Vec<u32> = own
        .into_iter()
        .chain(spec.identity.groups.iter().copied())
        .collect();
    let capabilities: Vec<&str> = KEPT.iter().map(|(name, _)| *name).collect();
    let mut config = json!({
        "ociVersion": VERSION,
        "process": {
            "terminal": spec.terminal,
            "user": {
                "uid": spec.identity.uid,
                "gid": spec.identity.gid,
                "additionalGids": groups,
            },
            "args": args,
            "env": environment,
            "cwd": spec.directory,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": spec.no_new_privileges,
        },
        "root": { "path": text(&spec.rootfs.clone().into_os_string())?, "readonly": spec.read_only },
        "hostname": spec.hostname,
        "mounts": mounts(spec)?,
        "linux": {
            "namespaces": namespaces(spec),
            "maskedPaths": masks::MASKED,
            "readonlyPaths": masks::READ_ONLY,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        },
    });
    if spec.privileged {
        let linux = &mut config["linux"];
        (linux["maskedPaths"], linux["readonlyPaths"]) = (json!([]), json!([]));
        linux["resources"] = json!({});
    }
    if spec.user_namespace {
        let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        config["linux"]["uidMappings"] = map(ids.0);
        config["linux"]["gidMappings"] = map(ids.1);
    }
    Ok(config)
}

fn namespaces(spec: &Spec) -> Vec<Value> {
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    if spec.own_network {
        kinds.push("network");
    }
    if spec.user_namespace {
        kinds.push("user");
    }
    kinds
        .into_iter()
        .map(|kind| json!({ "type": kind }))
        .collect()
}

fn mounts(spec: &Spec) -> Result<Vec<Value>, NotText> {
    let of = |kind: &str, at: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": kind, "options": options });
    let mut terminals = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    if !spec.user_namespace {
        terminals.push("gid=5");
    }
    let closed = ["nosuid", "noexec", "nodev"];
    let sys = match spec.user_namespace && !spec.own_network {
        // It shows the network, which is not this namespace's.
        true => json!({ "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] }),
        false => of("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
    };
    let shared = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    let mut all = vec![
        of("proc", "/proc", &closed),
        of(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        of("devpts", "/dev/pts", &terminals),
        of("tmpfs", "/dev/shm", &shared),
        of("mqueue", "/dev/mqueue", &closed),
        sys,
    ];
    for memory in &spec.tmpfs {
        let own = memory.data();
        let mut options = vec!["nosuid", "nodev"];
        options.extend(memory.no_exec.then_some("noexec"));
        options.extend(memory.read_only.then_some("ro"));
        options.extend(own.split(','));
        all.push(of("tmpfs", &memory.path, &options));
    }
    for volume in spec.files.iter().chain(&spec.volumes) {
        all.push(bind(volume)?);
    }
    Ok(all)
}

fn bind(volume: &Volume) -> Result<Value, NotText> {
    let source = volume.source.to_str();
    let source = source.ok_or_else(|| NotText(volume.source.clone().into_os_string()))?;
    let access = if volume.read_only { "ro" } else { "rw" };
    Ok(json!({
        "destination": volume.target,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate", access],
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;
    use crate::image::identity::Identity;
    use crate::launch::spec::{Memory, Usage};

    fn spec() -> Spec {
        Spec {
            keeper: 1,
            rootfs: "/r".into(),
            read_only: true,
            argv: vec!["sh".into(), "-c".into()],
            environment: vec![("A".into(), "b=c".into())],
            directory: "/srv".to_owned(),
            umask: 0o022,
            identity: Identity {
                groups: vec![29],
                ..Identity::numbers(33, 34)
            },
            hostname: "box".to_owned(),
            volumes: vec![Volume {
                source: "/host".into(),
                target: "/in".to_owned(),
                read_only: true,
            }],
            files: Vec::new(),
            tmpfs: vec![Memory {
                path: "/tmp".to_owned(),
                options: vec!["size=1m".to_owned()],
                no_exec: true,
                read_only: false,
            }],
            directories: Vec::new(),
            own_network: false,
            user_namespace: false,
            privileged: false,
            no_new_privileges: true,
            terminal: false,
            job: false,
            control_group: None,
            usage: Usage::default(),
        }
    }

    #[test]
    fn a_bundle_says_what_the_spec_says() {
        let config = config(&spec(), (0, 0)).unwrap();
        let process = &config["process"];
        assert_eq!(process["args"], json!(["sh", "-c"]));
        assert_eq!(process["env"], json!(["A=b=c"]));
        assert_eq!(process["cwd"], "/srv");
        assert_eq!(process["noNewPrivileges"], true);
        let user = json!({"uid": 33, "gid": 34, "additionalGids": [34, 29]});
        assert_eq!(process["user"], user);
        assert_eq!(config["root"], json!({"path": "/r", "readonly": true}));
        let mounts = config["mounts"].as_array().unwrap();
        let at = |path: &str| {
            mounts
                .iter()
                .find(|mount| mount["destination"] == path)
                .unwrap()
        };
        assert_eq!(at("/in")["options"], json!(["rbind", "rprivate", "ro"]));
        assert_eq!(at("/tmp")["type"], "tmpfs");
        let options = json!(["nosuid", "nodev", "noexec", "mode=1777", "size=1m"]);
        assert_eq!(at("/tmp")["options"], options);
        let kinds = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
        assert_eq!(config["linux"]["namespaces"], kinds);
        assert!(config["linux"].get("uidMappings").is_none());
    }

    #[test]
    fn an_ordinary_user_is_root_in_a_namespace_of_his_own() {
        let spec = Spec {
            user_namespace: true,
            ..spec()
        };
        let config = config(&spec, (1000, 100)).unwrap();
        let map = json!([{"containerID": 0, "hostID": 100, "size": 1}]);
        assert_eq!(config["linux"]["gidMappings"], map);
        assert_eq!(config["mounts"][5]["type"], "none");
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let odd = OsString::from_vec(vec![0xff]);
        let mut spec = spec();
        spec.argv.push(odd.clone());
        assert_eq!(config(&spec, (0, 0)), Err(NotText(odd)));
    }
}
