//! Finding and looking after AppC images.

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
