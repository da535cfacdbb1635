//! Images that go to a registry: byte for byte, once, and however often it takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lazyroot::causes::chain;
use lazyroot::export::ExportError;
use lazyroot::export::push::{Progress, Push, Pushed, push};
use lazyroot::http::Network;
use lazyroot::registry::{Arrival, Credentials, Login, Registry as Client, Secret, Settings};
use lazyroot::store::Store;
use serde_json::Value;

use crate::images::{Bench, Image, Layer, Packing, Tar, archive, noise, sha256};
use crate::server::{Auth, OCI_MANIFEST, PASSWORD, Registry, USER};

fn client(registry: &Registry, login: bool) -> Client {
    let login = login.then(|| Login::Password {
        user: USER.to_owned(),
        password: Secret::new(PASSWORD),
    });
    Client::new(Settings {
        network: Network {
            stall: Duration::from_millis(500),
            pause: Duration::from_millis(5),
            ..Network::default()
        },
        credentials: login.map_or_else(Credentials::none, |login| {
            Credentials::only(&registry.host(), login)
        }),
        ..Settings::default()
    })
}

/// Counts what it is told.
#[derive(Default)]
struct Told(std::sync::Mutex<(u64, i64)>);

impl Progress for Told {
    fn begin(&self, bytes: u64) {
        self.0.lock().unwrap().0 = bytes;
    }

    fn moved(&self, bytes: i64) {
        self.0.lock().unwrap().1 += bytes;
    }
}

fn try_push(
    bench: &Bench,
    client: &Client,
    image: &str,
    to: &str,
    stop: &AtomicBool,
) -> Result<Pushed, ExportError> {
    let store = Store::open(&bench.store, &bench.path("cache"), 0).unwrap();
    let id = store.find(image).unwrap();
    let told = Told::default();
    let how = Push {
        to: &to.parse().unwrap(),
        progress: &told,
        stop,
    };
    let pushed = push(&store, id, client, &how)?;
    let (all, moved) = *told.0.lock().unwrap();
    assert_eq!(
        i64::try_from(all).unwrap(),
        moved,
        "progress ends at its end"
    );
    Ok(pushed)
}

/// `image` of the store as `HOST/to`.
fn push_to(
    bench: &Bench,
    registry: &Registry,
    image: &str,
    to: &str,
) -> Result<Pushed, ExportError> {
    let client = client(registry, registry.has_login());
    let to = format!("{}/{to}", registry.host());
    try_push(bench, &client, image, &to, &AtomicBool::new(false))
}

fn bench(image: &Image) -> Bench {
    let bench = Bench::new();
    bench.pipe(&archive(&image.oci()), &[]).ok();
    bench
}

/// What the archive's index names.
fn manifest_of(image: &Image) -> String {
    let files = image.oci();
    let index = &files
        .iter()
        .find(|(name, _)| name == "index.json")
        .unwrap()
        .1;
    let index: Value = serde_json::from_slice(index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

fn arrivals(pushed: &Pushed, arrival: Arrival) -> usize {
    pushed
        .blobs
        .iter()
        .filter(|blob| blob.arrival == arrival)
        .count()
}

#[track_caller]
fn is_there(registry: &Registry, repository: &str, tag: &str, image: &Image) {
    let (kind, manifest) = registry.stored(repository, tag).unwrap();
    assert_eq!(kind, OCI_MANIFEST);
    assert_eq!(sha256(&manifest), manifest_of(image));
    for layer in &image.layers {
        assert!(registry.has_blob(repository, &sha256(&layer.packed)));
    }
}

#[test]
fn an_image_arrives_byte_for_byte_and_once() {
    let image = Image::small("a:1", 1, Packing::Gzip);
    let (bench, registry) = (bench(&image), Registry::new());
    let pushed = push_to(&bench, &registry, "a:1", "team/a:1").unwrap();
    is_there(&registry, "team/a", "1", &image);
    assert_eq!(pushed.digest.to_string(), manifest_of(&image));
    assert_eq!(
        (pushed.blobs.len(), arrivals(&pushed, Arrival::Sent)),
        (3, 3)
    );
    let again = push_to(&bench, &registry, "a:1", "team/a:2").unwrap();
    assert_eq!(arrivals(&again, Arrival::There), 3);
    assert_eq!(registry.count("POST", ""), 3, "{:?}", registry.log());
    is_there(&registry, "team/a", "2", &image);
}

#[test]
fn an_image_without_a_manifest_gets_one_of_oci() {
    let image = Image::small("a:1", 1, Packing::Plain);
    let bench = Bench::new();
    bench.pipe(&archive(&image.docker()), &[]).ok();
    let registry = Registry::new();
    let pushed = push_to(&bench, &registry, "a:1", "a:1").unwrap();
    let (kind, manifest) = registry.stored("a", "1").unwrap();
    assert_eq!(
        (kind.as_str(), sha256(&manifest)),
        (OCI_MANIFEST, pushed.digest.to_string())
    );
    let said: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(
        said["layers"][0]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar"
    );
    assert_eq!(said["layers"][1]["digest"], image.layers[1].diff.as_str());
}

#[test]
fn the_same_layer_twice_is_one_blob() {
    let tar = Tar::new().file("x", &noise(3, 5000)).end();
    let layer = Layer::new(&tar, Packing::Gzip);
    let image = Image::new("a:1", vec![layer.clone(), layer]);
    let (bench, registry) = (bench(&image), Registry::new());
    assert_eq!(
        push_to(&bench, &registry, "a:1", "a:1")
            .unwrap()
            .blobs
            .len(),
        2
    );
    is_there(&registry, "a", "1", &image);
}

#[test]
fn what_another_repository_has_is_mounted() {
    let image = Image::small("a:1", 1, Packing::Gzip);
    let registry = Registry::new();
    let bench = Bench::new();
    let name = format!("{}/team/a:1", registry.host());
    let path = bench.write("a.tar", &archive(&image.oci()));
    bench.import(&path, &["--name", &name]).ok();
    push_to(&bench, &registry, &name, "team/a:1").unwrap();
    let other = push_to(&bench, &registry, &name, "other/a:1").unwrap();
    assert_eq!(
        arrivals(&other, Arrival::Mounted),
        3,
        "{:?}",
        registry.log()
    );
    is_there(&registry, "other/a", "1", &image);
    // The store may be wrong about who has it, and a registry may not mount at all.
    let elsewhere = Registry::new();
    let name = format!("{}/never/pushed:1", elsewhere.host());
    bench.run(&["tag", "team/a:1", &name]);
    bench.import(&path, &["--name", &name]).ok();
    let pushed = push_to(&bench, &elsewhere, &name, "b:1").unwrap();
    assert_eq!(arrivals(&pushed, Arrival::Sent), 3);
    assert_eq!(elsewhere.count("POST", "mount="), 3);
    assert_eq!(
        elsewhere.count("POST", ""),
        3,
        "the upload that was begun is used"
    );
    is_there(&elsewhere, "b", "1", &image);
}

#[test]
fn who_has_a_login_may_push_and_who_has_none_is_told() {
    let image = Image::small("a:1", 1, Packing::Gzip);
    let bench = bench(&image);
    let bearer = |uses| Auth::Bearer {
        realm: None,
        anonymous: true,
        uses,
    };
    for auth in [Auth::Basic, bearer(usize::MAX), bearer(1)] {
        let registry = Registry::with(auth.clone(), true);
        push_to(&bench, &registry, "a:1", "team/a:1").unwrap();
        is_there(&registry, "team/a", "1", &image);
        let nobody = client(&registry, false);
        let to = format!("{}/team/b:1", registry.host());
        let refused = try_push(&bench, &nobody, "a:1", &to, &AtomicBool::new(false));
        let error = refused.unwrap_err();
        let told = chain(&error);
        assert!(told.contains("does not let strangers"), "{told}");
        assert!(error.hint().unwrap().contains("lazyroot login"), "{auth:?}");
        assert!(registry.stored("team/b", "1").is_none());
    }
}

#[test]
fn every_passing_fault_is_survived() {
    let image = Image::small("a:1", 1, Packing::Gzip);
    let bench = bench(&image);
    for (method, part) in [
        ("HEAD", "/blobs/"),
        ("POST", "/uploads/"),
        ("PUT", "/uploads/"),
        ("PUT", "/manifests/"),
    ] {
        for fault in 0..4 {
            let registry = Registry::new();
            registry.fault(method, part, 2, move |_, reply| match fault {
                0 => reply.with_status(503),
                1 => reply.with_status(429).header("Retry-After", "0"),
                2 => reply.hang_up(),
                _ => reply.silence(),
            });
            if let Err(error) = push_to(&bench, &registry, "a:1", "a:1") {
                panic!("{method} {part} {fault}: {}", chain(&error));
            }
            is_there(&registry, "a", "1", &image);
        }
    }
}

#[test]
fn a_fault_that_stays_is_one_error_and_no_name() {
    let image = Image::small("a:1", 1, Packing::Gzip);
    let bench = bench(&image);
    for (method, part, status, words) in [
        ("POST", "/uploads/", 500, "was answered with 500"),
        ("PUT", "/uploads/", 429, "takes no more requests now"),
        ("PUT", "/uploads/", 413, "was answered with 413"),
        ("PUT", "/manifests/", 403, "does not let"),
        ("POST", "/uploads/", 404, "is not at"),
    ] {
        let registry = Registry::new();
        registry.fault(method, part, usize::MAX, move |_, reply| {
            reply.with_status(status)
        });
        // Nor does it have what came with what it refuses.
        registry.fault("HEAD", "/blobs/", usize::MAX, |_, reply| {
            reply.with_status(404)
        });
        let told = chain(&push_to(&bench, &registry, "a:1", "a:1").unwrap_err());
        assert!(told.contains(words), "{told}");
        // A registry that refuses a manifest afterwards has it here.
        assert!(part == "/manifests/" || registry.stored("a", "1").is_none());
    }
}

/// 20 MB, in pieces of 16 MiB once something broke.
fn large() -> Image {
    let tar = Tar::new().file("x", &noise(9, 20 << 20)).end();
    Image::new("a:1", vec![Layer::new(&tar, Packing::Plain)])
}

/// The connection breaks at the end of the first try to send the large blob. The config is
/// small, and may be the first of the two.
fn cut(registry: &Registry) {
    registry.fault("PUT", "/uploads/", 2, |asked, reply| {
        match asked.body.len() {
            0..100_000 => reply,
            _ => reply.hang_up(),
        }
    });
}

/// The registry did not keep what came before that.
fn cut_and_lost(registry: &Registry) {
    cut(registry);
    registry.fault("HEAD", "/blobs/", 99, |_, reply| reply.with_status(404));
}

#[test]
fn a_blob_whose_arrival_was_not_heard_of_is_not_sent_again() {
    let image = large();
    let (bench, registry) = (bench(&image), Registry::new());
    cut(&registry);
    push_to(&bench, &registry, "a:1", "a:1").unwrap();
    is_there(&registry, "a", "1", &image);
    // One for the config.
    assert_eq!(registry.count("PUT", "/uploads/"), 2);
    assert_eq!(registry.count("PATCH", ""), 0);
}

#[test]
fn a_registry_that_forgets_each_upload_is_not_sent_it_for_ever() {
    let image = large();
    let (bench, registry) = (bench(&image), Registry::new());
    cut_and_lost(&registry);
    registry.fault(
        "PATCH",
        "",
        99,
        |asked, reply| match asked.headers["content-range"].starts_with("0-") {
            true => reply,
            false => reply.hang_up(),
        },
    );
    registry.fault("GET", "/uploads/", 99, |_, reply| reply.with_status(404));
    push_to(&bench, &registry, "a:1", "a:1").unwrap_err();
    assert!(registry.count("PATCH", "") < 20, "{:?}", registry.log());
    assert!(registry.stored("a", "1").is_none());
}

#[test]
fn a_large_blob_goes_on_where_it_was_cut() {
    let image = large();
    let (bench, registry) = (bench(&image), Registry::new());
    cut_and_lost(&registry);
    // The first piece arrives, and its answer does not.
    registry.fault("PATCH", "", 1, |_, reply| reply.hang_up());
    registry.fault("GET", "/uploads/", 1, |_, reply| reply);
    registry.fault("GET", "/uploads/", 1, |_, reply| reply.with_status(503));
    push_to(&bench, &registry, "a:1", "a:1").unwrap();
    is_there(&registry, "a", "1", &image);
    let asked = registry.web.asked();
    let pieces: Vec<usize> = (asked.iter())
        .filter(|asked| asked.method == "PATCH")
        .map(|asked| asked.body.len())
        .collect();
    let len = image.layers[0].packed.len();
    assert_eq!(pieces, [16 << 20, len - (16 << 20)], "{:?}", registry.log());
    // The upload that ended is not there any more, the second one is; at once it cannot say so.
    assert_eq!(registry.count("GET", "/uploads/"), 3);
}

#[test]
fn a_registry_that_forgot_an_upload_gets_it_from_its_beginning() {
    let image = large();
    let (bench, registry) = (bench(&image), Registry::new());
    cut_and_lost(&registry);
    registry.fault("PATCH", "", 1, |_, reply| reply.hang_up());
    registry.fault("GET", "/uploads/", 2, |_, reply| reply.with_status(404));
    push_to(&bench, &registry, "a:1", "a:1").unwrap();
    is_there(&registry, "a", "1", &image);
    assert_eq!(registry.count("PATCH", ""), 3, "{:?}", registry.log());
}

#[test]
fn a_blob_that_is_damaged_here_is_named() {
    let image = Image::small("a:1", 1, Packing::Gzip);
    let (bench, registry) = (bench(&image), Registry::new());
    let digest = sha256(&image.layers[0].packed);
    let path = bench
        .store
        .join(format!("blobs/{}", digest.replace(':', "/")));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let told = chain(&push_to(&bench, &registry, "a:1", "a:1").unwrap_err());
    assert!(
        told.contains("is damaged") && told.contains(&digest[7..]),
        "{told}"
    );
    assert!(registry.stored("a", "1").is_none());
}

#[test]
fn who_wants_to_stop_does_not_wait_and_leaves_no_name() {
    let image = Image::small("a:1", 1, Packing::Gzip);
    let (bench, registry) = (bench(&image), Registry::new());
    registry.fault("PUT", "/uploads/", usize::MAX, |_, reply| {
        reply.with_status(503)
    });
    let client = Client::new(Settings {
        network: Network {
            pause: Duration::from_secs(60),
            ..Network::default()
        },
        ..Settings::default()
    });
    let stop = AtomicBool::new(false);
    let to = format!("{}/a:1", registry.host());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| try_push(&bench, &client, "a:1", &to, &stop));
        while registry.count("PUT", "") == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        let outcome = pushing.join().unwrap();
        assert!(
            matches!(outcome, Err(ExportError::Interrupted)),
            "{outcome:?}"
        );
    });
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(registry.stored("a", "1").is_none());
}

#[test]
fn a_digest_in_the_name_must_be_the_images() {
    let image = Image::small("a:1", 1, Packing::Gzip);
    let (bench, registry) = (bench(&image), Registry::new());
    let right = format!("a@{}", manifest_of(&image));
    push_to(&bench, &registry, "a:1", &right).unwrap();
    let wrong = format!("a@{}", sha256(b"other"));
    let error = push_to(&bench, &registry, "a:1", &wrong).unwrap_err();
    assert!(matches!(error, ExportError::OtherDigest { .. }), "{error}");
}
