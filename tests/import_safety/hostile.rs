//! Layers that want to get out, or to cost more than they may.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Instant;

use flate2::write::GzEncoder;
use tar::EntryType;

use super::images::*;

#[track_caller]
fn refused(tar: &[u8], words: &[&str], more: &[&str]) {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let image = Image::new("hostile:1", vec![Layer::new(tar, packing)]);
        let bench = Bench::new();
        let whole = archive(&image.docker());
        let path = bench.write("image.tar", &whole);
        let words = [&["layer `", "layer.tar"], words].concat();
        bench.refuses(1, &words, |bench| bench.import(&path, more));
        bench.refuses(1, &words, |bench| bench.pipe(&whole, more));
        assert!(bench.files().is_empty());
    }
}

#[test]
fn members_that_would_leave_the_tree_are_refused_by_name() {
    for name in [
        "../evil",
        "a/../../evil",
        "a/..",
        "/etc/evil",
        ".wh..",
        ".wh..",
    ] {
        let tar = Tar::new()
            .file("etc/good", b"good")
            .file(name, b"evil")
            .end();
        refused(&tar, &["is refused", name.trim_start_matches('/')], &[]);
    }
}

#[test]
fn links_that_lead_out_or_to_directories_are_refused() {
    for (target, word) in [
        ("../../etc/shadow", "shadow"),
        ("", "no target"),
        ("etc", "directory"),
        (".", "directory"),
    ] {
        let tar = Tar::new().dir("etc/").link("etc/evil", target).end();
        refused(&tar, &["etc/evil", word], &[]);
    }
    // A symlink may say what it likes: it is only ever read.
    let bench = Bench::new();
    let tar = Tar::new().symlink("out", "../../../../etc/passwd").end();
    let image = Image::new("links:1", vec![Layer::new(&tar, Packing::Gzip)]);
    bench.pipe(&archive(&image.docker()), &[]).ok();
    assert_eq!(bench.run(&["cat", "links:1:/out"]).code, 3);
}

#[test]
fn members_below_a_symlink_stay_in_the_image() {
    // Unpacked without care, `out/evil` would be written to /tmp.
    let bench = Bench::new();
    let tar = Tar::new()
        .symlink("out", "/tmp")
        .file("out/evil", b"evil")
        .end();
    let image = Image::new("below:1", vec![Layer::new(&tar, Packing::Gzip)]);
    let ran = bench.pipe(&archive(&image.docker()), &[]);
    match ran.code {
        0 => {
            bench.run(&["verify"]).ok();
            let shown = bench.run(&["ls", "-R", "below:1"]).ok().text();
            assert!(shown.contains("out"), "{shown}");
        }
        _ => assert!(ran.code == 1 && ran.err.contains("out/evil"), "{ran:?}"),
    }
}

#[test]
fn a_hard_link_to_nowhere_is_refused_once_all_layers_are_known() {
    let image = |target: &str| {
        let lower = Tar::new().file("there", b"there").end();
        let upper = Tar::new().link("linked", target).end();
        let layers = [lower, upper].map(|tar| Layer::new(&tar, Packing::Gzip));
        Image::new("links:1", layers.to_vec())
    };
    let bench = Bench::new();
    for files in [image("nowhere").docker(), image("nowhere").oci()] {
        let whole = archive(&files);
        let path = bench.write("image.tar", &whole);
        let words = ["hard link `/linked`", "`/nowhere`", "try: "];
        bench.refuses(1, &words, |bench| bench.import(&path, &[]));
        bench.refuses(1, &words, |bench| bench.pipe(&whole, &[]));
    }
    bench.pipe(&archive(&image("there").docker()), &[]).ok();
    let ran = bench.run(&["cat", "links:1:/linked"]).ok();
    assert_eq!(ran.text(), "there");
}

#[test]
fn a_claimed_size_is_not_believed() {
    for size in [1 << 63, u64::MAX >> 1, 1 << 41, 1_000_000] {
        let tar = Tar::new().file("a", b"a");
        let tar = tar.claiming("huge", EntryType::Regular, "", size, b"only this");
        refused(&tar.open_end(), &[], &[]);
    }
    // The same claim about a member of the archive itself.
    let bench = Bench::new();
    for size in [1 << 63, 1 << 41, 1_000_000] {
        let mut tar = Tar::new();
        for (name, bytes) in Image::small("huge:1", 1, Packing::Gzip).docker() {
            tar = tar.file(&name, &bytes);
        }
        let tar = tar
            .claiming("huge", EntryType::Regular, "", size, b"x")
            .open_end();
        let path = bench.write("image.tar", &tar);
        bench.refuses(1, &["image.tar"], |bench| bench.import(&path, &[]));
        bench.refuses(1, &["cannot"], |bench| bench.pipe(&tar, &[]));
    }
    // Long names and pax headers are members too.
    for kind in [
        EntryType::GNULongName,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        for size in [1 << 62, 1 << 30] {
            let tar = Tar::new().claiming("huge", kind, "", size, &[b'x'; 2 << 20]);
            refused(&tar.open_end(), &[], &[]);
            let tar = Tar::new().file("a", b"a");
            let tar = tar
                .claiming("huge", kind, "", size, &[b'x'; 2 << 20])
                .open_end();
            let path = bench.write("image.tar", &tar);
            bench.refuses(1, &[], |bench| bench.import(&path, &[]));
            bench.refuses(1, &[], |bench| bench.pipe(&tar, &[]));
        }
    }
}

#[test]
fn too_many_members_are_refused_by_the_limits_name() {
    let many = (0..1001).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), b""));
    let many = many.end();
    refused(
        &many,
        &["`entries`", "1000", "--limit"],
        &["--limit", "entries=1000"],
    );
    let bench = Bench::new();
    let image = Image::new("many:1", vec![Layer::new(&many, Packing::Gzip)]);
    let more = ["--limit", "entries=1001"];
    bench.pipe(&archive(&image.docker()), &more).ok();
}

#[test]
fn a_layer_that_unpacks_to_too_much_is_refused_by_the_limits_name() {
    let tar = Tar::new().file("zeros", &vec![0; 3 << 20]).end();
    refused(
        &tar,
        &["`unpacked`", "--limit"],
        &["--limit", "unpacked=1M"],
    );
}

/// An archive with one layer: `head` once, then `again` so many times.
fn repeated(head: &[u8], again: &[u8], times: usize) -> Vec<u8> {
    let mut packed = head.to_vec();
    (0..times).for_each(|_| packed.extend_from_slice(again));
    archive(&Image::new("bomb:1", vec![Layer::raw(packed)]).docker())
}

#[test]
fn bombs_are_refused_before_they_are_unpacked() {
    // A tar whose one file is 40 GiB of zeros, in little space.
    let zeros = vec![0; 8 << 20];
    let claim = Tar::new().claiming("zeros", EntryType::Regular, "", 40 << 30, b"");
    let mut best = GzEncoder::new(Vec::new(), flate2::Compression::best());
    best.write_all(&zeros).unwrap();
    for (packing, zeros) in [
        (Packing::Gzip, best.finish().unwrap()),
        (Packing::Zstd, Packing::Zstd.pack(&zeros)),
    ] {
        let head = packing.pack(&claim.clone().open_end());
        let whole = repeated(&head, &zeros, 5 << 10);
        let bench = Bench::new();
        let path = bench.write("image.tar", &whole);
        let started = Instant::now();
        bench.refuses(1, &["layer.tar", "`ratio`", "--limit"], |bench| {
            bench.import(&path, &[])
        });
        println!("{packing:?} bomb: {:?}", started.elapsed());
    }
}

/// Streams of bzip2 and xz are packed again, and what was counted was our own packing: here
/// four bytes became one, so that a thousand for each that came were none too many.
#[test]
fn a_bomb_of_xz_is_counted_by_the_bytes_that_came() {
    let head = Tar::new().file("manifest", b"{}").dir("rootfs");
    let claim = head.claiming("rootfs/noise", EntryType::Regular, "", 40 << 30, b"");
    // Xz looks back further than a frame of ours is long.
    let packed = Packing::Xz.pack(&noise(1, 64 << 10).repeat(1 << 10));
    let streams = [Packing::Xz.pack(&claim.open_end()), packed.repeat(20)].concat();
    let bench = Bench::new();
    let path = bench.write("bomb.aci", &streams);
    let words = ["`ratio`", "more than 256 for one"];
    bench.refuses(1, &words, |bench| bench.import(&path, &[]));
    let file = path.to_str().unwrap();
    bench.refuses(1, &words, |bench| bench.run(&["validate", file]));
}

#[test]
#[ignore = "two GiB of headers take a minute when unoptimised"]
fn more_members_than_four_million_are_refused_by_default() {
    let frame = (0..1 << 16).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), b""));
    let frame = Packing::Zstd.pack(&frame.open_end());
    let one = Packing::Zstd.pack(&Tar::new().file("one more", b"").end());
    let mut packed = frame.repeat(64);
    packed.extend(one);
    let whole = archive(&Image::new("many:1", vec![Layer::raw(packed)]).docker());
    let bench = Bench::new();
    let started = Instant::now();
    let words = ["`entries`", "4194304"];
    bench.refuses(1, &words, |bench| {
        bench.pipe(&whole, &["--limit", "ratio=1000000"])
    });
    println!("4 194 305 members: {:?}", started.elapsed());
}

#[test]
fn a_stream_without_end_is_refused() {
    // `yes` and /dev/zero, through a pipe.
    let bench = Bench::new();
    for bytes in [&b"y\n"[..], &[0_u8]] {
        bench.refuses(1, &["cannot import `-`"], |bench| {
            let mut child = bench
                .command(&["import", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut to = child.stdin.take().unwrap();
            let block = bytes.repeat(1 << 16);
            // Until the reader has had enough; a GiB is more than that.
            let written = (0..1 << 13).take_while(|_| to.write_all(&block).is_ok());
            assert!(written.count() < 1 << 13, "it reads for ever");
            drop(to);
            Ran::of(child.wait_with_output().unwrap())
        });
    }
}
