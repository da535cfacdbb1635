//! Many containers at once.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::host::{Host, KINDS, WRITABLE};

const CONTAINERS: usize = 60;
const AT_ONCE: usize = 8;

/// Runs it for every number, several at once.
fn each(what: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CONTAINERS {
                        break;
                    }
                    what(number);
                }
            });
        }
    });
}

#[test]
fn sixty_containers_of_one_image_come_write_and_go_eight_at_once() {
    let Some(host) = Host::with_image() else {
        return;
    };
    let id = |number: usize| format!("c{number:02}");
    each(|number| {
        let kind = KINDS[number % 4];
        let path = host.provision(kind, "app:1", &id(number));
        if WRITABLE.contains(&kind) {
            fs::write(path.join("etc/own"), id(number)).unwrap();
        }
        assert_eq!(fs::read_to_string(path.join("etc/says")).unwrap(), "one");
    });
    let all = host.containers();
    assert_eq!(all.len(), CONTAINERS);
    for (number, line) in all.iter().enumerate() {
        assert_eq!(
            (&line["id"], &line["state"]),
            (&id(number).into(), &"ready".into())
        );
        let rootfs = &line["rootfses"][0];
        let own = std::path::Path::new(rootfs["path"].as_str().unwrap()).join("etc/own");
        match rootfs["backend"] == "bind" {
            true => assert!(fs::read(own).is_err()),
            false => assert_eq!(fs::read_to_string(own).unwrap(), id(number)),
        }
    }
    // All of overlay and bind stand on one mount.
    assert_eq!(host.lowers().len(), 1);
    each(|number| host.destroy(&id(number)));
    host.nothing_is_left();
}
