//! Garbage collection: what goes, what stays, and what a kill leaves.
//!
//! The first tests are those that Mesos never had of its `PRUNE_IMAGES`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "support/images.rs"]
#[expect(dead_code, reason = "the tests of imports need more of it")]
mod images;

#[path = "gc/automatic.rs"]
mod automatic;
#[path = "gc/killed.rs"]
mod killed;
#[path = "gc/metrics.rs"]
mod metrics;
#[path = "gc/prune.rs"]
mod prune;
#[path = "gc/together.rs"]
mod together;

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use images::*;
use lazyroot::store::Store;
use serde_json::{Value, json};

/// Imports an image of these layers, each called by a number.
#[track_caller]
fn take(bench: &Bench, name: &str, layers: &[u8]) {
    let layers = layers.iter();
    let layers = layers.map(|salt| Layer::new(&sound_layer(*salt), Packing::Gzip));
    let image = Image::new(name, layers.collect());
    bench.pipe(&archive(&image.docker()), &[]).ok();
}

/// An AppC image with dependencies.
#[track_caller]
fn take_aci(bench: &Bench, name: &str, needs: &[&str]) {
    let needs = needs.iter().map(|name| json!({"imageName": name}));
    let manifest = json!({
        "acKind": "ImageManifest", "acVersion": "0.8.11", "name": name,
        "dependencies": needs.collect::<Vec<_>>(),
    });
    let aci = Tar::new()
        .file("manifest", manifest.to_string().as_bytes())
        .dir("rootfs/")
        .file("rootfs/f", &noise(name.len() as u64, 9000))
        .end();
    bench.pipe(&aci, &[]).ok();
}

/// What `gc` does, as JSON.
#[track_caller]
fn gc(bench: &Bench, words: &[&str]) -> Value {
    let all: Vec<&str> = ["gc", "--json"].iter().chain(words).copied().collect();
    serde_json::from_slice(&bench.run(&all).ok().out).unwrap()
}

/// Names of the images that there are, AppC ones by their own.
fn names(bench: &Bench) -> Vec<String> {
    let listed = bench.run(&["images", "--json"]).ok();
    let rows: Value = serde_json::from_slice(&listed.out).unwrap();
    let mut all = Vec::new();
    for row in rows.as_array().unwrap() {
        let named = row["names"].as_array().unwrap().iter();
        let tag = |name: &Value| {
            name.as_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned()
        };
        all.extend(named.map(tag));
        all.extend(row["appc"]["name"].as_str().map(str::to_owned));
    }
    all.sort();
    all
}

/// Says that an image was last used so many hours ago.
fn age(bench: &Bench, image: &str, hours: u64) {
    let store = Store::create(&bench.store, 0).unwrap();
    let record = store.image_path(store.find(image).unwrap());
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    let file = File::options().write(true).open(record).unwrap();
    file.set_modified(then).unwrap();
}

/// Files in a directory of the store.
fn count(bench: &Bench, directory: &str) -> usize {
    fs::read_dir(bench.store.join(directory)).map_or(0, Iterator::count)
}

/// A store in which every image can be read, and nothing lies about.
#[track_caller]
fn is_whole(bench: &Bench) {
    bench.run(&["verify"]).ok();
    for left in ["trash", "staging"] {
        assert_eq!(count(bench, left), 0, "{left}");
    }
}
