//! An image goes while a container is made of it: there is a whole container, or none.

use std::fs;
use std::sync::atomic::AtomicBool;

use lazyroot::backend::Kind;
use lazyroot::container::{ContainerError, Containers, Image, Request};
use lazyroot::store::named_lock::Hold;
use lazyroot::store::{Store, StoreError};
use serde_json::Value;

use super::appc::{TOP, graph, shown};
use super::host::{Host, KINDS, hears, is_there, names, start};
use super::images::Pack;

/// What a provision has looked up is pinned until its record says what it needs.
#[test]
fn an_image_that_is_removed_by_force_after_it_was_looked_up_makes_a_whole_container() {
    let Some(host) = Host::new() else { return };
    let store = Store::create(&host.lab.store(""), 0).unwrap();
    let id = "web".parse().unwrap();
    for kind in KINDS {
        for image in ["app:1", TOP] {
            host.lab.image("app:1", Pack::Gzip, |layer| {
                layer.dir("etc", 0o755).file("etc/says", b"one");
            });
            graph(&host.lab);
            // It has looked the image up when it waits for this.
            let held = store.try_lock_container(&id, Hold::Alone).unwrap().unwrap();
            let words = ["provision", "--json", image, "--id=web", "--backend", kind];
            let mut child = start(&mut host.lazyroot(&words));
            hears(&mut child, "waiting for another process");
            host.fails(4, &["remove", image]);
            let all: &[&str] = match image {
                TOP => &[TOP, "appc:example.org/base"],
                _ => &["app:1"],
            };
            for image in all {
                host.run(&["remove", "--force", image]);
            }
            host.run(&["gc", "--all"]);
            drop(held);
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{kind} {image}: {output:?}");
            let made: Value = serde_json::from_slice(&output.stdout).unwrap();
            let path = made["rootfses"][0]["path"].as_str().unwrap();
            match image {
                TOP => assert_eq!(shown(path.as_ref()), ["base", "base-1", "top-1"]),
                _ => assert_eq!(
                    fs::read_to_string(format!("{path}/etc/says")).unwrap(),
                    "one"
                ),
            }
            host.destroy("web");
            // A server that ends keeps its layers until it has: nobody waits for it.
            host.nothing_is_left();
            host.run(&["gc", "--all"]);
            assert_eq!(
                names(&host.lab.store("layers-v1")),
                [""; 0],
                "{kind} {image}"
            );
        }
    }
}

#[test]
fn an_image_that_is_gone_before_it_is_looked_up_makes_no_container() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let store = Store::create(&host.lab.store(""), 0).unwrap();
    let image = store.find("app:1").unwrap();
    host.run(&["remove", "--no-gc", "app:1"]);
    let (stop, rootfs_dir) = (AtomicBool::new(false), host.rootfs_dir());
    let containers = Containers {
        store: &store,
        rootfs_dir: &rootfs_dir,
        log: None,
        keep_awake: true,
        spare: None,
        stop: &stop,
        say: &|_| (),
    };
    for backend in Kind::ALL {
        let request = Request {
            id: "web/helper".parse().unwrap(),
            backend,
            images: vec![Image {
                id: image,
                title: "app:1".to_owned(),
                read_only: false,
                container_path: None,
            }],
            hostname: None,
            volumes: Vec::new(),
            now: 0,
            new: false,
            transient: false,
        };
        let error = containers.provision(&request, &mut |_, _| ()).unwrap_err();
        let is_missing = matches!(&error, ContainerError::Store(StoreError::NoImage(_)));
        assert!(is_missing, "{backend}: {error}");
    }
    assert!(!is_there(&rootfs_dir));
    assert_eq!(names(&host.lab.store("containers-v1")), [""; 0]);
    assert_eq!(names(&host.lab.store("leases")), [""; 0]);
}
