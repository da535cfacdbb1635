//! What is counted, and how it is shown.

use super::*;

/// All series and their values.
fn shown(bench: &Bench) -> Value {
    let ran = bench.run(&["metrics", "--json"]).ok();
    serde_json::from_slice(&ran.out).unwrap()
}

#[test]
fn what_was_done_is_counted_over_processes() {
    let bench = Bench::new();
    let before = shown(&bench);
    assert_eq!(before["lazyroot_images_imported_total"], 0);
    take(&bench, "one:1", &[1]);
    take(&bench, "two:1", &[2]);
    assert_ne!(bench.pipe(b"no image", &[]).code, 0);
    assert_ne!(bench.run(&["pull", "nowhere.invalid/x:1"]).code, 0);
    let freed = gc(&bench, &["--all", "--keep", "one:1"]);
    gc(&bench, &["--dry-run", "--all"]);
    let now = shown(&bench);
    for (series, value) in [
        ("lazyroot_images_imported_total", json!(2)),
        ("lazyroot_gc_runs_total", json!(1)),
        ("lazyroot_gc_freed_images_total", json!(1)),
        ("lazyroot_gc_freed_bytes_total", freed["bytes"].clone()),
        ("lazyroot_image_pull_errors_total", json!(1)),
        ("lazyroot_images", json!(1)),
    ] {
        assert_eq!(now[series], value, "{series}");
    }
    assert!(now["lazyroot_store_bytes{what=\"blobs\"}"].as_u64() > Some(0));
    assert!(now["lazyroot_disk_size_bytes"].as_u64() > now["lazyroot_disk_free_bytes"].as_u64());
}

#[test]
fn a_layer_that_has_to_be_uncompressed_is_counted_by_its_bytes() {
    let bench = Bench::new();
    let tar = sound_layer(1);
    let layer = Layer::new(&tar, Packing::Zstd);
    bench
        .pipe(&archive(&Image::new("one:1", vec![layer]).docker()), &[])
        .ok();
    bench.run(&["cat", "one:1:/etc/big-1"]).ok();
    let expanded = count(&bench, "expanded-v1") as u64;
    let bytes = &shown(&bench)["lazyroot_materialised_bytes_total{what=\"layer\"}"];
    assert_eq!(bytes.as_u64(), Some(expanded * tar.len() as u64));
}

/// Every line as the format wants it; `promtool` is asked as well where it is.
#[test]
fn the_text_is_valid() {
    let bench = Bench::new();
    take(&bench, "one:1", &[1]);
    let text = bench.run(&["metrics"]).ok().text();
    assert!(text.ends_with('\n') && !text.contains("\n\n"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let name = series.split('{').next().unwrap();
        assert!(name.starts_with("lazyroot_"), "{line}");
        assert!(
            name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{line}"
        );
        assert_eq!(series.contains('{'), series.ends_with('}'), "{line}");
    }
    let tool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .spawn();
    // Every rule that it has and that we can break was looked at above.
    let Ok(mut tool) = tool else { return };
    std::io::Write::write_all(&mut tool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(tool.wait().unwrap().success());
}

#[test]
fn a_damaged_count_harms_nothing() {
    let bench = Bench::new();
    take(&bench, "one:1", &[1]);
    fs::write(bench.store.join("metrics-v1/values.json"), "{").unwrap();
    assert_eq!(shown(&bench)["lazyroot_images_imported_total"], 0);
    take(&bench, "two:1", &[2]);
    assert_eq!(shown(&bench)["lazyroot_images_imported_total"], 1);
    assert!(bench.store.join("metrics-v1/values.damaged").is_file());
}

#[test]
fn there_is_something_to_show_without_a_store() {
    let bench = Bench::new();
    assert!(
        bench
            .run(&["metrics"])
            .ok()
            .text()
            .contains("lazyroot_mounts_active")
    );
    assert_eq!(count(&bench, ""), 0);
}
