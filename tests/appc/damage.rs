//! Archives and stores that are damaged: the right answer or an error, no panic.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lazyroot::archive::Archive;
use lazyroot::digest::AciId;
use lazyroot::image::Want;
use lazyroot::image::appc::{Dependency, Manifest};
use lazyroot::import::{
    ImportError, Imported, Options, Progress, check_aci, check_wanted, import, import_aci,
};
use lazyroot::layer::Limits;
use lazyroot::store::Store;

use super::images::*;
use super::{Aci, What, id, seen};

struct Nobody;
impl Progress for Nobody {}

fn aci() -> Aci {
    let members = [
        ("d", What::Dir(0o755)),
        ("d/f", What::File("text")),
        ("g", What::File("other")),
    ];
    Aci::new("a", &members).listing(&["/d/f"])
}

/// Imports a file, with an ID that it must have.
fn take(bench: &Bench, bytes: &[u8], wanted: Option<AciId>) -> Result<Vec<Imported>, ImportError> {
    let store = Store::create(&bench.store, 0).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let path = bench.write("x", bytes);
    let options = Options {
        names: &[],
        want: &Want::host(),
        again: false,
        limits: Limits::default(),
        now: 1,
        progress: &Nobody,
        stop: &stop,
    };
    let wanted = wanted.map(|id| Dependency {
        image: "appc:a".parse().unwrap(),
        id: Some(id),
        size: None,
    });
    match Archive::open(&path, &stop)? {
        Archive::Aci(aci) => {
            let accept = |id, manifest: &Manifest| match &wanted {
                Some(wanted) => check_wanted(wanted, id, manifest),
                None => Ok(()),
            };
            import_aci(&store, aci, &accept, &options)
        }
        other => import(&store, other, &options),
    }
}

#[test]
fn an_archive_that_was_cut_is_never_taken() {
    let tar = aci().tar();
    let bench = Bench::new();
    for packing in [Packing::Gzip, Packing::Zstd, Packing::Bzip2, Packing::Xz] {
        let packed = packing.pack(&tar);
        for len in 0..packed.len() {
            assert!(
                take(&bench, &packed[..len], None).is_err(),
                "{packing:?} cut at {len}"
            );
        }
    }
    // A plain tar may be cut behind a member; then it is another image.
    for len in (0..tar.len()).step_by(64) {
        if let Ok(imported) = take(&bench, &tar[..len], None) {
            assert_ne!(imported[0].id.to_string().replace(':', "-"), id(&tar));
        }
    }
}

#[test]
fn an_archive_with_a_flipped_bit_is_refused_or_is_another_image() {
    let tar = aci().tar();
    let right = id(&tar);
    let mut dice = Dice::new(7);
    for packing in [
        Packing::Plain,
        Packing::Gzip,
        Packing::Zstd,
        Packing::Bzip2,
        Packing::Xz,
    ] {
        let packed = packing.pack(&tar);
        for _ in 0..150 {
            let mut flipped = packed.clone();
            let at = dice.below(flipped.len());
            flipped[at] ^= 1 << dice.below(8);
            let bench = Bench::new();
            let wanted = right.parse().unwrap();
            match take(&bench, &flipped, Some(wanted)) {
                // In a header of the compression that says nothing: its time, say.
                Ok(imported) => {
                    assert_ne!(packing, Packing::Plain, "byte {at}");
                    assert_eq!(imported[0].id, wanted.image());
                    assert_eq!(
                        seen(&bench, "appc:a")["d/f"].what,
                        super::What2::File(b"text".to_vec())
                    );
                }
                Err(ImportError::WrongId { found, .. }) => assert_ne!(found, wanted),
                Err(_) => {}
            }
        }
    }
}

#[test]
fn an_image_is_compared_with_the_id_that_it_should_have() {
    let bench = Bench::new();
    let tar = aci().tar();
    let other: AciId = format!("sha512-{}", "0".repeat(128)).parse().unwrap();
    let error = take(&bench, &tar, Some(other)).unwrap_err();
    assert!(matches!(error, ImportError::WrongId { .. }), "{error}");
    assert!(bench.run(&["images", "-q"]).ok().text().is_empty());
    take(&bench, &tar, Some(id(&tar).parse().unwrap())).unwrap();
}

#[test]
fn a_check_reads_to_the_end() {
    let bench = Bench::new();
    let stop = Arc::new(AtomicBool::new(false));
    let packed = Packing::Xz.pack(&aci().tar());
    for (len, sound) in [(packed.len(), true), (packed.len() - 1, false)] {
        let path = bench.write("x", &packed[..len]);
        let Archive::Aci(aci) = Archive::open(&path, &stop).unwrap() else {
            panic!("it is an ACI");
        };
        assert_eq!(check_aci(aci, Limits::default(), &stop).is_ok(), sound);
    }
    let limits = Limits {
        unpacked: 1000,
        ..Limits::default()
    };
    let path = bench.write("x", &packed);
    let Archive::Aci(aci) = Archive::open(&path, &stop).unwrap() else {
        panic!("it is an ACI");
    };
    assert!(check_aci(aci, limits, &stop).is_err());
}

#[test]
fn a_flipped_bit_in_the_store_is_an_error_and_never_another_tree() {
    let bench = Bench::new();
    let base = Aci::new(
        "base",
        &[("d", What::Dir(0o755)), ("d/x", What::File("hidden"))],
    );
    base.import(&bench);
    aci().on(&["base"]).import(&bench);
    let right = seen(&bench, "appc:a");
    assert!(!right.contains_key("d/x"));
    let mut dice = Dice::new(3);
    for directory in ["images-v1", "whitelists-v1", "layers-v1"] {
        for entry in fs::read_dir(bench.store.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            if bytes.is_empty() {
                // `names.watched` is there for its lock.
                continue;
            }
            for _ in 0..12 {
                let mut flipped = bytes.clone();
                let at = dice.below(flipped.len());
                flipped[at] ^= 1 << dice.below(8);
                fs::write(&path, &flipped).unwrap();
                let ran = bench.run(&["ls", "-R", "appc:a"]);
                let read = bench.run(&["cat", "appc:a:/d/f"]);
                match ran.code {
                    0 => assert!(
                        !ran.text().contains('x'),
                        "{}: {}",
                        path.display(),
                        ran.text()
                    ),
                    _ => assert!(ran.err.starts_with("error: "), "{}", ran.err),
                }
                if read.code == 0 {
                    assert_eq!(read.text(), "text", "{}", path.display());
                }
                let hidden = bench.run(&["cat", "appc:a:/d/x"]);
                assert_ne!(hidden.code, 0, "{} byte {at}", path.display());
            }
            fs::write(&path, &bytes).unwrap();
        }
    }
    assert_eq!(seen(&bench, "appc:a"), right);
}
