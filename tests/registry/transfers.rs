//! Transfers that are cut, gone on with, and shared.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use lazyroot::causes::chain;
use lazyroot::import::ImportError;
use lazyroot::store::Store;
use rustix::process::{Pid, Signal, kill_process};

use crate::images::{Bench, Image, sha256};
use crate::puller::{
    Change, Puller, Pulling, at, image, is_empty, is_whole, lab, parts, pull, same, staged,
    two_layers, wait_for,
};
use crate::server::{Auth, Registry};
use crate::web::{Asked, Reply};

#[test]
fn a_pull_that_was_killed_goes_on_in_the_next() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = two_layers(1);
    let pushed = registry.oci("a", "1", &image);
    let second = &pushed.layers[1];
    registry.fault("GET", second, 1, |_, reply| reply.stall(200_000));
    let mut first = Pulling::start(&bench, &registry, "a:1");
    let whole = image.layers[0].packed.len() as u64;
    wait_for("the first part", || parts(&bench) == [200_000, whole]);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert_eq!(bench.run(&["images", "--quiet"]).text(), "");
    pull(&bench, &registry, "a:1").ok();
    is_whole(&bench, &registry, "a:1", &image);
    assert_eq!(
        registry.count("GET", &pushed.layers[0]),
        1,
        "{:?}",
        registry.log()
    );
    let asked = registry.web.asked();
    let ranges: Vec<_> = (asked.iter())
        .filter(|asked| asked.url.ends_with(second.as_str()))
        .map(|asked| asked.headers.get("range").map(String::as_str))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=200000-")]);
    assert_eq!(parts(&bench), [0; 0]);
}

#[test]
fn what_was_left_and_is_rotten_is_fetched_again() {
    let (_registry, pushed, name) = lab(Auth::Open);
    let long = image("app:1").layers[0].packed.clone();
    for rotten in [
        vec![0; 1000],
        vec![0; long.len()],
        vec![0; long.len() + 7],
        [&long[..500_000], &[0; 100]].concat(),
    ] {
        let bench = Bench::new();
        Store::create(&bench.store, 0).unwrap();
        let dir = bench.store.join("fetch");
        std::fs::create_dir_all(&dir).unwrap();
        let part = format!("{}.part", pushed.layers[0].replace(':', "-"));
        std::fs::write(dir.join(part), &rotten).unwrap();
        Puller::new().pull(&bench, &name).unwrap();
        same(&bench, &image("app:1"));
    }
}

#[test]
fn two_pulls_share_one_transfer_and_who_gives_up_stops_nobody() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = two_layers(1);
    let pushed = registry.oci("a", "1", &image);
    let slow = |_: &Asked, reply: Reply| reply.drip(10_000, Duration::from_millis(100));
    registry.fault("GET", &pushed.layers[1], 1, slow);
    let first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the transfer", || {
        registry.count("GET", &pushed.layers[1]) == 1
    });
    let mut others = [(); 2].map(|()| Pulling::start(&bench, &registry, "a:1"));
    for other in &mut others {
        other.says("waits for another process");
    }
    let [gives_up, waits] = others;
    gives_up.interrupt();
    gives_up.ends(130);
    first.ends(0);
    waits.ends(0);
    is_whole(&bench, &registry, "a:1", &image);
    for layer in &pushed.layers {
        assert_eq!(registry.count("GET", layer), 1, "{:?}", registry.log());
    }
}

#[test]
fn when_who_fetches_gives_up_the_next_one_goes_on() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = two_layers(1);
    let pushed = registry.oci("a", "1", &image);
    registry.fault("GET", &pushed.layers[1], 1, |_, reply| reply.stall(200_000));
    let first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the first part", || parts(&bench).contains(&200_000));
    let mut second = Pulling::start(&bench, &registry, "a:1");
    second.says("waits for another process");
    first.interrupt();
    first.ends(130);
    second.ends(0);
    is_whole(&bench, &registry, "a:1", &image);
    assert_eq!(
        registry.count("GET", &pushed.layers[0]),
        1,
        "{:?}",
        registry.log()
    );
}

#[test]
fn who_interrupts_does_not_wait_for_a_silent_server() {
    for part in ["/manifests/", "/blobs/"] {
        let (bench, registry) = (Bench::new(), Registry::new());
        registry.oci("a", "1", &two_layers(1));
        registry.fault("GET", part, usize::MAX, |_, reply| reply.silence());
        let pulling = Pulling::start(&bench, &registry, "a:1");
        wait_for("a request", || registry.count("GET", part) > 0);
        let begun = Instant::now();
        pulling.interrupt();
        pulling.ends(130);
        assert!(begun.elapsed() < Duration::from_secs(5), "{part}");
        is_empty(&bench);
    }
}

#[test]
fn who_wants_to_stop_is_not_kept_waiting_and_leaves_what_came() {
    let (registry, pushed, name) = lab(Auth::Open);
    registry.fault("GET", &pushed.layers[0], usize::MAX, |_, reply| {
        reply.stall(400_000)
    });
    let bench = Bench::new();
    let mut puller = Puller::new();
    puller.settings.network.stall = Duration::from_secs(300);
    let begun = Instant::now();
    let error = thread::scope(|scope| {
        let pulling = scope.spawn(|| puller.pull(&bench, &name));
        while registry.count("GET", &pushed.layers[0]) == 0 {
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(200));
        puller.stop.store(true, Ordering::Relaxed);
        pulling.join().unwrap().unwrap_err()
    });
    assert!(
        matches!(error, ImportError::Interrupted),
        "{}",
        chain(&error)
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
    let left: Vec<_> = bench.files().into_keys().collect();
    let parts = left
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "part"));
    assert!(parts.count() >= 1, "{left:?}");
    assert!(
        !left
            .iter()
            .any(|path| path.starts_with(bench.store.join("staging"))),
        "{left:?}"
    );
    Puller::new().stop.store(false, Ordering::Relaxed);
}

/// Two images that share their second layer, and what becomes of that the first time.
fn sharing(registry: &Registry, change: Change) -> ([Image; 2], String) {
    let mut all = [two_layers(1), two_layers(2)];
    all[1].layers[1] = all[0].layers[1].clone();
    let pushed = registry.oci("a", "1", &all[0]);
    registry.oci("b", "1", &all[1]);
    registry.fault("GET", &pushed.layers[1], 1, move |_, reply| change(reply));
    (all, pushed.layers[1].clone())
}

const SLOWLY: Change = |reply| reply.drip(5_000, Duration::from_millis(60));

/// It was fetched twice once: each process had a file of its own.
#[test]
fn two_pulls_of_other_images_share_the_transfer_of_a_layer() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let (images, shared) = sharing(&registry, SLOWLY);
    let first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the transfer", || registry.count("GET", &shared) == 1);
    let second = Pulling::start(&bench, &registry, "b:1");
    second.ends(0);
    first.ends(0);
    assert_eq!(registry.count("GET", &shared), 1, "{:?}", registry.log());
    is_whole(&bench, &registry, "a:1", &images[0]);
    is_whole(&bench, &registry, "b:1", &images[1]);
    assert_eq!(parts(&bench), [0; 0]);
}

#[test]
fn who_copies_a_layer_goes_on_when_the_other_pull_ends_early() {
    for signal in [Signal::INT, Signal::KILL] {
        let (bench, registry) = (Bench::new(), Registry::new());
        let (images, shared) = sharing(&registry, |reply| reply.stall(150_000));
        let mut first = Pulling::start(&bench, &registry, "a:1");
        wait_for("half of it", || parts(&bench).contains(&150_000));
        let second = Pulling::start(&bench, &registry, "b:1");
        wait_for("the copy", || staged(&bench).contains(&150_000));
        kill_process(Pid::from_child(&first.child), signal).unwrap();
        first.child.wait().unwrap();
        second.ends(0);
        is_whole(&bench, &registry, "b:1", &images[1]);
        let asked = registry.web.asked();
        let ranges: Vec<_> = (asked.iter())
            .filter(|asked| asked.url.ends_with(&shared))
            .map(|asked| asked.headers.get("range").map(String::as_str))
            .collect();
        assert_eq!(ranges, [None, Some("bytes=150000-")]);
    }
}

#[test]
fn who_copies_a_layer_may_leave_and_the_other_pull_goes_on() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let (images, shared) = sharing(&registry, SLOWLY);
    let first = Pulling::start(&bench, &registry, "a:1");
    wait_for("the transfer", || registry.count("GET", &shared) == 1);
    let second = Pulling::start(&bench, &registry, "b:1");
    let own = sha256(&images[1].layers[0].packed);
    wait_for("the second pull", || registry.count("GET", &own) == 1);
    second.interrupt();
    second.ends(130);
    first.ends(0);
    assert_eq!(registry.count("GET", &shared), 1, "{:?}", registry.log());
    is_whole(&bench, &registry, "a:1", &images[0]);
}

/// Another process has the lock of the part, and nothing comes there.
#[test]
fn who_copies_a_layer_does_not_wait_for_one_that_stands_still() {
    let (registry, pushed, name) = lab(Auth::Open);
    let long = image("app:1").layers[0].packed.clone();
    // Nor is it believed.
    for there in [long[..400_000].to_vec(), vec![0; 400_000]] {
        let bench = Bench::new();
        Store::create(&bench.store, 0).unwrap();
        let dir = bench.store.join("fetch");
        std::fs::create_dir_all(&dir).unwrap();
        let part = dir.join(format!("{}.part", pushed.layers[0].replace(':', "-")));
        std::fs::write(&part, &there).unwrap();
        let held = std::fs::File::open(&part).unwrap();
        held.lock().unwrap();
        let before = registry.web.asked().len();
        Puller::new().pull(&bench, &name).unwrap();
        assert_eq!(std::fs::read(&part).unwrap(), there, "theirs");
        let asked = registry.web.asked().split_off(before);
        let mut asked = asked.iter().filter(|a| a.url.contains(&pushed.layers[0]));
        assert_eq!(asked.next().unwrap().headers["range"], "bytes=400000-");
        std::fs::remove_file(&part).unwrap();
        same(&bench, &image("app:1"));
    }
}

/// The image is divided into what the store has and what not before anything is fetched.
#[test]
fn a_layer_that_another_pull_brought_meanwhile_is_not_fetched() {
    let registry = Registry::new();
    let image = image("app:1");
    let pushed = registry.oci("app", "1", &image);
    let part = Image::new("part:1", image.layers[1..].to_vec());
    registry.oci("part", "1", &part);
    let (app, part) = (at(&registry, "app:1"), at(&registry, "part:1"));
    let bench = Bench::new();
    registry.fault("GET", &pushed.layers[0], 1, |_, reply| {
        reply.drip(100_000, Duration::from_millis(200))
    });
    let mut puller = Puller::new();
    (puller.at_once, puller.settings.network.stall) = (1, Duration::from_secs(10));
    let got = thread::scope(|scope| {
        let pulling = scope.spawn(|| puller.pull(&bench, &app));
        while registry.count("GET", &pushed.layers[0]) == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        Puller::new().pull(&bench, &part).unwrap();
        pulling.join().unwrap().unwrap()
    });
    assert_eq!((got[0].layers, got[0].layers_kept), (6, 5));
    for layer in &pushed.layers {
        assert_eq!(registry.count("GET", layer), 1, "{:?}", registry.log());
    }
    bench.run(&["verify", &app]).ok();
}
