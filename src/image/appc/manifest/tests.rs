use serde_json::{Value, json};

use super::*;

/// A manifest with every field there is.
fn full() -> Value {
    json!({
        "acKind": "ImageManifest",
        "acVersion": "0.8.11+git",
        "name": "example.com/reduce-worker",
        "labels": [
            {"name": "version", "value": "1.0.0"},
            {"name": "arch", "value": "amd64"},
            {"name": "os", "value": "linux"},
            {"name": "channel"},
        ],
        "app": {
            "exec": ["/usr/bin/reduce-worker", "--quiet"],
            "user": "100",
            "group": "300",
            "supplementaryGids": [400, 500],
            "supplementaryGIDs": [600],
            "eventHandlers": [
                {"exec": ["/usr/bin/downloader"], "name": "pre-start"},
                {"exec": ["/usr/bin/deregister", "--verbose"], "name": "post-stop"},
            ],
            "workingDirectory": "/opt/work",
            "environment": [
                {"name": "REDUCE_WORKER_DEBUG", "value": "true"},
                {"name": "_a.b-c"},
            ],
            "isolators": [
                {"name": "resource/cpu", "value": {"limit": "20", "request": "500m"}},
                {"name": "resource/memory", "value": {"limit": "1G", "default": false}},
                {"name": "resource/block-iops", "value": {"limit": 1000, "default": true}},
                {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_KILL"]}},
                {"name": "os/linux/seccomp-remove-set", "value": {"set": ["reboot"], "errno": "EPERM"}},
                {"name": "os/linux/no-new-privileges", "value": true},
                {"name": "os/linux/cpu-shares", "value": 512},
                {"name": "os/linux/oom-score-adj", "value": -1000},
                {"name": "os/linux/selinux-context",
                 "value": {"user": "u", "role": "r", "type": "t", "level": "s0"}},
                {"name": "com.example/unknown", "value": [1, 2]},
                {"name": "com.example/nothing"},
            ],
            "mountPoints": [{"name": "work", "path": "/var/lib/work", "readOnly": true}],
            "ports": [
                {"name": "health", "port": 4000, "protocol": "tcp", "socketActivated": true},
                {"name": "range", "port": 65535, "protocol": "udp", "count": 1},
            ],
            "userAnnotations": {"a": "b"},
            "userLabels": {"c": "d"},
        },
        "dependencies": [{
            "imageName": "example.com/reduce-worker-base",
            "imageID": format!("sha512-{}", "ab".repeat(64)),
            "labels": [{"name": "os", "value": "linux"}],
            "size": 22017258,
        }],
        "pathWhitelist": ["/etc/ca/example.com/crt", "/usr/bin/map-reduce-worker", "/opt/"],
        "annotations": [
            {"name": "authors", "value": "Carly Container"},
            {"name": "created", "value": "2014-10-27T19:32:27.67021798Z"},
            {"name": "documentation", "value": "https://example.com/docs"},
            {"name": "homepage", "value": "http://example.com"},
        ],
        "something": "else",
    })
}

fn parse(value: &Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(&serde_json::to_vec(value).unwrap())
}

#[test]
fn every_field_of_a_manifest_is_taken() {
    let manifest = parse(&full()).unwrap();
    assert_eq!(manifest.name.as_str(), "example.com/reduce-worker");
    assert_eq!(manifest.labels.len(), 4);
    assert_eq!(manifest.platform(), Platform::new("linux", "amd64"));
    assert_eq!(manifest.annotations.len(), 4);
    let paths: Vec<_> = manifest.whitelist.iter().map(ToString::to_string).collect();
    assert_eq!(paths.len(), 3);
    assert!(paths[2].ends_with("opt"), "{paths:?}");
    let dependency = &manifest.dependencies[0];
    assert_eq!(
        dependency.image.to_string(),
        "appc:example.com/reduce-worker-base,os=linux"
    );
    assert!(dependency.id.is_some() && dependency.size == Some(22_017_258));
    let app = manifest.app.as_ref().unwrap();
    assert_eq!(app.exec, ["/usr/bin/reduce-worker", "--quiet"]);
    assert_eq!((app.user.as_str(), app.group.as_str()), ("100", "300"));
    assert_eq!(app.supplementary_gids, [600, 400, 500]);
    assert_eq!(app.event_handlers.len(), 2);
    assert_eq!(app.working_directory, "/opt/work");
    assert_eq!(app.environment[1], ("_a.b-c".to_owned(), String::new()));
    assert_eq!(app.isolators.len(), 11);
    assert!(app.mount_points[0].read_only);
    assert_eq!((app.ports[0].count, app.ports[1].port), (1, 65535));
    assert_eq!((app.user_annotations.len(), app.user_labels.len()), (1, 1));
    let outline = manifest.outline();
    assert_eq!(
        (outline.whitelisted, outline.called().as_str()),
        (3, "example.com/reduce-worker:1.0.0")
    );
}

/// The full manifest with a change: what lies at a JSON pointer becomes something
/// else; `-` behind an array's pointer adds to it.
fn changed(pointer: &str, to: Value) -> Value {
    let mut value = full();
    if let Some(array) = pointer.strip_suffix("/-") {
        value
            .pointer_mut(array)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .push(to);
        return value;
    }
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = value.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(values) => values[key.parse::<usize>().unwrap()] = to,
        Value::Object(map) => {
            map.insert(key.to_owned(), to);
        }
        other => panic!("{other}"),
    }
    value
}

#[test]
fn what_the_rules_leave_open_is_accepted() {
    for (pointer, to) in [
        ("/app", Value::Null),
        ("/app/exec", Value::Null),
        ("/app/exec", json!([])),
        ("/app/exec", json!(["relative"])),
        ("/app/workingDirectory", json!("")),
        ("/app/extra", json!({"x": 1})),
        ("/labels", json!([])),
        ("/labels", Value::Null),
        // An architecture alone is not looked at.
        ("/labels", json!([{"name": "arch", "value": "z80"}])),
        ("/labels/3", json!({"name": "a/b.c_d~e", "value": "\u{e9}"})),
        ("/pathWhitelist", json!([])),
        ("/pathWhitelist", Value::Null),
        ("/pathWhitelist", json!(["/", "//a//b/"])),
        ("/dependencies", Value::Null),
        ("/dependencies/0/imageID", Value::Null),
        ("/dependencies/0/size", json!(0)),
        ("/acVersion", json!("1.2.3-rc.1+b.2")),
        (
            "/app/ports/1",
            json!({"name": "p", "port": 1, "protocol": "tcp", "count": 65535}),
        ),
        (
            "/app/ports/1",
            json!({"name": "p", "port": 5, "protocol": "tcp", "count": 0}),
        ),
        ("/annotations/1/value", json!("2024-02-29T23:59:60.5+14:00")),
        ("/app/isolators/0/value/limit", json!("1.5Gi")),
        ("/app/isolators/0/value/limit", json!("12e6")),
    ] {
        let outcome = parse(&changed(pointer, to.clone()));
        assert!(outcome.is_ok(), "{pointer} {to}: {outcome:?}");
    }
}

#[test]
fn each_system_has_its_processors_and_no_others() {
    let labels = |os: &str, arch: &str| {
        let labels = [("os", os), ("arch", arch)];
        let labels = labels.map(|(name, value)| json!({"name": name, "value": value}));
        parse(&changed("/labels", json!(labels)))
    };
    let known = [
        (
            "linux",
            "amd64 i386 aarch64 aarch64_be armv6l armv7l armv7b ppc64 ppc64le s390x",
        ),
        ("freebsd", "amd64 i386 arm"),
        ("darwin", "x86_64 i386"),
    ];
    for (os, own) in known {
        for (_, archs) in known {
            for arch in archs.split(' ') {
                let right = own.split(' ').any(|one| one == arch);
                assert_eq!(labels(os, arch).is_ok(), right, "{os} {arch}");
            }
        }
    }
}

/// (where, what it becomes, the field that the message names)
fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let mut all = vec![
        ("/acKind", Value::Null, "acKind"),
        ("/acKind", json!("PodManifest"), "acKind"),
        ("/acKind", json!(5), "acKind"),
        ("/acVersion", Value::Null, "acVersion"),
        ("/name", Value::Null, "name"),
        ("/name", json!(["a"]), "name"),
        ("/labels", json!({}), "labels"),
        ("/labels/0", json!("version"), "labels[0]"),
        ("/labels/0/name", json!("name"), "labels[0].name"),
        ("/labels/0/name", json!("os"), "labels[2].name"),
        ("/labels/0/name", Value::Null, "labels[0].name"),
        ("/labels/0/value", json!(1), "labels[0].value"),
        ("/labels/2/value", json!("plan9"), "labels[2].value"),
        ("/labels/2/value", json!("freebsd2"), "labels[2].value"),
        ("/labels/2/value", json!("darwin"), "labels[1].value"),
        ("/app", json!([]), "app"),
        ("/app/exec", json!("/bin/sh"), "app.exec"),
        ("/app/exec/1", json!(1), "app.exec[1]"),
        ("/app/user", Value::Null, "app.user"),
        ("/app/user", json!(""), "app.user"),
        ("/app/user", json!(0), "app.user"),
        ("/app/group", Value::Null, "app.group"),
        ("/app/group", json!(""), "app.group"),
        (
            "/app/workingDirectory",
            json!("stuff"),
            "app.workingDirectory",
        ),
        (
            "/app/supplementaryGIDs/0",
            json!(-1),
            "app.supplementaryGIDs[0]",
        ),
        (
            "/app/supplementaryGids/0",
            json!("1"),
            "app.supplementaryGids[0]",
        ),
        (
            "/app/eventHandlers/1/name",
            json!("pre-start"),
            "app.eventHandlers[1].name",
        ),
        (
            "/app/eventHandlers/1/name",
            json!("boot"),
            "app.eventHandlers[1].name",
        ),
        (
            "/app/environment/1/name",
            json!(""),
            "app.environment[1].name",
        ),
        (
            "/app/environment/1/name",
            json!("0DEBUG"),
            "app.environment[1].name",
        ),
        (
            "/app/environment/1/name",
            json!("A|B"),
            "app.environment[1].name",
        ),
        (
            "/app/environment/1/name",
            json!("A=B"),
            "app.environment[1].name",
        ),
        (
            "/app/environment/1/name",
            json!("REDUCE_WORKER_DEBUG"),
            "app.environment[1].name",
        ),
        (
            "/app/environment/1/value",
            json!(true),
            "app.environment[1].value",
        ),
        (
            "/app/mountPoints/0/name",
            json!("a.b"),
            "app.mountPoints[0].name",
        ),
        (
            "/app/mountPoints/0/path",
            json!("var"),
            "app.mountPoints[0].path",
        ),
        (
            "/app/mountPoints/0/path",
            Value::Null,
            "app.mountPoints[0].path",
        ),
        (
            "/app/mountPoints/0/readOnly",
            json!("yes"),
            "app.mountPoints[0].readOnly",
        ),
        (
            "/app/mountPoints/-",
            json!({"name": "work", "path": "/"}),
            "app.mountPoints[1].name",
        ),
        ("/app/ports/0/name", json!("Health"), "app.ports[0].name"),
        ("/app/ports/1/name", json!("health"), "app.ports[1].name"),
        ("/app/ports/0/protocol", json!(""), "app.ports[0].protocol"),
        ("/app/ports/0/port", json!(0), "app.ports[0].port"),
        ("/app/ports/0/port", json!(88888), "app.ports[0].port"),
        ("/app/ports/0/port", json!("80"), "app.ports[0].port"),
        ("/app/ports/1/count", json!(2), "app.ports[1].count"),
        ("/app/ports/1/count", json!(-1), "app.ports[1].count"),
        (
            "/app/ports/0/socketActivated",
            json!(1),
            "app.ports[0].socketActivated",
        ),
        ("/app/userAnnotations", json!(["a"]), "app.userAnnotations"),
        ("/app/userLabels/c", json!(1), "app.userLabels.c"),
        (
            "/app/isolators/0/name",
            json!("CPU"),
            "app.isolators[0].name",
        ),
        (
            "/app/isolators/0/value",
            Value::Null,
            "app.isolators[0].value",
        ),
        (
            "/app/isolators/0/value/default",
            json!(true),
            "app.isolators[0].value.default",
        ),
        (
            "/app/isolators/0/value/limit",
            json!("many"),
            "app.isolators[0].value.limit",
        ),
        (
            "/app/isolators/0/value/limit",
            json!("1.2.3"),
            "app.isolators[0].value.limit",
        ),
        (
            "/app/isolators/2/value/default",
            json!(false),
            "app.isolators[2].value",
        ),
        (
            "/app/isolators/2/value/request",
            json!(1),
            "app.isolators[2].value.request",
        ),
        (
            "/app/isolators/3/value/set",
            json!([]),
            "app.isolators[3].value",
        ),
        (
            "/app/isolators/4/value/errno",
            json!("eperm"),
            "app.isolators[4].value.errno",
        ),
        (
            "/app/isolators/5/value",
            json!("yes"),
            "app.isolators[5].value",
        ),
        ("/app/isolators/6/value", json!(1), "app.isolators[6].value"),
        (
            "/app/isolators/7/value",
            json!(1001),
            "app.isolators[7].value",
        ),
        (
            "/app/isolators/8/value/user",
            json!("a:b"),
            "app.isolators[8].value.user",
        ),
        (
            "/app/isolators/8/value/type",
            json!(""),
            "app.isolators[8].value.type",
        ),
        (
            "/dependencies/0/imageName",
            Value::Null,
            "dependencies[0].imageName",
        ),
        (
            "/dependencies/0/imageName",
            json!("App"),
            "dependencies[0].imageName",
        ),
        (
            "/dependencies/0/imageID",
            json!("sha1-00"),
            "dependencies[0].imageID",
        ),
        (
            "/dependencies/0/imageID",
            json!("sha512-00"),
            "dependencies[0].imageID",
        ),
        (
            "/dependencies/0/imageID",
            json!(""),
            "dependencies[0].imageID",
        ),
        (
            "/dependencies/0/imageID",
            json!("sha512-"),
            "dependencies[0].imageID",
        ),
        (
            "/dependencies/0/imageID",
            json!(format!("-{}", "0".repeat(128))),
            "dependencies[0].imageID",
        ),
        (
            "/dependencies/0/labels/0/name",
            json!("name"),
            "dependencies[0].labels[0].name",
        ),
        (
            "/app/ports/1",
            json!({"name": "p", "port": 32456, "protocol": "tcp", "count": 45678}),
            "app.ports[1].count",
        ),
        (
            "/app/environment/1/name",
            json!("VERBOSE|DEBUG"),
            "app.environment[1].name",
        ),
        ("/dependencies/0/size", json!(-1), "dependencies[0].size"),
        (
            "/dependencies/0/labels/0/value",
            json!("minix"),
            "dependencies[0].labels[0].value",
        ),
        ("/pathWhitelist", json!("/a"), "pathWhitelist"),
        ("/pathWhitelist/1", json!("usr"), "pathWhitelist[1]"),
        ("/pathWhitelist/1", json!("/usr/../etc"), "pathWhitelist[1]"),
        ("/pathWhitelist/1", json!("/a\u{0}"), "pathWhitelist[1]"),
        (
            "/annotations/0/name",
            json!("created"),
            "annotations[0].value",
        ),
        (
            "/annotations/0/name",
            json!("Authors"),
            "annotations[0].name",
        ),
        (
            "/annotations/3/name",
            json!("documentation"),
            "annotations[3].name",
        ),
        (
            "/annotations/3/value",
            json!("not-A$@#URL"),
            "annotations[3].value",
        ),
        (
            "/annotations/2/value",
            json!("ftp://example.com"),
            "annotations[2].value",
        ),
        (
            "/annotations/2/value",
            json!("http://a b"),
            "annotations[2].value",
        ),
        ("/annotations/2/value", Value::Null, "annotations[2].value"),
    ];
    for isolator in [
        "os/linux/capabilities-retain-set",
        "os/linux/capabilities-remove-set",
        "os/linux/seccomp-retain-set",
    ] {
        let value = json!({"name": isolator, "value": {"set": ["a"]}});
        all.push(("/app/isolators/-", value, "app.isolators[11].name"));
    }
    let value = json!({"name": "resource/cpu", "value": {"limit": "1"}});
    all.push(("/app/isolators/-", value, "app.isolators[11].name"));
    for version in [
        "", "1", "1.2", "1.2.3.4", "v1.2.3", "0.0.0", "1.2.x", "01.2.3", "1.2.3-", "1.2.3+",
    ] {
        all.push(("/acVersion", json!(version), "acVersion"));
    }
    for arch in [
        "arm64", "arm64_be", "arm", "ppc64l", "ppc64b", "ppc64be", "x86_64",
    ] {
        all.push(("/labels/1/value", json!(arch), "labels[1].value"));
    }
    for name in [
        "",
        "BAR",
        "foo#",
        "EXAMPLE.com",
        "foo.com/BAR",
        "/app",
        "app/",
        "-app",
        "app-",
        ".app",
        "app.",
        "_app",
        "app_",
        "~app",
        "app~",
    ] {
        all.push(("/name", json!(name), "name"));
    }
    for time in [
        "garbage",
        "2014-10-27",
        "2014-13-27T19:32:27Z",
        "2014-02-29T19:32:27Z",
        "2014-10-27 19:32:27Z",
        "2014-10-27T24:00:00Z",
        "2014-10-27T19:32:27",
        "2014-10-27T19:32:27.Z",
        "2014-10-27T19:32:27+1400",
        "2014-10-27T19:32:27+25:00",
        "\u{e9}014-10-27T19:32:27Z",
    ] {
        all.push(("/annotations/1/value", json!(time), "annotations[1].value"));
    }
    all
}

#[test]
fn every_broken_rule_is_refused_by_field_and_value() {
    for (pointer, to, field) in refused() {
        let Err(error) = parse(&changed(pointer, to.clone())) else {
            panic!("{pointer} {to} was accepted");
        };
        match &error {
            ManifestError::Missing { field: found } => {
                assert_eq!(
                    (found.as_str(), &to),
                    (field, &Value::Null),
                    "{pointer}: {error}"
                );
            }
            ManifestError::Wrong {
                field: found,
                value,
                ..
            } => {
                assert_eq!(found, field, "{pointer} {to}: {error}");
                assert!(!value.chars().any(char::is_control), "{error}");
            }
            other => panic!("{pointer} {to}: {other}"),
        }
    }
}

#[test]
fn messages_are_for_people() {
    for (pointer, to, message) in [
        (
            "/labels/1/value",
            json!("arm64"),
            "`labels[1].value` in the manifest is `arm64`: for linux it must be one of amd64, i386, \
             aarch64, aarch64_be, armv6l, armv7l, armv7b, ppc64, ppc64le, s390x",
        ),
        ("/app/user", Value::Null, "the manifest has no `app.user`"),
        (
            "/app/ports/1/count",
            json!(45678),
            "`app.ports[1].count` in the manifest is `45678`: from 65535 on there are not so many ports",
        ),
        (
            "/acKind",
            json!("PodManifest"),
            "`acKind` in the manifest is `PodManifest`: it must be `ImageManifest`",
        ),
    ] {
        assert_eq!(
            parse(&changed(pointer, to)).unwrap_err().to_string(),
            message
        );
    }
    let long = parse(&changed("/name", json!("A".repeat(500)))).unwrap_err();
    assert!(long.to_string().len() < 200, "{long}");
    assert!(matches!(
        Manifest::parse(b"{"),
        Err(ManifestError::NotJson(_))
    ));
    assert!(Manifest::parse(b"[]").is_err());
    let long = vec![b' '; MANIFEST_MAX as usize + 1];
    assert!(matches!(
        Manifest::parse(&long),
        Err(ManifestError::TooLong { .. })
    ));
}

#[test]
fn no_bytes_make_the_parser_panic() {
    let bytes = serde_json::to_vec(&full()).unwrap();
    for at in 0..bytes.len() {
        // Whatever comes of it, it must come back.
        let _ = Manifest::parse(&bytes[..at]);
        for bit in [0x01, 0x20, 0x80] {
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            let _ = Manifest::parse(&flipped);
        }
    }
}
