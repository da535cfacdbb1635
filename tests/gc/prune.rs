//! Images that go by a rule, and those that stay.

use super::*;

#[test]
fn what_is_not_used_goes_and_what_is_excluded_stays_with_the_layers_it_shares() {
    let bench = Bench::new();
    take(&bench, "kept:1", &[1, 2]);
    take(&bench, "gone:1", &[2, 3]);
    take(&bench, "gone:2", &[4]);
    let swept = gc(&bench, &["--all", "--keep", "kept:1", "not-there:1"]);
    assert_eq!(swept["images"].as_array().unwrap().len(), 2);
    assert_eq!(swept["unknown"], json!(["not-there:1"]));
    assert_eq!(names(&bench), ["kept:1"]);
    // Two layers, each with its record and its index.
    assert_eq!(
        (count(&bench, "layers-v1"), count(&bench, "seek-v1")),
        (4, 2)
    );
    is_whole(&bench);
    for salt in [1, 2] {
        bench.run(&["cat", &format!("kept:1:/etc/big-{salt}")]).ok();
    }
    gc(&bench, &["--all"]);
    assert!(names(&bench).is_empty());
    for directory in ["layers-v1", "seek-v1", "blobs/sha256", "trash"] {
        assert_eq!(count(&bench, directory), 0, "{directory}");
    }
}

#[test]
fn an_image_is_excluded_by_any_of_its_names_and_by_its_id() {
    let bench = Bench::new();
    take(&bench, "one:1", &[1]);
    take(&bench, "two:1", &[2]);
    bench.run(&["tag", "one:1", "other:9"]).ok();
    let store = Store::create(&bench.store, 0).unwrap();
    let id = store.find("two:1").unwrap().to_string();
    let short = id.strip_prefix("sha256:").unwrap()[..10].to_owned();
    for two in [&id, &short, "docker.io/library/two:1"] {
        gc(&bench, &["--all", "--keep", "other:9", "--keep", two]);
        assert_eq!(names(&bench), ["one:1", "other:9", "two:1"]);
    }
}

#[test]
fn what_a_process_has_pinned_stays_until_that_ends() {
    let bench = Bench::new();
    take(&bench, "used:1", &[1]);
    take(&bench, "shares:1", &[1, 2]);
    let store = Store::create(&bench.store, 0).unwrap();
    let lease = store.lease().unwrap().unwrap();
    let id = store.find("used:1").unwrap();
    store.pin_images(&lease, &[id]).unwrap();
    let refused = bench.run(&["remove", "used:1"]);
    assert_eq!(refused.code, 4, "{}", refused.err);
    // All layers of this one are not in use, though one is.
    gc(&bench, &["--all"]);
    assert_eq!(names(&bench), ["used:1"]);
    bench.run(&["cat", "used:1:/etc/big-1"]).ok();
    is_whole(&bench);
    drop(lease);
    gc(&bench, &["--all"]);
    assert!(names(&bench).is_empty());
}

/// It is not in use, though everything that it is made of is.
#[test]
fn an_image_that_is_made_of_layers_in_use_can_be_removed() {
    let bench = Bench::new();
    take(&bench, "small:1", &[1]);
    take(&bench, "large:1", &[1, 2]);
    let store = Store::create(&bench.store, 0).unwrap();
    let lease = store.lease().unwrap().unwrap();
    let large = store.image(store.find("large:1").unwrap()).unwrap();
    let layers: Vec<_> = large.layers.iter().map(|layer| layer.diff).collect();
    store.pin_images(&lease, &[large.id]).unwrap();
    store.pin(&lease, &layers).unwrap();
    bench.run(&["remove", "small:1"]).ok();
    bench.run(&["cat", "large:1:/etc/big-1"]).ok();
    is_whole(&bench);
}

#[test]
fn an_appc_image_stays_as_long_as_one_that_stays_depends_on_it() {
    let bench = Bench::new();
    take_aci(&bench, "base", &[]);
    take_aci(&bench, "middle", &["base"]);
    take_aci(&bench, "top", &["middle"]);
    take_aci(&bench, "other", &["base"]);
    for name in ["base", "middle"] {
        age(&bench, &format!("appc:{name}"), 100);
    }
    gc(&bench, &["--older-than", "24h"]);
    assert_eq!(names(&bench), ["base", "middle", "other", "top"]);
    gc(&bench, &["--all", "--keep", "appc:top"]);
    assert_eq!(names(&bench), ["base", "middle", "top"]);
    bench.run(&["cat", "appc:top:/f"]).ok();
    is_whole(&bench);
    // The least recently used that nothing needs is the uppermost.
    let swept = gc(&bench, &["--to-size", "0"]);
    let order: Vec<&str> = swept["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["appc"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["top", "middle", "base"]);
    assert_eq!(count(&bench, "blobs/sha512"), 0);
}

/// The grace period of rkt's `image gc`.
#[test]
fn an_image_that_was_used_within_the_time_stays() {
    let bench = Bench::new();
    for (name, salt, hours) in [("new:1", 1, 0), ("young:1", 2, 23), ("old:1", 3, 25)] {
        take(&bench, name, &[salt]);
        age(&bench, name, hours);
    }
    let swept = gc(&bench, &["--older-than", "24h"]);
    assert_eq!(swept["images"][0]["why"], "unused");
    assert_eq!(names(&bench), ["new:1", "young:1"]);
    gc(&bench, &["--older-than", "1h"]);
    assert_eq!(names(&bench), ["new:1"]);
    is_whole(&bench);
}

#[test]
fn an_image_whose_name_another_has_got_goes_by_that_rule_only() {
    let bench = Bench::new();
    take(&bench, "app:1", &[1]);
    take(&bench, "app:1", &[2]);
    let images = || bench.run(&["images", "-q"]).ok().text().lines().count();
    gc(&bench, &[]);
    assert_eq!(images(), 2);
    let swept = gc(&bench, &["--unnamed"]);
    assert_eq!(swept["images"][0]["why"], "unnamed");
    assert_eq!((images(), names(&bench)), (1, vec!["app:1".to_owned()]));
    is_whole(&bench);
}

#[test]
fn by_size_the_least_recently_used_go_and_no_more_than_has_to() {
    let bench = Bench::new();
    for (at, name) in ["a:1", "b:1", "c:1", "d:1"].into_iter().enumerate() {
        take(&bench, name, &[at as u8 + 1]);
        age(&bench, name, 10 - at as u64);
    }
    // The oldest was used again.
    age(&bench, "a:1", 0);
    let total = || -> u64 {
        let swept = gc(&bench, &["--to-size", "0", "--dry-run"]);
        swept["bytes"].as_u64().unwrap()
    };
    let before = total();
    gc(&bench, &["--to-size", &before.to_string()]);
    assert_eq!(names(&bench).len(), 4);
    let max = (before - 1).to_string();
    let swept = gc(&bench, &["--to-size", &max, "--keep", "b:1"]);
    assert_eq!(swept["images"][0]["why"], "size");
    assert_eq!(names(&bench), ["a:1", "b:1", "d:1"]);
    assert_eq!(total(), before - swept["bytes"].as_u64().unwrap());
    let swept = gc(&bench, &["--to-size", "10", "--keep", "b:1"]);
    assert_eq!(names(&bench), ["b:1"]);
    let left = total();
    assert_eq!(swept["short"].as_u64().unwrap(), left - 10);
    is_whole(&bench);
}

#[test]
fn a_dry_run_has_the_numbers_of_the_real_one_and_changes_nothing() {
    let bench = Bench::new();
    take(&bench, "one:1", &[1, 2]);
    take(&bench, "two:1", &[2, 3]);
    take_aci(&bench, "base", &[]);
    // Something of everything that a sweep finds.
    take(&bench, "removed:1", &[5]);
    bench.run(&["remove", "--no-gc", "removed:1"]).ok();
    fs::write(bench.store.join("trash/old"), noise(1, 5000)).unwrap();
    fs::create_dir_all(bench.store.join("trash/upper/upper/d")).unwrap();
    fs::write(bench.store.join("trash/upper/upper/d/f"), "x").unwrap();
    fs::create_dir_all(bench.store.join("fetch")).unwrap();
    fs::write(bench.store.join("fetch/a.part"), noise(1, 300)).unwrap();
    leave_half_an_import(&bench);
    for rules in [&[][..], &["--all", "--keep", "two:1"], &["--to-size", "0"]] {
        let words: Vec<&str> = rules.iter().copied().chain(["--dry-run"]).collect();
        let before = bench.files();
        let dry = gc(&bench, &words);
        assert_eq!(bench.files(), before, "{rules:?}");
        let real = gc(&bench, rules);
        assert_eq!(dry, real, "{rules:?}");
        assert_ne!(real["files"], 0, "{rules:?}");
        is_whole(&bench);
    }
    assert_eq!(gc(&bench, &["--all"])["files"], 0);
}

/// What an import makes that is killed before it has published anything: its lock is nobody's.
pub(super) fn leave_half_an_import(bench: &Bench) {
    let directory = bench.store.join("staging/import-killed");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("lock"), "").unwrap();
    fs::write(directory.join("0.blob"), noise(1, 70_000)).unwrap();
}

/// It was removed and not counted: "freed 0 B" after a hundred megabytes.
#[test]
fn what_a_killed_import_left_is_counted() {
    let bench = Bench::new();
    take(&bench, "one:1", &[1]);
    gc(&bench, &[]);
    leave_half_an_import(&bench);
    let used = bench.run(&["du", "--json"]).ok();
    let used: Value = serde_json::from_slice(&used.out).unwrap();
    assert!(used["staging"].as_u64().unwrap() >= 70_000, "{used}");
    let swept = gc(&bench, &[]);
    assert_eq!(swept["files"], 2);
    assert!(swept["bytes"].as_u64().unwrap() >= 70_000, "{swept}");
    let left = fs::read_dir(bench.store.join("staging")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn what_cannot_be_decided_stops_all_and_says_how_to_go_on() {
    let bench = Bench::new();
    take(&bench, "sound:1", &[1]);
    take(&bench, "broken:1", &[2]);
    let store = Store::create(&bench.store, 0).unwrap();
    let id = store.find("broken:1").unwrap();
    fs::write(store.image_path(id), "{").unwrap();
    for words in [&["gc"][..], &["gc", "--all"], &["gc", "--all", "--dry-run"]] {
        let name = id.to_string();
        let said = [
            "cannot be known",
            &name,
            "try: ",
            "import --again",
            "lazyroot remove",
        ];
        bench.refuses(5, &said, |bench| bench.run(words));
    }
    bench.run(&["remove", &id.to_string()]).ok();
    assert_eq!(names(&bench), ["sound:1"]);
    is_whole(&bench);
    assert_eq!(count(&bench, "layers-v1"), 2);
}

#[test]
fn words_that_mean_nothing_are_refused() {
    let bench = Bench::new();
    take(&bench, "one:1", &[1]);
    for words in [
        &["--older-than", "5"][..],
        &["--older-than", "1.5h"],
        &["--to-size", "x"],
        &["--headroom", "1.5"],
        &["--headroom", "10%"],
    ] {
        let all: Vec<&str> = ["gc"].iter().chain(words).copied().collect();
        bench.refuses(2, &[words[1]], |bench| bench.run(&all));
    }
}
