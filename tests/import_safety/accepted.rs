//! What looks strange and is sound.

use serde_json::{Value, json};

use super::images::*;
use lazyroot::digest::Hasher;

/// Takes an archive as a file, through a pipe and compressed as a whole; shows
/// that all of `files` are there.
#[track_caller]
fn accepted(tar: &[u8], name: &str, files: &[String]) {
    let by_pipe = |bytes: &[u8]| {
        let bench = Bench::new();
        bench.pipe(bytes, &[]).ok();
        bench
    };
    let by_file = |bytes: &[u8]| {
        let bench = Bench::new();
        let path = bench.write("image", bytes);
        bench.import(&path, &[]).ok();
        bench
    };
    let (gzip, zstd) = (Packing::Gzip.pack(tar), Packing::Zstd.pack(tar));
    let benches = [by_file(tar), by_pipe(tar), by_file(&gzip), by_pipe(&zstd)];
    for bench in benches {
        bench.run(&["verify"]).ok();
        let all: Vec<String> = files.iter().map(|file| format!("{name}:{file}")).collect();
        let args = [&["cat".to_owned()], &all[..]].concat();
        bench.run(&args).ok();
    }
}

#[test]
fn archives_of_all_generations_are_accepted() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let image = Image::small("good:1", 1, packing);
        let files = [sound_files(1), sound_files(101)].concat();
        for archived in [
            image.docker(),
            image.docker_25(),
            image.oci(),
            image.legacy(),
        ] {
            accepted(&archive(&archived), "good:1", &files);
        }
    }
}

#[test]
fn any_order_of_members_is_accepted() {
    let image = Image::small("good:1", 1, Packing::Gzip);
    for mut files in [
        image.docker(),
        image.docker_25(),
        image.oci(),
        image.legacy(),
    ] {
        files.reverse();
        accepted(&archive(&files), "good:1", &sound_files(1));
    }
}

#[test]
fn links_in_the_place_of_layers_are_accepted() {
    // `docker save` links a layer that several images have.
    let image = Image::small("good:1", 1, Packing::Plain);
    for hard in [false, true] {
        let mut tar = Tar::new().dir("store/");
        for (number, layer) in image.layers.iter().enumerate() {
            tar = tar.file(&format!("store/{number}.tar"), &layer.packed);
        }
        let mut number = 0;
        for (name, bytes) in image.docker() {
            if !name.ends_with("/layer.tar") {
                tar = tar.file(&name, &bytes);
                continue;
            }
            tar = match hard {
                true => tar.link(&name, &format!("store/{number}.tar")),
                false => tar.symlink(&name, &format!("../store/{number}.tar")),
            };
            number += 1;
        }
        accepted(&tar.end(), "good:1", &sound_files(101));
    }
}

#[test]
fn layers_that_are_named_by_sha512_are_accepted_and_compared() {
    // OCI image specification, descriptor.md, "Registered algorithms".
    fn sha512(bytes: &[u8]) -> String {
        let mut hasher = Hasher::sha512();
        hasher.update(bytes);
        hasher.finish().hex()
    }
    for packing in [Packing::Plain, Packing::Gzip, Packing::Xz] {
        let image = Image::small("good:1", 1, packing);
        let config = serde_json::to_vec(&image.config()).unwrap();
        let mut files = image.oci_with(AS_IS, &|manifest| {
            manifest["config"]["digest"] = json!(format!("sha512:{}", sha512(&config)));
            for (number, layer) in image.layers.iter().enumerate() {
                let digest = format!("sha512:{}", sha512(&layer.packed));
                manifest["layers"][number]["digest"] = json!(digest);
            }
        });
        let layers = image.layers.iter().map(|layer| &layer.packed);
        for blob in layers.chain([&config]) {
            let old = format!("blobs/sha256/{}", hex(blob));
            let (name, _) = files.iter_mut().find(|(name, _)| *name == old).unwrap();
            *name = format!("blobs/sha512/{}", sha512(blob));
        }
        let bench = Bench::new();
        let path = bench.path("image");
        directory(&files, &path);
        bench.import(&path, &[]).ok();
        bench.run(&["verify"]).ok();
        let all = sound_files(101)
            .iter()
            .map(|file| format!("good:1:{file}"))
            .collect::<Vec<_>>();
        let cat = [&["cat".to_owned()], &all[..]].concat();
        bench.run(&cat).ok();
        // Their names are longer than a tar's header has room for.
        let out = bench.path("out.tar");
        bench.run(&["export", "good:1", out.to_str().unwrap()]).ok();
        let other = Bench::new();
        other.import(&out, &[]).ok();
        other.run(&cat).ok();

        let bench = Bench::new();
        let last = edit(
            &mut files,
            "blobs/sha512/",
            &sha512(&image.layers[0].packed),
        )
        .last_mut();
        *last.unwrap() ^= 1;
        let path = bench.path("image");
        directory(&files, &path);
        bench.refuses(1, &["layer", "try: "], |bench| bench.import(&path, &[]));
    }
}

#[test]
fn two_links_to_one_layer_are_accepted() {
    // The bug: a member of a stream that was a layer by two names was published twice,
    // and its files were gone the second time.
    let layer = Layer::new(&sound_layer(1), Packing::Plain);
    let image = Image::new("good:1", vec![layer.clone(), layer]);
    for hard in [false, true] {
        let mut tar = Tar::new();
        let mut first: Option<String> = None;
        for (name, bytes) in image.docker() {
            tar = match (&first, name.ends_with("/layer.tar")) {
                (_, false) => tar.file(&name, &bytes),
                (None, true) => {
                    first = Some(name.clone());
                    tar.file(&name, &bytes)
                }
                (Some(first), true) if hard => tar.link(&name, first),
                (Some(first), true) => tar.symlink(&name, &format!("../{first}")),
            };
        }
        accepted(&tar.end(), "good:1", &sound_files(1));
    }
}

#[test]
fn an_image_may_have_one_layer_twice() {
    let layer = Layer::new(&sound_layer(1), Packing::Gzip);
    let image = Image::new("good:1", vec![layer.clone(), layer]);
    for files in [
        image.docker(),
        image.oci(),
        image.docker_25(),
        image.legacy(),
    ] {
        accepted(&archive(&files), "good:1", &sound_files(1));
    }
    // Once packed this way and once that.
    let layers = [Packing::Gzip, Packing::Zstd, Packing::Plain];
    let layers = layers.map(|packing| Layer::new(&sound_layer(1), packing));
    let image = Image::new("good:1", layers.to_vec());
    for files in [image.docker(), image.oci()] {
        accepted(&archive(&files), "good:1", &sound_files(1));
    }
}

#[test]
fn empty_layers_are_accepted() {
    let nothing = [vec![], vec![0; 1024]];
    for bytes in nothing {
        let layers = vec![
            Layer::new(&sound_layer(1), Packing::Plain),
            Layer::new(&bytes, Packing::Plain),
            Layer::new(&bytes, Packing::Gzip),
            Layer::new(&bytes, Packing::Zstd),
        ];
        let image = Image::new("good:1", layers);
        accepted(&archive(&image.docker()), "good:1", &sound_files(1));
        accepted(&archive(&image.oci()), "good:1", &sound_files(1));
    }
}

#[test]
fn a_file_that_is_no_layer_may_be_anything() {
    let mut files = Image::small("good:1", 1, Packing::Gzip).docker();
    files.insert(0, ("notes.gz".into(), b"\x1f\x8b\x08 and no gzip".to_vec()));
    files.insert(0, ("junk".into(), noise(1, 3000)));
    files.insert(0, ("old.xz".into(), b"\xfd7zXZ\0\0\x04....".to_vec()));
    accepted(&archive(&files), "good:1", &sound_files(1));
}

#[test]
fn a_member_that_comes_twice_counts_once_and_disturbs_no_other() {
    // The bug: what was taken from a stream was staged under the number of names
    // so far, so behind a name that came twice two layers shared their files, and
    // a blob was published under another's digest.
    let other = |salt| Layer::new(&sound_layer(salt), Packing::Gzip).packed;
    let mut files = Image::small("good:1", 1, Packing::Gzip).docker();
    let layer = files
        .iter()
        .position(|(name, _)| name.ends_with("/layer.tar"));
    let name = files[layer.unwrap()].0.clone();
    files.insert(0, (name, other(40)));
    files.push(("b.tar".into(), other(41)));
    files.push(("c.tar".into(), other(42)));
    accepted(&archive(&files), "good:1", &sound_files(1));
}

#[test]
fn a_name_with_the_digest_of_the_manifest_is_accepted() {
    // containerd exports an image that was pulled by digest under the name it has, in
    // both indexes of the archive.
    let mut files = Image::small("good:1", 1, Packing::Gzip).docker_25();
    let mut pinned = String::new();
    edit_json(&mut files, "index.json", |index| {
        let entry = &mut index["manifests"][0];
        pinned = format!("docker.io/good/app@{}", entry["digest"].as_str().unwrap());
        entry["annotations"] = json!({ "io.containerd.image.name": pinned });
    });
    edit_json(&mut files, "manifest.json", |said| {
        said[0]["RepoTags"] = json!([pinned]);
    });
    accepted(&archive(&files), &pinned, &sound_files(1));
}

#[test]
fn an_image_without_layers_is_read_again_however_its_config_says_so() {
    // The bug: the store did not understand what the import did, so one such image stopped
    // `images` and `gc` for the whole store.
    let bench = Bench::new();
    let rootfs = [None, Some(json!(null)), Some(json!({ "diff_ids": null }))];
    for (number, rootfs) in rootfs.into_iter().enumerate() {
        let mut config = json!({ "architecture": "amd64", "os": "linux" });
        if let Some(rootfs) = rootfs {
            config["rootfs"] = rootfs;
        }
        let config = serde_json::to_vec(&config).unwrap();
        let file = format!("{}.json", hex(&config));
        let name = format!("empty:{number}");
        let manifest = json!([{ "Config": file, "RepoTags": [name], "Layers": null }]);
        let files = vec![
            (file, config),
            (
                "manifest.json".to_owned(),
                manifest.to_string().into_bytes(),
            ),
        ];
        bench.pipe(&archive(&files), &[]).ok();
        for verb in [&["images"][..], &["gc"], &["inspect", &name], &["verify"]] {
            bench.run(verb).ok();
        }
        let listed = bench.run(&["ls", &format!("{name}:/")]).ok();
        assert_eq!(listed.text(), "");
    }
}

#[test]
fn several_platforms_below_a_name_with_their_index_digest_are_one_image() {
    // The bug: containerd names all of them so in `manifest.json`, too, which does not show
    // the digest; so the one for another machine was refused as an image of its own.
    let image = Image::small("good:1", 1, Packing::Gzip);
    let mut files = Files::new();
    let (mut leaves, mut items) = (Vec::new(), Vec::new());
    for architecture in ["amd64", "arm64"] {
        let config = |config: &mut Value| config["architecture"] = json!(architecture);
        for (name, bytes) in image.oci_with(&config, AS_IS) {
            if name == "index.json" {
                let index: Value = serde_json::from_slice(&bytes).unwrap();
                let mut leaf = index["manifests"][0].clone();
                leaf["platform"] = json!({ "os": "linux", "architecture": architecture });
                leaf["annotations"] = json!(null);
                leaves.push(leaf);
            } else if files.iter().all(|(there, _)| *there != name) {
                files.push((name, bytes));
            }
        }
        let mut said = image.config();
        config(&mut said);
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
        let layers: Vec<String> = image.layers.iter().map(|l| blob(&l.packed)).collect();
        let config = blob(&serde_json::to_vec(&said).unwrap());
        items.push(json!({ "Config": config, "Layers": layers }));
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": leaves });
    let index = serde_json::to_vec(&index).unwrap();
    let name = format!("docker.io/good/two@{}", sha256(&index));
    for item in &mut items {
        item["RepoTags"] = json!([name]);
    }
    let top = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": kind, "digest": sha256(&index), "size": index.len(),
        "annotations": { "io.containerd.image.name": name },
    }] });
    files.push((format!("blobs/sha256/{}", hex(&index)), index));
    files.push(("index.json".to_owned(), top.to_string().into_bytes()));
    files.push((
        "manifest.json".to_owned(),
        json!(items).to_string().into_bytes(),
    ));
    accepted(&archive(&files), &name, &sound_files(1));
}
