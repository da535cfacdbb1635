//! `lazyroot pull`, with TLS that is real: the server is every host by being the proxy,
//! and its certificate is the only root.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::images::{Bench, Image, Packing, Ran};
use crate::web::{Reply, Web};

const APP: &str = "appc:example.com/app:1,os=linux,arch=amd64";
const LABELS: [(&str, &str); 3] = [("version", "1"), ("os", "linux"), ("arch", "amd64")];
const PAGE: &str = "https://example.com/app?ac-discovery=1";
const IMAGE: &str = "https://storage.example.com/example.com/app-1.aci";
const TAG: &str = "<meta name=ac-discovery content='example.com https://storage.example.com/{name}-{version}.{ext}'>";

/// `pull`, with this server as every host there is.
fn pull(bench: &Bench, web: &Web, args: &[&str]) -> Ran {
    let roots = bench.write("roots.pem", web.certificate().as_bytes());
    let mut command = bench.command(&["pull"]);
    command
        .args(args)
        .env("https_proxy", web.proxy())
        .env("http_proxy", web.proxy());
    command.env("SSL_CERT_FILE", roots);
    Ran::of(command.stdin(Stdio::null()).output().unwrap())
}

fn local(bench: &Bench, dir: &Path, args: &[&str]) -> Ran {
    let mut command = bench.command(&["pull", "--discovery", "local"]);
    command.args(args).env("LAZYROOT_LOCAL_DIR", dir);
    Ran::of(command.stdin(Stdio::null()).output().unwrap())
}

#[track_caller]
fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
}

#[test]
fn an_archive_of_the_local_directory_becomes_an_image() {
    let bench = Bench::new();
    let dir = bench.path("images");
    fs::create_dir(&dir).unwrap();
    let image = Image::small("small:1", 1, Packing::Gzip);
    let archive = crate::images::archive(&image.docker());
    fs::write(dir.join("small:1.tar"), archive).unwrap();
    let ran = local(&bench, &dir, &["small:1"]).ok();
    assert!(ran.text().contains("as small:1"), "{}", ran.text());
    assert!(bench.run(&["images"]).ok().text().contains("small"));
    let nothing = local(&bench, &dir, &["small:2"]);
    says(
        &nothing,
        3,
        &[
            "error: `small:2` was not found (`",
            "small:2.tar`",
            "\ntry: ",
        ],
    );
}

#[test]
fn an_image_is_found_by_its_host_with_tls() {
    let (bench, alice) = (Bench::new(), crate::signatures::alice());
    let keys = crate::signatures::keyring(&[&alice]);
    let image = crate::appc::aci("example.com/app", &LABELS, json!([]), "hello");
    let signature = crate::signatures::sign(&alice.primary_key, &image);
    let web = Web::new(move |asked| match &*asked.url {
        PAGE => Reply::ok(TAG),
        IMAGE => Reply::ok(image.as_slice()),
        url if *url == format!("{IMAGE}.asc") => Reply::ok(signature.as_str()),
        _ => Reply::status(404),
    });
    let keyring = keys.path().to_str().unwrap();
    let ran = pull(
        &bench,
        &web,
        &[APP, "--keyring", keyring, "--require-signature"],
    );
    says(&ran, 0, &["is signed by Alice <alice@example.com>"]);
    let urls = web.urls();
    assert_eq!(urls[0], PAGE);
    assert_eq!(
        urls[urls.len() - 2..],
        [format!("{IMAGE}.asc"), IMAGE.to_owned()]
    );
    let quiet = pull(&bench, &web, &[APP, "--quiet"]);
    assert!(!quiet.err.contains("signed by"), "{}", quiet.err);
}

#[test]
fn nothing_leaves_tls_by_a_redirect() {
    let bench = Bench::new();
    let web = Web::new(|asked| match &*asked.url {
        PAGE => Reply::ok(TAG),
        IMAGE => Reply::redirect("http://other.org/app.aci"),
        _ => Reply::ok("anything"),
    });
    for more in [&[][..], &["--allow-http"]] {
        let ran = pull(&bench, &web, &[&[APP], more].concat());
        says(
            &ran,
            1,
            &["it was redirected from https to `http://other.org/app.aci`"],
        );
    }
    let left = web.urls().iter().any(|url| url.contains("other.org"));
    assert!(!left, "nothing was asked there: {:?}", web.urls());
}

#[test]
fn leaving_tls_on_a_way_that_began_without_it_is_refused_too() {
    let bench = Bench::new();
    let web = Web::new(|asked| match &*asked.url {
        "http://example.com/app-1-linux-amd64.aci" => Reply::redirect("https://example.com/x"),
        "https://example.com/x" => Reply::redirect("http://example.com/y"),
        _ => Reply::ok("anything"),
    });
    let simple = [
        "--discovery",
        "simple",
        "--discovery-prefix",
        "http://",
        "--allow-http",
    ];
    let ran = pull(&bench, &web, &[&[APP], &simple[..]].concat());
    says(
        &ran,
        1,
        &["it was redirected from https to `http://example.com/y`"],
    );
}

#[test]
fn a_host_that_nobody_vouches_for_is_not_believed() {
    let bench = Bench::new();
    let web = Web::new(|_| Reply::ok(TAG));
    let stranger = Web::new(|_| Reply::status(404));
    let roots = bench.write("roots.pem", stranger.certificate().as_bytes());
    let mut command = bench.command(&["pull", APP]);
    command
        .env("https_proxy", web.proxy())
        .env("SSL_CERT_FILE", roots);
    let ran = Ran::of(command.stdin(Stdio::null()).output().unwrap());
    says(
        &ran,
        1,
        &["`https://example.com/app?ac-discovery=1`: the connection failed"],
    );
    assert!(web.asked().is_empty());
}

#[test]
fn what_cannot_be_pulled_is_told_with_what_to_try() {
    let bench = Bench::new();
    let by_digest = format!("busybox@{}", crate::images::sha256(b"busybox"));
    for (args, code, words) in [
        (
            &["pull", "--local-dir", "/nothing", &by_digest][..],
            2,
            &[
                "cannot be pulled by its digest from a directory",
                "--discovery registry",
            ][..],
        ),
        (&["pull", "appc:App"], 2, &["`A` cannot be in it"]),
        (
            &["pull", "appc:a", "--require-signature"],
            2,
            &["there is no keyring", "--keyring DIR"],
        ),
        (
            &["pull", "appc:a", "--keyring", "/nothing/there"],
            1,
            &["cannot read `/nothing/there`"],
        ),
        (
            &[
                "pull",
                "appc:a",
                "--discovery",
                "simple",
                "--discovery-prefix",
                "hdfs://x",
            ],
            2,
            &["`hdfs://x` is neither"],
        ),
        (
            &[
                "pull",
                "appc:a",
                "--discovery",
                "simple",
                "--discovery-prefix",
                "http://127.0.0.1:9/",
            ],
            1,
            &["plain http is not allowed", "--allow-http"],
        ),
        (
            &[
                "pull",
                "appc:a:1,flavour=x",
                "--discovery",
                "local",
                "--local-dir",
                "/nothing",
            ],
            3,
            &["/nothing/a-1-linux-"],
        ),
    ] {
        let ran = bench.run(args);
        says(&ran, code, words);
    }
    let mut proxied = bench.command(&["pull", "appc:a"]);
    let ran = Ran::of(proxied.env("all_proxy", "socks5://x:1").output().unwrap());
    says(&ran, 2, &["`all_proxy` is not the URL of a proxy"]);
}

#[test]
fn a_pull_that_was_killed_goes_on_in_the_next() {
    let bench = Bench::new();
    let bytes = crate::images::noise(1, 300_000);
    let web = Web::new(move |asked| match asked.before {
        0 => Reply::file(asked, &bytes, "\"a\"").stall(200_000),
        _ => Reply::file(asked, &bytes, "\"a\""),
    });
    let prefix = web.url("");
    let args = [
        APP,
        "--discovery",
        "simple",
        "--discovery-prefix",
        &prefix,
        "--allow-http",
    ];
    let mut child = bench
        .command(&["pull"])
        .args(args)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let arrived = || {
        let parts = fs::read_dir(bench.store.join("fetch"))
            .into_iter()
            .flatten()
            .flatten();
        parts.map(|part| part.metadata().unwrap().len()).max() == Some(200_000)
    };
    for _ in 0..2000 {
        if arrived() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(arrived(), "the first part never came");
    child.kill().unwrap();
    child.wait().unwrap();
    let ran = bench.run(&[&["pull"][..], &args].concat());
    // It is noise and no image; that is told only when all of it is there.
    says(
        &ran,
        1,
        &[
            "goes on with http://",
            "cannot import `http://",
            "is not an image archive",
        ],
    );
    assert_eq!(web.asked()[1].headers["range"], "bytes=200000-");
    let left = fs::read_dir(bench.store.join("fetch")).unwrap().count();
    assert_eq!(left, 0, "what was whole is not kept");
}

#[test]
fn gc_removes_parts_that_nobody_is_fetching() {
    let bench = Bench::new();
    let image = Image::small("one:1", 1, Packing::Gzip);
    bench
        .pipe(&crate::images::archive(&image.docker()), &[])
        .ok();
    let fetch = bench.store.join("fetch");
    fs::create_dir(&fetch).unwrap();
    fs::write(fetch.join("a.part"), vec![0; 40_000]).unwrap();
    fs::write(fetch.join("a.json"), "{}").unwrap();
    let part = || {
        fs::read_dir(&fetch)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    assert_eq!(part().count(), 2);
    let held = part()
        .find(|path| path.extension().unwrap() == "part")
        .unwrap();
    let held = fs::File::open(held).unwrap();
    held.lock().unwrap();
    bench.run(&["gc"]).ok();
    assert_eq!(part().count(), 2, "it is being fetched");
    drop(held);
    let swept = bench.run(&["gc"]).ok().text();
    assert!(swept.contains("39.1 KiB in 1 files"), "{swept}");
    assert_eq!(part().count(), 0);
}

/// Nothing was said: who had forgotten the keyring did not know.
#[test]
fn without_a_keyring_it_is_said_once_that_no_signature_was_looked_at() {
    let bench = Bench::new();
    let dir = bench.path("images");
    fs::create_dir(&dir).unwrap();
    let base = json!([{ "imageName": "base", "labels": [{ "name": "version", "value": "1" }] }]);
    for (name, dependencies) in [("app", base), ("base", json!([]))] {
        let bytes = crate::appc::aci(name, &LABELS, dependencies, name);
        fs::write(dir.join(format!("{name}-1-linux-amd64.aci")), bytes).unwrap();
    }
    let image = Image::small("small:1", 1, Packing::Gzip);
    let docker = crate::images::archive(&image.docker());
    fs::write(dir.join("small:1.tar"), docker).unwrap();
    let app = "appc:app:1,os=linux,arch=amd64";
    let note = "note: no signature was looked at, as there is no keyring (--keyring DIR)";
    let told = |args: &[&str]| {
        let ran = local(&bench, &dir, args).ok();
        ran.err.lines().filter(|line| *line == note).count()
    };
    assert_eq!(told(&[app]), 1);
    assert_eq!(told(&[app, "--quiet"]), 0);
    // Docker archives have no signatures.
    assert_eq!(told(&["small:1"]), 0);
    let keys = crate::signatures::keyring(&[&crate::signatures::alice()]);
    assert_eq!(told(&[app, "--keyring", keys.path().to_str().unwrap()]), 0);
}

/// The first place that had anything was final.
#[test]
fn what_is_another_image_or_none_is_passed_over() {
    const MIRROR: &str = "https://other.org/example.com/app-1.aci";
    let tags = format!("{TAG}{}", TAG.replace("storage.example.com", "other.org"));
    let other = crate::appc::aci("example.com/other", &LABELS, json!([]), "hello");
    let image = crate::appc::aci("example.com/app", &LABELS, json!([]), "hello");
    let page = "<!DOCTYPE html><p>not here</p>".to_owned().into_bytes();
    let pulled = |first: &[u8], second: &[u8]| {
        let (first, second, tags) = (first.to_vec(), second.to_vec(), tags.clone());
        let web = Web::new(move |asked| match &*asked.url {
            PAGE => Reply::ok(tags.as_str()),
            IMAGE => Reply::ok(first.as_slice()),
            MIRROR => Reply::ok(second.as_slice()),
            _ => Reply::status(404),
        });
        pull(&Bench::new(), &web, &[APP])
    };
    pulled(&page, &image).ok();
    pulled(&other, &image).ok();
    let ran = pulled(&other, &page);
    says(
        &ran,
        1,
        &[
            "could not be fetched (`",
            &format!("; `{IMAGE}`: the image is `appc:example.com/other:1"),
            &format!("; `{MIRROR}`: it is an HTML page)"),
        ],
    );
}

/// An archive of several images was refused, though nobody had given a name to all of them; and
/// whatever image a file had got the name of the file.
#[test]
fn of_an_archive_the_image_that_was_asked_for_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let layers = [1, 2]
        .map(|salt| crate::images::Layer::new(&crate::images::sound_layer(salt), Packing::Plain));
    let mut files = Image::new("x:2", layers.to_vec()).legacy();
    let first = files[0].0.strip_suffix("/VERSION").unwrap().to_owned();
    crate::images::edit_json(&mut files, "repositories", |said| {
        said["x"]["1"] = first.clone().into();
        said["team/app"]["1"] = first.into();
    });
    let bytes = crate::images::archive(&files);
    for name in ["x:1", "x:2", "x:3", "h:5000/team/app:1", "x"] {
        let path = dir.path().join(format!("{name}.tar"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
    }
    let bench = Bench::new();
    let layers = |name: &str| {
        let ran = local(&bench, dir.path(), &["--json", name]).ok();
        let images: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
        assert_eq!(images.as_array().unwrap().len(), 1, "{images}");
        images[0]["layers"].as_u64().unwrap()
    };
    assert_eq!(layers("x:1"), 1);
    assert_eq!(layers("x:2"), 2);
    assert_eq!(layers("h:5000/team/app:1"), 1);
    for name in ["x:3", "x"] {
        let ran = local(&bench, dir.path(), &[name]);
        let there = "only `team/app:1`, `x:1`, `x:2`)";
        says(&ran, 1, &["the archive has no `x:", there]);
        assert!(!ran.err.contains("No such file"), "{}", ran.err);
    }
    assert_eq!(bench.run(&["ls", "x:3"]).code, 3);
    // One that names nothing is what its file is called.
    let mut nameless = Image::small("y:1", 5, Packing::Plain).docker();
    crate::images::edit_json(&mut nameless, "manifest.json", |said| {
        said[0]["RepoTags"] = serde_json::Value::Null;
    });
    let bytes = crate::images::archive(&nameless);
    fs::write(dir.path().join("named:7.tar"), bytes).unwrap();
    assert_eq!(layers("named:7"), 2);
}

/// Keyring and `--require-signature` were ignored.
#[test]
fn an_imported_image_has_its_signature_beside_it() {
    let alice = crate::signatures::alice();
    let keys = crate::signatures::keyring(&[&alice]);
    let image = crate::appc::aci("example.com/app", &LABELS, json!([]), "hello");
    let other = crate::appc::aci("example.com/app", &LABELS, json!([]), "other");
    let bench = Bench::new();
    let file = bench.write("app.aci", &image);
    let sign = |bytes: &[u8]| {
        let text = crate::signatures::sign(&alice.primary_key, bytes);
        bench.write("app.aci.asc", text.as_bytes())
    };
    let keyring = ["--keyring", keys.path().to_str().unwrap()];
    let import = |path: &Path, more: &[&str]| {
        let args = [&["import", path.to_str().unwrap()], more].concat();
        bench.run(&args)
    };
    let strict = [&keyring[..], &["--require-signature"]].concat();
    // Nothing was taken by any of these.
    let refused = |code: i32, words: &[&str], more: &[&str]| {
        says(&import(&file, more), code, words);
        assert_eq!(bench.run(&["images", "--json"]).ok().text().trim(), "[]");
    };
    bench
        .pipe(
            &crate::images::archive(&Image::small("a:1", 1, Packing::Plain).docker()),
            &strict,
        )
        .ok();
    bench.run(&["remove", "a:1"]).ok();
    refused(
        2,
        &["there is no keyring", "--keyring DIR"],
        &["--require-signature"],
    );
    refused(
        1,
        &[
            "the signature of `",
            "app.aci` is not accepted: there is no signature",
        ],
        &strict,
    );
    let piped = bench.pipe(&image, &strict);
    says(
        &piped,
        2,
        &[
            "a signature is required, and `standard input` is no file",
            "\ntry: import FILE",
        ],
    );
    sign(&other);
    refused(1, &["is not accepted: it does not match"], &strict);
    refused(1, &["is not accepted: it does not match"], &keyring);
    let unread = import(&file, &[]).ok();
    assert!(
        unread.err.contains("app.aci.asc` was not looked at"),
        "{}",
        unread.err
    );
    let signature = sign(&image);
    let taken = import(&file, &strict).ok();
    assert!(taken.err.contains("is signed by Alice"), "{}", taken.err);
    fs::remove_file(signature).unwrap();
    let taken = import(&file, &keyring).ok();
    assert!(
        taken.err.contains("app.aci` has no signature"),
        "{}",
        taken.err
    );
    assert!(bench.pipe(&image, &keyring).code == 0);
    assert_eq!(fs::read_dir(bench.store.join("fetch")).unwrap().count(), 0);
}
