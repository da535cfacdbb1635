//! What comes in goes out: archives that `export` writes are taken again, by us and
//! by what is written in them, with the same bytes and digests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/images.rs"]
#[expect(dead_code, reason = "the tests of imports need more of it")]
mod images;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use images::*;
use serde_json::Value;

const PACKINGS: [Packing; 5] = [
    Packing::Plain,
    Packing::Gzip,
    Packing::Zstd,
    Packing::Bzip2,
    Packing::Xz,
];

/// The members of an archive, symlinks as what they lead to.
fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        match entry.link_name().unwrap() {
            Some(target) => bytes.extend(target.display().to_string().into_bytes()),
            None => drop(entry.read_to_end(&mut bytes).unwrap()),
        }
        assert!(
            all.insert(name, bytes).is_none(),
            "no member is there twice"
        );
    }
    all
}

fn json(members: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&members[name]).unwrap()
}

fn blob_name(digest: &Value) -> String {
    format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"))
}

#[track_caller]
fn export(bench: &Bench, image: &str, more: &[&str]) -> (BTreeMap<String, Vec<u8>>, Ran) {
    let args = [&["export", image, "-"], more].concat();
    let ran = bench.run(&args).ok();
    (members(&ran.out), ran)
}

/// ID and layers of the one image of a store.
fn identity(bench: &Bench) -> (Value, Value) {
    let images: Value = serde_json::from_slice(&bench.run(&["images", "--json"]).ok().out).unwrap();
    let image = &images[0];
    let shown = bench
        .run(&["inspect", "--json", image["id"].as_str().unwrap()])
        .ok();
    let shown: Value = serde_json::from_slice(&shown.out).unwrap();
    let layers = shown["layers"].as_array().unwrap().iter();
    let diffs = layers.map(|layer| layer["diff"].clone()).collect();
    (image["id"].clone(), diffs)
}

#[test]
fn an_oci_image_goes_out_byte_for_byte() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let bench = Bench::new();
        let image = Image::small("some:1", 3, packing);
        let annotated = |said: &mut Value| said["annotations"] = serde_json::json!({"a": "b"});
        let came = image.oci_with(AS_IS, &annotated);
        bench.pipe(&archive(&came), &[]).ok();
        let (went, ran) = export(&bench, "some:1", &[]);
        assert_eq!(ran.err, "", "nothing is to be noted");
        for (name, bytes) in came.iter().filter(|(name, _)| name.starts_with("blobs/")) {
            assert_eq!(went.get(name), Some(bytes), "{name}, {packing:?}");
        }
        let index = json(&went, "index.json");
        let said = &index["manifests"][0]["annotations"];
        assert_eq!(said["io.containerd.image.name"], "docker.io/library/some:1");
        assert_eq!(said["org.opencontainers.image.ref.name"], "1");
    }
}

#[test]
fn every_form_and_packing_comes_back_as_the_same_image() {
    for packing in PACKINGS {
        let image = Image::small("some:1", 4, packing);
        for files in [
            image.docker(),
            image.legacy(),
            image.oci(),
            image.docker_25(),
        ] {
            let bench = Bench::new();
            bench.pipe(&archive(&files), &[]).ok();
            for format in ["oci", "docker"] {
                let again = Bench::new();
                let args = ["export", "--quiet", "--format", format, "some:1", "-"];
                let went = bench.run(&args).ok();
                again.pipe(&went.out, &[]).ok();
                assert_eq!(identity(&again), identity(&bench), "{packing:?} {format}");
                again.run(&["verify"]).ok();
                // Who came by it does not show.
                assert_eq!(again.run(&args).ok().out, went.out, "{packing:?} {format}");
            }
        }
    }
}

#[test]
fn a_manifest_is_a_new_one_where_the_store_has_other_blobs() {
    let first = Image::small("first:1", 5, Packing::Gzip);
    let second = Image::small("second:1", 5, Packing::Zstd);
    let bench = Bench::new();
    for image in [&first, &second] {
        let path = bench.write("one.tar", &archive(&image.oci()));
        bench.import(&path, &[]).ok();
    }
    let (went, ran) = export(&bench, "second:1", &[]);
    assert_eq!(ran.err.matches("goes out as").count(), 2, "{}", ran.err);
    assert!(ran.err.contains("the manifest is a new one"), "{}", ran.err);
    let index = json(&went, "index.json");
    let manifest = json(&went, &blob_name(&index["manifests"][0]["digest"]));
    for (layer, kept) in manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&first.layers)
    {
        assert_eq!(
            layer["mediaType"],
            "application/vnd.oci.image.layer.v1.tar+gzip"
        );
        let bytes = &went[&blob_name(&layer["digest"])];
        assert_eq!(
            (layer["size"].as_u64().unwrap(), bytes),
            (bytes.len() as u64, &kept.packed)
        );
    }
}

#[test]
fn a_docker_archive_is_one_for_every_generation() {
    let bench = Bench::new();
    let image = Image::small("some/thing:1", 6, Packing::Gzip);
    bench.pipe(&archive(&image.oci()), &[]).ok();
    let (went, _) = export(&bench, "some/thing:1", &["--format", "docker"]);
    let manifest = json(&went, "manifest.json");
    assert_eq!(manifest[0]["RepoTags"][0], "docker.io/some/thing:1");
    let diffs = image
        .layers
        .iter()
        .map(|layer| layer.diff.strip_prefix("sha256:").unwrap());
    for (name, diff) in manifest[0]["Layers"].as_array().unwrap().iter().zip(diffs) {
        assert_eq!(name.as_str().unwrap(), format!("{diff}.tar"));
        assert_eq!(hex(&went[name.as_str().unwrap()]), diff);
    }
    // Before 1.10: from the name down the parents.
    let repositories = json(&went, "repositories");
    let mut id = repositories["some/thing"]["1"].as_str().map(str::to_owned);
    let mut layers = Vec::new();
    while let Some(at) = id {
        let said = json(&went, &format!("{at}/json"));
        assert_eq!(
            (said["id"].as_str(), &*went[&format!("{at}/VERSION")]),
            (Some(&*at), &b"1.0"[..])
        );
        let target = String::from_utf8(went[&format!("{at}/layer.tar")].clone()).unwrap();
        layers.insert(0, Value::from(target.strip_prefix("../").unwrap()));
        id = said["parent"].as_str().map(str::to_owned);
    }
    assert_eq!(Value::from(layers), manifest[0]["Layers"]);

    let only_old: Files = went
        .iter()
        .filter(|(name, _)| *name != "manifest.json" && !name.ends_with("/layer.tar"))
        .map(|(name, bytes)| (name.clone(), bytes.clone()))
        .chain(went.keys().filter_map(|name| {
            let target = String::from_utf8(went.get(name)?.clone()).ok()?;
            let target = target.strip_prefix("../")?;
            Some((name.clone(), went[target].clone()))
        }))
        .collect();
    let old = Bench::new();
    old.pipe(&archive(&only_old), &[]).ok();
    assert_eq!(identity(&old).1, identity(&bench).1);
}

#[test]
fn names_are_what_was_asked_for() {
    let bench = Bench::new();
    bench
        .pipe(
            &archive(&Image::small("one:1", 7, Packing::Gzip).oci()),
            &[],
        )
        .ok();
    bench.run(&["tag", "one:1", "host:5000/two:2"]).ok();
    let id = identity(&bench).0;
    let id = id.as_str().unwrap();
    let tags = |more: &[&str], image: &str| {
        let docker = [more, &["--format", "docker"]].concat();
        let manifest = json(&export(&bench, image, &docker).0, "manifest.json");
        let index = json(&export(&bench, image, more).0, "index.json");
        let named = index["manifests"].as_array().unwrap().iter();
        let named = named
            .filter(|entry| !entry["annotations"].is_null())
            .count();
        let tags = manifest[0]["RepoTags"].clone();
        assert_eq!(tags.as_array().unwrap().len(), named);
        tags
    };
    assert_eq!(
        tags(&[], "host:5000/two:2"),
        serde_json::json!(["host:5000/two:2"])
    );
    assert_eq!(tags(&[], id), serde_json::json!([]));
    let more = ["--name", "a", "--name", "b:c"];
    assert_eq!(
        tags(&more, "one:1"),
        serde_json::json!(["docker.io/library/a:latest", "docker.io/library/b:c"])
    );
    let digest = format!("a@{id}");
    bench
        .run(&["export", "one:1", "-", "--name", &digest])
        .fails(2, "has no tag");
}

#[test]
fn the_file_is_there_when_it_is_whole_and_replaces_nothing_unasked() {
    let bench = Bench::new();
    bench
        .pipe(
            &archive(&Image::small("one:1", 8, Packing::Gzip).oci()),
            &[],
        )
        .ok();
    let path = bench.path("out/one.tar");
    let to = path.to_str().unwrap();
    bench
        .run(&["export", "one:1", to])
        .fails(3, "there is no directory");
    fs::create_dir(bench.path("out")).unwrap();
    let said = bench.run(&["export", "one:1", to]).ok().text();
    assert!(said.contains("OCI archive of sha256:"), "{said}");
    let first = fs::read(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o077,
        0o044
    );
    bench
        .run(&["export", "one:1", to, "--format", "docker"])
        .fails(1, "is there already");
    assert_eq!(fs::read(&path).unwrap(), first);
    bench
        .run(&["export", "one:1", to, "--format", "docker", "--force"])
        .ok();
    assert_ne!(fs::read(&path).unwrap(), first);
    bench
        .run(&["export", "one:1", bench.path("out").to_str().unwrap()])
        .fails(1, "is a directory");
    only(&bench.path("out"), "one.tar");
}

/// The directory has one file, and nothing is left over.
#[track_caller]
fn only(dir: &Path, name: &str) {
    let names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [name]);
}

#[test]
fn damage_and_a_full_disk_are_told_and_leave_no_archive() {
    let bench = Bench::new();
    let image = Image::small("one:1", 9, Packing::Gzip);
    bench.pipe(&archive(&image.oci()), &[]).ok();
    bench
        .run(&["export", "one:1", "/dev/full"])
        .fails(1, "No space left on device");

    let blob = bench
        .store
        .join("blobs/sha256")
        .join(hex(&image.layers[1].packed));
    let sound = fs::read(&blob).unwrap();
    let mut flipped = sound.clone();
    // In the header's time, which nothing decodes.
    flipped[5] ^= 1;
    fs::create_dir(bench.path("out")).unwrap();
    let to = bench.path("out/one.tar");
    for (damage, format) in [
        (&flipped[..], "oci"),
        (&sound[..sound.len() - 1], "oci"),
        (&sound[1..], "docker"),
    ] {
        fs::write(&blob, damage).unwrap();
        let args = ["export", "one:1", to.to_str().unwrap(), "--format", format];
        let ran = bench.run(&args);
        assert_eq!(ran.code, 5, "{}", ran.err);
        assert!(fs::read_dir(bench.path("out")).unwrap().next().is_none());
    }
}

impl Ran {
    #[track_caller]
    fn fails(self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(self.err.contains(words), "{}", self.err);
    }
}

#[test]
fn an_export_that_is_stopped_leaves_no_file() {
    use std::process::Stdio;
    let bench = Bench::new();
    let tar = Tar::new().file("large", &noise(1, 4 << 20)).end();
    let image = Image::new("one:1", vec![Layer::new(&tar, Packing::Plain)]);
    bench.pipe(&archive(&image.oci()), &[]).ok();
    let mut command = bench.command(&["export", "one:1", "-"]);
    let mut running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It waits for its reader when the first bytes are there.
    let mut out = running.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    let id = rustix::process::Pid::from_raw(running.id().cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    assert!(rest.len() < 4 << 20, "it went on to the end");

    // To a file: what is staged goes with it.
    fs::create_dir(bench.path("out")).unwrap();
    let to = bench.path("out/one.tar");
    let args = [
        "export",
        "one:1",
        to.to_str().unwrap(),
        "--format",
        "docker",
    ];
    let mut running = bench.command(&args).stderr(Stdio::null()).spawn().unwrap();
    let id = rustix::process::Pid::from_raw(running.id().cast_signed()).unwrap();
    while running.try_wait().unwrap().is_none() {
        if fs::read_dir(bench.path("out")).unwrap().next().is_some() {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
            break;
        }
    }
    let whole = running.wait().unwrap().success();
    assert_eq!(
        fs::read_dir(bench.path("out")).unwrap().count(),
        usize::from(whole)
    );
}
