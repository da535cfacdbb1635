//! Which archives are taken: layout, compression, manifest.

use super::images::*;
use super::{Aci, What, blob, id, json_of};
use serde_json::json;
use tar::EntryType;

fn manifest() -> Vec<u8> {
    serde_json::to_vec(&Aci::new("example.org/app", &[]).manifest).unwrap()
}

fn sound() -> Aci {
    Aci::new(
        "example.org/app",
        &[("etc", What::Dir(0o755)), ("etc/f", What::File("text"))],
    )
}

#[test]
fn every_compression_gives_the_same_image() {
    let tar = sound().tar();
    let all = [
        Packing::Plain,
        Packing::Gzip,
        Packing::Zstd,
        Packing::Bzip2,
        Packing::Xz,
    ];
    for packing in all {
        let packed = packing.pack(&tar);
        for through_a_pipe in [false, true] {
            let bench = Bench::new();
            // What it is called does not matter.
            let file = bench.write("image.aci", &packed);
            let ran = match through_a_pipe {
                true => bench.pipe(&packed, &[]),
                false => bench.import(&file, &[]),
            };
            assert!(ran.ok().text().contains(&id(&tar)));
            assert_eq!(
                bench
                    .run(&["cat", "appc:example.org/app:/etc/f"])
                    .ok()
                    .text(),
                "text"
            );
            let validated = bench.run(&["validate", file.to_str().unwrap()]).ok().text();
            assert_eq!(
                validated,
                format!("{} appc:example.org/app:1.0.0\n", id(&tar))
            );
            bench.run(&["verify"]).ok();
            let layer =
                &json_of(&bench, &["inspect", "--json", "appc:example.org/app"])["layers"][0];
            let (kept, was) = (layer["blob"].as_str().unwrap(), layer["declared"].as_str());
            match packing {
                Packing::Plain => assert_eq!(kept.replace(':', "-"), id(&tar)),
                Packing::Gzip | Packing::Zstd => assert_eq!((kept, was), (&*blob(&packed), None)),
                // Packed again, and it is recorded what came.
                Packing::Bzip2 | Packing::Xz => {
                    assert_eq!(was, Some(&*blob(&packed)));
                    assert_eq!(layer["compression"], "zstd");
                }
            }
        }
    }
}

#[test]
fn names_may_begin_with_a_dot_and_come_in_any_order() {
    let text = manifest();
    for tar in [
        Tar::new()
            .dir("./")
            .dir("./rootfs")
            .file("./rootfs/f", b"x")
            .file("./manifest", &text),
        Tar::new()
            .file("manifest", &text)
            .file("rootfs/f", b"x")
            .dir("rootfs/"),
        // Names that are special at the top only.
        Tar::new()
            .file("manifest", &text)
            .dir("rootfs")
            .file("rootfs/f", b"x")
            .file("rootfs/manifest", b"m")
            .dir("rootfs/rootfs")
            .file("rootfs/.wh.f", b""),
        Tar::new()
            .file("manifest", &text)
            .dir("rootfs")
            .file("rootfs/a", b"x")
            .link("rootfs/f", "./rootfs/a"),
    ] {
        let bench = Bench::new();
        bench.pipe(&tar.end(), &[]).ok();
        assert_eq!(
            bench.run(&["cat", "appc:example.org/app:/f"]).ok().text(),
            "x"
        );
    }
}

#[test]
fn a_global_header_may_come_first() {
    // `git archive` begins with one; it is no member.
    let global = Tar::new()
        .claiming("g", EntryType::XGlobalHeader, "", 15, b"15 comment=abc\n")
        .open_end();
    let tar = [global, sound().tar()].concat();
    for packing in [Packing::Plain, Packing::Gzip] {
        let bench = Bench::new();
        let ran = bench.pipe(&packing.pack(&tar), &[]).ok();
        assert!(ran.text().contains(&id(&tar)));
    }
}

#[test]
fn an_image_that_begins_with_something_else_is_told_what_it_should_begin_with() {
    let tar = [Tar::new().dir("stray").open_end(), sound().tar()].concat();
    let words = [
        "there is no image",
        "App Container Image",
        "begin with `manifest`",
    ];
    let bench = Bench::new();
    bench.refuses(1, &words, |bench| bench.pipe(&tar, &[]));
}

#[test]
fn archives_that_are_laid_out_otherwise_are_refused() {
    let text = manifest();
    let begin = || Tar::new().file("manifest", &text).dir("rootfs");
    for (tar, words) in [
        (Tar::new().file("manifest", &text), "it has no `rootfs`"),
        (
            Tar::new().file("manifest", &text).file("rootfs/f", b""),
            "it has no `rootfs`",
        ),
        (
            Tar::new().dir("rootfs").file("rootfs/f", b""),
            "it has no `manifest`",
        ),
        (
            begin().file("rootfsx", b""),
            "`rootfsx` is neither `manifest` nor below `rootfs`",
        ),
        (begin().file("etc/passwd", b""), "`etc/passwd` is neither"),
        (begin().file("manifest/x", b""), "`manifest/x` is neither"),
        (
            begin().file("./manifest", &text),
            "`./manifest` comes twice",
        ),
        (begin().dir("./rootfs"), "`./rootfs` comes twice"),
        (
            begin().file("rootfs/a", b"").file("rootfs//a", b""),
            "`rootfs//a` comes twice",
        ),
        (
            begin().dir("rootfs/a").symlink("rootfs/a", "b"),
            "`rootfs/a` comes twice",
        ),
        (
            Tar::new().dir("manifest").dir("rootfs"),
            "`manifest` must be a regular file",
        ),
        (
            Tar::new().symlink("manifest", "rootfs/m").dir("rootfs"),
            "must be a regular file",
        ),
        (
            Tar::new().file("manifest", &text).file("rootfs", b""),
            "`rootfs` must be a directory",
        ),
        (
            Tar::new().file("manifest", &text).symlink("rootfs", "/"),
            "must be a directory",
        ),
        (
            begin().file("rootfs/../etc/x", b""),
            "refused: it has a `..`",
        ),
        (begin().file("/rootfs/x", b""), "refused: it is absolute"),
        (
            begin().symlink("rootfs/s", "/etc").file("rootfs/s/x", b""),
            "below the symlink",
        ),
        (
            begin().link("rootfs/l", "manifest"),
            "which is not below `rootfs`",
        ),
        (
            begin().link("rootfs/l", "rootfs/../../x"),
            "which is not below `rootfs`",
        ),
        (
            begin().link("rootfs/l", "rootfs/none"),
            "the hard link `/l` leads to `/none`",
        ),
    ] {
        let tar = tar.end();
        let bench = Bench::new();
        bench.refuses(1, &[words], |bench| bench.pipe(&tar, &[]));
        let file = bench.write("x.aci", &tar);
        let validated = bench.run(&["validate", file.to_str().unwrap()]);
        assert!(
            validated.code == 1 && validated.err.contains(words),
            "{}",
            validated.err
        );
    }
}

#[test]
fn a_manifest_that_breaks_a_rule_is_refused_by_field_and_value() {
    for (field, value, words) in [
        (
            "acKind",
            json!("PodManifest"),
            "`acKind` in the manifest is `PodManifest`",
        ),
        (
            "name",
            json!("Example"),
            "`name` in the manifest is `Example`",
        ),
        (
            "app",
            json!({"exec": [], "group": "0"}),
            "the manifest has no `app.user`",
        ),
        (
            "pathWhitelist",
            json!(["etc"]),
            "`pathWhitelist[0]` in the manifest is `etc`",
        ),
        (
            "dependencies",
            json!([{"imageName": "a", "imageID": "sha512-12"}]),
            "`dependencies[0].imageID` in the manifest is `sha512-12`",
        ),
    ] {
        let tar = sound().with(field, value).tar();
        let bench = Bench::new();
        bench.refuses(1, &[words], |bench| bench.pipe(&tar, &[]));
        let file = bench.write("x.aci", &tar);
        let validated = bench.run(&["validate", file.to_str().unwrap()]);
        assert!(
            validated.code == 1 && validated.err.contains(words),
            "{}",
            validated.err
        );
    }
    let bench = Bench::new();
    let broken = Tar::new().file("manifest", b"{").dir("rootfs").end();
    bench.refuses(1, &["the manifest is not JSON"], |bench| {
        bench.pipe(&broken, &[])
    });
    let long = vec![b' '; (16 << 20) + 1];
    let long = Tar::new().file("manifest", &long).dir("rootfs").end();
    bench.refuses(1, &["more than 16777216 are not read"], |bench| {
        bench.pipe(&long, &[])
    });
    let docker = archive(&Image::small("a:1", 1, Packing::Gzip).docker());
    let file = bench.write("docker.tar", &docker);
    let validated = bench.run(&["validate", file.to_str().unwrap()]);
    assert!(validated.code == 1 && validated.err.contains("no App Container Image"));
    let nothing = bench.run(&["validate", "nope.aci"]);
    assert_eq!(nothing.code, 3, "{}", nothing.err);
}

#[test]
fn docker_layers_and_archives_may_be_packed_by_bzip2_and_xz_too() {
    for packing in [Packing::Bzip2, Packing::Xz] {
        let plain = Image::small("a:1", 1, Packing::Plain);
        let layer = Layer::new(&sound_layer(1), packing);
        let packed = Image::new("a:1", vec![layer]);
        let whole = packing.pack(&archive(&plain.docker()));
        let inside = [packed.docker(), packed.oci()].map(|files| archive(&files));
        for bytes in inside.into_iter().chain([whole]) {
            let bench = Bench::new();
            bench.pipe(&bytes, &[]).ok();
            bench.run(&["verify"]).ok();
            let file = bench.write("a.tar", &bytes);
            bench.import(&file, &["--again"]).ok();
            let read = bench.run(&["cat", "a:1:/etc/big-1"]).ok();
            assert_eq!(read.out, noise(3, 40_000), "{packing:?}");
        }
    }
}

/// As Mesos' `ValidateImageManifest` tests have it: an app may name no program, and later
/// versions of the specification may say more.
#[test]
fn a_manifest_may_leave_out_what_is_run_and_say_what_nobody_knows_yet() {
    let app = json!({"exec": null, "user": "0", "group": "0", "invented": {"later": [1]}});
    let bench = Bench::new();
    let whole = sound()
        .with("app", app.clone())
        .with("invented", json!("later"));
    bench.pipe(&whole.tar(), &[]).ok();
    let inspected = json_of(&bench, &["inspect", "--json", "appc:example.org/app"]);
    assert_eq!(inspected["manifest"]["app"], app);
}
