//! What registries do wrong: what passes is survived, what stays or lies is refused with one
//! error, and nothing half-made stays.

use std::time::{Duration, Instant};

use lazyroot::causes::chain;
use lazyroot::import::ImportError;
use lazyroot::registry::RegistryError;
use serde_json::json;

use crate::images::{Bench, sha256};
use crate::puller::{
    Change, Puller, at, image, is_empty, is_whole, lab, pull, same, two_layers, with_config,
};
use crate::server::{Auth, Registry};
use crate::web::{Asked, Reply};

/// In the long layer not the middle, so that there are bytes for a second time.
fn middle(reply: &Reply) -> usize {
    300_000.min(reply.len() / 2)
}

#[test]
fn a_connection_that_breaks_is_gone_on_with() {
    let faults: [(&str, Change); 8] = [
        ("500", |_| Reply::status(500)),
        ("503", |_| Reply::status(503)),
        ("429", |_| Reply::status(429).header("Retry-After", "0")),
        ("cut", |reply| {
            let at = middle(&reply);
            reply.cut(at)
        }),
        ("reset", |reply| {
            let at = middle(&reply);
            reply.reset(at)
        }),
        ("stall", |reply| {
            let at = middle(&reply);
            reply.stall(at)
        }),
        ("hang up", Reply::hang_up),
        ("chunked", Reply::chunked),
    ];
    for (what, fault) in faults {
        for ranges in [true, false] {
            let registry = Registry::with(Auth::Open, ranges);
            let image = image("app:1");
            let pushed = registry.oci("team/app", "1", &image);
            let long = &pushed.layers[0];
            for part in ["manifests/", &pushed.config, long, long, &pushed.layers[1]] {
                registry.fault("GET", part, 1, move |_, reply| fault(reply));
            }
            let bench = Bench::new();
            let puller = Puller::new();
            puller
                .pull(&bench, &at(&registry, "team/app:1"))
                .unwrap_or_else(|e| panic!("{what}: {}", chain(&e)));
            same(&bench, &image);
            let again = if what == "chunked" { 0 } else { 5 };
            assert_eq!(puller.told.0.lock().unwrap().1, again, "{what}");
            let asked = registry.web.asked().into_iter();
            let asked = asked.filter(|asked| asked.url.contains(long.as_str()));
            let asked: Vec<_> = asked.map(|a| a.headers.get("range").cloned()).collect();
            assert_eq!(asked.len(), 1 + again * 2 / 5, "{what}");
            if ranges && matches!(what, "cut" | "stall") {
                assert_eq!(asked[1].as_deref(), Some("bytes=300000-"), "{what}");
            }
        }
    }
}

#[test]
fn a_server_that_cannot_go_on_begins_anew() {
    let registry = Registry::with(Auth::Open, false);
    let pushed = registry.oci("team/app", "1", &image("app:1"));
    registry.fault("GET", &pushed.layers[0], 2, |_, reply| reply.cut(300_000));
    registry.fault("GET", &pushed.layers[0], 1, |_, reply| reply.cut(600_000));
    let bench = Bench::new();
    Puller::new()
        .pull(&bench, &at(&registry, "team/app:1"))
        .unwrap();
    same(&bench, &image("app:1"));
}

#[test]
fn a_registry_that_stays_broken_is_given_up_with_its_own_words() {
    let (registry, pushed, name) = lab(Auth::Open);
    let bench = Bench::new();
    registry.fault("GET", &pushed.layers[0], usize::MAX, |_, _| {
        Reply::status(502)
    });
    let error = chain(&Puller::new().pull(&bench, &name).unwrap_err());
    assert!(error.contains("was answered with 502"), "{error}");
    assert_eq!(registry.count("GET", &pushed.layers[0]), 5);
    // It says when, in seconds or by its clock, and that is too long to wait for.
    for wait in ["3600", "Sun, 06 Nov 1994 09:49:37 GMT"] {
        let (registry, _, name) = lab(Auth::Open);
        registry.fault("GET", "manifests/1", usize::MAX, move |_, _| {
            let said = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]});
            let reply = Reply::ok(said.to_string()).with_status(429);
            reply
                .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
                .header("Retry-After", wait)
        });
        let begun = Instant::now();
        let error = Puller::new().pull(&bench, &name).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(20));
        let hint = error.hint().unwrap();
        assert!(hint.contains("3600 s"), "{wait}: {hint}");
        let error = chain(&error);
        assert!(error.contains("slow down"), "{error}");
        assert_eq!(registry.count("GET", "manifests/1"), 1);
    }
}

#[test]
fn a_registry_that_lies_changes_nothing() {
    let bench = Bench::new();
    let wrong = |part: &'static str, words: &[&str], change: fn(Reply) -> Reply| {
        let (registry, pushed, name) = lab(Auth::Open);
        let part = match part {
            "config" => pushed.config,
            "layer" => pushed.layers[0].clone(),
            other => other.to_owned(),
        };
        registry.fault("GET", &part, usize::MAX, move |_, reply| change(reply));
        Puller::new().refuses(&bench, &name, words);
    };
    wrong(
        "layer",
        &["its digest is sha256:", "but the image says"],
        |r| r.flip(700_000),
    );
    wrong(
        "layer",
        &["its digest is sha256:", "but the image says"],
        |r| r.flip(0),
    );
    wrong("layer", &["bytes", "but the image says"], |r| {
        Reply::ok(vec![0; r.len() - 1])
    });
    wrong("layer", &["bytes", "but the image says"], |r| {
        Reply::ok(vec![0; r.len() + 1])
    });
    wrong("layer", &["bytes", "but the image says"], |r| {
        Reply::ok(vec![0; r.len() + 100]).chunked()
    });
    wrong("config", &["has digest sha256:", "was asked for"], |r| {
        r.flip(9)
    });
    wrong("manifests/1", &["cannot be understood"], |_| {
        Reply::ok("<html>")
    });
    wrong("manifests/1", &["more than 8388608"], |_| {
        Reply::ok(vec![b' '; 9 << 20])
    });
    let old = r#"{"schemaVersion":1,"name":"a","fsLayers":[],"history":[],"signatures":[]}"#;
    let old: &'static str = old;
    let (registry, _, name) = lab(Auth::Open);
    registry.fault("GET", "manifests/1", 1, move |_, _| Reply::ok(old));
    Puller::new().refuses(&bench, &name, &["schema 1"]);
    // By its digest it is the manifest of that digest, whatever the headers say.
    let (registry, pushed, _) = lab(Auth::Open);
    registry.fault("GET", "manifests/sha256", 1, |_, reply| reply.flip(3));
    let name = at(&registry, &format!("team/app@{}", pushed.digest()));
    Puller::new().refuses(&bench, &name, &["has digest sha256:", &pushed.digest()]);
}

/// What stays wrong, or lies.
#[test]
fn a_fault_that_stays_is_one_error_and_nothing_is_left() {
    let image = two_layers(1);
    let lie: Change = |reply| reply.flip(100);
    let faults: [(&str, &str, Change, i32, &str); 8] = [
        (
            "manifest",
            "404",
            |reply| reply.with_status(404),
            3,
            "is not at",
        ),
        (
            "manifest",
            "403",
            |reply| reply.with_status(403),
            1,
            "does not let strangers",
        ),
        ("by digest", "other bytes", lie, 1, "has digest sha256:"),
        (
            "config",
            "404",
            |reply| reply.with_status(404),
            3,
            "is not at",
        ),
        ("config", "other bytes", lie, 1, "sha256:"),
        (
            "layer",
            "404",
            |reply| reply.with_status(404),
            3,
            "is not at",
        ),
        ("layer", "other bytes", lie, 1, "sha256:"),
        ("layer", "too long", |reply| reply.longer(), 1, "bytes"),
    ];
    std::thread::scope(|scope| {
        for (what, how, change, code, words) in faults {
            let image = &image;
            scope.spawn(move || {
                let (bench, registry) = (Bench::new(), Registry::new());
                let pushed = registry.oci("a", "1", image);
                let by_digest = format!("a@{}", pushed.digest());
                let (part, name) = match what {
                    "config" => (pushed.config.as_str(), "a:1"),
                    "layer" => (pushed.layers[1].as_str(), "a:1"),
                    "manifest" => ("/manifests/", "a:1"),
                    _ => ("/manifests/", by_digest.as_str()),
                };
                registry.fault("GET", part, usize::MAX, move |_, reply| change(reply));
                let ran = pull(&bench, &registry, name);
                assert_eq!(ran.code, code, "{what}, {how}: {}", ran.err);
                assert!(ran.err.contains(words), "{what}, {how}: {}", ran.err);
                let errors = ran.err.lines().filter(|line| line.starts_with("error: "));
                assert_eq!(errors.count(), 1, "{}", ran.err);
                is_empty(&bench);
                // And the lie is not gone on with.
                registry.heal();
                pull(&bench, &registry, "a:1").ok();
                is_whole(&bench, &registry, "a:1", image);
            });
        }
    });
}

/// What the registry says of its own bytes counts for nothing.
#[test]
fn a_header_that_lies_about_a_digest_changes_nothing() {
    let (bench, registry) = (Bench::new(), Registry::new());
    let image = two_layers(1);
    registry.oci("a", "1", &image);
    let lie = |_: &Asked, reply: Reply| reply.header("Docker-Content-Digest", &sha256(b"x"));
    registry.fault("GET", "", usize::MAX, lie);
    pull(&bench, &registry, "a:1").ok();
    is_whole(&bench, &registry, "a:1", &image);
}

#[test]
fn a_config_that_says_other_layers_is_refused() {
    let registry = Registry::new();
    with_config(&registry, "a", "1", &image("app:1"), |config| {
        config["rootfs"]["diff_ids"]
            .as_array_mut()
            .unwrap()
            .swap(1, 2);
    });
    let name = at(&registry, "a:1");
    Puller::new().refuses(&Bench::new(), &name, &["it unpacks to sha256:"]);
}

#[test]
fn a_blob_that_is_not_there_is_named() {
    let (registry, pushed, name) = lab(Auth::Open);
    registry.fault("GET", &pushed.layers[2], usize::MAX, |_, _| {
        Reply::status(404)
    });
    let error = Puller::new().pull(&Bench::new(), &name).unwrap_err();
    let gone = matches!(
        &error,
        ImportError::Registry(RegistryError::NotFound { .. })
    );
    assert!(
        gone && chain(&error).contains(&pushed.layers[2]),
        "{}",
        chain(&error)
    );
}
