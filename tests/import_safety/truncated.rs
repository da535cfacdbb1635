//! An archive that was cut: never taken, never a panic.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lazyroot::archive::Archive;
use lazyroot::image::Want;
use lazyroot::import::{ImportError, Imported, Options, Progress, import};
use lazyroot::layer::Limits;
use lazyroot::store::Store;

use super::images::*;

struct Nobody;
impl Progress for Nobody {}

fn take(bench: &Bench, bytes: &[u8]) -> Result<Vec<Imported>, ImportError> {
    let store = Store::create(&bench.store, 1 << 20).unwrap();
    let path = bench.write("cut", bytes);
    let want = Want::only("linux/amd64".parse().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let options = Options {
        names: &[],
        want: &want,
        again: false,
        limits: Limits::default(),
        now: 0,
        progress: &Nobody,
        stop: &stop,
    };
    import(&store, Archive::open(&path, &stop)?, &options)
}

/// Cuts `whole` at every 512 bytes, around the borders, and at random; all cuts
/// below `needed` must fail.
#[track_caller]
fn cuts(whole: &[u8], needed: usize) {
    let bench = Bench::new();
    let mut dice = Dice::new(whole.len() as u64);
    let mut at: Vec<usize> = (0..whole.len().min(20)).collect();
    at.extend([511, 513, whole.len() - 1, whole.len() - 8, whole.len() - 9]);
    at.extend((0..whole.len()).step_by(whole.len() / 40 / 512 * 512 + 512));
    at.extend((0..60).map(|_| dice.below(whole.len())));
    for cut in at.into_iter().filter(|cut| *cut < needed) {
        let error = take(&bench, &whole[..cut]).expect_err("it is not whole");
        assert!(!error.to_string().is_empty());
        assert!(
            bench.files().is_empty(),
            "cut at {cut}: {:?}",
            bench.files()
        );
    }
    take(&bench, whole).expect("the whole is sound");
}

/// Where the last member's data ends: what follows is padding.
fn needed(files: &Files) -> usize {
    let all = archive(files).len() - 1024;
    let last = files.last().unwrap().1.len();
    all - last.next_multiple_of(512) + last
}

#[test]
fn a_cut_docker_archive_is_refused_wherever_it_is_cut() {
    let files = Image::small("cut:1", 1, Packing::Plain).docker();
    cuts(&archive(&files), needed(&files));
}

#[test]
fn a_cut_oci_archive_is_refused_wherever_it_is_cut() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let files = Image::small("cut:1", 1, packing).oci();
        cuts(&archive(&files), needed(&files));
    }
}

#[test]
fn a_cut_legacy_archive_is_refused_although_it_has_no_digests() {
    let files = Image::small("cut:1", 1, Packing::Plain).legacy();
    cuts(&archive(&files), needed(&files));
}

#[test]
fn a_cut_compressed_archive_is_refused_down_to_its_last_byte() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let whole = packing.pack(&archive(&Image::small("cut:1", 1, Packing::Plain).docker()));
        cuts(&whole, whole.len());
        let whole = packing.pack(&archive(&Image::small("cut:1", 1, Packing::Gzip).oci()));
        cuts(&whole, whole.len());
    }
}

#[test]
fn a_layer_that_is_cut_within_a_whole_archive_is_refused() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let whole = packing.pack(&sound_layer(3));
        let bench = Bench::new();
        for cut in [1, 9, 20, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            let layer = Layer::raw(whole[..cut].to_vec());
            let files = Image::new("cut:1", vec![layer]).docker();
            take(&bench, &archive(&files)).expect_err("its layer is not whole");
            assert!(bench.files().is_empty());
        }
    }
    // A tar that ends within a member, under the right digest.
    let tar = sound_layer(3);
    let bench = Bench::new();
    for cut in [100, 700, 5000, tar.len() - 40_000] {
        let layer = Layer::new(&tar[..cut], Packing::Gzip);
        let files = Image::new("cut:1", vec![layer]).oci();
        take(&bench, &archive(&files)).expect_err("its layer is not whole");
        assert!(bench.files().is_empty());
    }
}
