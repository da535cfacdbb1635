//! Archives that say one thing and have another, and things that are none.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tar::EntryType;

use super::images::*;

/// A store that has an image already: nothing of it may change.
fn bench() -> Bench {
    let bench = Bench::new();
    let sound = Image::small("sound:1", 50, Packing::Gzip).docker();
    bench.pipe(&archive(&sound), &[]).ok();
    bench
}

/// Refused as a file, through a pipe and compressed as a whole, for the same reason.
#[track_caller]
fn refused(files: &Files, words: &[&str]) {
    let tar = archive(files);
    let bench = bench();
    let path = bench.write("image.tar", &tar);
    let packed = bench.write("image.tar.gz", &Packing::Gzip.pack(&tar));
    for path in [&path, &packed] {
        let named = path.to_str().unwrap();
        bench.refuses(1, &[&["cannot import", named], words].concat(), |bench| {
            bench.import(path, &[])
        });
    }
    bench.refuses(1, &[&["standard input"][..0], words].concat(), |bench| {
        bench.pipe(&tar, &[])
    });
}

/// The same of a whole tar.
#[track_caller]
fn refused_tar(tar: &[u8], words: &[&str]) {
    let bench = bench();
    let path = bench.write("image.tar", tar);
    let packed = bench.write("image.tar.gz", &Packing::Gzip.pack(tar));
    for path in [&path, &packed] {
        bench.refuses(1, words, |bench| bench.import(path, &[]));
    }
    bench.refuses(1, words, |bench| bench.pipe(tar, &[]));
}

fn other() -> String {
    sha256(b"something else")
}

#[test]
fn a_layer_with_another_blob_digest_is_refused() {
    let image = Image::small("bad:1", 1, Packing::Gzip);
    let mut files = image.oci();
    let name = hex(&image.layers[1].packed);
    // The same length, and still a gzip stream: only its header's time differs.
    edit(&mut files, "blobs/", &name)[4] ^= 1;
    refused(&files, &["layer", &name, "digest is sha256:", "try: "]);
}

#[test]
fn a_layer_with_another_diff_id_is_refused() {
    let image = Image::small("bad:1", 1, Packing::Gzip);
    let config = |config: &mut Value| {
        config["rootfs"]["diff_ids"][1] = json!(other());
    };
    let files = image.oci_with(&config, AS_IS);
    let words = ["unpacks to", &other(), &image.layers[1].diff, "try: "];
    refused(&files, &words);
    // docker: the config's name is its digest, so it is made anew.
    let mut wrong = image.clone();
    wrong.layers[0].diff = other();
    refused(&wrong.docker(), &["unpacks to", &other(), "try: "]);
}

#[test]
fn a_config_with_another_digest_is_refused() {
    let mut files = Image::small("bad:1", 1, Packing::Gzip).docker();
    let name = files[0].0.clone();
    edit(&mut files, &name, "").push(b' ');
    refused(&files, &[&name, "should have digest", "try: "]);

    let mut files = Image::small("bad:1", 1, Packing::Gzip).oci();
    let name = files[1].0.clone();
    *edit(&mut files, &name, "").last_mut().unwrap() = b' ';
    refused(&files, &[&name, "should have digest", "try: "]);
}

#[test]
fn a_descriptor_with_another_size_is_refused() {
    let image = Image::small("bad:1", 1, Packing::Zstd);
    for by in [1_i64, -1, 1 << 40] {
        let change = |manifest: &mut Value| {
            let size = manifest["layers"][0]["size"].as_i64().unwrap();
            manifest["layers"][0]["size"] = json!(size + by);
        };
        let name = hex(&image.layers[0].packed);
        refused(&image.oci_with(AS_IS, &change), &[&name, "bytes", "try: "]);
    }
    let change = |manifest: &mut Value| manifest["config"]["size"] = json!(7);
    refused(
        &image.oci_with(AS_IS, &change),
        &["should have 7 bytes", "try: "],
    );
}

#[test]
fn an_image_whose_layer_is_missing_is_refused() {
    let image = Image::small("bad:1", 1, Packing::Gzip);
    for mut files in [
        image.docker(),
        image.oci(),
        image.docker_25(),
        image.legacy(),
    ] {
        let at = files
            .iter()
            .rposition(|(_, bytes)| *bytes == image.layers[0].packed);
        let (name, _) = files.remove(at.unwrap());
        refused(&files, &[&name, "try: "]);
    }
}

#[test]
fn documents_that_are_missing_or_no_json_are_refused() {
    let image = Image::small("bad:1", 1, Packing::Gzip);
    let mut files = image.docker();
    let (config, _) = files.remove(0);
    refused(&files, &[&config, "missing", "try: "]);

    let mut files = image.docker();
    edit(&mut files, "manifest.json", "").truncate(20);
    refused(&files, &["`manifest.json`"]);

    let mut files = image.oci();
    *edit(&mut files, "index.json", "") = b"{}".to_vec();
    refused(&files, &["`index.json`"]);

    let mut files = image.docker();
    edit_json(&mut files, "manifest.json", |said| *said = json!([]));
    refused(&files, &["no image"]);

    let mut files = image.docker();
    edit_json(&mut files, "manifest.json", |said| {
        said[0]["Layers"].as_array_mut().unwrap().pop();
    });
    refused(&files, &["has 1 layers", "has 2"]);
}

#[test]
fn names_that_lead_out_of_the_archive_are_refused() {
    let image = Image::small("bad:1", 1, Packing::Gzip);
    for name in ["../x", "/etc/passwd", "a/../../x", ""] {
        for key in ["Config", "Layers"] {
            let mut files = image.docker();
            edit_json(&mut files, "manifest.json", |said| match key {
                "Config" => said[0]["Config"] = json!(name),
                _ => said[0]["Layers"][0] = json!(name),
            });
            refused(&files, &["`manifest.json`", "points outside the archive"]);
        }
    }
    let mut files = image.legacy();
    edit_json(&mut files, "repositories", |said| {
        said["bad"]["1"] = json!("../../etc")
    });
    refused(&files, &["`repositories`", "points outside the archive"]);
}

#[test]
fn one_file_named_for_two_different_layers_is_refused() {
    // Only one of the two can be right; the image of the other would be damaged.
    let image = Image::small("bad:1", 1, Packing::Gzip);
    let mut files = image.docker();
    edit_json(&mut files, "manifest.json", |said| {
        said[0]["Layers"][0] = said[0]["Layers"][1].clone();
    });
    refused(&files, &["unpacks to", &image.layers[0].diff, "try: "]);
}

#[test]
fn links_out_of_a_directory_are_not_followed() {
    let image = Image::small("bad:1", 1, Packing::Gzip);
    let bench = bench();
    let at = bench.path("layout");
    directory(&image.oci(), &at);
    let name = hex(&image.layers[0].packed);
    let blob = at.join("blobs/sha256").join(&name);
    let outside = bench.path("outside");
    std::fs::rename(&blob, &outside).unwrap();
    for target in [outside.to_str().unwrap(), "../../../outside"] {
        symlink(target, &blob).unwrap();
        bench.refuses(1, &[&name, "leads out of the directory"], |bench| {
            bench.import(&at, &[])
        });
        std::fs::remove_file(&blob).unwrap();
    }
    // A link that stays inside is one.
    std::fs::rename(&outside, at.join("elsewhere")).unwrap();
    symlink("../../elsewhere", &blob).unwrap();
    bench.import(&at, &[]).ok();
}

#[test]
fn links_out_of_a_tar_are_not_followed() {
    let image = Image::small("bad:1", 1, Packing::Gzip);
    for target in ["/etc/passwd", "../../../etc/passwd", "nothing"] {
        let mut tar = Tar::new();
        for (name, bytes) in image.docker() {
            tar = match bytes == image.layers[0].packed {
                true => tar.symlink(&name, target),
                false => tar.file(&name, &bytes),
            };
        }
        let tar = tar.end();
        let bench = bench();
        let path = bench.write("image.tar", &tar);
        bench.refuses(1, &["layer.tar"], |bench| bench.import(&path, &[]));
        bench.refuses(1, &["layer.tar"], |bench| bench.pipe(&tar, &[]));
    }
}

#[test]
fn what_is_no_archive_is_refused_by_what_it_seems_to_be() {
    let bench = bench();
    let tar = Tar::new().file("readme", b"hello").end();
    let elf = [b"\x7fELF".as_slice(), &noise(3, 4000)].concat();
    for (bytes, word) in [
        (b"".to_vec(), "empty"),
        (b"hello, this is text\n".repeat(100), "text"),
        (elf, "ELF"),
        (noise(1, 5000), "no known kind"),
        (noise(2, 3), ""),
        (br#"{"schemaVersion": 2}"#.to_vec(), "JSON"),
        (tar.clone(), "no image"),
        (Packing::Gzip.pack(&tar), "no image"),
        (Packing::Zstd.pack(b"text, packed\n"), "inside zstd"),
        (vec![0; 10_240], ""),
        (vec![0; 100], ""),
    ] {
        let path = bench.write("thing", &bytes);
        bench.refuses(1, &["cannot import", word], |bench| {
            bench.import(&path, &[])
        });
        bench.refuses(1, &["cannot import", word], |bench| bench.pipe(&bytes, &[]));
    }
    let directory = bench.path("directory");
    std::fs::create_dir(&directory).unwrap();
    bench.refuses(1, &["no image", "try: "], |bench| {
        bench.import(&directory, &[])
    });
    let nothing = bench.path("nothing");
    bench.refuses(3, &["cannot open", "nothing", "No such file"], |bench| {
        bench.import(&nothing, &[])
    });
}

#[test]
fn damaged_compression_is_named() {
    let bench = bench();
    for (packing, name) in [(Packing::Xz, "xz"), (Packing::Bzip2, "bzip2")] {
        // Sound for as long as its head says what it is.
        let mut bytes = packing.pack(&noise(4, 900));
        bytes.truncate(20);
        bytes.extend(noise(5, 900));
        let whole = bench.write("image.tar.xz", &bytes);
        bench.refuses(1, &["cannot be read at byte 0"], |bench| {
            bench.import(&whole, &[])
        });
        let image = Image::new("bad:1", vec![Layer::raw(bytes)]);
        for files in [image.docker(), image.oci()] {
            refused(
                &files,
                &["layer `", &format!("the {name} stream is damaged"), "try: "],
            );
        }
    }
}

#[test]
fn a_layer_that_is_no_tar_is_refused() {
    for bytes in [
        b"just text".repeat(100),
        noise(8, 3000),
        b"{\"a\":1}".to_vec(),
    ] {
        let image = Image::new("bad:1", vec![Layer::raw(bytes)]);
        let bench = bench();
        let tar = archive(&image.docker());
        let path = bench.write("image.tar", &tar);
        bench.refuses(1, &["layer.tar", "neither a tar"], |bench| {
            bench.import(&path, &[])
        });
        bench.refuses(1, &["layer.tar"], |bench| bench.pipe(&tar, &[]));
    }
    let packed = Layer::new(&b"text, packed\n".repeat(100), Packing::Gzip);
    refused(
        &Image::new("bad:1", vec![packed]).oci(),
        &["layer `", "try: "],
    );
}

#[test]
fn a_platform_that_is_not_there_is_refused_with_those_that_are() {
    let bench = bench();
    let path = bench.write(
        "image.tar",
        &archive(&Image::small("bad:1", 1, Packing::Gzip).oci()),
    );
    let mut ran = None;
    bench.refuses(
        1,
        &["linux/s390x", "linux/amd64", "try: `--platform"],
        |bench| bench.import(&path, &["--platform", "linux/s390x"]),
    );
    ran.get_or_insert(bench.import(&path, &["--name", "BAD NAME"]));
    assert_eq!(ran.unwrap().code, 2);
}

#[test]
fn an_image_with_more_names_than_anybody_needs_is_refused_at_once() {
    // The bug: each of half a million names was compared with all before it, for
    // hours, and no signal ended it.
    let tags: Vec<String> = (0..500_000).map(|n| format!("a:{n}")).collect();
    let mut files = Image::small("good:1", 1, Packing::Gzip).docker();
    edit_json(&mut files, "manifest.json", |manifest| {
        manifest[0]["RepoTags"] = json!(tags);
    });
    refused(&files, &["`manifest.json`", "more than 4096 names"]);
}

#[test]
fn many_images_with_many_names_are_refused_at_once() {
    // The bug: the names of each image were few enough, and the table of all was written
    // once an image, for minutes, and no signal ended it.
    let words = ["more than 4096 names"];
    let mut files = Image::small("good:1", 1, Packing::Gzip).docker();
    edit_json(&mut files, "manifest.json", |manifest| {
        let one = manifest[0].clone();
        let many = (0..70).map(|n| {
            let mut item = one.clone();
            item["RepoTags"] = (0..60).map(|tag| format!("a{n}:{tag}")).collect();
            item
        });
        *manifest = many.collect();
    });
    refused(&files, &words);

    let mut files = Image::small("good:1", 1, Packing::Gzip).oci();
    edit_json(&mut files, "index.json", |index| {
        let one = index["manifests"][0].clone();
        let many = (0..2100).map(|n| {
            let mut entry = one.clone();
            entry["annotations"] = json!({
                "io.containerd.image.name": format!("example.org/a:{n}"),
                "org.opencontainers.image.ref.name": format!("b{n}"),
            });
            entry
        });
        index["manifests"] = many.collect();
    });
    refused(&files, &words);

    let mut files = Image::small("good:1", 1, Packing::Gzip).legacy();
    edit_json(&mut files, "repositories", |said| {
        let top = said["good"]["1"].take();
        let tags: serde_json::Map<_, _> = (0..4100).map(|n| (n.to_string(), top.clone())).collect();
        *said = json!({ "good": tags });
    });
    refused(&files, &words);
}

/// Two images, as one archive of `docker save`.
fn two(first: &Image, second: &Image) -> Files {
    let (mut files, mut items) = (Files::new(), Vec::new());
    for (number, image) in [first, second].into_iter().enumerate() {
        for (name, bytes) in image.docker() {
            if name == "manifest.json" {
                let mut item = serde_json::from_slice::<Value>(&bytes).unwrap()[0].take();
                for layer in item["Layers"].as_array_mut().unwrap() {
                    *layer = json!(format!("{number}/{}", layer.as_str().unwrap()));
                }
                items.push(item);
            } else if name.ends_with(".tar") {
                files.push((format!("{number}/{name}"), bytes));
            } else {
                files.push((name, bytes));
            }
        }
    }
    files.push((
        "manifest.json".into(),
        json!(items).to_string().into_bytes(),
    ));
    files
}

/// Gives each image of a layout these annotations.
fn annotated(files: &mut Files, said: Value) {
    edit_json(files, "index.json", |index| {
        index["manifests"][0]["annotations"] = said;
    });
}

#[test]
fn a_name_with_the_digest_of_something_else_is_refused() {
    // The bug: whoever asked for that digest got what any archive had called so.
    let pinned = format!("docker.io/library/debian@{}", other());
    let words = ["calls an image", "debian@sha256:", &other()[7..], "--name"];
    let image = Image::small("bad:1", 1, Packing::Gzip);

    let mut docker = image.docker();
    edit_json(&mut docker, "manifest.json", |said| {
        said[0]["RepoTags"] = json!(["fine:1", pinned]);
    });
    refused(&docker, &words);

    for key in [
        "io.containerd.image.name",
        "org.opencontainers.image.ref.name",
    ] {
        let mut oci = image.oci();
        annotated(&mut oci, json!({ key: pinned }));
        refused(&oci, &words);
    }

    let mut both = image.docker_25();
    edit_json(&mut both, "manifest.json", |said| {
        said[0]["RepoTags"] = json!([pinned]);
    });
    refused(&both, &words);

    let mut legacy = image.legacy();
    edit_json(&mut legacy, "repositories", |said| {
        let top = said["bad"]["1"].take();
        *said = json!({ "debian": { format!("1@{}", other()): top } });
    });
    refused(&legacy, &["calls an image", "debian:1@sha256:", "--name"]);

    // One of several: --name, which can be given to one only, is no way out.
    let good = Image::small("good:1", 2, Packing::Gzip);
    let mut several = two(&good, &image);
    edit_json(&mut several, "manifest.json", |said| {
        said[1]["RepoTags"] = json!([pinned]);
    });
    let way_out = format!("try: lazyroot pull debian@{}, which", other());
    refused(&several, &["calls an image", &way_out]);

    // It is told before layers are read.
    let layer = several.iter_mut().find(|(name, _)| name.ends_with(".tar"));
    layer.unwrap().1.truncate(100);
    let store = bench();
    let path = store.write("image.tar", &archive(&several));
    store.refuses(1, &["calls an image"], |bench| bench.import(&path, &[]));

    // The image is as good as any; only what it is called is not.
    let bench = bench();
    bench.pipe(&archive(&docker), &["--name", "good:1"]).ok();
    bench.run(&["ls", "good:1:/"]).ok();
}

#[test]
fn a_member_that_has_data_and_cannot_have_any_is_refused() {
    // The bug: what stands there is passed over by one reader and is members to another
    // (Docker, podman), so one archive was two images.
    let image = Image::small("bad:1", 1, Packing::Plain);
    let hidden = Tar::new().file("manifest.json", b"[]").open_end();
    let end = archive(&image.docker());
    for (kind, name, said) in [
        (EntryType::Directory, "odd", "directory"),
        (EntryType::Symlink, "../odd", "symbolic link"),
        (EntryType::Link, "odd", "hard link"),
    ] {
        let size = hidden.len() as u64;
        let tar = Tar::new().file("first", b"1");
        let mut tar = tar.claiming(name, kind, "first", size, &hidden).open_end();
        tar.extend(&end);
        let words = [said, name, "says it has 1024 bytes of data", "try: "];
        refused_tar(&tar, &words);
    }
    // The last member of all.
    let tar = image
        .docker()
        .iter()
        .fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes));
    let tar = tar
        .claiming("odd/", EntryType::Directory, "", 512, &[0; 512])
        .end();
    refused_tar(&tar, &["directory", "odd", "512 bytes of data"]);
}

#[test]
fn an_image_for_windows_is_refused() {
    let image = Image::small("bad:1", 1, Packing::Gzip);
    let windows = |config: &mut Value| config["os"] = json!("windows");
    let by_config = image.oci_with(&windows, AS_IS);
    refused(
        &by_config,
        &["image `bad:1` is for `windows/amd64`", "try: "],
    );

    // As only the index says it.
    let mut by_index = image.oci();
    edit_json(&mut by_index, "index.json", |index| {
        index["manifests"][0]["platform"] = json!({ "os": "windows", "architecture": "amd64" });
    });
    refused(&by_index, &["is for `windows/amd64`"]);

    let mut docker = image.docker();
    let (file, config) = docker.remove(0);
    let mut said: Value = serde_json::from_slice(&config).unwrap();
    said["os"] = json!("Windows");
    let config = serde_json::to_vec(&said).unwrap();
    let name = format!("{}.json", hex(&config));
    edit_json(&mut docker, "manifest.json", |said| {
        said[0]["Config"] = json!(name)
    });
    docker.retain(|(name, _)| *name != file);
    docker.push((name, config));
    refused(&docker, &["is for `Windows/amd64`"]);

    // One of several is left out, which is told.
    let good = Image::small("good:1", 2, Packing::Gzip);
    let mut several = two(&image, &good);
    let mut said = image.config();
    said["os"] = json!("windows");
    let config = serde_json::to_vec(&said).unwrap();
    let file = format!("{}.json", hex(&config));
    edit_json(&mut several, "manifest.json", |said| {
        said[0]["Config"] = json!(file)
    });
    several.push((file, config));
    let note = "note: left out: the image `bad:1` is for `windows/amd64`";
    let tar = archive(&several);
    for by_pipe in [true, false] {
        let bench = bench();
        let path = bench.write("image.tar", &tar);
        let ran = match by_pipe {
            true => bench.pipe(&tar, &[]).ok(),
            false => bench.import(&path, &[]).ok(),
        };
        assert!(ran.err.starts_with(note), "{}", ran.err);
        bench.run(&["ls", "good:1:/"]).ok();
        assert_eq!(bench.run(&["ls", "bad:1:/"]).code, 3);
    }

    // Nor is it taken when somebody asks for it.
    let bench = bench();
    let path = bench.write("image.tar", &archive(&by_config));
    bench.refuses(1, &["is for `windows/amd64`"], |bench| {
        bench.import(&path, &["--platform", "windows/amd64"])
    });
}

#[test]
fn a_document_that_cannot_be_read_as_a_whole_is_refused() {
    // The bug: what nobody asks for was passed over by the import, and `inspect`, `export`
    // and `commit` called the image damaged ever after.
    let image = Image::small("bad:1", 1, Packing::Gzip);
    let added = |document: &[u8], value: &[u8]| {
        let end = document.strip_suffix(b"}").unwrap();
        [end, b",\"extra\":", value, b"}"].concat()
    };
    let deep = [b"[".repeat(200), b"]".repeat(200)].concat();
    for (value, word) in [(&deep[..], "recursion limit"), (b"\"\xff\"", "unicode")] {
        let mut files = image.docker();
        let config = added(&files.remove(0).1, value);
        let name = format!("{}.json", hex(&config));
        edit_json(&mut files, "manifest.json", |said| {
            said[0]["Config"] = json!(name);
        });
        files.push((name.clone(), config));
        refused(&files, &[&name, "cannot be understood", word]);
    }
    let mut files = image.oci();
    let index = edit(&mut files, "index.json", "").clone();
    let mut index: Value = serde_json::from_slice(&index).unwrap();
    let entry = &mut index["manifests"][0];
    let old = entry["digest"].as_str().unwrap()[7..].to_owned();
    let manifest = added(edit(&mut files, "blobs/", &old), &deep);
    entry["digest"] = json!(sha256(&manifest));
    entry["size"] = json!(manifest.len());
    *edit(&mut files, "index.json", "") = serde_json::to_vec(&index).unwrap();
    let name = format!("blobs/sha256/{}", hex(&manifest));
    files.push((name.clone(), manifest));
    refused(&files, &[&name, "cannot be understood", "recursion limit"]);
}
