//! AppC images in a mount: with their dependencies, and beside Docker images.

use std::fs;
use std::io::ErrorKind;

use serde_json::{Value, json};

use super::images::Pack;
use super::lab::{Lab, alive, has, system, until};

/// Imports an ACI whose file `/etc/NAME` has its name in it, and a file that all have.
fn aci(lab: &Lab, name: &str, fields: Value) {
    let mut manifest = json!({
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": format!("example.org/{name}"),
        "labels": [{"name": "version", "value": "1"}],
    });
    for (field, value) in fields.as_object().unwrap() {
        manifest[field] = value.clone();
    }
    let mut layer = super::images::Layer::new();
    layer
        .file("manifest", manifest.to_string().as_bytes())
        .dir("rootfs", 0o755)
        .dir("rootfs/etc", 0o755)
        .file(&format!("rootfs/etc/{name}"), name.as_bytes())
        .file("rootfs/etc/who", name.as_bytes());
    let path = lab.path("image.aci");
    fs::write(&path, layer.pack(Pack::Gzip).bytes).unwrap();
    lab.run(&["import", "--quiet", path.to_str().unwrap()]);
}

fn on(names: &[&str]) -> Value {
    let all = names
        .iter()
        .map(|name| json!({"imageName": format!("example.org/{name}")}));
    json!({"dependencies": all.collect::<Vec<_>>()})
}

#[test]
fn a_mount_shows_an_image_with_its_dependencies_within_their_whitelists() {
    let Some(lab) = Lab::new() else { return };
    aci(&lab, "base", json!({}));
    aci(&lab, "left", on(&["base"]));
    let mut right = on(&["base"]);
    right["pathWhitelist"] = json!(["/etc/right", "/etc/who"]);
    aci(&lab, "right", right);
    aci(&lab, "top", on(&["left", "right"]));
    let at = lab.mount("appc:example.org/top:1", "at");
    let mut names: Vec<_> = fs::read_dir(at.join("etc"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["base", "left", "right", "top", "who"]);
    assert_eq!(fs::read_to_string(at.join("etc/who")).unwrap(), "top");
    assert_eq!(fs::read_to_string(at.join("etc/base")).unwrap(), "base");
    let refused = fs::write(at.join("etc/new"), "").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    // Its dependencies are in use as it is itself.
    lab.fails(4, &["remove", "appc:example.org/base"]);
    let pid = lab.server(&at);
    lab.umount(&at);
    until("the server ends", || !alive(pid));
    // And also when they are not.
    let said = lab.fails(4, &["remove", "appc:example.org/base"]);
    assert!(
        said.contains("is needed by `appc:example.org/left:1"),
        "{said}"
    );
    lab.run(&["remove", "--force", "appc:example.org/base"]);
    let text = lab.fails(
        3,
        &[
            "mount",
            "--read-only",
            "appc:example.org/top",
            at.to_str().unwrap(),
        ],
    );
    assert!(
        text.contains("`appc:example.org/base` is missing"),
        "{text}"
    );
}

#[test]
fn browse_resolves_dependencies_when_an_image_is_looked_up() {
    let Some(lab) = Lab::new() else { return };
    lab.image("app:1", Pack::Gzip, |layer| {
        layer.file("f", b"docker");
    });
    aci(&lab, "top", on(&["base"]));
    aci(&lab, "round", on(&["turn"]));
    aci(&lab, "turn", on(&["round"]));
    let at = lab.place("at");
    let (dir, log) = (at.to_str().unwrap(), lab.path("at.log"));
    lab.run(&["browse", "--log", log.to_str().unwrap(), dir]);
    let names = |dir: &std::path::Path| {
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&at), ["app:1", "appc:example.org"]);
    let inside = at.join("appc:example.org");
    assert_eq!(names(&inside), ["round:1", "top:1", "turn:1"]);
    assert_eq!(lab.log("at"), Vec::<String>::new());

    // Missing is ENOENT, what can be no image is EIO, and both are told once.
    for _ in 0..2 {
        let missing = fs::metadata(inside.join("top:1/etc")).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        let circle = fs::metadata(inside.join("round:1/etc")).unwrap_err();
        assert_eq!(circle.raw_os_error(), Some(libc::EIO));
    }
    let lines = lab.log("at");
    for words in [
        "`appc:example.org/base` is missing",
        "dependencies lead in a circle",
    ] {
        let told = lines.iter().filter(|line| line.contains(words)).count();
        assert_eq!(told, 1, "{words}: {lines:?}");
    }

    // It comes, it changes: no remount.
    aci(&lab, "base", json!({}));
    let who = || fs::read_to_string(inside.join("top:1/etc/who")).unwrap();
    let names_of_top = || names(&inside.join("top:1/etc"));
    assert_eq!(
        (who(), names_of_top()),
        (
            "top".to_owned(),
            vec!["base".to_owned(), "top".into(), "who".into()]
        )
    );
    // The time of an import counts in seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let changed = json!({"annotations": [], "pathWhitelist": ["/etc/who"]});
    aci(&lab, "base", changed);
    assert_eq!(names_of_top(), ["top", "who"]);
    let pid = lab.server(&at);
    lab.umount(&at);
    until("the server ends", || !alive(pid));
}

/// A damaged record was as good as missing: what needed it had no such file, or got
/// another image of that name.
#[test]
fn a_damaged_image_is_an_input_output_error_for_whoever_needs_it_only() {
    let Some(lab) = Lab::new() else { return };
    let versions = |version: &str| {
        let labels = json!([{"name": "version", "value": version}]);
        json!({ "labels": labels })
    };
    aci(&lab, "base", versions("1"));
    let records = fs::read_dir(lab.store("images-v1")).unwrap();
    let mut paths = records.map(|entry| entry.unwrap().path());
    let record = paths.find(|path| path.extension().unwrap() == "json");
    aci(&lab, "base", versions("2"));
    aci(&lab, "top", on(&["base"]));
    let mut exact = on(&["base"]);
    exact["dependencies"][0]["labels"] = versions("2")["labels"].clone();
    aci(&lab, "exact", exact);
    aci(&lab, "other", json!({}));
    fs::write(record.unwrap(), "{}").unwrap();
    let at = lab.place("at");
    let log = lab.path("at.log");
    lab.run(&[
        "browse",
        "--log",
        log.to_str().unwrap(),
        at.to_str().unwrap(),
    ]);
    let inside = at.join("appc:example.org");
    let names = fs::read_dir(&inside).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["base:1", "base:2", "exact:1", "other:1", "top:1"]);
    for _ in 0..2 {
        for name in ["base:1", "top:1"] {
            let error = fs::metadata(inside.join(name).join("etc")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
        }
        for name in ["base:2", "exact:1", "other:1"] {
            fs::metadata(inside.join(name).join("etc")).unwrap();
        }
    }
    let lines = lab.log("at");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines.iter().all(|line| line.contains("is damaged")),
        "{lines:?}"
    );
    let pid = lab.server(&at);
    lab.umount(&at);
    until("the server ends", || !alive(pid));
}

/// What Mesos ran end to end (`AppcSpecTest`'s rootfs, built from the host): `ls -al /` in an
/// image of one layer.
#[test]
fn a_program_of_the_host_runs_in_an_image_of_one_layer() {
    let Some(lab) = Lab::new() else { return };
    if !has("ldd") || !has("chroot") {
        return;
    }
    let manifest = json!({
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "host",
        "labels": [
            {"name": "version", "value": "latest"},
            {"name": "arch", "value": "amd64"},
            {"name": "os", "value": "linux"},
        ],
        "app": {"exec": ["/bin/ls", "-al", "/"], "user": "0", "group": "0"},
    });
    let mut layer = super::images::Layer::new();
    layer
        .file("manifest", manifest.to_string().as_bytes())
        .dir("rootfs", 0o755)
        .dir("rootfs/tmp", 0o1777)
        .symlink("rootfs/sbin", "bin")
        .program("rootfs/bin/ls", 0o755, "/bin/ls");
    let needed = system("ldd", &["/bin/ls"]);
    let libraries = needed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for library in libraries {
        layer.program(&format!("rootfs{library}"), 0o755, library);
    }
    let path = lab.path("image.aci");
    fs::write(&path, layer.pack(Pack::Gzip).bytes).unwrap();
    lab.run(&["import", "--quiet", path.to_str().unwrap()]);
    let at = lab.mount("appc:host:latest,os=linux,arch=amd64", "at");
    let dir = at.to_str().unwrap();
    let inspected: Value =
        serde_json::from_str(&lab.run(&["inspect", "--json", "appc:host"])).unwrap();
    let words = inspected["manifest"]["app"]["exec"].as_array().unwrap();
    let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
    let inside = system("chroot", &[&[dir][..], &words].concat());
    // There is no passwd in it, so it prints numbers; and above `/` is `/`.
    let own = |text: String| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.ends_with(" .."));
        lines.map(str::to_owned).collect()
    };
    let outside = system("ls", &["-aln", dir]);
    for name in [" bin", " sbin -> bin", " tmp"] {
        assert!(inside.lines().any(|line| line.ends_with(name)), "{inside}");
    }
    assert_eq!(own(inside), own(outside));
    lab.umount(&at);
}
