//! Images in a directory.

use std::fs;
use std::io::Read as _;

use lazyroot::discovery::{Discovery, DiscoveryError, Method, Prefix, Signature};

use crate::finder::{Finder, says};

fn bench(files: &[&str]) -> (tempfile::TempDir, Finder) {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, file).unwrap();
    }
    let finder = Finder::new(Method::Local(dir.path().to_owned()));
    (dir, finder)
}

fn archive(finder: &Finder, name: &str) -> Result<String, DiscoveryError> {
    let discovery = Discovery::new(finder.settings.clone()).unwrap();
    let mut found = discovery.find_archive(&name.parse().unwrap())?;
    let mut fetched = discovery.fetch(&mut found, &finder.parts(), &finder.seen, &finder.stop)?;
    let mut text = String::new();
    fetched.file.read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn an_aci_has_its_name_in_the_directory() {
    const FILE: &str = "example.com/app-1.0-linux-amd64.aci";
    let (dir, finder) = bench(&[FILE, "example.com/app-latest-linux-amd64.aci"]);
    assert_eq!(
        finder.bytes("example.com/app:1.0,os=linux,arch=amd64"),
        FILE.as_bytes()
    );
    assert!(
        finder
            .bytes("example.com/app,os=linux,arch=amd64")
            .starts_with(b"example.com/app-latest")
    );
    let error = finder.refused("example.com/app:2,os=linux,arch=amd64");
    assert!(matches!(error, DiscoveryError::NotFound { .. }));
    says(&error, &["app-2-linux-amd64.aci`: No such file"]);
    // The same by the name that Mesos had for it.
    let prefix = Prefix::Dir(dir.path().to_owned());
    let simple = Finder::new(Method::Simple(prefix));
    let fetched = simple
        .fetched("example.com/app:1.0,os=linux,arch=amd64")
        .unwrap();
    assert_eq!(fetched.signature, Signature::Unchecked);
}

#[test]
fn a_label_cannot_lead_out_of_the_directory() {
    let (_dir, finder) = bench(&["x"]);
    let error = finder.refused("app:../../../etc/passwd,os=linux,arch=amd64");
    says(
        &error,
        &["the value `../../../etc/passwd` of `version` cannot be part of a file name"],
    );
}

#[test]
fn a_docker_archive_is_found_by_name_and_tag() {
    let (_dir, finder) = bench(&[
        "alpine.tar",
        "busybox:latest.tar",
        "busybox.tar",
        "team/app:1.tar",
        "docker.io/library/full:3.tar",
        "localhost:5000/x:2.tar",
        "library/redis.tar",
        "library/memcached:latest.tar",
    ]);
    for (name, file) in [
        ("alpine", "alpine.tar"),
        ("alpine:latest", "alpine.tar"),
        ("busybox", "busybox:latest.tar"),
        ("team/app:1", "team/app:1.tar"),
        ("full:3", "docker.io/library/full:3.tar"),
        ("localhost:5000/x:2", "localhost:5000/x:2.tar"),
        ("library/redis", "library/redis.tar"),
        ("library/memcached", "library/memcached:latest.tar"),
    ] {
        assert_eq!(archive(&finder, name).unwrap(), file);
    }
    let error = archive(&finder, "alpine:3").unwrap_err();
    assert!(matches!(error, DiscoveryError::NotFound { .. }));
    says(
        &error,
        &["alpine:3.tar`", "docker.io/library/alpine:3.tar`"],
    );
}

#[test]
fn only_a_directory_has_docker_archives() {
    let finder = Finder::new(Method::Meta);
    let error = archive(&finder, "alpine").unwrap_err();
    says(&error, &["`alpine:latest` is a Docker image"]);
}

#[test]
fn an_archive_without_signature_is_refused_where_one_is_required() {
    let (_dir, finder) = bench(&["alpine.tar"]);
    let keys = crate::signatures::keyring(&[&crate::signatures::alice()]);
    let finder = finder.trusting(keys.path(), true);
    says(
        &archive(&finder, "alpine").unwrap_err(),
        &["there is no signature"],
    );
}

#[test]
fn a_directory_that_cannot_be_read_is_not_an_image_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("app-1-linux-amd64.aci"), "x").unwrap();
    let below = dir.path().join("app-1-linux-amd64.aci");
    let finder = Finder::new(Method::Local(below));
    let error = finder.refused("app:1,os=linux,arch=amd64");
    assert!(
        matches!(error, DiscoveryError::NotFetched { .. }),
        "{error}"
    );
}

/// It counted for what comes from servers only.
#[test]
fn the_largest_size_counts_for_files_too() {
    const FILE: &str = "app-1-linux-amd64.aci";
    let (_dir, mut finder) = bench(&[FILE, "alpine.tar"]);
    finder.settings.max_size = FILE.len() as u64;
    assert_eq!(finder.bytes("app:1,os=linux,arch=amd64"), FILE.as_bytes());
    archive(&finder, "alpine").unwrap();
    finder.settings.max_size = 9;
    for error in [
        finder.refused("app:1,os=linux,arch=amd64"),
        archive(&finder, "alpine").unwrap_err(),
    ] {
        says(&error, &["and more than 9 are not accepted"]);
        assert_eq!(error.hint().unwrap(), "--max-size raises the limit");
    }
}
