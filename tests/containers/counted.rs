//! What is done to containers is counted, by backend.

use std::fs;

use serde_json::{Value, json};

use super::host::{Host, KINDS};

#[test]
fn what_becomes_of_containers_is_counted() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let shown = || -> Value { host.json(&["metrics"]) };
    // Those that no container is in are there, too: whoever reads it knows them beforehand.
    for state in ["ready", "running", "ended", "unknown"] {
        let name = format!("lazyroot_containers{{state=\"{state}\"}}");
        assert_eq!(shown()[&name], 0, "{state}");
    }
    for kind in KINDS {
        host.provision(kind, "app:1", kind);
    }
    host.provision("copy", "app:1", "p/q");
    // A place that somebody else has.
    fs::create_dir(host.rootfs_dir().join("taken")).unwrap();
    host.fails(
        4,
        &[
            "provision",
            "-q",
            "app:1",
            "--id",
            "taken",
            "--backend",
            "copy",
        ],
    );
    let now = shown();
    for kind in KINDS {
        let times = format!("lazyroot_provision_seconds_count{{backend=\"{kind}\"}}");
        assert_eq!(now[&times], 1 + u64::from(kind == "copy"), "{kind}");
        let errors = format!("lazyroot_provision_errors_total{{backend=\"{kind}\"}}");
        assert_eq!(now[&errors], u64::from(kind == "copy"), "{kind}");
    }
    let sleep = fs::metadata("/bin/sleep").unwrap().len();
    let copied = &now["lazyroot_materialised_bytes_total{what=\"rootfs\"}"];
    assert_eq!(copied.as_u64(), Some(2 * (sleep + 3)));
    for (series, value) in [
        ("lazyroot_image_cache_hits_total", json!(6)),
        ("lazyroot_image_cache_misses_total", json!(0)),
        ("lazyroot_containers{state=\"ready\"}", json!(5)),
        ("lazyroot_containers{state=\"parent\"}", json!(1)),
        ("lazyroot_recoveries_total", json!(0)),
    ] {
        assert_eq!(now[series], value, "{series}");
    }
    // Nothing can be moved there.
    let trash = host.rootfs_dir().join(".trash");
    fs::remove_dir(&trash).unwrap();
    fs::write(&trash, "").unwrap();
    host.fails(1, &["destroy", "copy"]);
    fs::remove_file(&trash).unwrap();
    assert_eq!(shown()["lazyroot_containers{state=\"destroying\"}"], 1);
    host.fails(3, &["destroy", "nobody"]);
    host.run(&["recover", "--dry-run"]);
    // It finishes what was begun.
    host.run(&["recover"]);
    host.run(&["destroy", "fuse", "overlay", "bind", "p"]);
    let now = shown();
    for (series, value) in [
        ("lazyroot_destroys_total", 6),
        ("lazyroot_remove_container_errors_total", 1),
        ("lazyroot_remove_rootfs_errors_total{backend=\"copy\"}", 1),
        ("lazyroot_remove_rootfs_errors_total{backend=\"fuse\"}", 0),
        ("lazyroot_recoveries_total", 1),
        ("lazyroot_containers{state=\"ready\"}", 0),
    ] {
        assert_eq!(now[series], value, "{series}");
    }
    fs::remove_dir(host.rootfs_dir().join("taken")).unwrap();
    host.nothing_is_left();
}
