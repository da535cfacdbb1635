//! Changes become an image: what the verbs say of an upper directory that kernel
//! overlayfs, or nobody but this test, has written. Needs no mount.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "support/images.rs"]
#[expect(dead_code, reason = "the tests of imports need more of it")]
mod images;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use images::*;
use serde_json::{Value, json};

/// A store with `one:1`, which has a few files, and an upper directory.
struct Scene {
    bench: Bench,
    upper: PathBuf,
}

impl Scene {
    /// Nothing where this user cannot have marks: `trusted.*` is root's.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: needs root");
            return None;
        }
        let bench = Bench::new();
        let tar = Tar::new()
            .dir("d")
            .file("d/f", b"text")
            .file("d/g", b"other")
            .file("top", b"top")
            .end();
        let image = Image::new("one:1", vec![Layer::new(&tar, Packing::Gzip)]);
        bench.pipe(&archive(&image.oci()), &[]).ok();
        let upper = bench.path("upper");
        fs::create_dir(&upper).unwrap();
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { bench, upper })
    }

    fn run(&self, verb: &str, more: &[&str]) -> Ran {
        let upper = self.upper.to_str().unwrap();
        let args = [&[verb, "one:1", "--upper", upper], more].concat();
        self.bench.run(&args)
    }

    /// Removes something as overlayfs does.
    fn whiteout(&self, path: &str) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let path = self.upper.join(path);
        mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    /// Writes something, in directories that come up for it.
    fn write(&self, path: &str, text: &str) {
        let path = self.upper.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.bench.run(args).ok().out).unwrap()
    }

    fn cat(&self, path: &str) -> Ran {
        self.bench.run(&["cat", path])
    }
}

#[test]
fn what_overlayfs_wrote_becomes_an_image() {
    let Some(scene) = Scene::new() else { return };
    scene.write("d/new", "new");
    scene.whiteout("d/f");
    symlink("d/new", scene.upper.join("link")).unwrap();
    fs::hard_link(scene.upper.join("d/new"), scene.upper.join("again")).unwrap();
    let told = scene.run("diff", &[]).ok().text();
    assert_eq!(told, "C /\nA /again\nC /d\nD /d/f\nA /d/new\nA /link\n");
    let told: Value = serde_json::from_slice(&scene.run("diff", &["--json"]).ok().out).unwrap();
    assert_eq!(
        told[3],
        json!({"change": "deleted", "path": "/d/f", "type": "file"})
    );
    assert_eq!(
        (&told[2]["attributes"], &told[2]["contents"]),
        (&json!(true), &json!(false))
    );
    let said = scene.run("commit", &["two:2"]).ok().text();
    assert!(said.contains("as two:2: 6 changes"), "{said}");
    assert_eq!(scene.cat("two:2:/link").ok().text(), "new");
    assert_eq!(scene.cat("two:2:/d/g").ok().text(), "other");
    assert_eq!(scene.cat("two:2:/d/f").code, 3);
    let listed = scene.json(&["ls", "--json", "two:2:/"]);
    let again = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["path"] == "/again");
    assert_eq!(again.unwrap()["nlink"], 2);
    scene.bench.run(&["verify"]).ok();
    scene.bench.run(&["gc"]).ok();
    assert_eq!(scene.cat("two:2:/link").ok().text(), "new");
}

#[test]
fn the_same_changes_make_the_same_image_in_every_packing() {
    let Some(scene) = Scene::new() else { return };
    scene.write("d/new", &"text".repeat(1_000_000));
    let mut diffs = Vec::new();
    for packing in ["gzip", "zstd", "none"] {
        let commit = |name: &str| {
            let args = [
                name,
                "--timestamp",
                "1",
                "--compression",
                packing,
                "--json",
                "-q",
            ];
            let ran = scene.run("commit", &args).ok();
            serde_json::from_slice::<Value>(&ran.out).unwrap()["id"].clone()
        };
        let id = commit("a:1");
        assert_eq!(commit("b:1"), id);
        let shown = scene.json(&["inspect", "--json", "a:1"]);
        diffs.push((id, shown["layers"][1]["diff"].clone()));
        assert_eq!(scene.cat("a:1:/d/new").ok().out.len(), 4_000_000);
        scene.bench.run(&["remove", "a:1"]).ok();
        scene.bench.run(&["remove", "b:1"]).ok();
        scene.bench.run(&["gc"]).ok();
    }
    assert!(diffs.iter().all(|one| *one == diffs[0]), "{diffs:?}");
}

#[test]
fn the_config_says_what_happened() {
    let Some(scene) = Scene::new() else { return };
    scene.write("new", "new");
    let more = [
        "two:2",
        "-m",
        "why",
        "-a",
        "who",
        "-c",
        "CMD [\"sh\"]",
        "-c",
        "env A=1",
        "--timestamp",
        "1",
    ];
    scene.run("commit", &more).ok();
    let shown = scene.json(&["inspect", "--json", "two:2"]);
    let config = &shown["config"];
    assert_eq!(config["config"]["Cmd"], json!(["sh"]));
    assert_eq!(config["config"]["Env"], json!(["A=1"]));
    let last = config["history"].as_array().unwrap().last().unwrap();
    let expected = json!({
        "created": "1970-01-01T00:00:01Z", "created_by": "lazyroot commit",
        "author": "who", "comment": "why",
    });
    assert_eq!(last, &expected);
    scene
        .run("commit", &["two:2", "-c", "RUN x"])
        .fails(2, "there is no instruction `RUN`");
}

#[test]
fn without_changes_there_is_no_layer() {
    let Some(scene) = Scene::new() else { return };
    assert_eq!(scene.run("diff", &[]).ok().text(), "");
    let said = scene.run("commit", &["two:2"]).ok().text();
    assert!(said.contains("nothing was changed: no new layer"), "{said}");
    let layers = &scene.json(&["inspect", "--json", "two:2"])["layers"];
    assert_eq!(layers.as_array().unwrap().len(), 1);
}

#[test]
fn what_a_layer_cannot_say_is_refused_or_told() {
    let Some(scene) = Scene::new() else { return };
    scene.write("kept", "kept");
    let _socket = UnixListener::bind(scene.upper.join("socket")).unwrap();
    let ran = scene.run("commit", &["two:2"]).ok();
    assert!(
        ran.err.contains("note: the socket `/socket` is left out"),
        "{}",
        ran.err
    );
    assert_eq!(scene.cat("two:2:/socket").code, 3);
    scene.write(".wh.x", "");
    scene
        .run("commit", &["three:3"])
        .fails(1, "`/.wh.x` cannot be in a layer");
    scene.cat("three:3:/top").fails(3, "is not in the store");
}

#[test]
fn an_upper_directory_of_another_image_or_of_nobody_is_refused() {
    let Some(scene) = Scene::new() else { return };
    let mark = "trusted.overlay.lazyroot.layers";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&scene.upper, mark, b"sha256:other", flags).unwrap();
    for verb in [&["diff"][..], &["commit", "two:2"]] {
        scene
            .run(verb[0], &verb[1..])
            .fails(1, "holds changes to another image");
    }
    let missing = scene.bench.path("missing");
    let args = ["diff", "one:1", "--upper", missing.to_str().unwrap()];
    scene.bench.run(&args).fails(3, "cannot open");
    assert!(!missing.try_exists().unwrap());
}

#[test]
fn an_appc_image_becomes_one_that_needs_no_other() {
    let Some(scene) = Scene::new() else { return };
    let manifest = |name: &str, more: Value| {
        let mut said = json!({
            "acKind": "ImageManifest", "acVersion": "0.8.11", "name": name,
            "labels": [{"name": "version", "value": "1.0.0"}],
        });
        said.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        said.to_string().into_bytes()
    };
    let base = Tar::new()
        .file("manifest", &manifest("base", json!({})))
        .dir("rootfs")
        .file("rootfs/low", b"low")
        .file("rootfs/gone", b"gone")
        .end();
    let app = json!({"dependencies": [{"imageName": "base"}]});
    let top = Tar::new()
        .file("manifest", &manifest("app", app))
        .dir("rootfs")
        .file("rootfs/.wh.plain", b"an ordinary name")
        .end();
    for tar in [base, top] {
        scene.bench.pipe(&tar, &[]).ok();
    }
    scene.write("new", "new");
    scene.whiteout("gone");
    let upper = scene.upper.to_str().unwrap();
    let commit = |more: &[&str]| {
        let args = [&["commit", "appc:app", "--upper", upper], more].concat();
        scene.bench.run(&args)
    };
    commit(&["new-app:2.0.0", "-m", "why"]).ok();
    let image = scene.json(&["inspect", "--json", "appc:new-app:2.0.0"]);
    assert!(image["manifest"].get("dependencies").is_none(), "{image}");
    for (path, text) in [
        ("low", "low"),
        ("new", "new"),
        (".wh.plain", "an ordinary name"),
    ] {
        let found = scene.cat(&format!("appc:new-app:/{path}")).ok().text();
        assert_eq!(found, text);
    }
    assert_eq!(scene.cat("appc:new-app:/gone").code, 3);
    commit(&["x:1", "-c", "USER a"]).fails(2, "an AppC image knows no --change");
    commit(&["x:1", "--compression", "zstd"]).fails(2, "an AppC image knows no zstd");
    let (out, _) = (
        scene.bench.run(&["export", "appc:new-app", "-"]).ok().out,
        (),
    );
    let again = Bench::new();
    again.pipe(&out, &[]).ok();
    assert_eq!(again.run(&["cat", "appc:new-app:/low"]).ok().text(), "low");
}

#[test]
fn a_commit_may_be_an_image_of_another_kind() {
    let Some(scene) = Scene::new() else { return };
    scene.write("d/new", "new");
    scene.whiteout("d/f");
    let more = [
        "new:2",
        "--format",
        "aci",
        "--timestamp",
        "1",
        "-a",
        "who",
        "-m",
        "why",
        "-c",
        "USER 7",
    ];
    scene.run("commit", &more).ok();
    let image = scene.json(&["inspect", "--json", "appc:new:2"]);
    let manifest = &image["manifest"];
    assert_eq!(manifest["app"]["user"], "7");
    let annotations = manifest["annotations"].to_string();
    for text in ["who", "why", "1970-01-01T00:00:01Z"] {
        assert!(annotations.contains(text), "{annotations}");
    }
    assert_eq!(scene.cat("appc:new:2:/d/new").ok().text(), "new");
    assert_eq!(scene.cat("appc:new:2:/d/f").code, 3);
    assert_eq!(scene.cat("appc:new:2:/top").ok().text(), "top");

    // A manifest of schema 2, in which no layer is in zstd.
    scene.run("commit", &["two:2", "--format", "docker"]).ok();
    let blobs = fs::read_dir(scene.bench.path("store").join("blobs/sha256")).unwrap();
    let manifest = blobs
        .filter_map(|blob| {
            serde_json::from_slice::<Value>(&fs::read(blob.unwrap().path()).unwrap()).ok()
        })
        .find(|said| said["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json")
        .unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
    for layer in manifest["layers"].as_array().unwrap() {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        );
    }
    assert_eq!(scene.cat("two:2:/d/new").ok().text(), "new");
    scene
        .run(
            "commit",
            &["x:1", "--format", "docker", "--compression", "zstd"],
        )
        .fails(2, "cannot have a layer in zstd");
    scene
        .run("commit", &["Upper", "--format", "aci"])
        .fails(2, "is no name of an AppC image");

    // And the other way: its upper directory is another one.
    let upper = scene.bench.path("upper of appc");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("added"), "added").unwrap();
    let args = ["commit", "appc:new:2", "--upper", upper.to_str().unwrap()];
    let args = [&args[..], &["three:3", "--format", "oci", "-c", "ENV A=1"]].concat();
    let ran = scene.bench.run(&args).ok();
    let config = &scene.json(&["inspect", "--json", "three:3"])["config"];
    assert_eq!(config["config"]["User"], "7:0");
    assert_eq!(config["config"]["Env"], json!(["A=1"]));
    assert_eq!(
        config["history"].as_array().unwrap().len(),
        1,
        "{}",
        ran.err
    );
    for (path, text) in [("added", "added"), ("d/new", "new"), ("top", "top")] {
        assert_eq!(scene.cat(&format!("three:3:/{path}")).ok().text(), text);
    }
}

impl Ran {
    #[track_caller]
    fn fails(self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(self.err.contains(words), "{}", self.err);
    }
}
