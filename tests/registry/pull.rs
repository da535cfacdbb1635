//! Images that come from a registry: whole, what was asked for, and only what is missing.

use lazyroot::causes::chain;
use lazyroot::image::Want;
use serde_json::json;

use crate::images::{Bench, Image, Layer, Packing, Tar, archive, noise, sha256};
use crate::puller::{Puller, at, image, is_whole, lab, pull, same, two_layers, verb, with_config};
use crate::server::{Auth, OCI_INDEX, OCI_MANIFEST, Registry};
use crate::web::Reply;

#[test]
fn what_is_pulled_is_what_is_imported() {
    let mut all = vec![image("app:1")];
    all.extend(
        [Packing::Plain, Packing::Zstd, Packing::Bzip2, Packing::Xz]
            .map(|packing| Image::small("app:1", 1, packing)),
    );
    for image in all {
        let registry = Registry::new();
        registry.oci("team/app", "1", &image);
        let bench = Bench::new();
        let name = format!("{}/team/app:1", registry.host());
        let got = Puller::new().pull(&bench, &name).unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].names[0].to_string(), name);
        same(&bench, &image);
        bench.run(&["verify"]).ok();
    }
}

#[test]
fn images_of_both_kinds_come_by_tag_and_by_digest() {
    for by_digest in [false, true] {
        let (registry, image) = (Registry::new(), two_layers(1));
        let all = [
            registry.oci("team/a", "1", &image),
            registry.docker("team/b", "1", &image),
        ];
        for (repository, pushed) in ["team/a", "team/b"].into_iter().zip(all) {
            let bench = Bench::new();
            let digest = pushed.digest();
            let name = match by_digest {
                true => format!("{repository}@{digest}"),
                false => format!("{repository}:1"),
            };
            pull(&bench, &registry, &name).ok();
            is_whole(&bench, &registry, &name, &image);
            // Found by the digest of its manifest, which came as it was.
            is_whole(&bench, &registry, &format!("{repository}@{digest}"), &image);
            let asked = registry.count("GET", "/blobs/");
            pull(&bench, &registry, &name).ok();
            assert_eq!(
                registry.count("GET", "/blobs/"),
                asked,
                "{:?}",
                registry.log()
            );
        }
    }
}

#[test]
fn layers_that_the_store_has_are_not_asked_for() {
    let (registry, _, name) = lab(Auth::Open);
    let docker = registry.docker("team/other", "d", &image("app:1"));
    let bench = Bench::new();
    let first = Puller::new().pull(&bench, &name).unwrap();
    assert_eq!((first[0].layers, first[0].layers_kept), (6, 0));
    let again = Puller::new().pull(&bench, &at(&registry, "team/other:d"));
    let again = again.unwrap();
    assert_eq!((again[0].layers, again[0].layers_kept), (6, 6));
    for layer in &docker.layers {
        assert_eq!(registry.count("GET", layer), 1, "{layer}");
    }
}

#[test]
fn a_mirror_is_asked_first_and_what_it_cannot_give_comes_from_the_registry() {
    let (origin, pushed, name) = lab(Auth::Open);
    let mirrored = |mirror: &Registry| {
        let mut puller = Puller::new();
        let text = format!("{}={}/hub", origin.host(), mirror.host());
        puller.settings.mirrors = vec![text.parse().unwrap()];
        puller
    };
    let mirror = Registry::new();
    mirror.oci("hub/team/app", "1", &image("app:1"));
    let bench = Bench::new();
    mirrored(&mirror).pull(&bench, &name).unwrap();
    assert_eq!(origin.log().len(), 0);
    same(&bench, &image("app:1"));
    // Nobody is there, which is told once.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let bench = Bench::new();
    let mirrors = format!("{}={address}", origin.host());
    let ran = verb(&bench, &["--mirror", &mirrors, &name]).ok();
    let told = format!("note: mirror {address} is passed over: ");
    assert_eq!(ran.err.matches(&told).count(), 1, "{}", ran.err);
    same(&bench, &image("app:1"));
    // It has nothing; it breaks in the middle; it lies.
    let bench = Bench::new();
    mirrored(&Registry::new()).pull(&bench, &name).unwrap();
    same(&bench, &image("app:1"));
    for lie in [
        (|reply| reply.cut(300_000)) as fn(Reply) -> Reply,
        |reply| reply.flip(500_000),
        |_| Reply::status(403),
    ] {
        let mirror = Registry::new();
        mirror.oci("hub/team/app", "1", &image("app:1"));
        mirror.fault("GET", &pushed.layers[0], usize::MAX, move |_, reply| {
            lie(reply)
        });
        let bench = Bench::new();
        mirrored(&mirror).pull(&bench, &name).unwrap();
        same(&bench, &image("app:1"));
    }
}

/// An index of several platforms, each with an image of its own.
fn index(registry: &Registry, platforms: &[&str]) -> (String, Vec<String>) {
    let mut configs = Vec::new();
    let mut manifests = Vec::new();
    for (salt, platform) in platforms.iter().enumerate() {
        let mut image = Image::small("app:1", u8::try_from(salt).unwrap(), Packing::Gzip);
        let file = Tar::new().file("platform", platform.as_bytes());
        image.layers.push(Layer::new(&file.end(), Packing::Gzip));
        let (os, architecture) = platform.split_once('/').unwrap();
        let tag = format!("part-{salt}");
        let pushed = with_config(registry, "multi", &tag, &image, |config| {
            config["os"] = json!(os);
            config["architecture"] = json!(architecture);
        });
        manifests.push(json!({
            "mediaType": OCI_MANIFEST, "digest": pushed.digest(), "size": pushed.manifest.len(),
            "platform": { "os": os, "architecture": architecture },
        }));
        configs.push(pushed.config);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    let index = index.to_string();
    registry.manifest("multi", "1", OCI_INDEX, index.as_bytes());
    (sha256(index.as_bytes()), configs)
}

#[test]
fn of_an_index_those_platforms_come_that_are_wanted() {
    let registry = Registry::new();
    let host = lazyroot::image::Platform::host().to_string();
    let (digest, configs) = index(&registry, &["linux/s390x", &host, "linux/mips64"]);
    let bench = Bench::new();
    let name = at(&registry, "multi:1");
    let own = Puller::new().pull(&bench, &name).unwrap();
    assert_eq!(own[0].id.to_string(), configs[1]);
    assert_eq!(
        registry.count("GET", &configs[0]),
        0,
        "others are not looked at"
    );
    let mut puller = Puller::new();
    let wants = ["linux/s390x", "linux/mips64", &*host].map(|p| Want::only(p.parse().unwrap()));
    puller.wants = wants.to_vec();
    let all = puller.pull(&bench, &name).unwrap();
    let ids: Vec<String> = all.iter().map(|image| image.id.to_string()).collect();
    assert_eq!(ids, [&*configs[0], &configs[2], &configs[1]]);
    let named: Vec<usize> = all.iter().map(|image| image.names.len()).collect();
    assert_eq!(named, [0, 0, 1], "the name is this machine's image's");
    // The program takes what it is told, and asks for nothing else.
    let other = Bench::new();
    let others = || registry.count("GET", &configs[0]) + registry.count("GET", &configs[1]);
    let before = others();
    let ran = verb(&other, &["--platform=linux/mips64", "--json", &name]).ok();
    let said: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!(said[0]["id"], configs[2]);
    assert_eq!(others(), before);
    // By the index's digest it is found, without having been pulled by it.
    let by_digest = at(&registry, &format!("multi@{digest}:/platform"));
    assert_eq!(bench.run(&["cat", &by_digest]).ok().text(), host);
    puller.wants = vec![Want::only("linux/riscv64".parse().unwrap())];
    puller.refuses(
        &bench,
        &name,
        &["no image for `linux/riscv64`", "`linux/s390x`"],
    );
}

/// Only `pull` could be told a platform once.
#[test]
fn a_container_may_be_of_another_platform_than_the_image_that_is_there() {
    let registry = Registry::new();
    let host = lazyroot::image::Platform::host().to_string();
    let (digest, configs) = index(&registry, &["linux/s390x", &host]);
    let name = at(&registry, "multi:1");
    let bench = Bench::new();
    let rootfs_dir = bench.path("containers");
    let provision = |args: &[&str]| {
        let words = ["--rootfs-dir", rootfs_dir.to_str().unwrap(), "provision"];
        let how = ["--id=web", "--backend=copy", "--json", "--quiet"];
        let ran = bench.run(&[&words, args, &how].concat());
        let made = serde_json::from_slice::<serde_json::Value>(&ran.out);
        (made.map(|made| made["rootfses"][0]["image"].clone()), ran)
    };
    let own = json!(configs[1]);
    let other = json!(configs[0]);
    assert_eq!(provision(&[&name]).0.unwrap(), own);
    // The image of this machine is no longer what the name means.
    for _ in 0..2 {
        let made = provision(&[&name, "--platform", "linux/s390x"]).0;
        assert_eq!(made.unwrap(), other);
    }
    assert_eq!(registry.count("GET", "manifests/1"), 2);
    let by_digest = at(&registry, &format!("multi@{digest}"));
    for (platform, image) in [(&*host, &own), ("linux/s390x", &other)] {
        let made = provision(&[&by_digest, "--platform", platform]).0;
        assert_eq!(made.unwrap(), *image, "{platform}");
    }
    for (code, args, words) in [
        (
            1,
            [&*name, "--platform=linux/mips64"],
            "no image for `linux/mips64`",
        ),
        (
            3,
            [&*configs[0], "--platform=linux/arm64"],
            "is for linux/s390x",
        ),
    ] {
        let ran = provision(&args).1;
        assert!(ran.code == code && ran.err.contains(words), "{}", ran.err);
    }
    let ran = bench.run(&["run", "--platform=linux/mips64", &name, "true"]);
    assert!(
        ran.err.contains("no image for `linux/mips64`"),
        "{}",
        ran.err
    );
}

#[test]
fn by_a_digest_it_is_that_image_and_has_that_name() {
    let (registry, pushed, _) = lab(Auth::Open);
    let bench = Bench::new();
    let name = at(&registry, &format!("team/app@{}", pushed.digest()));
    let got = Puller::new().pull(&bench, &name).unwrap();
    assert_eq!(got[0].names[0].to_string(), name);
    bench.run(&["ls", &format!("{name}:/noise")]).ok();
    bench.run(&["pull", "--policy", "never", &name]).ok();
    assert_eq!(registry.count("GET", "manifests/"), 1);
    // A tag beside it is not looked at.
    let tagged = at(&registry, &format!("team/app:none@{}", pushed.digest()));
    Puller::new().pull(&bench, &tagged).unwrap();
}

#[test]
fn an_image_that_says_it_is_too_large_is_not_fetched() {
    let (registry, _, name) = lab(Auth::Open);
    let mut puller = Puller::new();
    puller.max_size = 900_000;
    puller.refuses(&Bench::new(), &name, &["more than 900000 are not accepted"]);
    assert_eq!(registry.count("GET", "/blobs/"), 1, "its config only");
}

/// Of such layers each could have all of it once.
#[test]
fn layers_that_do_not_say_how_large_they_are_have_room_for_all_of_them_together() {
    let layer = |salt| {
        let tar = Tar::new().file("noise", &noise(salt, 300_000)).end();
        Layer::new(&tar, Packing::Gzip)
    };
    let image = Image::new("app:1", vec![layer(1), layer(2), layer(3)]);
    // The last one says how large it is.
    for chunked in [false, true] {
        let registry = Registry::new();
        let pushed = registry.oci("app", "1", &image);
        let mut manifest: serde_json::Value = serde_json::from_slice(&pushed.manifest).unwrap();
        for layer in &mut manifest["layers"].as_array_mut().unwrap()[..2] {
            layer.as_object_mut().unwrap().remove("size").unwrap();
        }
        let manifest = manifest.to_string();
        registry.manifest("app", "1", OCI_MANIFEST, manifest.as_bytes());
        if chunked {
            registry.fault("GET", "/blobs/", usize::MAX, |_, reply| reply.chunked());
        }
        let name = at(&registry, "app:1");
        let sizes = image.layers.iter().map(|layer| layer.packed.len() as u64);
        let all: u64 = sizes.sum();
        let mut puller = Puller::new();
        for at_once in [1, 3] {
            (puller.at_once, puller.max_size) = (at_once, all - 1);
            let bench = Bench::new();
            let error = chain(&puller.pull(&bench, &name).unwrap_err());
            assert!(error.contains("are not accepted"), "{chunked}: {error}");
            puller.max_size = all;
            puller.pull(&bench, &name).unwrap();
            bench.run(&["verify", &name]).ok();
        }
    }
}

#[test]
fn the_verb_says_what_it_does_and_what_is_not_there() {
    let (registry, _, name) = lab(Auth::Open);
    let bench = Bench::new();
    let ran = verb(&bench, &[&name]).ok();
    assert!(
        ran.text()
            .contains(&format!("as {name}: 6 new layers, 0 were there")),
        "{}",
        ran.text()
    );
    assert!(
        ran.err.contains("fetches layer") && ran.err.contains("taken"),
        "{}",
        ran.err
    );
    let ran = verb(&bench, &["--json", "--quiet", &name]).ok();
    let said: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!((&said[0]["layers_kept"], &*ran.err), (&json!(6), ""));
    let images = bench.run(&["images"]).ok().text();
    assert!(images.contains(&name), "{images}");
    for (name, words) in [
        (at(&registry, "team/app:2"), "manifest unknown"),
        (at(&registry, "team/other:1"), "is not at"),
    ] {
        bench.refuses(3, &[words, &name], |bench| verb(bench, &[&name]));
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let name = format!("127.0.0.1:{port}/a:1");
    bench.refuses(1, &["cannot pull", "refused"], |bench| {
        verb(bench, &[&name])
    });
}

#[test]
fn the_local_directory_goes_before_the_registry_unless_somebody_says_otherwise() {
    let (registry, _, _) = lab(Auth::Open);
    let bench = Bench::new();
    let name = at(&registry, "team/app:1");
    let dir = bench.path("images").join(at(&registry, "team"));
    std::fs::create_dir_all(&dir).unwrap();
    let other = Image::small("team/app:1", 9, Packing::Gzip);
    std::fs::write(dir.join("app:1.tar"), archive(&other.docker())).unwrap();
    verb(&bench, &["--quiet", &name]).ok();
    assert_eq!(registry.log().len(), 0);
    verb(&bench, &["--quiet", "--discovery", "registry", &name]).ok();
    assert!(registry.count("GET", "manifests/1") == 1);
    let empty = bench.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let ran = verb(&bench, &["--local-dir", empty.to_str().unwrap(), &name]);
    assert_eq!(
        ran.code, 3,
        "who names a directory asks nobody else: {}",
        ran.err
    );
}
