//! Bytes that flip in a finished store: the right bytes come, or none.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::images::*;

/// A finished store, what is in its image, and the archive that it came from.
struct Finished {
    bench: Bench,
    archive: PathBuf,
    contents: BTreeMap<String, Vec<u8>>,
}

impl Finished {
    fn new() -> Self {
        let bench = Bench::new();
        let layers = [(1, Packing::Plain), (2, Packing::Gzip), (3, Packing::Zstd)];
        let layers = layers.map(|(salt, packing)| Layer::new(&sound_layer(salt), packing));
        let image = Image::new("flip:1", layers.to_vec());
        let archive = bench.write("image.tar", &archive(&image.docker_25()));
        bench.import(&archive, &[]).ok();
        let mut contents = BTreeMap::new();
        for name in (1..4).flat_map(sound_files) {
            let name = format!("flip:1:{name}");
            let bytes = bench.run(&["cat", &name]).ok().out;
            contents.insert(name, bytes);
        }
        assert_eq!(contents["flip:1:/etc/big-3"], noise(5, 40_000));
        Self {
            bench,
            archive,
            contents,
        }
    }

    /// Whether all files can be read; none may be read wrongly.
    fn readable(&self, what: &str) -> bool {
        // The copy that an earlier reader made would hide damage of the blob.
        for entry in fs::read_dir(self.bench.store.join("expanded-v1")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let mut all = true;
        for (name, right) in &self.contents {
            let ran = self.bench.run(&["cat", name]);
            match ran.code {
                0 => assert!(ran.out == *right, "{what}: wrong bytes of {name}"),
                1 | 3 | 5 => {
                    assert!(ran.err.starts_with("error: "), "{what}: {}", ran.err);
                    assert!(right.starts_with(&ran.out), "{what}: wrong bytes of {name}");
                    all = false;
                }
                code => panic!("{what}: {name}: exit {code}: {}", ran.err),
            }
        }
        all
    }

    fn mend(&self, what: &str) {
        let ran = self.bench.import(&self.archive, &["--again"]);
        assert_eq!(ran.code, 0, "{what} is not mended: {}", ran.err);
        let ran = self.bench.run(&["verify"]);
        assert_eq!(
            ran.code,
            0,
            "{what} is not mended: {}{}",
            ran.text(),
            ran.err
        );
        assert!(self.readable(what), "{what} is not mended");
    }
}

/// Flips bytes of each file whose path has `part` in it.
fn flip(part: &str, times: usize, found_always: bool) {
    let finished = Finished::new();
    let mut files = finished.bench.files().into_keys().collect::<Vec<_>>();
    files.retain(|path| path.to_str().unwrap().contains(part));
    assert!(!files.is_empty());
    let mut dice = Dice::new(part.len() as u64 + 40);
    for path in files {
        let sound = fs::read(&path).unwrap();
        for time in 0..times {
            let mut bytes = sound.clone();
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
            let mut what = format!("{} with byte {at} flipped", path.display());
            // Shorter, longer, empty and gone are damage as well.
            match time {
                0 => (bytes.truncate(at), what.push_str(" and cut")).1,
                1 => bytes.push(0),
                2 => bytes.clear(),
                _ => {}
            }
            fs::write(&path, &bytes).unwrap();
            if time == 3 {
                fs::remove_file(&path).unwrap();
                what = format!("{} removed", path.display());
            }
            let readable = finished.readable(&what);
            let verify = finished.bench.run(&["verify"]);
            match verify.code {
                5 => {
                    let named = ["store/", "is not in the store"];
                    let said = verify.text();
                    assert!(
                        named.iter().any(|text| said.contains(text)),
                        "{what}: {said}"
                    );
                }
                // Another name is a name too, and a store may have none: then the
                // image is not found, and its ID still leads to it.
                0 if what.contains("names.json") => {}
                0 => assert!(readable && !found_always, "{what}: verify finds nothing"),
                code => panic!("{what}: verify answers {code}: {}", verify.err),
            }
            finished.mend(&what);
        }
    }
}

#[test]
fn a_flipped_byte_of_a_blob_or_config_is_found_and_mended() {
    flip("blobs/", 9, true);
}

#[test]
fn a_flipped_byte_of_a_seek_map_is_found_and_mended() {
    flip(".map", 14, true);
}

#[test]
fn a_flipped_byte_of_an_index_is_found_and_mended() {
    flip(".idx", 20, true);
}

#[test]
fn a_flipped_byte_of_a_record_gives_no_wrong_bytes_and_is_mended() {
    // A record's dates and the like are under no digest: damage there goes unseen.
    flip("layers-v1/sha256-", 12, false);
    flip("images-v1/sha256-", 40, false);
}

#[test]
fn a_flipped_byte_of_the_table_of_names_gives_no_wrong_bytes_and_is_mended() {
    flip("names.json", 40, false);
}
