//! Damaged records: the others do not notice.

use std::fs;

use super::host::{Host, KINDS, is_there, names};
use super::images::{Layer, Pack};

/// What may become of a file in a crash or on a bad disk.
type Damage = (&'static str, fn(&mut Vec<u8>));

const DAMAGES: [Damage; 4] = [
    // MESOS-8871: a loss of power before the sync leaves an empty file.
    ("empty", Vec::clear),
    ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
    ("zeros", |bytes| bytes.fill(0)),
    ("another path", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace("containers", "elsewhere_").into_bytes();
    }),
];

#[test]
fn a_damaged_record_is_told_put_aside_and_what_is_left_can_be_destroyed() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for ((what, damage), kind) in DAMAGES.into_iter().zip(KINDS) {
        let sound = host.provision("fuse", "app:1", "sound");
        let path = host.provision(kind, "app:1", "web");
        host.provision(kind, "app:1", "web/c");
        let record = host.record("web");
        let mut bytes = fs::read(&record).unwrap();
        damage(&mut bytes);
        fs::write(&record, &bytes).unwrap();
        assert_eq!(host.state("web"), "damaged", "{what}");
        assert_eq!(host.state("web/c"), "ready");
        assert_eq!(host.state("sound"), "ready");
        // Others are not stopped by it.
        host.provision("copy", "app:1", "more");
        host.destroy("more");
        // It cannot be added to, and nothing may be swept that it may need.
        for id in ["web", "web/d"] {
            let said = host.fails(5, &["provision", "-q", "app:1", "--id", id]);
            assert!(
                said.contains("web.json") && said.contains("lazyroot recover"),
                "{said}"
            );
        }
        let said = host.fails(5, &["gc"]);
        assert!(said.contains("web.json"), "{said}");
        assert!(said.contains("lazyroot recover"), "{said}");
        let said = host.run(&["recover"]);
        let put = "put the damaged record of web aside, as `containers-v1/web.damaged` of the \
            store: lazyroot destroy web removes what is left of it\n";
        assert_eq!(said, put, "{what}");
        assert_eq!(host.run(&["recover"]), "");
        assert!(!is_there(&record));
        assert_eq!(fs::read(record.with_extension("damaged")).unwrap(), bytes);
        // People still see that there is something.
        assert_eq!(host.state("web"), "damaged");
        assert_eq!(host.state("web/c"), "ready");
        host.run(&["gc"]);
        assert_eq!(fs::read_to_string(sound.join("etc/says")).unwrap(), "one");
        assert_eq!(fs::read_to_string(path.join("etc/says")).unwrap(), "one");
        let said = host.fails(4, &["provision", "-q", "app:1", "--id", "web"]);
        assert!(said.contains("lazyroot destroy web"), "{said}");
        host.destroy("web");
        assert!(!is_there(&host.rootfs_dir().join("web")));
        assert_eq!(host.state("sound"), "ready");
        host.destroy("sound");
        // The record said what was shared below; now the mount table does.
        host.run(&["recover"]);
        host.nothing_is_left();
    }
}

#[test]
fn a_damaged_record_can_be_destroyed_at_once() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in KINDS {
        host.provision(kind, "app:1", "web");
        fs::write(host.record("web"), "").unwrap();
        host.destroy("web");
        host.run(&["recover"]);
        host.nothing_is_left();
    }
}

#[test]
fn what_a_container_was_made_of_stays_for_as_long_as_its_record() {
    let Some(host) = Host::with_image() else {
        return;
    };
    host.lab.image("other:1", Pack::Gzip, |layer| {
        layer.file("other", b"other");
    });
    for kind in ["fuse", "overlay", "bind"] {
        let path = host.provision(kind, "app:1", kind);
        // Nobody runs any more: only the record says what is needed.
        host.kill_servers();
        let said = host.fails(4, &["remove", "app:1"]);
        assert!(said.contains("app:1"), "{said}");
        if kind == "bind" {
            host.run(&["remove", "--force", "app:1"]);
        }
        host.run(&["gc"]);
        host.run(&["recover"]);
        assert_eq!(
            fs::read_to_string(path.join("etc/says")).unwrap(),
            "one",
            "{kind}"
        );
    }
    host.kill_servers();
    host.run(&["remove", "other:1"]);
    host.run(&["gc"]);
    let layers = names(&host.lab.store("layers-v1"));
    assert!(!layers.is_empty());
    host.run(&["recover"]);
    for kind in ["fuse", "overlay", "bind"] {
        assert_eq!(host.state(kind), "ready");
        host.destroy(kind);
    }
    host.nothing_is_left();
    host.run(&["gc"]);
    assert_eq!(names(&host.lab.store("layers-v1")), [""; 0]);
    assert_eq!(names(&host.lab.store("blobs/sha256")), [""; 0]);
}

/// Mesos has no test of its pruning.
#[test]
fn a_sweep_takes_what_nothing_needs_and_leaves_what_is_shared() {
    let Some(host) = Host::new() else { return };
    let layer = |name: &str| {
        let mut layer = Layer::new();
        layer.file(name, name.as_bytes());
        layer.pack(Pack::Gzip)
    };
    for (image, own) in [("a:1", "a"), ("b:1", "b"), ("c:1", "c")] {
        host.lab.import(image, &[layer("shared"), layer(own)]);
    }
    let layers = || {
        let mut names = names(&host.lab.store("layers-v1"));
        names.retain(|name| name.ends_with(".json"));
        names.len()
    };
    // What images have in common is there once.
    assert_eq!(layers(), 4);
    let path = host.provision("copy", "b:1", "web");
    for image in ["b:1", "c:1"] {
        host.run(&["remove", "--force", "--no-gc", image]);
    }
    assert_eq!(layers(), 4);
    host.run(&["gc"]);
    assert_eq!(layers(), 3, "`c` is gone, `b` is a container's");
    host.run(&["verify"]);
    let again = host.provision("fuse", "a:1", "web");
    assert_eq!(names(&again), ["a", "shared"]);
    assert_eq!(names(&path), ["b", "shared"]);
    host.destroy("web");
    host.run(&["gc"]);
    assert_eq!(layers(), 2);
    host.nothing_is_left();
}
