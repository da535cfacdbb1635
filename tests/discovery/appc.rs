//! AppC images pulled with what they depend on.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::images::{Bench, Packing, Ran, Tar};

/// An ACI with one file, `/etc/NAME`, where the name's slashes are dashes.
pub(crate) fn aci(name: &str, labels: &[(&str, &str)], dependencies: Value, text: &str) -> Vec<u8> {
    let labels: Vec<Value> = (labels.iter())
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let manifest = json!({
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": name,
        "labels": labels,
        "dependencies": dependencies,
    });
    let file = format!("rootfs/etc/{}", name.replace('/', "-"));
    let tar = Tar::new()
        .file("manifest", &serde_json::to_vec(&manifest).unwrap())
        .dir("rootfs")
        .dir("rootfs/etc")
        .file(&file, text.as_bytes());
    Packing::Gzip.pack(&tar.end())
}

/// A directory where every image has version 1 and is for linux on amd64.
fn directory(images: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, dependencies) in images {
        let labels = [("version", "1"), ("os", "linux"), ("arch", "amd64")];
        put(
            dir.path(),
            name,
            &aci(name, &labels, dependencies.clone(), name),
        );
    }
    dir
}

fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(format!("{name}-1-linux-amd64.aci"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn on(names: &[&str]) -> Value {
    let all = names.iter().map(|name| {
        let labels = [("version", "1"), ("os", "linux"), ("arch", "amd64")];
        let labels = labels.map(|(name, value)| json!({ "name": name, "value": value }));
        json!({ "imageName": name, "labels": labels })
    });
    all.collect()
}

fn pull(bench: &Bench, dir: &Path, image: &str) -> Ran {
    let dir = dir.to_str().unwrap();
    bench.run(&[
        "pull",
        "--quiet",
        image,
        "--discovery",
        "local",
        "--local-dir",
        dir,
    ])
}

#[track_caller]
fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
}

const TOP: &str = "appc:x.org/top:1,os=linux,arch=amd64";

#[test]
fn an_image_comes_with_all_that_it_depends_on() {
    let dir = directory(&[
        ("x.org/top", on(&["x.org/left", "x.org/right"])),
        ("x.org/left", on(&["base"])),
        ("x.org/right", on(&["base"])),
        ("base", json!([])),
    ]);
    let bench = Bench::new();
    let ran = pull(&bench, dir.path(), TOP).ok();
    assert_eq!(ran.text().lines().count(), 4, "{}", ran.text());
    let names = bench.run(&["ls", "appc:x.org/top:/etc"]).ok().text();
    assert_eq!(names, "base\nx.org-left\nx.org-right\nx.org-top\n");
    // The flags of Mesos' agent say the same.
    let mesos = dir.path().to_str().unwrap();
    let flags = [
        "--provisioner_discovery",
        "local",
        "--provisioner_local_dir",
        mesos,
    ];
    bench.run(&[&["pull", TOP][..], &flags].concat()).ok();
    // What the store has is not fetched again: only the image itself is.
    for name in ["x.org/left", "x.org/right", "base"] {
        fs::remove_file(dir.path().join(format!("{name}-1-linux-amd64.aci"))).unwrap();
    }
    let again = pull(&bench, dir.path(), TOP).ok();
    assert_eq!(again.text().lines().count(), 1, "{}", again.text());
}

#[test]
fn a_dependency_that_is_nowhere_is_told_with_who_needs_it() {
    let dir = directory(&[("x.org/top", on(&["x.org/gone"]))]);
    let bench = Bench::new();
    let ran = pull(&bench, dir.path(), TOP);
    let words = [
        "a dependency of `appc:x.org/top:1,arch=amd64,os=linux` cannot be pulled",
        "`appc:x.org/gone:1,arch=amd64,os=linux` was not found",
    ];
    says(&ran, 3, &words);
    // When it is there, the next pull completes what this one began.
    let labels = [("version", "1"), ("os", "linux"), ("arch", "amd64")];
    put(
        dir.path(),
        "x.org/gone",
        &aci("x.org/gone", &labels, json!([]), "x"),
    );
    pull(&bench, dir.path(), TOP).ok();
}

#[test]
fn a_circle_of_dependencies_ends() {
    let dir = directory(&[("x.org/top", on(&["b"])), ("b", on(&["x.org/top"]))]);
    let bench = Bench::new();
    let ran = pull(&bench, dir.path(), TOP);
    says(
        &ran,
        1,
        &["dependencies lead in a circle: x.org/top:1 -> b:1 -> x.org/top:1"],
    );
}

#[test]
fn what_was_not_asked_for_is_not_taken() {
    let labels = [("version", "1"), ("os", "linux"), ("arch", "amd64")];
    for (bytes, words) in [
        (
            aci("x.org/other", &labels, json!([]), "x"),
            "the image is `appc:x.org/other:1",
        ),
        (
            aci("x.org/top", &labels[1..], json!([]), "x"),
            "the image is `appc:x.org/top,",
        ),
        (
            Packing::Gzip.pack(b"no tar at all"),
            "is not an image archive",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "x.org/top", &bytes);
        let bench = Bench::new();
        pull(&bench, &bench.path("nothing"), TOP);
        bench.refuses(1, &["cannot import `", words], |bench| {
            pull(bench, dir.path(), TOP)
        });
    }
}

#[test]
fn a_docker_archive_is_no_answer_to_an_appc_name() {
    let dir = tempfile::tempdir().unwrap();
    let docker = crate::images::Image::small("top:1", 1, Packing::Gzip).docker();
    put(dir.path(), "x.org/top", &crate::images::archive(&docker));
    let bench = Bench::new();
    says(
        &pull(&bench, dir.path(), TOP),
        1,
        &["it is an image, but no AppC image"],
    );
}

#[test]
fn a_dependency_is_the_one_with_its_id_or_none() {
    let id = format!("sha512-{}", "0".repeat(128));
    let dependency = json!([{ "imageName": "base", "imageID": id }]);
    let dir = directory(&[("x.org/top", dependency), ("base", json!([]))]);
    fs::rename(
        dir.path().join("base-1-linux-amd64.aci"),
        dir.path().join(format!("base-latest-linux-{}.aci", host())),
    )
    .unwrap();
    let bench = Bench::new();
    let ran = pull(&bench, dir.path(), TOP);
    says(
        &ran,
        1,
        &[
            "a dependency of `appc:x.org/top:1",
            "the image is sha512-",
            &format!("not {id}"),
        ],
    );
}

/// This machine, as AppC calls it.
pub(crate) fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        other => other,
    }
}

/// They were looked for as if for this machine.
#[test]
fn dependencies_are_looked_for_on_the_machine_of_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = match host() {
        "aarch64" => "amd64",
        _ => "aarch64",
    };
    let labels = |arch: &'static str| [("version", "1"), ("os", "linux"), ("arch", arch)];
    let base = json!([{ "imageName": "base" }]);
    for (file, bytes) in [
        (
            format!("top-1-linux-{foreign}"),
            aci("top", &labels(foreign), base, "top"),
        ),
        (
            format!("base-latest-linux-{foreign}"),
            aci("base", &labels(foreign), json!([]), foreign),
        ),
        (
            format!("base-latest-linux-{}", host()),
            aci("base", &labels(host()), json!([]), host()),
        ),
    ] {
        fs::write(dir.path().join(format!("{file}.aci")), bytes).unwrap();
    }
    let bench = Bench::new();
    let image = format!("appc:top:1,os=linux,arch={foreign}");
    pull(&bench, dir.path(), &image).ok();
    let text = bench.run(&["cat", "appc:top:/etc/base"]).ok().text();
    assert_eq!(text, foreign);
}

/// A damaged record of whatever image stopped every pull of an image with dependencies.
#[test]
fn damage_of_another_image_does_not_stop_a_pull() {
    let dir = directory(&[("x.org/top", on(&["base"])), ("base", json!([]))]);
    let bench = Bench::new();
    let other = bench.write("other.aci", &aci("other", &[], json!([]), "x"));
    bench.import(&other, &[]).ok();
    let records = fs::read_dir(bench.store.join("images-v1")).unwrap();
    let mut paths = records.map(|entry| entry.unwrap().path());
    let record = paths.find(|path| path.extension().unwrap() == "json");
    fs::write(record.unwrap(), "{}").unwrap();
    pull(&bench, dir.path(), TOP).ok();
    bench.run(&["ls", TOP]).ok();
    says(&bench.run(&["ls", "appc:other"]), 5, &["is damaged"]);
}

/// The size was ignored: a server could send without end, up to `--max-size`.
#[test]
fn a_dependency_has_the_size_that_its_image_declares() {
    let labels = [("version", "1"), ("os", "linux"), ("arch", "amd64")];
    let base = aci("base", &labels, json!([]), "base");
    let size = base.len();
    for (declared, code) in [(size, 0), (size - 1, 1), (size + 1, 1)] {
        let mut on = on(&["base"]);
        on[0]["size"] = json!(declared);
        let dir = directory(&[("x.org/top", on)]);
        put(dir.path(), "base", &base);
        let bench = Bench::new();
        let ran = pull(&bench, dir.path(), TOP);
        assert_eq!(ran.code, code, "{}", ran.err);
        if code != 0 {
            let words = format!("it has {size} bytes, and {declared} are declared");
            says(&ran, 1, &["a dependency of `appc:x.org/top", &words]);
        }
    }
}

/// It was refused for the label, also when the store had it.
#[test]
fn a_dependency_with_its_id_needs_no_label() {
    let base = aci("base", &[("version", "1")], json!([]), "base");
    let bench = Bench::new();
    let file = bench.write("base.aci", &base);
    let imported = bench.import(&file, &["--json"]).ok();
    let imported: Value = serde_json::from_slice(&imported.out).unwrap();
    let mut on = on(&["base"]);
    let id = imported[0]["id"].as_str().unwrap().replace(':', "-");
    on[0]["imageID"] = json!(id);
    let dir = directory(&[("x.org/top", on)]);
    put(dir.path(), "base", &base);
    for bench in [bench, Bench::new()] {
        pull(&bench, dir.path(), TOP).ok();
        let names = bench.run(&["ls", &format!("{TOP}:/etc")]).ok().text();
        assert_eq!(names, "base\nx.org-top\n");
    }
}
