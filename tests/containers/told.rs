//! What an agent says of a container, and how settings reach it.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use lazyroot::digest::Digest;
use serde_json::{Value, json};

use super::host::{Host, KINDS, names};
use super::images::{Layer, Pack};
use super::lab::succeeded;

/// No paths.
const NONE: [PathBuf; 0] = [];

/// A message with a rootfs of `app:1` and `data:1` as two volumes.
fn info() -> Value {
    let image = |name: &str| json!({"type": "DOCKER", "docker": {"name": name}});
    json!({
        "type": "MESOS",
        "hostname": "web.example",
        "mesos": {"image": image("app:1")},
        "volumes": [
            {"mode": "RO", "container_path": "data", "image": image("data:1")},
            {"mode": "RW", "container_path": "/own", "image": image("data:1")},
            {"mode": "RO", "container_path": "/etc/hosts", "host_path": "/etc/hosts"},
        ],
    })
}

fn host() -> Option<Host> {
    let host = Host::with_image()?;
    host.lab.image("data:1", Pack::Gzip, |layer| {
        layer.dir("bin", 0o755).file("bin/data", b"data");
    });
    Some(host)
}

fn told(host: &Host, id: &str, kind: &str, info: &Value) -> Value {
    let text = info.to_string();
    host.json(&[
        "provision",
        "--id",
        id,
        "--backend",
        kind,
        "--container-info",
        &text,
    ])
}

fn path(rootfs: &Value) -> PathBuf {
    PathBuf::from(rootfs["path"].as_str().unwrap())
}

#[test]
fn a_message_gives_a_rootfs_and_volumes_of_images_that_may_be_written_or_not() {
    let Some(host) = host() else { return };
    for (kind, id) in KINDS
        .into_iter()
        .flat_map(|kind| [(kind, "web"), (kind, "p/c")])
    {
        let made = told(&host, id, kind, &info());
        let rootfses = made["rootfses"].as_array().unwrap();
        let places: Vec<_> = rootfses
            .iter()
            .map(|one| one["container_path"].clone())
            .collect();
        assert_eq!(places, [Value::Null, "data".into(), "/own".into()]);
        let [root, read_only, own] = [0, 1, 2].map(|number| path(&rootfses[number]));
        assert_eq!(fs::read_to_string(root.join("etc/says")).unwrap(), "one");
        for volume in [&read_only, &own] {
            assert_eq!(names(&volume.join("bin")), ["data"], "{kind}");
        }
        assert_eq!(rootfses[1]["read_only"], true);
        assert_eq!(rootfses[2]["read_only"], kind == "bind");
        // What `copy` has written is the caller's to mount read-only.
        if kind != "copy" {
            let refused = fs::write(read_only.join("bin/data"), "").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem, "{kind}");
        }
        if kind != "bind" {
            fs::write(own.join("bin/data"), "written").unwrap();
        }
        assert_eq!(
            fs::read_to_string(read_only.join("bin/data")).unwrap(),
            "data"
        );
        assert_eq!(made["hostname"], "web.example");
        let volume =
            json!({"host_path": "/etc/hosts", "container_path": "/etc/hosts", "read_only": true});
        assert_eq!(made["volumes"], json!([volume]));
        // The same is told later.
        let all = host.containers();
        let line = all.iter().find(|line| line["id"] == id).unwrap();
        assert_eq!(line["rootfses"], made["rootfses"]);
        assert_eq!(
            (&line["hostname"], &line["volumes"]),
            (&made["hostname"], &made["volumes"])
        );
        host.destroy(id.split('/').next().unwrap());
        host.nothing_is_left();
    }
}

#[test]
fn what_was_typed_is_not_seen_in_the_servers_that_stay() {
    let Some(host) = host() else { return };
    let mut info = info();
    info["hostname"] = "secret.example".into();
    for kind in ["fuse", "overlay"] {
        let rootfses = told(&host, &format!("of-{kind}"), kind, &info);
        let path = path(&rootfses["rootfses"][0]);
        let servers = host.servers();
        assert!(kind != "fuse" || servers.iter().any(|(_, at)| *at == path));
        for (pid, at) in servers {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
            assert!(line.contains("\0serve\0") && line.ends_with('\0'), "{line}");
            let (before, last) = line.trim_end_matches('\0').rsplit_once('\0').unwrap();
            assert_eq!(Path::new(last), at, "{before}");
            assert!(!line.contains("secret"), "{line}");
        }
    }
}

/// The executor has the machine's root, and one volume is an image.
#[test]
fn a_container_may_have_volumes_and_no_rootfs_of_its_own() {
    let Some(host) = host() else { return };
    let mut info = info();
    info.as_object_mut().unwrap().remove("mesos");
    let made = told(&host, "p/c", "fuse", &info);
    assert_eq!(made["rootfses"].as_array().unwrap().len(), 2);
    assert!(path(&made["rootfses"][0]).join("bin").is_dir());
    let nothing = told(&host, "none", "fuse", &json!({"type": "MESOS"}));
    assert_eq!(nothing["rootfses"], json!([]));
    assert_eq!(host.state("none"), "ready");
    host.run(&["destroy", "p", "none"]);
    host.nothing_is_left();
}

#[test]
fn directories_with_what_is_written_are_told_for_quotas() {
    let Some(host) = host() else { return };
    for kind in KINDS {
        let made = told(&host, "web", kind, &info());
        let own = made["rootfses"].as_array().unwrap();
        let ephemeral = |number: usize| {
            let paths = own[number]["ephemeral"].as_array().unwrap().iter();
            paths
                .map(|path| PathBuf::from(path.as_str().unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(ephemeral(1), NONE, "read-only");
        if matches!(kind, "copy" | "bind") {
            assert_eq!(ephemeral(0), NONE, "{kind}");
        } else {
            fs::write(path(&own[0]).join("new"), vec![1; 10_000]).unwrap();
            let found = ephemeral(0);
            let ends: Vec<_> = found.iter().map(|path| path.file_name().unwrap()).collect();
            assert_eq!(ends, ["upper", "work"]);
            assert!(found.iter().all(|path| path.is_dir()), "{found:?}");
            assert_eq!(fs::metadata(found[0].join("new")).unwrap().len(), 10_000);
        }
        host.destroy("web");
    }
    host.nothing_is_left();
}

/// An image of one layer, as `docker save` writes it.
fn docker_save(name: &str, layer: Layer, config: &Value) -> Vec<u8> {
    let layer = layer.pack(Pack::Plain);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff]},
    });
    let config = config.to_string();
    let file = format!("{}.json", Digest::sha256(config.as_bytes()).hex());
    let manifest = json!([{"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut archive = Layer::new();
    archive
        .file(&file, config.as_bytes())
        .file("layer.tar", &layer.bytes)
        .file("manifest.json", manifest.to_string().as_bytes());
    archive.pack(Pack::Plain).bytes
}

/// Mesos gives the manifest of the deepest dependency: it takes the first of its list.
#[test]
fn how_an_image_wants_to_be_run_comes_with_its_rootfs() {
    let Some(host) = host() else { return };
    let wanted =
        json!({"Entrypoint": ["/init"], "Cmd": ["a"], "Env": ["A=b"], "WorkingDir": "/srv"});
    let archive = host.lab.path("run.tar");
    fs::write(&archive, docker_save("run:1", Layer::new(), &wanted)).unwrap();
    host.run(&["import", "--quiet", archive.to_str().unwrap()]);
    let made = host.json(&["provision", "-q", "run:1", "--id", "docker"]);
    assert_eq!(made["configs"], json!([wanted]));
    let shown = &made["rootfses"][0];
    assert_eq!(
        (&shown["title"], &shown["backend"]),
        (&"run:1".into(), &"fuse".into())
    );
    assert_eq!(shown["layers"].as_array().unwrap().len(), 1);

    let app = |exec: &str| json!({"exec": [exec], "user": "0", "group": "0"});
    super::appc::aci(&host.lab, "base", "1", &json!({"app": app("/base")}));
    let on = json!([{"imageName": "example.org/base"}]);
    let fields = json!({"app": app("/top"), "dependencies": on});
    super::appc::aci(&host.lab, "top", "1", &fields);
    let top = "appc:example.org/top:1";
    let made = host.json(&["provision", "-q", top, "--id", "appc"]);
    assert_eq!(made["configs"], json!([app("/top")]));
    assert_eq!(made["rootfses"][0]["layers"].as_array().unwrap().len(), 2);
    // Neither says anything.
    let made = told(&host, "silent", "fuse", &info());
    assert_eq!(made["configs"], json!([{}, {}, {}]));
    host.run(&["destroy", "docker", "appc", "silent"]);
    host.nothing_is_left();
}

#[test]
fn a_message_is_read_from_a_file_and_from_standard_input() {
    let Some(host) = host() else { return };
    let file = host.lab.path("info.json");
    fs::write(&file, info().to_string()).unwrap();
    let url = format!("file://{}", file.display());
    for (id, text) in [("a", file.to_str().unwrap()), ("b", &url)] {
        let said = host.run(&["provision", "--id", id, "--container-info", text]);
        let ends: Vec<_> = said.lines().map(|line| line.split(" -> ").nth(1)).collect();
        assert_eq!(ends, [None, Some("data"), Some("/own")]);
    }
    let mut command = host.lazyroot(&["provision", "--id", "c", "--container-info", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = info().to_string();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let said = succeeded("provision", &child.wait_with_output().unwrap());
    assert_eq!(said.lines().count(), 3);
    host.run(&["destroy", "a", "b", "c"]);

    let mut docker = info();
    docker["type"] = "DOCKER".into();
    for (info, code, words) in [
        (docker.to_string(), 2, "DOCKER"),
        ("{".to_owned(), 2, "ContainerInfo"),
        ("/nowhere/info.json".to_owned(), 3, "/nowhere/info.json"),
    ] {
        let said = host.fails(code, &["provision", "--id", "d", "--container-info", &info]);
        assert!(said.contains(words), "{said}");
    }
    host.nothing_is_left();
}

/// Where a rootfs of `app:1` is made with these flags, variables and config file.
fn made(host: &Host, flags: &[&str], variables: &[(&str, &Path)]) -> PathBuf {
    let mut command = host
        .lab
        .lazyroot(&["provision", "-q", "app:1", "--id", "web"]);
    command.args(flags).envs(variables.iter().copied());
    PathBuf::from(succeeded(flags, &command.output().unwrap()).trim_end())
}

#[test]
fn flags_variables_and_config_files_decide_where_and_how() {
    let Some(host) = host() else { return };
    let below = |name: &str| host.lab.path(name);
    let config = below("config.toml");
    let text = format!("rootfs-dir = {:?}\nbackend = 'bind'\n", below("by-file"));
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let destroy = |dir: &Path| {
        host.lab
            .run(&["destroy", "web", "--rootfs-dir", dir.to_str().unwrap()]);
        assert_eq!(names(dir), [".trash"]);
    };

    let path = made(&host, &["--config", config], &[]);
    assert!(
        path.starts_with(below("by-file/web/backends/bind")),
        "{path:?}"
    );
    destroy(&below("by-file"));
    let variables = [
        ("LAZYROOT_CONFIG", Path::new(config)),
        ("LAZYROOT_BACKEND", Path::new("copy")),
        ("LAZYROOT_ROOTFS_DIR", &below("by-variable")),
    ];
    let path = made(&host, &[], &variables);
    assert!(
        path.starts_with(below("by-variable/web/backends/copy")),
        "{path:?}"
    );
    destroy(&below("by-variable"));
    let own = below("by-flag");
    let words = [
        "--backend",
        "overlay",
        "--rootfs-dir",
        own.to_str().unwrap(),
    ];
    let path = made(&host, &words, &variables);
    assert!(
        path.starts_with(own.join("web/backends/overlay")),
        "{path:?}"
    );
    destroy(&own);
    let agents = below("by-agent");
    let words = [
        "--provisioner_backend",
        "copy",
        "--provisioner_rootfs_dir",
        agents.to_str().unwrap(),
        "--provisioners",
        "docker",
        "--containerizers",
        "mesos",
    ];
    let path = made(&host, &words, &variables[..1]);
    assert!(
        path.starts_with(agents.join("web/backends/copy")),
        "{path:?}"
    );
    destroy(&agents);
    // The defaults of the first design, but for its directories.
    let first = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesos.toml");
    let dir = below("by-example");
    let words = [
        "--config",
        first.to_str().unwrap(),
        "--rootfs-dir",
        dir.to_str().unwrap(),
    ];
    let path = made(&host, &words, &[]);
    assert!(path.starts_with(dir.join("web/backends/copy")), "{path:?}");
    destroy(&dir);
}

#[test]
fn kinds_of_images_that_are_not_enabled_are_refused() {
    let Some(host) = host() else { return };
    let said = host.fails(
        2,
        &[
            "provision",
            "-q",
            "app:1",
            "--id",
            "web",
            "--provisioners",
            "appc",
        ],
    );
    assert!(said.contains("docker"), "{said}");
    host.fails(
        2,
        &[
            "provision",
            "-q",
            "app:1",
            "--id",
            "web",
            "--provisioners",
            "oci",
        ],
    );
    assert_eq!(host.states(), []);
}

/// `ROOT_DOCKER_ImageForceFetch` of Mesos, for our verb.
#[test]
fn an_image_is_fetched_when_it_is_missing_or_when_it_is_to_be_new() {
    let Some(host) = host() else { return };
    let dir = host.lab.place("images");
    let put = |text: &str| {
        let mut layer = Layer::new();
        layer.file("says", text.as_bytes());
        fs::write(
            dir.join("pulled.tar"),
            docker_save("pulled:latest", layer, &json!({})),
        )
        .unwrap();
    };
    let told = |cached: bool| {
        let image = json!({"type": "DOCKER", "docker": {"name": "pulled"}, "cached": cached});
        let info = json!({"type": "MESOS", "mesos": {"image": image}}).to_string();
        let dir = dir.to_str().unwrap();
        let words = ["provision", "-q", "--id", "web", "--local-dir", dir];
        let said = host.run(&[&words[..], &["--container-info", &info]].concat());
        fs::read_to_string(Path::new(said.trim_end()).join("says")).unwrap()
    };
    host.fails(
        3,
        &[
            "provision",
            "-q",
            "pulled",
            "--id",
            "web",
            "--pull",
            "never",
        ],
    );
    put("one");
    assert_eq!(told(true), "one");
    put("two");
    assert_eq!(told(true), "one");
    assert_eq!(told(false), "two");
    // The rootfs that was made of the old one keeps it.
    host.kill_servers();
    host.run(&["gc"]);
    host.run(&["recover"]);
    let all = host.containers();
    let says = all[0]["rootfses"].as_array().unwrap().iter();
    let says = says.map(|one| fs::read_to_string(path(one).join("says")).unwrap());
    assert_eq!(says.collect::<Vec<_>>(), ["one", "one", "two"]);
    host.destroy("web");
    host.nothing_is_left();
}
