//! AppC images go out as the archives that came.

use super::*;

#[test]
fn an_aci_goes_out_as_it_came_whatever_it_is_packed_in() {
    for packing in [
        Packing::Plain,
        Packing::Gzip,
        Packing::Zstd,
        Packing::Bzip2,
        Packing::Xz,
    ] {
        let bench = Bench::new();
        let aci =
            Aci::new("example.org/app", &[("f", What::File("text"))]).on(&["example.org/base"]);
        let tar = aci.tar();
        bench.pipe(&packing.pack(&tar), &[]).ok();
        let ran = bench.run(&["export", "example.org/app", "-"]).ok();
        assert!(
            ran.err.contains("it depends on appc:example.org/base"),
            "{}",
            ran.err
        );
        let kept = !matches!(packing, Packing::Bzip2 | Packing::Xz);
        let expected = if kept {
            packing.pack(&tar)
        } else {
            tar.clone()
        };
        assert!(ran.out == expected, "{packing:?}");
        assert_eq!(
            ran.err.contains("goes out uncompressed"),
            !kept,
            "{}",
            ran.err
        );
        let again = Bench::new();
        again.pipe(&ran.out, &[]).ok();
        assert_eq!(
            json_of(&again, &["images", "--json"])[0]["id"],
            id(&tar).replace('-', ":")
        );
    }
}

/// Everything that `ls` tells of an image's tree but its numbers; hard links by their first
/// name.
fn tree(bench: &Bench, image: &str) -> Vec<Value> {
    let mut all = json_of(bench, &["ls", "-lR", "--json", &format!("{image}:/")]);
    let mut first: BTreeMap<u64, Value> = BTreeMap::new();
    for entry in all.as_array_mut().unwrap() {
        let path = entry["path"].clone();
        if entry["type"] == "directory" {
            // 1: subdirectories are not counted in what several layers have.
            entry["nlink"] = Value::Null;
        }
        let ino = entry["ino"].as_u64().unwrap();
        entry["ino"] = first.entry(ino).or_insert(path.clone()).clone();
        if entry["type"] == "file" {
            let ran = bench.run(&["cat", &format!("{image}:{}", path.as_str().unwrap())]);
            entry["text"] = ran.ok().text().into();
        }
    }
    all.as_array().unwrap().clone()
}

/// A Docker image with all that layers can say.
fn docker_image() -> Files {
    let low = Tar::new()
        .dir("etc")
        .file(
            "etc/passwd",
            b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
        )
        .file("etc/group", b"log:x:4:web\n")
        .dir("d")
        .file("d/gone", b"gone")
        .file("d/kept", b"kept")
        .dir("o")
        .file("o/hidden", b"hidden")
        .file("one", b"text")
        .link("two", "one")
        .symlink("link", "d/kept")
        .end();
    let top = Tar::new()
        .dir("d")
        .file("d/.wh.gone", b"")
        .dir("o")
        .file("o/.wh..wh..opq", b"")
        .file("o/new", b"new")
        .end();
    let layers = [(low, Packing::Gzip), (top, Packing::Zstd)];
    let layers = layers.map(|(tar, packing)| Layer::new(&tar, packing));
    let image = Image::new("example.org/one:1", layers.to_vec());
    image.oci_with(
        &|said| {
            said["config"] = json!({
                "Entrypoint": ["/init"], "Cmd": ["x"], "User": "web", "Env": ["A=1"],
                "WorkingDir": "/srv", "Labels": {"a": "b"}, "StopSignal": "SIGINT",
                "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}},
            });
        },
        AS_IS,
    )
}

#[test]
fn a_docker_image_goes_out_as_an_aci_with_the_same_tree() {
    let bench = Bench::new();
    bench.pipe(&archive(&docker_image()), &[]).ok();
    let args = ["export", "--format", "aci", "example.org/one:1", "-"];
    let ran = bench.run(&args).ok();
    assert_eq!(ran.err, "note: an AppC image cannot say `StopSignal`\n");
    assert_eq!(
        bench.run(&args).ok().out,
        ran.out,
        "the same bytes each time"
    );
    let again = Bench::new();
    again.pipe(&ran.out, &[]).ok();
    let name = "appc:example.org/one:1";
    let shown = tree(&again, name);
    assert_eq!(shown, tree(&bench, "example.org/one:1"));
    let paths: Vec<_> = shown.iter().map(|entry| entry["path"].clone()).collect();
    assert!(paths.contains(&json!("/o/new")) && !paths.contains(&json!("/o/hidden")));
    let app = &json_of(&again, &["inspect", "--json", name])["manifest"]["app"];
    assert_eq!(app["exec"], json!(["/init", "x"]));
    let who = [&app["user"], &app["group"], &app["supplementaryGIDs"]];
    assert_eq!(who, [&json!("web"), &json!("34"), &json!([4])]);

    // And back: what was told apart is so again.
    let args = ["export", "--format", "oci", name, "-"];
    let ran = again.run(&args).ok();
    assert_eq!(
        ran.err,
        "note: `supplementaryGIDs` cannot be said by the other kind\n"
    );
    assert_eq!(again.run(&args).ok().out, ran.out);
    let third = Bench::new();
    third.pipe(&ran.out, &[]).ok();
    assert_eq!(tree(&third, "example.org/one:1"), shown);
    let config = &json_of(&third, &["inspect", "--json", "example.org/one:1"])["config"]["config"];
    assert_eq!(
        (&config["Entrypoint"], &config["Cmd"], &config["User"]),
        (&json!(["/init"]), &json!(["x"]), &json!("web:34"))
    );
    third.run(&["verify"]).ok();
}

#[test]
fn an_appc_image_goes_out_as_others_with_all_that_it_depends_on() {
    let bench = Bench::new();
    let members = [
        ("d", What::Dir(0o751)),
        ("d/f", What::File("low")),
        ("hidden", What::File("x")),
        ("c", What::Char(1, 3)),
        ("p", What::Fifo),
    ];
    Aci::new("example.org/base", &members).import(&bench);
    let members = [
        ("d", What::Dir(0o700)),
        ("d/g", What::File("top")),
        ("d/h", What::Link("d/g")),
        ("s", What::Symlink("d/g")),
    ];
    let id = Aci::new("example.org/app", &members)
        .on(&["example.org/base"])
        .listing(&["/d", "/d/f", "/d/g", "/d/h", "/s", "/c", "/p"])
        .import(&bench);
    let shown = tree(&bench, "appc:example.org/app");
    assert!(shown.iter().all(|entry| entry["path"] != "/hidden"));
    for format in ["oci", "docker"] {
        let args = [
            "export",
            "--format",
            format,
            "appc:example.org/app:1.0.0",
            "-",
        ];
        let ran = bench.run(&args).ok();
        assert!(
            ran.err.contains("does not say for which architecture"),
            "{}",
            ran.err
        );
        let again = Bench::new();
        again.pipe(&ran.out, &[]).ok();
        assert_eq!(tree(&again, "example.org/app:1.0.0"), shown, "{format}");
    }
    // By its ID it has no name, unless it is told one.
    for (more, names) in [
        (&[][..], json!([])),
        (&["--name", "x:1"], json!(["docker.io/library/x:1"])),
    ] {
        let args = [&["export", "--format", "oci", &id, "-"], more].concat();
        let again = Bench::new();
        again.pipe(&bench.run(&args).ok().out, &[]).ok();
        assert_eq!(json_of(&again, &["images", "--json"])[0]["names"], names);
    }
}

/// Asked for without its version, it went out as `latest` once: another image's name.
#[test]
fn an_appc_image_goes_out_with_its_own_version_however_it_is_asked_for() {
    let bench = Bench::new();
    Aci::new("example.org/app", &[]).import(&bench);
    Aci::new("example.org/new", &[])
        .with("labels", json!([{"name": "os", "value": "linux"}]))
        .import(&bench);
    for (asked, name) in [
        ("appc:example.org/app", "example.org/app:1.0.0"),
        ("example.org/app", "example.org/app:1.0.0"),
        ("appc:example.org/app:1.0.0", "example.org/app:1.0.0"),
        (
            "appc:example.org/app,version=1.0.0",
            "example.org/app:1.0.0",
        ),
        // Where nobody gives a version it is the latest, as in discovery.
        ("appc:example.org/new,os=linux", "example.org/new:latest"),
    ] {
        for format in ["oci", "docker"] {
            let args = ["export", "--format", format, asked, "-"];
            let again = Bench::new();
            again.pipe(&bench.run(&args).ok().out, &[]).ok();
            let names = &json_of(&again, &["images", "--json"])[0]["names"];
            assert_eq!(*names, json!([name]), "{asked} {format}");
        }
    }
    // Nor is it silently without a name where its own is none of Docker's.
    for (name, version) in [("a~b", "1"), ("a", "1+b")] {
        Aci::new(name, &[])
            .with("labels", json!([{"name": "version", "value": version}]))
            .import(&bench);
        let args = ["export", "--format", "oci", &format!("appc:{name}"), "-"];
        let ran = bench.run(&args);
        assert_eq!((ran.code, ran.out.len()), (2, 0), "{}", ran.err);
        assert!(ran.err.contains("try: --name NAME:TAG"), "{}", ran.err);
    }
}

#[test]
fn what_cannot_be_converted_is_refused() {
    let bench = Bench::new();
    Aci::new("a", &[(".wh.x", What::File("an ordinary name"))]).import(&bench);
    let app = json!({"exec": ["/x"], "user": "/none", "group": "0"});
    Aci::new("b", &[]).with("app", app).import(&bench);
    let image = Image::small("one__1:1", 1, Packing::Gzip);
    bench.pipe(&archive(&image.docker()), &[]).ok();
    let images = json_of(&bench, &["images", "--json"]);
    let mut ids = images.as_array().unwrap().iter();
    let by_id = ids.find_map(|image| image["id"].as_str().filter(|id| id.starts_with("sha256:")));
    let by_id = by_id.unwrap();
    for (code, image, more, words) in [
        (
            1,
            "appc:a",
            &["--format", "oci"][..],
            "cannot be in a layer: names that begin with `.wh.`",
        ),
        (
            1,
            "appc:b",
            &["--format", "docker"],
            "there is no `/none` in the image",
        ),
        (
            2,
            "one__1:1",
            &["--format", "aci"],
            "is no name of an AppC image",
        ),
        (2, by_id, &["--format", "aci"], "an ACI has a name"),
        (
            2,
            "one__1:1",
            &["--format", "aci", "--name", "a", "--name", "b"],
            "an ACI has one name",
        ),
        (
            2,
            "one__1:1",
            &["--format", "oci", "--name", "A"],
            "must be lower case",
        ),
        (
            2,
            "appc:a",
            &["--name", "b:1"],
            "called what its manifest says",
        ),
    ] {
        let args = [&["export", image, "-"], more].concat();
        let ran = bench.run(&args);
        assert_eq!((ran.code, ran.out.len()), (code, 0), "{}", ran.err);
        assert!(ran.err.contains(words), "{}", ran.err);
    }
    let args = [
        "export",
        by_id,
        "-",
        "--format",
        "aci",
        "--name",
        "new:2,channel=x",
    ];
    let again = Bench::new();
    again.pipe(&bench.run(&args).ok().out, &[]).ok();
    again
        .run(&["ls", "appc:new:2,channel=x,os=linux,arch=amd64"])
        .ok();
}
