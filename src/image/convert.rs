//! What a Docker or OCI config says as an AppC manifest, and back.
//!
//! What it is for: an image of one kind that is to go out, or to be committed, as the other.
//! What the other has no word for is left out, and [told](Lost). May assume nothing. Must
//! not know layers: whoever converts an image shows all of its tree in one.
//!
//! | config | manifest |
//! |---|---|
//! | `architecture`, `os`, `variant` | labels `arch`, `os`, as the schema spells them |
//! | `Entrypoint`, `Cmd` | `exec`, and annotations that tell the two apart |
//! | `User` | `user`, `group`, `supplementaryGIDs`, looked up in the image |
//! | `Env`, `WorkingDir` | `environment`, `workingDirectory` |
//! | `ExposedPorts`, `Volumes` | `ports`, `mountPoints`, with names made up |
//! | `Labels` | `userLabels` |
//! | `author`, `created` | annotations `authors`, `created` |
//!
//! The annotations are those of docker2aci (`lib/common/common.go`), so that its images
//! come back, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value, json};

use super::appc::{App, Manifest, Port, arch_of, is_time};
use super::config::{Config, RunConfig};
use super::identity::{Database, Identity, IdentityError, UserWish};
use super::platform::Platform;
use crate::appc::{AcName, AppcReference, VERSION};

/// The version of the specification that manifests of ours follow.
const AC_VERSION: &str = "0.8.11";
const ENTRYPOINT: &str = "appc.io/docker/entrypoint";
const CMD: &str = "appc.io/docker/cmd";
/// What a version is called among Docker's labels (OCI image spec, annotations.md).
const VERSION_LABEL: &str = "org.opencontainers.image.version";
/// Keys of `config` that are said in other words, see above.
const SAID: [&str; 8] = [
    "User",
    "Env",
    "Entrypoint",
    "Cmd",
    "WorkingDir",
    "Labels",
    "ExposedPorts",
    "Volumes",
];
/// Keys beside `config` that are said in other words, are about the layers, which become one,
/// or about the container which an image was made of (Docker image spec v1.2).
const TOP: [&str; 15] = [
    "architecture",
    "author",
    "config",
    "container",
    "container_config",
    "created",
    "docker_version",
    "history",
    "id",
    "os",
    "parent",
    "rootfs",
    "Size",
    "throwaway",
    "variant",
];
/// Keys of `config` that are about the container which an image was made of.
const OF_CONTAINER: [&str; 13] = [
    "ArgsEscaped",
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Domainname",
    "Hostname",
    "Image",
    "MacAddress",
    "NetworkDisabled",
    "OpenStdin",
    "PortSpecs",
    "StdinOnce",
    "Tty",
];

/// Something that an image said and says no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost(String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The manifest of an image that shows what one with this config shows. `files` are the
/// image's own. Labels of `name` win over what the config says.
///
/// # Errors
/// It is no config.
pub fn manifest_of(
    config: &Map<String, Value>,
    name: &AppcReference,
    files: &dyn Database,
) -> Result<(Map<String, Value>, Vec<Lost>), serde_json::Error> {
    let parsed: Config = serde_json::from_value(Value::Object(config.clone()))?;
    let mut lost = unsaid(config);
    let app = app(&parsed.config, files, &mut lost);
    let mut labels = platform_labels(&parsed.platform(), &mut lost);
    for (key, value) in &name.labels {
        labels.insert(key.to_string(), value.clone());
    }
    let mut annotations = BTreeMap::new();
    for (key, words) in [
        (ENTRYPOINT, &parsed.config.entrypoint),
        (CMD, &parsed.config.cmd),
    ] {
        if !words.is_empty() {
            annotations.insert(key, json!(words).to_string());
        }
    }
    if let Some(author) = parsed.author.filter(|author| !author.is_empty()) {
        annotations.insert("authors", author);
    }
    match parsed.created {
        Some(created) if is_time(&created) => _ = annotations.insert("created", created),
        Some(created) if !created.is_empty() => {
            lost.push(Lost(format!("`{created}`, when it was made, is no time")));
        }
        _ => {}
    }
    let manifest = json!({
        "acKind": "ImageManifest",
        "acVersion": AC_VERSION,
        "name": name.name,
        "labels": named(labels),
        "app": app,
        "annotations": named(annotations),
    });
    let Value::Object(manifest) = manifest else {
        unreachable!("because it was written as an object")
    };
    Ok((manifest, lost))
}

/// Pairs as AppC has them: a list of objects.
fn named(pairs: impl IntoIterator<Item = (impl serde::Serialize, String)>) -> Value {
    let pair = |(name, value)| json!({ "name": name, "value": value });
    pairs.into_iter().map(pair).collect()
}

/// What the config says that a manifest has no word for.
fn unsaid(config: &Map<String, Value>) -> Vec<Lost> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let run = config.get("config").and_then(Value::as_object);
    let run = run
        .into_iter()
        .flatten()
        .filter(|(key, _)| !SAID.contains(&key.as_str()) && !OF_CONTAINER.contains(&key.as_str()));
    let top = config
        .iter()
        .filter(|(key, _)| !TOP.contains(&key.as_str()));
    let told = top.chain(run).filter(|(_, value)| !empty(value));
    told.map(|(key, _)| Lost(format!("an AppC image cannot say `{key}`")))
        .collect()
}

fn platform_labels(platform: &Platform, lost: &mut Vec<Lost>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    match arch_of(platform) {
        Some(arch) => {
            labels.insert("os".to_owned(), platform.os.clone());
            labels.insert("arch".to_owned(), arch.to_owned());
        }
        None => lost.push(Lost(format!(
            "AppC has no word for the platform {platform}: the image does not say what it is for"
        ))),
    }
    labels
}

fn app(run: &RunConfig, files: &dyn Database, lost: &mut Vec<Lost>) -> Value {
    let exec: Vec<_> = run.entrypoint.iter().chain(&run.cmd).collect();
    let (user, group) = run.user.split_once(':').unwrap_or((&run.user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let (gid, groups) = match Identity::of(&UserWish::Docker(run.user.clone()), files) {
        Ok(identity) => (identity.gid, identity.groups),
        Err(error) => {
            lost.push(Lost(format!("{error}: the image may not run")));
            (0, Vec::new())
        }
    };
    let group = match group {
        "" => gid.to_string(),
        group => group.to_owned(),
    };
    let mut app = json!({
        "exec": exec,
        "user": user,
        "group": group,
        "environment": named(environment(&run.env, lost)),
        "mountPoints": mount_points(&run.volumes, lost),
        "ports": ports(&run.exposed_ports, lost),
    });
    if !groups.is_empty() {
        app["supplementaryGIDs"] = json!(groups);
    }
    if !run.working_dir.is_empty() {
        // Builders write relative ones, and mean the root.
        app["workingDirectory"] = json!(format!("/{}", run.working_dir.trim_start_matches('/')));
    }
    if !run.labels.is_empty() {
        app["userLabels"] = json!(run.labels);
    }
    app
}

/// Variables, each once: the last value counts.
fn environment(env: &[String], lost: &mut Vec<Lost>) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for text in env {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        let follows = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !name.starts_with(begins) || !name.chars().all(follows) {
            let what = format!("an AppC image cannot have a variable `{name}`");
            lost.push(Lost(what));
            continue;
        }
        match all.iter_mut().find(|(other, _)| other == name) {
            Some(known) => value.clone_into(&mut known.1),
            None => all.push((name.to_owned(), value.to_owned())),
        }
    }
    all
}

/// An AC Name of what a text has of letters and digits, that no other has.
fn name_of(text: &str, taken: &mut BTreeSet<String>) -> String {
    let lower = text.to_ascii_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let name = words.join("-");
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let free = std::iter::once(name.clone()).chain(numbered);
    let fits = |name: &String| name.parse::<AcName>().is_ok() && !taken.contains(name);
    let name = free
        .take(taken.len() + 2)
        .find(fits)
        // Longer than a name may be, or nothing that a name has.
        .unwrap_or_else(|| format!("volume-{}", taken.len() + 1));
    taken.insert(name.clone());
    name
}

fn mount_points(volumes: &[String], lost: &mut Vec<Lost>) -> Vec<Value> {
    let mut taken = BTreeSet::new();
    let (volumes, relative): (Vec<_>, Vec<_>) =
        volumes.iter().partition(|path| path.starts_with('/'));
    let told = |path: &String| Lost(format!("an AppC image cannot have a volume at `{path}`"));
    lost.extend(relative.into_iter().map(told));
    let point = |path: &String| {
        let name = name_of(&format!("volume-{path}"), &mut taken);
        json!({ "name": name, "path": path })
    };
    volumes.into_iter().map(point).collect()
}

/// `80`, `80/tcp`, `8000-8010/udp`.
fn ports(exposed: &[String], lost: &mut Vec<Lost>) -> Vec<Value> {
    let mut taken = BTreeSet::new();
    let mut ports = Vec::new();
    for text in exposed {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last && !protocol.is_empty() => {
                let name = name_of(&format!("{range}-{protocol}"), &mut taken);
                let count = u32::from(last - first) + 1;
                ports.push(json!({
                    "name": name, "protocol": protocol, "port": first, "count": count,
                }));
            }
            _ => lost.push(Lost(format!("`{text}` is no port"))),
        }
    }
    ports
}

/// The config of an image that shows what one with this manifest shows, without layers and
/// history. `files` are the image's own.
///
/// # Errors
/// It is to run as the owner of a file, or under a name, that the image does not have.
pub fn config_of(
    manifest: &Manifest,
    files: &dyn Database,
) -> Result<(Map<String, Value>, Vec<Lost>), IdentityError> {
    let mut lost = Vec::new();
    let annotation = |name: &str| {
        let mut all = manifest.annotations.iter();
        all.find(|(key, _)| key.as_str() == name)
            .map(|(_, value)| value.as_str())
    };
    let mut platform = manifest.platform();
    if platform.os == "unknown" {
        platform.os = "linux".to_owned();
    }
    if platform.architecture == "unknown" {
        let what = "it does not say for which architecture it is, and some programs want to know";
        lost.push(Lost(what.to_owned()));
    }
    let mut config = Map::new();
    config.insert("architecture".to_owned(), json!(platform.architecture));
    config.insert("os".to_owned(), json!(platform.os));
    if let Some(variant) = platform.variant {
        config.insert("variant".to_owned(), json!(variant));
    }
    for (key, name) in [("created", "created"), ("author", "authors")] {
        if let Some(text) = annotation(name) {
            config.insert(key.to_owned(), json!(text));
        }
    }
    let mut run = json!({});
    if let Some(app) = &manifest.app {
        let words = |name| serde_json::from_str::<Vec<String>>(annotation(name)?).ok();
        let two = (
            words(ENTRYPOINT).unwrap_or_default(),
            words(CMD).unwrap_or_default(),
        );
        run = run_config(app, two, files, &mut lost)?;
    }
    let labels = docker_labels(manifest);
    if !labels.is_empty() {
        run["Labels"] = json!(labels);
    }
    config.insert("config".to_owned(), run);
    let rootfs = json!({ "type": "layers", "diff_ids": [] });
    config.insert("rootfs".to_owned(), rootfs);
    Ok((config, lost))
}

fn run_config(
    app: &App,
    (entrypoint, cmd): (Vec<String>, Vec<String>),
    files: &dyn Database,
    lost: &mut Vec<Lost>,
) -> Result<Value, IdentityError> {
    let mut tell = |what: String| lost.push(Lost(what));
    // What was told apart once; if `exec` was changed since, that is what is run.
    let (entrypoint, cmd) = match entrypoint.iter().chain(&cmd).eq(&app.exec) {
        true => (entrypoint, cmd),
        // Arguments replace all but the program, as in Mesos.
        false => {
            let (program, rest) = app.exec.split_at(app.exec.len().min(1));
            (program.to_vec(), rest.to_vec())
        }
    };
    let mut run = json!({ "User": user(app, files)? });
    let lists = [
        ("Entrypoint", json!(entrypoint)),
        ("Cmd", json!(cmd)),
        (
            "Env",
            app.environment
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        ("WorkingDir", json!(app.working_directory)),
        ("ExposedPorts", exposed_ports(&app.ports, &mut tell)),
        (
            "Volumes",
            keys(app.mount_points.iter().map(|point| point.path.clone())),
        ),
    ];
    for (key, value) in lists {
        if !matches!(&value, Value::Null) && value != json!([]) && value != json!("") {
            run[key] = value;
        }
    }
    if !app.supplementary_gids.is_empty() {
        tell("`supplementaryGIDs` cannot be said by the other kind".to_owned());
    }
    for handler in &app.event_handlers {
        tell(format!("the other kind has no `{}` handlers", handler.name));
    }
    for isolator in &app.isolators {
        tell(format!(
            "the other kind has no isolator `{}`",
            isolator.name
        ));
    }
    for point in app.mount_points.iter().filter(|point| point.read_only) {
        let what = format!(
            "the other kind cannot say that `{}` is read-only",
            point.path
        );
        tell(what);
    }
    Ok(run)
}

/// `user:group`; numbers where the owner of a file is meant.
fn user(app: &App, files: &dyn Database) -> Result<String, IdentityError> {
    let plain = |text: &str| !text.starts_with('/') && !text.contains(':');
    if plain(&app.user) && plain(&app.group) {
        return Ok(format!("{}:{}", app.user, app.group));
    }
    let wish = UserWish::Appc {
        user: app.user.clone(),
        group: app.group.clone(),
        groups: Vec::new(),
    };
    let identity = Identity::of(&wish, files)?;
    Ok(format!("{}:{}", identity.uid, identity.gid))
}

fn exposed_ports(ports: &[Port], tell: &mut dyn FnMut(String)) -> Value {
    let mut all = BTreeSet::new();
    for port in ports {
        if !matches!(port.protocol.as_str(), "tcp" | "udp" | "sctp") {
            let what = format!(
                "the other kind has no protocol `{}` (port `{}`)",
                port.protocol, port.name
            );
            tell(what);
            continue;
        }
        // They end at 65535.
        let numbers = (0..port.count).map(|more| port.port.saturating_add(more));
        all.extend(numbers.map(|number| format!("{number}/{}", port.protocol)));
    }
    keys(all)
}

/// A set, as configs have it; nothing for an empty one.
fn keys(all: impl IntoIterator<Item = String>) -> Value {
    let set: Map<String, Value> = all.into_iter().map(|key| (key, json!({}))).collect();
    match set.is_empty() {
        true => Value::Null,
        false => Value::Object(set),
    }
}

/// All that a manifest says in free words. What users say wins over what images are
/// chosen by.
fn docker_labels(manifest: &Manifest) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, value) in &manifest.annotations {
        if !matches!(name.as_str(), ENTRYPOINT | CMD | "authors" | "created") {
            labels.insert(name.to_string(), value.clone());
        }
    }
    for (name, value) in &manifest.labels {
        let name = match name.as_str() {
            "os" | "arch" => continue,
            VERSION => VERSION_LABEL,
            name => name,
        };
        labels.insert(name.to_owned(), value.clone());
    }
    if let Some(app) = &manifest.app {
        labels.extend(app.user_annotations.clone());
        labels.extend(app.user_labels.clone());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files;

    impl Database for Files {
        fn passwd(&self) -> Vec<u8> {
            b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n".to_vec()
        }
        fn group(&self) -> Vec<u8> {
            b"root:x:0:\nweb:x:34:\nlog:x:4:web\n".to_vec()
        }
        fn owner(&self, path: &str) -> Option<(u32, u32)> {
            (path == "/srv").then_some((33, 34))
        }
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn manifest(config: Value) -> (Value, Vec<String>) {
        let name = "appc:example.org/a:1".parse().unwrap();
        let (manifest, lost) = manifest_of(&object(config), &name, &Files).unwrap();
        let manifest = Value::Object(manifest);
        let parsed = Manifest::parse(manifest.to_string().as_bytes());
        assert!(parsed.is_ok(), "{parsed:?}");
        (manifest, lost.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_config_becomes_a_manifest() {
        let (said, lost) = manifest(json!({
            "architecture": "arm", "variant": "v7", "os": "linux", "author": "who",
            "created": "2026-01-31T23:59:59.5Z",
            "config": {
                "User": "web", "Env": ["A=1", "B", "A=2", "0=x"], "Entrypoint": ["/init", "-x"],
                "Cmd": ["a"], "WorkingDir": "srv", "Labels": {"Any Thing": "x"},
                "ExposedPorts": {"80": {}, "53/udp": {}, "8000-8010/tcp": {}, "x/tcp": {}},
                "Volumes": {"/data": {}, "/Data": {}, "/\u{e9}": {}}, "Tty": true, "StopSignal": "INT",
                "Healthcheck": {"Test": ["CMD", "x"]}, "OnBuild": [],
            },
        }));
        assert_eq!(
            said["labels"],
            json!([
                {"name": "arch", "value": "armv7l"}, {"name": "os", "value": "linux"},
                {"name": "version", "value": "1"},
            ])
        );
        let app = &said["app"];
        assert_eq!(app["exec"], json!(["/init", "-x", "a"]));
        assert_eq!(
            (&app["user"], &app["group"], &app["supplementaryGIDs"]),
            (&json!("web"), &json!("34"), &json!([4]))
        );
        assert_eq!(
            app["environment"],
            json!([{"name": "A", "value": "2"}, {"name": "B", "value": ""}])
        );
        assert_eq!(app["workingDirectory"], "/srv");
        assert_eq!(app["userLabels"], json!({"Any Thing": "x"}));
        let names = |list: &Value| {
            let all = list.as_array().unwrap().iter();
            let mut all: Vec<_> = all
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect();
            all.sort();
            all
        };
        assert_eq!(names(&app["ports"]), ["53-udp", "80-tcp", "8000-8010-tcp"]);
        assert_eq!(
            names(&app["mountPoints"]),
            ["volume", "volume-data", "volume-data-2"]
        );
        assert_eq!(names(&said["annotations"]).len(), 4);
        assert_eq!(
            lost,
            [
                "an AppC image cannot say `Healthcheck`",
                "an AppC image cannot say `StopSignal`",
                "an AppC image cannot have a variable `0`",
                "`x/tcp` is no port",
            ]
        );
    }

    #[test]
    fn what_a_manifest_cannot_say_is_told() {
        let (said, lost) = manifest(json!({
            "architecture": "amd64", "os": "linux", "os.version": "12", "docker_version": "20",
            "os.features": [], "config": {"Volumes": {"/a": {}, "b": {}}, "Shell": ["sh"]},
        }));
        let told: Vec<String> = lost.iter().map(ToString::to_string).collect();
        for what in ["`os.version`", "`b`", "`Shell`"] {
            assert!(told.iter().any(|told| told.contains(what)), "{told:?}");
        }
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(said["app"]["mountPoints"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn users_of_a_config_are_the_same_in_a_manifest() {
        // `User` | user, group, further groups
        for (text, expected) in [
            ("", json!(["0", "0", null])),
            ("web", json!(["web", "34", [4]])),
            ("33", json!(["33", "34", [4]])),
            ("web:log", json!(["web", "log", null])),
            (":log", json!(["0", "log", null])),
            ("1000", json!(["1000", "0", null])),
            ("1000:5", json!(["1000", "5", null])),
        ] {
            let (said, lost) = manifest(json!({"architecture": "amd64", "config": {"User": text}}));
            let app = &said["app"];
            let got = json!([app["user"], app["group"], app["supplementaryGIDs"]]);
            assert_eq!((got, lost), (expected, Vec::new()), "{text}");
        }
        let (said, lost) = manifest(json!({"architecture": "sparc", "config": {"User": "nobody"}}));
        assert_eq!(said["app"]["user"], "nobody");
        assert_eq!(said["labels"], json!([{"name": "version", "value": "1"}]));
        assert_eq!(lost.len(), 2, "{lost:?}");
    }

    #[test]
    fn a_manifest_comes_back_as_the_config_that_it_was() {
        let config = json!({
            "architecture": "arm64", "os": "linux", "author": "who", "created": "2026-01-31T23:59:59Z",
            "config": {
                "User": "web:34", "Env": ["A=1"], "Entrypoint": ["/init", "-x"], "Cmd": ["a"],
                "WorkingDir": "/srv", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}},
                "Labels": {"x": "y"},
            },
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let (said, _) = manifest(config.clone());
        let parsed = Manifest::parse(said.to_string().as_bytes()).unwrap();
        let (mut back, lost) = config_of(&parsed, &Files).unwrap();
        let labels = &mut back["config"]["Labels"];
        assert_eq!(labels[VERSION_LABEL], "1");
        labels.as_object_mut().unwrap().remove(VERSION_LABEL);
        assert_eq!((Value::Object(back), lost), (config, Vec::new()));
    }

    #[test]
    fn a_manifest_becomes_a_config_and_what_it_cannot_say_is_told() {
        let said = json!({
            "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "a",
            "labels": [{"name": "channel", "value": "beta"}],
            "annotations": [{"name": "homepage", "value": "https://example.org"}],
            "app": {
                "exec": ["/bin/app", "x"], "user": "/srv", "group": "/srv", "supplementaryGIDs": [7],
                "eventHandlers": [{"name": "pre-start", "exec": ["/x"]}],
                "mountPoints": [{"name": "d", "path": "/d", "readOnly": true}],
                "ports": [{"name": "p", "protocol": "tcp", "port": 80, "count": 2},
                          {"name": "q", "protocol": "http", "port": 1}],
                "isolators": [{"name": "os/linux/no-new-privileges", "value": true}],
            },
        });
        let parsed = |said: &Value| Manifest::parse(said.to_string().as_bytes()).unwrap();
        let (config, lost) = config_of(&parsed(&said), &Files).unwrap();
        assert_eq!(
            config["config"],
            json!({
                "User": "33:34", "Entrypoint": ["/bin/app"], "Cmd": ["x"],
                "ExposedPorts": {"80/tcp": {}, "81/tcp": {}}, "Volumes": {"/d": {}},
                "Labels": {"channel": "beta", "homepage": "https://example.org"},
            })
        );
        assert_eq!(lost.len(), 6, "{lost:?}");
        let mut other = said;
        other["app"]["user"] = json!("/none");
        let refused = config_of(&parsed(&other), &Files).unwrap_err();
        assert_eq!(refused, IdentityError::Path("/none".to_owned()));
    }
}
