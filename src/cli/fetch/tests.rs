use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::backend::Choice;
use crate::cli::discovery::{How, Settings};
use crate::cli::settings::Words;
use crate::discovery::Prefix;

/// A store and local discovery in a directory.
fn context(dir: &Path) -> Context {
    Context {
        store: dir.join("store"),
        cache: dir.join("cache"),
        log: dir.join("log"),
        log_file: None,
        cache_size: 0,
        prefetch: true,
        keep_awake: true,
        rootfs_dir: dir.join("containers"),
        backend: Choice::Auto,
        providers: Words::default(),
        isolation: Words::default(),
        switch_user: true,
        docker_ignore_runtime: false,
        discovery: Settings {
            how: How::Local,
            local_dir: dir.to_owned(),
            prefix: Prefix::Dir(dir.to_owned()),
            allow_http: false,
            keyring: None,
            require_signature: false,
            max_size: 1 << 30,
        },
        registry: crate::cli::registry::Settings::default(),
        settings: Vec::new(),
        stop: Arc::default(),
    }
}

/// Puts `app-1-linux-amd64.aci` there, with a file that says `text`; its ID.
fn put(dir: &Path, text: &str) -> AciId {
    let label = |name, value| json!({ "name": name, "value": value });
    let manifest = json!({
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "app",
        "labels": [label("version", "1"), label("os", "linux"), label("arch", "amd64")],
    });
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    let regular = tar::EntryType::Regular;
    add("manifest", regular, manifest.to_string().as_bytes());
    add("rootfs", tar::EntryType::Directory, b"");
    add("rootfs/text", regular, text.as_bytes());
    let bytes = tar.into_inner().unwrap();
    std::fs::write(dir.join("app-1-linux-amd64.aci"), &bytes).unwrap();
    let mut hasher = crate::digest::Hasher::sha512();
    hasher.update(&bytes);
    AciId::of_archive(crate::digest::DiffId(hasher.finish())).unwrap()
}

fn asked(id: Option<AciId>) -> Asked {
    Asked::Appc {
        image: "appc:app:1,os=linux,arch=amd64".parse().unwrap(),
        id,
    }
}

#[test]
fn an_image_by_its_id_is_that_very_image() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    let fetch = Fetch::new(&context, true);
    let (one, two) = (put(dir.path(), "one"), put(dir.path(), "two"));
    // The directory has the second one only.
    let refused = fetch.image(&asked(Some(one)), Policy::Missing).unwrap_err();
    assert!(
        refused
            .message
            .contains(&format!("the image is {two}, not {one}")),
        "{refused}"
    );
    assert_eq!(fetch.store().unwrap().unwrap().image_ids().unwrap(), []);
    put(dir.path(), "one");
    for _ in 0..2 {
        let (id, _) = fetch.image(&asked(Some(one)), Policy::Missing).unwrap();
        assert_eq!(id, one.image());
    }
    put(dir.path(), "two");
    let (id, how) = fetch.image(&asked(Some(two)), Policy::Missing).unwrap();
    assert_eq!(id, two.image());
    assert!(matches!(how, Fetched::Pulled(all) if all.len() == 1));
    // Both are there now, whatever the directory has.
    std::fs::remove_file(dir.path().join("app-1-linux-amd64.aci")).unwrap();
    for id in [one, two] {
        let (found, how) = fetch.image(&asked(Some(id)), Policy::Never).unwrap();
        assert_eq!(found, id.image());
        assert!(matches!(how, Fetched::Cached));
    }
    let gone = fetch.image(&asked(None), Policy::Always).unwrap_err();
    assert_eq!(gone.exit, Exit::NotFound);
}

#[test]
fn an_id_and_a_name_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    let fetch = Fetch::new(&context, true);
    let id = put(dir.path(), "one");
    fetch.image(&asked(None), Policy::Missing).unwrap();
    let other = Asked::Appc {
        image: "appc:other".parse().unwrap(),
        id: Some(id),
    };
    for policy in [Policy::Missing, Policy::Never] {
        let error = fetch.image(&other, policy).unwrap_err().to_string();
        assert!(error.contains("and `appc:other` was asked for"), "{error}");
    }
}

#[test]
fn what_an_agent_asks_for_is_asked_for() {
    let docker: Reference = "busybox:1".parse().unwrap();
    let what = What::Docker(docker.clone());
    assert_eq!(Asked::from(&what), Asked::Docker(docker));
    assert_eq!("busybox:1".parse(), Ok(Asked::from(&what)));
    let image: AppcReference = "appc:app:1".parse().unwrap();
    let id = AciId::of_image(ImageId(crate::digest::Digest::Sha512([7; 64])));
    let what = What::Appc {
        image: image.clone(),
        id,
    };
    assert_eq!(Asked::from(&what), Asked::Appc { image, id });
}
