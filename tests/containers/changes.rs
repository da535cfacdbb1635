//! What was changed in a container, asked and made an image by the container's name.

use std::fs;

use super::host::{Host, WRITABLE};

#[test]
fn a_container_is_compared_and_becomes_an_image_by_its_name() {
    let Some(host) = Host::with_image() else {
        return;
    };
    for kind in WRITABLE.into_iter().filter(|kind| *kind != "copy") {
        let path = host.provision(kind, "app:1", "web");
        fs::write(path.join("etc/new"), "new").unwrap();
        fs::remove_file(path.join("etc/says")).unwrap();
        let changes = host.run(&["diff", "web"]);
        assert_eq!(changes, "C /etc\nA /etc/new\nD /etc/says\n", "{kind}");
        host.run(&["commit", "--quiet", "web", "made:1"]);
        let again = host.provision("bind", "made:1", "again");
        assert_eq!(fs::read_to_string(again.join("etc/new")).unwrap(), "new");
        assert!(!again.join("etc/says").try_exists().unwrap(), "{kind}");
        let told = host.fails(2, &["diff", "again"]);
        assert!(told.contains("no upper directory (backend bind"), "{told}");
        host.destroy("web");
        host.destroy("again");
    }
    let told = host.fails(2, &["diff", "app:1"]);
    assert!(told.contains("--upper DIR"), "{told}");
    assert!(
        host.fails(3, &["diff", "web"])
            .contains("there is no container")
    );
    host.nothing_is_left();
}
