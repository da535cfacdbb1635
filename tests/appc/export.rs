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

#[test]
fn no_image_goes_out_as_what_it_is_not() {
    let bench = Bench::new();
    let aci = Aci::new("a", &[("f", What::File("text"))]);
    let id = aci.import(&bench);
    bench
        .pipe(
            &archive(&Image::small("one:1", 1, Packing::Gzip).docker()),
            &[],
        )
        .ok();
    for (image, more, words) in [
        (
            "appc:a",
            &["--format", "oci"][..],
            "goes out as ACI, not as OCI archive",
        ),
        (&id, &["--format", "docker"], "try: --format aci"),
        ("one:1", &["--format", "aci"], "is no AppC image"),
        (
            "appc:a",
            &["--name", "b:1"],
            "called what its manifest says",
        ),
    ] {
        let args = [&["export", image, "-"], more].concat();
        let ran = bench.run(&args);
        assert_eq!((ran.code, ran.out.len()), (2, 0), "{}", ran.err);
        assert!(ran.err.contains(words), "{}", ran.err);
    }
}
