//! Finding and looking after AppC images.

use std::fs;
use std::path::PathBuf;

use super::images::*;
use super::{Aci, What, id, json_of};
use serde_json::json;

fn file(text: &'static str) -> Vec<(&'static str, What)> {
    vec![("f", What::File(text))]
}

fn labelled(name: &str, text: &'static str, labels: &[(&str, &str)]) -> Aci {
    let labels: Vec<_> = labels
        .iter()
        .map(|(n, v)| json!({"name": n, "value": v}))
        .collect();
    Aci::new(name, &file(text)).with("labels", labels.into())
}

#[test]
fn an_image_is_found_by_name_and_labels_and_by_its_id() {
    let bench = Bench::new();
    let one = labelled(
        "a/b",
        "one",
        &[("version", "1"), ("os", "linux"), ("arch", "amd64")],
    );
    let two = labelled("a/b", "two", &[("version", "2"), ("channel", "beta")]);
    let id_of_one = one.import(&bench);
    two.import(&bench);
    let cat = |image: &str| bench.run(&["cat", &format!("{image}:/f")]);
    for (image, text) in [
        ("appc:a/b:1", "one"),
        ("appc:a/b,os=linux", "one"),
        ("appc:a/b,arch=amd64,version=1,os=linux", "one"),
        ("appc:a/b:2", "two"),
        ("appc:a/b,channel=beta", "two"),
        ("a/b:1", "one"),
        (&id_of_one, "one"),
        (&id_of_one[..20], "one"),
        (&id_of_one.replace('-', ":"), "one"),
        (&id_of_one[7..19], "one"),
    ] {
        assert_eq!(cat(image).ok().text(), text, "{image}");
    }
    for image in [
        "appc:a/b:3",
        "appc:a",
        "appc:a/b,os=darwin",
        "sha512-0000",
        "appc:",
        "appc:A",
    ] {
        assert_eq!(cat(image).code, 3, "{image}");
    }
}

/// The order: what runs here, then what came last, then the greatest ID.
#[test]
fn of_several_images_that_fit_always_the_same_one_is_meant() {
    let bench = Bench::new();
    let foreign = labelled("a", "foreign", &[("os", "freebsd"), ("arch", "arm")]);
    let native = std::env::consts::ARCH.replace("x86_64", "amd64");
    let native = labelled("a", "native", &[("os", "linux"), ("arch", &native)]);
    native.import(&bench);
    foreign.import(&bench);
    assert_eq!(bench.run(&["cat", "appc:a:/f"]).ok().text(), "native");
    assert_eq!(
        bench.run(&["cat", "appc:a,os=freebsd:/f"]).ok().text(),
        "foreign"
    );
}

/// Makes the record of an image, and what tells its name, unreadable.
fn damage(bench: &Bench, id: &str, told: bool) {
    for entry in fs::read_dir(bench.store.join("images-v1")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == format!("{id}.json") || (told && name.starts_with(id)) {
            let text = fs::read(&path).unwrap();
            fs::write(&path, &text[1..]).unwrap();
        }
    }
}

/// The file that tells the name of an image.
fn told(bench: &Bench, id: &str) -> Option<PathBuf> {
    let files = fs::read_dir(bench.store.join("images-v1")).unwrap();
    let mut paths = files.map(|entry| entry.unwrap().path());
    paths.find(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(id) && name.ends_with(".name")
    })
}

/// It was passed over, and another image of that name taken; and an image that had to do
/// with nothing was in the way of everything.
#[test]
fn a_damaged_record_is_in_the_way_of_whoever_could_mean_it_and_of_nobody_else() {
    let bench = Bench::new();
    let versions = [["1", "one"], ["2", "two"]]
        .map(|[version, text]| labelled("base", text, &[("version", version)]).import(&bench));
    let needs = |name: &str, dependency| {
        let dependencies = json!([dependency]);
        Aci::new(name, &[])
            .with("dependencies", dependencies)
            .import(&bench)
    };
    let version = |version: &str| {
        let labels = json!([{"name": "version", "value": version}]);
        json!({"imageName": "base", "labels": labels})
    };
    needs("any", json!({"imageName": "base"}));
    needs("first", version("1"));
    needs("second", version("2"));
    needs(
        "exact",
        json!({"imageName": "base", "imageID": versions[1]}),
    );
    needs(
        "broken",
        json!({"imageName": "base", "imageID": versions[0]}),
    );
    needs("lost", json!({"imageName": "nobody"}));
    let docker = Image::small("base:2", 1, Packing::Gzip);
    let docker = [&docker, &Image::small("app:1", 2, Packing::Gzip)];
    for image in docker {
        bench.pipe(&archive(&image.docker()), &[]).ok();
    }
    damage(&bench, &versions[0], false);
    let path = format!("images-v1/{}.json` is damaged", versions[0]);
    for image in ["appc:base", "appc:base:1", "base:1", &versions[0]] {
        bench.refuses(5, &[&path], |bench| bench.run(&["ls", image]));
    }
    for (image, chain) in [
        ("appc:any", "any:1.0.0 -> appc:base: "),
        ("appc:first", "first:1.0.0 -> appc:base:1: "),
        ("appc:broken", "broken:1.0.0 -> appc:base: "),
    ] {
        let words = [
            "a dependency cannot be looked up: ",
            chain,
            &path,
            "lazyroot verify",
        ];
        bench.refuses(5, &words, |bench| bench.run(&["ls", image]));
    }
    for image in ["appc:base:2", "appc:second", "appc:exact"] {
        assert_eq!(
            bench.run(&["cat", &format!("{image}:/f")]).ok().text(),
            "two"
        );
    }
    let words = ["`appc:nobody` is missing: lost:1.0.0 -> appc:nobody"];
    bench.refuses(3, &words, |bench| bench.run(&["ls", "appc:lost"]));
    bench.run(&["ls", "app:1"]).ok();
    // That both are called so is known without the record.
    bench.refuses(2, &["is a Docker image"], |bench| {
        bench.run(&["ls", "base:2"])
    });

    // Only its name is known: it may be any version.
    damage(&bench, &versions[0], true);
    bench.refuses(5, &[&path], |bench| bench.run(&["ls", "appc:base:2"]));
    bench.refuses(3, &words, |bench| bench.run(&["ls", "appc:lost"]));
    // Nothing at all is known of it: it may be any AppC image.
    fs::remove_file(told(&bench, &versions[0]).unwrap()).unwrap();
    for image in ["appc:base:2", "appc:lost", "appc:nobody"] {
        bench.refuses(5, &[&path], |bench| bench.run(&["ls", image]));
    }
    bench.run(&["ls", "app:1"]).ok();
    // And it can be removed.
    bench.run(&["remove", &versions[0]]).ok();
    assert_eq!(bench.run(&["cat", "appc:any:/f"]).ok().text(), "two");
}

/// Each look for a name read every record of the store.
#[test]
fn only_records_of_the_name_that_is_looked_for_are_read() {
    let bench = Bench::new();
    let one = labelled("one", "one", &[]).import(&bench);
    let other = labelled("other", "other", &[]).import(&bench);
    // A directory cannot be read as a file: whoever tries, fails.
    let record = bench.store.join(format!("images-v1/{other}.json"));
    let kept = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let trap = || bench.run(&["cat", "appc:one:/f"]);
    assert_eq!(trap().ok().text(), "one");
    assert_eq!(bench.run(&["ls", "appc:other"]).code, 1);
    // Without what tells the name (a store of before) it may be any of them.
    let path = told(&bench, &other).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(trap().code, 1);
    fs::remove_dir(&record).unwrap();
    fs::write(&record, kept).unwrap();
    assert_eq!(bench.run(&["cat", "appc:other:/f"]).ok().text(), "other");
    bench.run(&["verify"]).ok();
    // It comes again with the image; `verify` compares it with the manifest.
    labelled("other", "other", &[]).import(&bench);
    fs::copy(told(&bench, &one).unwrap(), told(&bench, &other).unwrap()).unwrap();
    let ran = bench.run(&["verify"]);
    assert_eq!(ran.code, 5);
    assert!(
        format!("{}{}", ran.text(), ran.err).contains("does not agree with the image's manifest")
    );
    // What tells of no image says nothing, and goes with the next sweep.
    fs::remove_file(&record).unwrap();
    assert_eq!(bench.run(&["cat", "appc:other:/f"]).code, 3);
    bench.run(&["gc"]).ok();
    assert_eq!(told(&bench, &other), None);
    assert_eq!(bench.run(&["cat", "appc:one:/f"]).ok().text(), "one");
}

/// They were chosen for the machine that they were looked at on.
#[test]
fn a_dependency_is_chosen_for_the_machine_of_the_image_that_wants_it() {
    let bench = Bench::new();
    let on = |arch: &'static str| vec![("os", "linux"), ("arch", arch)];
    let image = |name: &str, text: &'static str, labels: &[(&str, &str)], on: &[&str]| {
        labelled(name, text, labels).on(on).import(&bench)
    };
    let archs = ["aarch64", "armv7l", "amd64", "ppc64le"];
    for arch in archs {
        image("base", arch, &on(arch), &[]);
    }
    image("base", "any", &[("version", "0")], &[]);
    // `through` says nothing of machines, so it is what is above it that counts.
    labelled("through", "", &[])
        .with("pathWhitelist", json!(["/f"]))
        .on(&["base"])
        .import(&bench);
    for (arch, gets) in archs
        .map(|arch| (arch, arch))
        .into_iter()
        .chain([("s390x", "any")])
    {
        let aci = |name: &str, on: &str, labels: &[(&str, &str)]| {
            let labels: Vec<_> = (labels.iter())
                .map(|(n, v)| json!({"name": n, "value": v}))
                .collect();
            Aci::new(name, &[])
                .with("labels", labels.into())
                .on(&[on])
                .import(&bench)
        };
        let top = aci("top", "base", &on(arch));
        assert_eq!(
            bench.run(&["cat", &format!("{top}:/f")]).ok().text(),
            gets,
            "{arch}"
        );
        let inspected = json_of(
            &bench,
            &["inspect", "--json", &aci("far", "through", &on(arch))],
        );
        let lowest = inspected["stack"][0]["id"].as_str().unwrap();
        assert_eq!(
            bench.run(&["cat", &format!("{lowest}:/f")]).ok().text(),
            gets,
            "{arch}"
        );
    }
}

#[test]
fn a_name_of_both_kinds_is_not_guessed() {
    let bench = Bench::new();
    let docker = Image::small("example.org/app:1.0.0", 1, Packing::Gzip);
    bench.pipe(&archive(&docker.docker()), &[]).ok();
    assert_eq!(bench.run(&["ls", "example.org/app:1.0.0"]).code, 0);
    let tar = Aci::new("example.org/app", &file("aci")).tar();
    bench.pipe(&tar, &[]).ok();
    let words = [
        "is a Docker image (sha256:",
        "and an AppC image (sha512:",
        "try: appc:example.org/app:1.0.0",
    ];
    for verb in ["ls", "cat", "inspect", "remove"] {
        bench.refuses(2, &words, |bench| {
            bench.run(&[verb, "example.org/app:1.0.0"])
        });
    }
    assert_eq!(
        bench.run(&["cat", "appc:example.org/app:/f"]).ok().text(),
        "aci"
    );
    assert_eq!(
        bench.run(&["cat", &format!("{}:/f", id(&tar))]).ok().text(),
        "aci"
    );
}

#[test]
fn the_verbs_that_look_after_images_know_both_kinds() {
    let bench = Bench::new();
    let aci = Aci::new("a", &file("text")).listing(&["/f"]);
    let aci = aci.with("app", json!({"exec": ["/f"], "user": "0", "group": "0"}));
    let name = aci.import(&bench);
    let whole = name.replace('-', ":");
    bench.run(&["tag", "appc:a", "mine:1"]).ok();
    assert_eq!(bench.run(&["cat", "mine:1:/f"]).ok().text(), "text");
    let images = json_of(&bench, &["images", "--json"]);
    assert_eq!(images[0]["appc"]["name"], "a");
    assert_eq!(images[0]["names"], json!(["docker.io/library/mine:1"]));
    let table = bench.run(&["images"]).ok().text();
    assert!(
        table.contains("\nappc:a:1.0.0  ") && table.contains("\nmine:1  "),
        "{table}"
    );
    let inspected = json_of(&bench, &["inspect", "--json", "mine:1"]);
    assert_eq!(
        (&inspected["id"], &inspected["source"]),
        (&json!(whole), &json!("appc"))
    );
    assert_eq!(inspected["manifest"]["app"]["exec"], json!(["/f"]));
    assert_eq!(inspected["stack"][0]["lists"], json!([name]));
    let text = bench.run(&["inspect", "appc:a"]).ok().text();
    assert!(
        text.contains(r#"exec: "#) && text.contains(r#""/f""#),
        "{text}"
    );
    let used = json_of(&bench, &["du", "--json"]);
    assert_eq!(
        (&used["unneeded"], &used["images"][0]["appc"]["name"]),
        (&json!(0), &json!("a"))
    );
    bench.run(&["verify"]).ok();
    // Nothing of it goes while it is there, and all of it when it is gone.
    bench.run(&["gc"]).ok();
    assert_eq!(bench.run(&["cat", "appc:a:/f"]).ok().text(), "text");
    bench.run(&["remove", "mine:1"]).ok();
    assert_eq!(
        bench.run(&["cat", "appc:a:/f"]).ok().text(),
        "text",
        "it has a name of its own"
    );
    bench.run(&["remove", "appc:a"]).ok();
    let left: Vec<_> = bench.files().into_keys().collect();
    assert_eq!(left, [bench.store.join("images-v1/names.json")]);
}

/// It went without a word, and what was made of it could not be shown any more.
#[test]
fn what_others_are_made_of_goes_by_force_alone() {
    let bench = Bench::new();
    let base = Aci::new("base", &file("base")).import(&bench);
    for name in ["a", "b", "c", "d"] {
        Aci::new(name, &[]).on(&["base"]).import(&bench);
    }
    Aci::new("top", &[]).on(&["d"]).import(&bench);
    bench.run(&["tag", "appc:base", "mine:1"]).ok();
    let words = ["is needed by `appc:a:1.0.0`, `appc:b:1.0.0`, `appc:c:1.0.0` and 2 more"];
    bench.run(&["remove", "mine:1"]).ok();
    for name in ["appc:base", "base:1.0.0", &base] {
        bench.refuses(4, &words, |bench| bench.run(&["remove", name]));
    }
    bench.refuses(4, &["is needed by `appc:top:1.0.0`"], |bench| {
        bench.run(&["remove", "appc:d"])
    });
    let verified = bench.run(&["verify"]).ok().text();
    assert!(verified.ends_with(" layers: all is well\n"), "{verified}");
    bench.run(&["remove", "--force", "appc:base"]).ok();

    // That is no damage, but all is not well.
    let verified = bench.run(&["verify", "appc:top", "appc:d"]).ok().text();
    assert!(
        verified.contains(
            "note: `appc:top:1.0.0` is incomplete: the dependency `appc:base` is missing"
        ) && verified.contains("note: `appc:d:1.0.0` is incomplete: ")
            && verified.ends_with("2 images, 2 layers: what is there is well\n"),
        "{verified}"
    );
    let verified = json_of(&bench, &["verify", "--json"]);
    assert_eq!(verified["damaged"], json!([]));
    assert_eq!(verified["incomplete"].as_array().unwrap().len(), 5);
    // In the order from above nothing has to be forced.
    for name in ["appc:top", "appc:d"] {
        bench.run(&["remove", name]).ok();
    }
}

#[test]
fn what_goes_together_goes_in_any_order_and_what_is_broken_keeps_nothing() {
    let bench = Bench::new();
    Aci::new("base", &file("base")).import(&bench);
    Aci::new("a", &[]).on(&["base"]).import(&bench);
    Aci::new("top", &[]).on(&["a"]).import(&bench);
    let said = bench.run(&["remove", "appc:base", "appc:a", "appc:top"]);
    assert_eq!(said.ok().text().matches("removed image").count(), 3);
    // Neither can be shown.
    Aci::new("x", &[]).on(&["y"]).import(&bench);
    Aci::new("y", &[]).on(&["x"]).import(&bench);
    bench.run(&["remove", "appc:x"]).ok();
}

/// Tags of an image went with what its manifest calls it.
#[test]
fn the_own_name_of_an_image_takes_no_others_along() {
    let bench = Bench::new();
    let tagged = || {
        let id = Aci::new("a", &file("text")).import(&bench);
        bench.run(&["tag", "appc:a", "mine:1"]).ok();
        bench.run(&["tag", "appc:a", "other:1"]).ok();
        id
    };
    let id = tagged();
    let words = [
        "image `appc:a` is also called `mine:1`, `other:1`",
        "try: lazyroot remove mine:1 for a name alone; the ID, or --force",
    ];
    bench.refuses(4, &words, |bench| bench.run(&["remove", "appc:a"]));
    bench.refuses(4, &["`a:1.0.0` is also called"], |bench| {
        bench.run(&["remove", "a:1.0.0"])
    });
    let gone = |args: &[&str]| {
        let said = bench.run(args).ok().text();
        assert!(
            said.contains("removed name mine:1") || said.contains("mine:1\n"),
            "{said}"
        );
        assert!(said.contains("removed image "), "{said}");
    };
    gone(&["remove", &id]);
    tagged();
    gone(&["remove", "--force", "appc:a"]);
    tagged();
    for name in ["mine:1", "other:1"] {
        let said = bench.run(&["remove", name]).ok().text();
        assert!(!said.contains("removed image "), "{said}");
    }
    let said = bench.run(&["remove", "appc:a"]).ok().text();
    assert!(said.contains("removed image "), "{said}");
}

#[test]
fn an_image_that_came_again_is_imported_again() {
    let bench = Bench::new();
    let tar = Aci::new("a", &file("text")).tar();
    for packing in [Packing::Gzip, Packing::Plain, Packing::Xz, Packing::Zstd] {
        bench.pipe(&packing.pack(&tar), &[]).ok();
        bench.run(&["gc"]).ok();
        bench.run(&["verify"]).ok();
        assert_eq!(bench.run(&["cat", "appc:a:/f"]).ok().text(), "text");
    }
    assert_eq!(
        json_of(&bench, &["images", "--json"])
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
