//! Several processes at one store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lazyroot::store::Store;
use serde_json::json;

use super::images::*;

/// Images that have their lower layers in common.
fn shared(name: &str, own: u8) -> Vec<u8> {
    let mut layers: Vec<Layer> = (1..4)
        .map(|salt| Layer::new(&sound_layer(salt), Packing::Gzip))
        .collect();
    layers.push(Layer::new(&sound_layer(own), Packing::Zstd));
    archive(&Image::new(name, layers).docker())
}

#[test]
fn two_imports_of_one_image_at_once_both_succeed() {
    for round in 0..8 {
        let bench = Bench::new();
        let bytes = shared("same:1", 20 + round);
        let path = bench.write("image.tar", &bytes);
        thread::scope(|scope| {
            for pipe in [true, false, true, false] {
                let (bench, bytes, path) = (&bench, &bytes, &path);
                scope.spawn(move || match pipe {
                    true => bench.pipe(bytes, &[]).ok(),
                    false => bench.import(path, &[]).ok(),
                });
            }
        });
        bench.run(&["verify"]).ok();
        let images = bench.run(&["images", "-q"]).ok().text();
        assert_eq!(images.lines().count(), 1, "{images}");
        let names: Vec<_> = bench.files().into_keys().collect();
        let left = |name: &str| {
            names
                .iter()
                .any(|path| path.starts_with(bench.store.join(name)))
        };
        assert!(
            !left("staging") && !left("leases") && !left("trash"),
            "{names:?}"
        );
    }
}

#[test]
fn a_sweep_meanwhile_never_takes_a_layer_of_an_import() {
    let bench = Bench::new();
    // There is a store before anything is swept.
    bench.pipe(&shared("first:1", 39), &[]).ok();
    bench.run(&["remove", "first:1"]).ok();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let bench = &bench;
        let importers: Vec<_> = ["one:1", "two:1", "three:1"]
            .into_iter()
            .zip(40_u8..)
            .map(|(name, own)| {
                scope.spawn(move || {
                    let bytes = shared(name, own);
                    let path = bench.write(name, &bytes);
                    for round in 0..12 {
                        match round % 2 {
                            0 => bench.pipe(&bytes, &[]).ok(),
                            _ => bench.import(&path, &[]).ok(),
                        };
                        bench.run(&["verify", name]).ok();
                        bench.run(&["cat", &format!("{name}:/etc/big-2")]).ok();
                        bench.run(&["remove", "--no-gc", name]).ok();
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    bench.run(&["gc"]).ok();
                }
            });
        }
        let failed = importers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .find_map(Result::err);
        end.store(true, Ordering::Relaxed);
        if let Some(failed) = failed {
            std::panic::resume_unwind(failed);
        }
    });
    bench.run(&["gc"]).ok();
    assert_eq!(left(&bench), Vec::<String>::new());
}

#[test]
fn whoever_locks_the_store_meanwhile_sees_all_images_of_an_archive_with_their_names_or_none() {
    // The bug: each image was published by itself and the names at the end, so a `remove`
    // in between left a name of no image, and a kill many images without names.
    let layer = Layer::new(&sound_layer(1), Packing::Plain);
    let (mut files, mut items) = (vec![("l.tar".to_owned(), layer.packed)], Vec::new());
    for number in 0..40 {
        let config = json!({
            "os": "linux", "architecture": "amd64", "author": number.to_string(),
            "rootfs": { "diff_ids": [layer.diff] },
        });
        let config = serde_json::to_vec(&config).unwrap();
        let (file, tag) = (format!("{}.json", hex(&config)), format!("many:{number}"));
        items.push(json!({ "Config": file, "RepoTags": [tag], "Layers": ["l.tar"] }));
        files.push((file, config));
    }
    files.push((
        "manifest.json".into(),
        json!(items).to_string().into_bytes(),
    ));
    let bench = Bench::new();
    let path = bench.write("many.tar", &archive(&files));
    let store = Store::create(&bench.store, 0).unwrap();
    thread::scope(|scope| {
        let import = scope.spawn(|| bench.import(&path, &[]).ok());
        while !import.is_finished() {
            let lock = store.lock().unwrap();
            let all = (
                store.image_ids().unwrap().len(),
                store.names().unwrap().len(),
            );
            drop(lock);
            assert!([(0, 0), (40, 40)].contains(&all), "{all:?}");
            thread::yield_now();
        }
    });
    bench.run(&["verify"]).ok();
}

/// What is left of a store that has no images.
fn left(bench: &Bench) -> Vec<String> {
    let names = bench.store.join("images-v1/names.json");
    let files = bench.files().into_keys().filter(|path| *path != names);
    files.map(|path| path.display().to_string()).collect()
}
