//! AppC containers keep the graph that they were made of.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::host::{Host, KINDS, names};
use super::images::{Layer, Pack};
use super::lab::Lab;

/// Imports an ACI with a file of its name and version, and one that says which it is.
pub(crate) fn aci(lab: &Lab, name: &str, version: &str, fields: &Value) {
    let mut manifest = json!({
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": format!("example.org/{name}"),
        "labels": [{"name": "version", "value": version}],
    });
    for (field, value) in fields.as_object().unwrap() {
        manifest[field] = value.clone();
    }
    let mut layer = Layer::new();
    layer
        .file("manifest", manifest.to_string().as_bytes())
        .dir("rootfs", 0o755)
        .dir("rootfs/etc", 0o755)
        .file(&format!("rootfs/etc/{name}-{version}"), b"")
        .file("rootfs/etc/hidden", b"")
        .file("rootfs/etc/base", version.as_bytes());
    let path = lab.path("image.aci");
    fs::write(&path, layer.pack(Pack::Gzip).bytes).unwrap();
    lab.run(&["import", "--quiet", path.to_str().unwrap()]);
}

pub(crate) const TOP: &str = "appc:example.org/top:1";

/// `top` on `base`, of which it shows what its whitelist has.
pub(crate) fn graph(lab: &Lab) {
    aci(lab, "base", "1", &json!({}));
    let list = ["/etc/top-1", "/etc/base-1", "/etc/base-2", "/etc/base"];
    let fields = json!({
        "dependencies": [{"imageName": "example.org/base"}],
        "pathWhitelist": list,
    });
    aci(lab, "top", "1", &fields);
}

pub(crate) fn shown(path: &Path) -> Vec<String> {
    names(&path.join("etc"))
}

#[test]
fn a_container_keeps_its_graph_when_the_store_gets_a_newer_dependency() {
    let Some(host) = Host::new() else { return };
    graph(&host.lab);
    let old = ["base", "base-1", "top-1"];
    let made = KINDS.map(|kind| (kind, host.provision(kind, TOP, kind)));
    for (kind, path) in &made {
        assert_eq!(shown(path), old, "{kind}");
    }
    // The time of an import counts in seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    aci(&host.lab, "base", "2", &json!({}));
    host.kill_servers();
    host.run(&["recover"]);
    for (kind, path) in &made {
        assert_eq!(shown(path), old, "{kind}");
    }
    let new = host.provision("fuse", TOP, "new");
    assert_eq!(shown(&new), ["base", "base-2", "top-1"]);
    // Its own shared mount: the tree is another one.
    let new = host.provision("bind", TOP, "new");
    assert_eq!(shown(&new), ["base", "base-2", "top-1"]);
    assert_eq!(host.lowers().len(), 2);
    host.run(&["recover", "--known="]);
    host.nothing_is_left();
}

/// Of an image that is gone the sweep took the whitelist, which only its record named: the
/// containers that were made of it could not be mounted again.
#[test]
fn a_container_keeps_its_graph_when_its_image_is_removed_and_swept() {
    let Some(host) = Host::new() else { return };
    graph(&host.lab);
    let made = KINDS.map(|kind| (kind, host.provision(kind, TOP, kind)));
    host.kill_servers();
    let said = host.fails(4, &["remove", "appc:example.org/base"]);
    assert!(said.contains("appc:example.org/base"), "{said}");
    for name in [TOP, "appc:example.org/base"] {
        host.run(&["remove", "--force", name]);
    }
    host.run(&["gc"]);
    let said = host.run(&["recover"]);
    assert_eq!(said.matches("again").count(), 3, "{said}");
    for (kind, path) in &made {
        assert_eq!(shown(path), ["base", "base-1", "top-1"], "{kind}");
    }
    host.run(&["recover", "--known="]);
    host.nothing_is_left();
    host.run(&["gc"]);
    for left in ["layers-v1", "whitelists-v1", "blobs/sha256", "blobs/sha512"] {
        assert_eq!(names(&host.lab.store(left)), [""; 0], "{left}");
    }
}

/// It was called what a Docker image of such a name would be.
#[test]
fn a_container_is_told_by_what_its_image_is_called() {
    let Some(host) = Host::new() else { return };
    aci(&host.lab, "app", "1", &json!({}));
    host.provision("copy", "example.org/app", "bare");
    let said = host.run(&["containers"]);
    assert!(said.contains("appc:example.org/app:1"), "{said}");
    assert!(!said.contains("latest"), "{said}");
    host.run(&["recover", "--known="]);
    host.nothing_is_left();
}
