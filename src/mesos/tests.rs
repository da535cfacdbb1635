use proptest::prelude::*;
use serde_json::{Value, json};

use super::container_info::wrong_path;
use super::*;

fn parse(value: &Value) -> Result<ContainerInfo, MessageError> {
    ContainerInfo::parse(value.to_string().as_bytes(), Dialect::Final)
}

#[track_caller]
fn refused(value: &Value, error: &str) {
    assert_eq!(parse(value).unwrap_err().to_string(), error);
}

fn id() -> String {
    format!("sha512-{}", "0a".repeat(64))
}

/// Two images: one to run, one to look at.
fn example() -> Value {
    json!({
        "type": "MESOS",
        "mesos": { "image": {
            "type": "APPC",
            "cached": true,
            "appc": {
                "name": "example.com/app",
                "id": id(),
                "labels": { "labels": [{ "key": "os", "value": "linux" }] },
            },
        } },
        "volumes": [{
            "mode": "RO",
            "container_path": "data",
            "image": { "type": "DOCKER", "docker": { "name": "busybox:1.24" } },
        }],
    })
}

/// A container of a Docker image with these volumes.
fn with_volume(volume: Value) -> Value {
    json!({ "type": "MESOS", "volumes": [volume] })
}

#[test]
fn the_message_of_an_agent_says_image_volumes_and_host_name() {
    let mut value = example();
    value["hostname"] = json!("web1");
    let info = parse(&value).unwrap();
    let app = Image {
        what: What::Appc {
            image: "appc:example.com/app,os=linux".parse().unwrap(),
            id: Some(id().parse().unwrap()),
        },
        cached: true,
    };
    let busybox = Image {
        what: What::Docker("busybox:1.24".parse().unwrap()),
        cached: true,
    };
    let data = Volume {
        container_path: "data".to_owned(),
        mode: Mode::ReadOnly,
        source: Source::Image(busybox),
    };
    let expected = ContainerInfo {
        image: Some(app),
        volumes: vec![data],
        hostname: Some("web1".to_owned()),
        ignored: Vec::new(),
    };
    assert_eq!(info, expected);
    let bytes = value.to_string();
    let first = ContainerInfo::parse(bytes.as_bytes(), Dialect::First).unwrap();
    assert_eq!(first, expected);
}

#[test]
fn an_image_may_stand_beside_mesos_but_not_twice() {
    let mut value = example();
    let image = value["mesos"]["image"].take();
    value["image"] = image.clone();
    let outer = parse(&value).unwrap();
    assert_eq!(outer, parse(&example()).unwrap());
    value["mesos"]["image"] = image;
    refused(&value, "`image` and `mesos.image` are both there");
}

#[test]
fn the_first_design_wants_an_id_of_appc_images() {
    let mut value = example();
    value["mesos"]["image"]["appc"]["id"] = Value::Null;
    assert!(matches!(
        parse(&value).unwrap().image.unwrap().what,
        What::Appc { id: None, .. }
    ));
    let error = ContainerInfo::parse(value.to_string().as_bytes(), Dialect::First).unwrap_err();
    assert_eq!(
        error.to_string(),
        "missing required fields: mesos.image.appc.id"
    );
}

#[test]
fn all_that_is_missing_is_told_with_its_path() {
    let value = json!({
        "mesos": { "image": { "appc": { "labels": { "labels": [{}, { "key": "os" }] } } } },
        "volumes": [{ "host_path": "/srv" }, { "mode": "RW", "container_path": "a", "image": {} }],
    });
    refused(
        &value,
        "missing required fields: type, mesos.image.type, mesos.image.appc.name, \
         mesos.image.appc.labels.labels[0].key, volumes[0].mode, volumes[0].container_path, \
         volumes[1].image.type",
    );
}

#[test]
fn containers_of_the_docker_daemon_are_refused_with_what_to_write() {
    for (value, error) in [
        (
            json!({ "type": "DOCKER", "docker": { "image": "busybox" } }),
            "`type` is DOCKER, which has the Docker daemon run the container; this is the Mesos containerizer",
        ),
        (
            json!({ "type": "MESOS", "docker": {} }),
            "`docker` is for containers of the Docker daemon, and `type` is MESOS",
        ),
    ] {
        refused(&value, error);
        let hint = parse(&value).unwrap_err().hint().unwrap();
        let written = hint.strip_suffix(" for a Docker image").unwrap();
        let info = ContainerInfo::parse(written.as_bytes(), Dialect::Final).unwrap();
        assert!(info.image.is_some(), "the hint is right");
    }
    // `null` is absent.
    assert!(parse(&json!({ "type": "MESOS", "docker": null })).is_ok());
}

#[test]
fn no_image_is_the_hosts_file_system() {
    for value in [
        json!({ "type": "MESOS" }),
        json!({ "type": "MESOS", "mesos": {} }),
        json!({ "type": "MESOS", "mesos": null, "volumes": null, "unknown": { "a": [1] } }),
    ] {
        let info = parse(&value).unwrap();
        assert_eq!((info.image, info.volumes.len()), (None, 0));
        assert!(info.ignored.is_empty());
    }
}

#[test]
fn cached_is_true_or_false_also_as_a_text() {
    for (cached, expected) in [
        (Value::Null, true),
        (json!(true), true),
        (json!("true"), true),
        (json!(false), false),
        (json!("false"), false),
    ] {
        let mut value = example();
        value["mesos"]["image"]["cached"] = cached;
        assert_eq!(parse(&value).unwrap().image.unwrap().cached, expected);
    }
    let mut value = example();
    value["mesos"]["image"]["cached"] = json!("yes");
    refused(&value, "`mesos.image.cached`: it must be true or false");
}

#[test]
fn what_has_no_effect_is_listed() {
    let mut value = example();
    value["network_infos"] = json!([{ "name": "a" }]);
    value["linux_info"] = json!({ "share_pid_namespace": true });
    value["rlimit_info"] = Value::Null;
    value["tty_info"] = json!({});
    value["mesos"]["image"]["docker"] = json!({ "name": "busybox", "config": {} });
    assert_eq!(
        parse(&value).unwrap().ignored,
        [
            "network_infos",
            "linux_info",
            "tty_info",
            "mesos.image.docker.config",
            "mesos.image.docker",
        ]
    );
}

#[test]
fn a_field_that_is_wrong_is_told_with_its_path() {
    for (pointer, wrong, error) in [
        (
            "/type",
            json!("RKT"),
            "`type`: `RKT` is none of DOCKER, MESOS",
        ),
        (
            "/type",
            json!(2),
            "`type`: it must be a text, and is a number",
        ),
        (
            "/mesos",
            json!([]),
            "`mesos`: it must be an object, and is a list",
        ),
        (
            "/volumes",
            json!({}),
            "`volumes`: it must be a list, and is an object",
        ),
        (
            "/volumes/0",
            json!("x"),
            "`volumes[0]`: it must be an object, and is a text",
        ),
        (
            "/volumes/0/mode",
            json!("ro"),
            "`volumes[0].mode`: `ro` is none of RW, RO",
        ),
        (
            "/mesos/image/type",
            json!("DOCKER"),
            "`mesos.image.type`: it is DOCKER, and there is no `docker`",
        ),
        (
            "/mesos/image/type",
            json!("OCI"),
            "`mesos.image.type`: `OCI` is none of APPC, DOCKER",
        ),
        (
            "/mesos/image/appc/name",
            json!("Example"),
            "`mesos.image.appc.name`: `E` cannot be in it (a-z, 0-9 and single -._~/ between them can)",
        ),
        (
            "/volumes/0/image/docker/name",
            json!("a@b@c"),
            "`volumes[0].image.docker.name`: image reference `a@b@c` has more than one `@`",
        ),
        (
            "/mesos/image/appc/labels/labels",
            json!([{ "key": "os" }, { "key": "os" }]),
            "`mesos.image.appc.labels.labels[1].key`: the label `os` is there twice",
        ),
        (
            "/mesos/image/appc/labels/labels/0/key",
            json!("name"),
            "`mesos.image.appc.labels.labels[0].key`: a label cannot be called `name`",
        ),
    ] {
        let mut value = example();
        *value.pointer_mut(pointer).unwrap() = wrong;
        refused(&value, error);
    }
    let mut value = example();
    value["mesos"]["image"]["appc"]["id"] = json!("../../etc");
    let error = parse(&value).unwrap_err().to_string();
    assert!(error.starts_with("`mesos.image.appc.id`: "), "{error}");
    value = example();
    value["hostname"] = json!("a".repeat(65));
    assert!(parse(&value).is_err());
    refused(
        &json!([]),
        "`ContainerInfo`: it must be an object, and is a list",
    );
}

#[test]
fn a_volume_is_a_host_path_or_an_image() {
    let host = json!({ "mode": "RW", "container_path": "/srv", "host_path": "data" });
    let info = parse(&with_volume(host.clone())).unwrap();
    assert_eq!(
        info.volumes,
        [Volume {
            container_path: "/srv".to_owned(),
            mode: Mode::ReadWrite,
            source: Source::HostPath("data".to_owned()),
        }]
    );
    let mut both = host.clone();
    both["image"] = json!({ "type": "DOCKER", "docker": { "name": "a" } });
    refused(
        &with_volume(both),
        "`volumes[0]` must have one of host_path, image and source, and has several",
    );
    let mut none = host.clone();
    none["host_path"] = Value::Null;
    refused(
        &with_volume(none),
        "`volumes[0]` must have one of host_path, image and source, and has none",
    );
    let mut source = host;
    source["source"] = json!({ "type": "SECRET" });
    refused(
        &with_volume(source),
        "`volumes[0].source` is not supported: volumes of drivers, secrets and sandboxes need an agent",
    );
}

#[test]
fn a_source_may_be_a_host_path_in_the_newer_spelling() {
    let of = |source: Value| {
        with_volume(json!({ "mode": "RO", "container_path": "/srv", "source": source }))
    };
    let newer = |path: &str| json!({ "type": "HOST_PATH", "host_path": { "path": path } });
    let mut told = newer("/data");
    told["host_path"]["mount_propagation"] = json!({ "mode": "HOST_TO_CONTAINER" });
    let info = parse(&of(told)).unwrap();
    assert_eq!(
        info.volumes,
        [Volume {
            container_path: "/srv".to_owned(),
            mode: Mode::ReadOnly,
            source: Source::HostPath("/data".to_owned()),
        }]
    );
    let ignored = "volumes[0].source.host_path.mount_propagation";
    assert_eq!(info.ignored, [ignored]);
    for (source, error) in [
        (
            newer("/a/../b"),
            "`volumes[0].source.host_path.path`: a path has no `..` here",
        ),
        (
            json!({ "type": "HOST_PATH" }),
            "`volumes[0].source.host_path`: it is missing, and the type is HOST_PATH",
        ),
        (
            json!({ "type": "HOST_PATH", "host_path": {} }),
            "missing required fields: volumes[0].source.host_path.path",
        ),
        (
            json!({ "host_path": { "path": "/a" } }),
            "`volumes[0].source` is not supported: volumes of drivers, secrets and sandboxes need an agent",
        ),
    ] {
        refused(&of(source), error);
    }
    let mut both = of(newer("/a"));
    both["volumes"][0]["host_path"] = json!("/a");
    refused(
        &both,
        "`volumes[0]` must have one of host_path, image and source, and has several",
    );
}

#[test]
fn no_path_climbs() {
    for (path, fine) in [
        ("a/b", true),
        ("/a/..b/c...", true),
        ("..", false),
        ("/a/../b", false),
        ("a/..", false),
        ("", false),
        ("a\0b", false),
    ] {
        for field in ["container_path", "host_path"] {
            let mut volume = json!({ "mode": "RO", "container_path": "a", "host_path": "b" });
            volume[field] = json!(path);
            let error = parse(&with_volume(volume)).err().map(|e| e.to_string());
            assert_eq!(error.is_none(), fine, "{path:?}: {error:?}");
        }
    }
    let long =
        json!({ "mode": "RO", "container_path": "a", "host_path": "b".repeat(PATH_MAX + 1) });
    refused(
        &with_volume(long),
        "`volumes[0].host_path`: a path has at most 4095 bytes",
    );
}

#[test]
fn there_is_a_limit_on_all_that_can_be_many() {
    let volume = json!({ "mode": "RO", "container_path": "a", "host_path": "b" });
    let volumes = json!({ "type": "MESOS", "volumes": vec![volume; VOLUMES_MAX + 1] });
    refused(&volumes, "`volumes`: there are 1025, over 1024");
    let large = vec![b' '; SIZE_MAX + 1];
    let error = ContainerInfo::parse(&large, Dialect::Final).unwrap_err();
    assert!(matches!(error, MessageError::TooLarge(_)));
    let deep = "[".repeat(100_000);
    let error = ContainerInfo::parse(deep.as_bytes(), Dialect::Final).unwrap_err();
    assert!(matches!(error, MessageError::Json(_)));
}

/// Values as they may stand anywhere in a message.
fn any_value() -> impl Strategy<Value = Value> {
    let words = ["MESOS", "DOCKER", "APPC", "RW", "RO", "true", "a", "..", ""];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        ".{0,9}".prop_map(Value::from),
    ];
    let fields = [
        "type",
        "mesos",
        "image",
        "docker",
        "appc",
        "name",
        "id",
        "labels",
        "key",
        "value",
        "cached",
        "volumes",
        "mode",
        "container_path",
        "host_path",
        "source",
        "hostname",
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        let field = prop::sample::select(fields.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(field, inner, 0..6)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Paths of the example where something may be put instead.
const POINTERS: &[&str] = &[
    "/type",
    "/mesos",
    "/mesos/image",
    "/mesos/image/type",
    "/mesos/image/cached",
    "/mesos/image/appc",
    "/mesos/image/appc/name",
    "/mesos/image/appc/id",
    "/mesos/image/appc/labels",
    "/mesos/image/appc/labels/labels",
    "/mesos/image/appc/labels/labels/0",
    "/volumes",
    "/volumes/0",
    "/volumes/0/mode",
    "/volumes/0/image",
];

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ContainerInfo::parse(&bytes, Dialect::Final);
    }

    #[test]
    fn whatever_stands_in_a_message_it_is_read_or_refused(
        at in prop::sample::select(POINTERS.to_vec()),
        put in any_value(),
    ) {
        let mut value = example();
        *value.pointer_mut(at).unwrap() = put;
        // A message that is taken says nothing that is refused elsewhere.
        if let Ok(info) = parse(&value) {
            for volume in &info.volumes {
                prop_assert!(wrong_path(&volume.container_path).is_none());
            }
            prop_assert_eq!(value["type"].as_str(), Some("MESOS"));
        }
    }
}
