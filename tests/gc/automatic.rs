//! Collection by how full the disk is, as an agent of Mesos does it.

use super::*;

fn three(bench: &Bench) {
    for (salt, name) in (1_u8..).zip(["a:1", "b:1", "c:1"]) {
        take(bench, name, &[salt]);
        age(bench, name, 10 - u64::from(salt));
    }
    bench.run(&["remove", "--no-gc", "c:1"]).ok();
}

#[test]
fn a_disk_with_enough_room_lets_everything_be() {
    let bench = Bench::new();
    three(&bench);
    let before = bench.files();
    let swept = gc(&bench, &["--headroom", "0"]);
    assert_eq!((&swept["files"], &swept["short"]), (&json!(0), &json!(0)));
    assert!(swept["disk"]["size"].as_u64().unwrap() > 0);
    // Not even what nothing needs: nobody has asked for that.
    assert_eq!(bench.files(), before);
    let said = bench.run(&["gc", "--headroom", "0"]).ok().text();
    assert!(said.contains("% full") && !said.contains("freed"), "{said}");
}

#[test]
fn a_disk_that_is_too_full_loses_what_it_may() {
    let bench = Bench::new();
    three(&bench);
    // No disk is free altogether, so all goes that may.
    let config = r#"{"image_disk_headroom": 1.0,
        "image_disk_watch_interval": {"nanoseconds": 60000000000},
        "excluded_images": [{"type": "DOCKER", "docker": {"name": "a:1"}}]}"#;
    let file = bench.write("gc.json", config.as_bytes());
    let file = file.to_str().unwrap();
    let dry = gc(&bench, &["--image-gc-config", config, "--dry-run"]);
    let swept = gc(&bench, &["--image_gc_config", &format!("file://{file}")]);
    assert_eq!(dry["images"], swept["images"]);
    assert_eq!(swept["images"][0]["why"], "headroom");
    assert!(swept["short"].as_u64().unwrap() > 0);
    assert_eq!(names(&bench), ["a:1"]);
    is_whole(&bench);
    gc(&bench, &["--image-gc-config", file]);
    assert_eq!(names(&bench), ["a:1"]);
}

/// A store on a small disk of its own.
struct SmallDisk(Bench);

impl SmallDisk {
    fn new() -> Option<Self> {
        let bench = Bench::new();
        fs::create_dir(&bench.store).unwrap();
        let mounted = rustix::process::geteuid().is_root()
            && std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
                .arg(&bench.store)
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            println!("SKIPPED: needs root and mount");
            return None;
        }
        let disk = Self(bench);
        for salt in 1..9 {
            let name = format!("image:{salt}");
            take(&disk.0, &name, &[salt, salt + 20]);
            age(&disk.0, &name, 100 - u64::from(salt));
        }
        Some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(&self.0.store, flags);
    }
}

#[test]
fn by_headroom_no_more_goes_than_has_to() {
    let Some(disk) = SmallDisk::new() else { return };
    let bench = &disk.0;
    let before = gc(bench, &["--headroom", "0"])["disk"].clone();
    let number = |name: &str| before[name].as_f64().unwrap();
    // The room of about two images and a half.
    let part = ((number("free") + 250_000.0) / number("size")).to_string();
    let swept = gc(bench, &["--headroom", &part]);
    let gone = swept["images"].as_array().unwrap().len();
    assert!((2..=4).contains(&gone), "{swept}");
    assert_eq!(swept["short"], 0);
    let left: Vec<String> = (gone + 1..9).map(|salt| format!("image:{salt}")).collect();
    assert_eq!(names(bench), left);
    is_whole(bench);
    let after = gc(bench, &["--headroom", &part]);
    assert_eq!(after["images"], json!([]), "{after}");
}

/// Images went for room that the sweep made without them.
#[test]
fn by_headroom_no_image_goes_where_a_killed_import_leaves_enough() {
    let Some(disk) = SmallDisk::new() else { return };
    let bench = &disk.0;
    let before = names(bench);
    let size = |name: &str| {
        gc(bench, &["--headroom", "0"])["disk"][name]
            .as_f64()
            .unwrap()
    };
    // Each is as much as an image or more, and alone it would not do.
    prune::leave_half_an_import(bench);
    fs::write(bench.store.join("trash/old"), noise(1, 70_000)).unwrap();
    let part = ((size("free") + 120_000.0) / size("size")).to_string();
    for words in [&["--dry-run"][..], &[]] {
        let swept = gc(bench, &[&["--headroom", &part], words].concat());
        assert_eq!((&swept["images"], &swept["short"]), (&json!([]), &json!(0)));
        assert!(swept["bytes"].as_u64().unwrap() > 120_000, "{swept}");
        assert_eq!(names(bench), before);
    }
    is_whole(bench);
}

#[test]
fn a_disk_without_any_room_gets_some() {
    let Some(disk) = SmallDisk::new() else { return };
    let bench = &disk.0;
    let filler = bench.store.join("filler");
    let mut file = File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let full = fs::write(bench.store.join("more"), "x").unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let swept = gc(bench, &["--headroom", "0.1"]);
    assert!(!swept["images"].as_array().unwrap().is_empty(), "{swept}");
    assert_eq!(names(bench).last().unwrap(), "image:8");
    let gone = swept["images"].as_array().unwrap().len();
    assert_eq!(names(bench).len(), 8 - gone);
    let table = fs::read_to_string(bench.store.join("images-v1/names.json")).unwrap();
    assert!(
        !table.contains("image:1") && table.contains("image:8"),
        "{table}"
    );
    is_whole(bench);
}

#[test]
fn a_call_to_prune_is_taken_as_it_is() {
    let bench = Bench::new();
    three(&bench);
    let call = r#"{"type": "PRUNE_IMAGES", "prune_images": {"excluded_images":
        [{"type": "DOCKER", "docker": {"name": "library/b:1"}}]}}"#;
    gc(&bench, &["--prune-images", call]);
    assert_eq!(names(&bench), ["b:1"]);
}

#[test]
fn a_configuration_that_is_wrong_removes_nothing() {
    let bench = Bench::new();
    three(&bench);
    let broken = bench.write("gc.json", b"{\"image_disk_headroom\": 2}");
    let broken = broken.to_str().unwrap();
    for (code, words, said) in [
        (
            2,
            ["--image-gc-config", "{}"],
            "missing required fields: image_disk_headroom",
        ),
        (2, ["--image-gc-config", broken], "is not from 0 to 1"),
        (3, ["--image-gc-config", "/no/such/file"], "/no/such/file"),
        (
            2,
            ["--prune-images", "{\"type\": \"X\"}"],
            "none of PRUNE_IMAGES",
        ),
    ] {
        let all = ["gc", "--all", words[0], words[1]];
        bench.refuses(code, &[words[0], said], |bench| bench.run(&all));
    }
}
