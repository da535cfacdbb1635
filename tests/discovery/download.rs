//! Whole files through broken transfers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lazyroot::discovery::{Discovery, DiscoveryError};

use crate::finder::{Finder, says, wanted_as};
use crate::images::noise;
use crate::web::{Asked, Reply, Web};

const APP: &str = "app:1,os=linux,arch=amd64";
const FILE: &str = "app-1-linux-amd64.aci";

/// A server of one image that is `bytes`.
fn serving(bytes: &[u8], how: impl Fn(&Asked, &[u8]) -> Reply + Send + Sync + 'static) -> Web {
    let bytes: Arc<[u8]> = bytes.into();
    Web::new(move |asked| how(asked, &bytes))
}

/// Where transfers began.
fn begins(finder: &Finder) -> Vec<u64> {
    finder
        .seen
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|(_, at)| *at)
        .collect()
}

#[test]
fn a_file_arrives_as_it_is_and_from_where_it_was_asked_for() {
    let bytes = noise(1, 300_000);
    let web = serving(&bytes, |_, bytes| Reply::ok(bytes));
    let finder = Finder::simple(&web);
    assert_eq!(finder.bytes(APP), bytes);
    let asked = web.asked();
    assert_eq!(web.urls(), [web.url(FILE)]);
    assert_eq!(asked[0].headers["accept-encoding"], "identity");
    assert!(asked[0].headers["user-agent"].starts_with("lazyroot/"));
}

#[test]
fn a_file_in_chunks_arrives() {
    let bytes = noise(2, 10_000);
    let web = serving(&bytes, |_, bytes| Reply::ok(bytes).chunked());
    assert_eq!(Finder::simple(&web).bytes(APP), bytes);
}

#[test]
fn bytes_that_the_server_calls_gzip_stay_as_they_are() {
    // An ACI may be gzip itself, and servers then say so. What was signed is what came.
    let bytes = crate::images::Packing::Gzip.pack(&noise(3, 5000));
    let web = serving(&bytes, |_, bytes| {
        Reply::ok(bytes).header("Content-Encoding", "gzip")
    });
    assert_eq!(Finder::simple(&web).bytes(APP), bytes);
}

#[test]
fn a_cut_transfer_goes_on_where_it_ended() {
    let bytes = noise(4, 400_000);
    let web = serving(&bytes, |asked, bytes| match asked.before {
        0 | 1 => Reply::file(asked, bytes, "\"a\"").cut(150_000),
        _ => Reply::file(asked, bytes, "\"a\""),
    });
    let finder = Finder::simple(&web);
    assert_eq!(finder.bytes(APP), bytes);
    assert_eq!(begins(&finder), [0, 150_000, 300_000]);
    assert_eq!(web.asked()[1].headers["if-range"], "\"a\"");
}

#[test]
fn another_process_goes_on_where_the_first_was_ended() {
    let bytes = noise(5, 400_000);
    let web = serving(&bytes, |asked, bytes| match asked.before {
        0..6 => Reply::file(asked, bytes, "\"a\"").cut(100_000 * usize::from(asked.before == 0)),
        _ => Reply::file(asked, bytes, "\"a\""),
    });
    let finder = Finder::simple(&web);
    says(&finder.refused(APP), &["could not be fetched", FILE]);
    assert_eq!(finder.left().len(), 2, "the part and its mark are kept");
    // Nothing of the first discovery is used but the directory.
    assert_eq!(finder.bytes(APP), bytes);
    assert_eq!(begins(&finder).last(), Some(&100_000));
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let (old, new) = (noise(6, 200_000), noise(7, 200_000));
    let now = new.clone();
    let web = Web::new(move |asked| match asked.before {
        0 => Reply::file(asked, &old, "\"old\"").cut(100_000),
        _ => Reply::file(asked, &now, "\"new\""),
    });
    assert_eq!(Finder::simple(&web).bytes(APP), new);
}

#[test]
fn without_a_strong_mark_everything_is_fetched_anew() {
    let bytes = noise(8, 200_000);
    for etag in ["W/\"weak\"", ""] {
        let web = serving(&bytes, move |asked, bytes| {
            let reply = Reply::ok(bytes).header("Accept-Ranges", "bytes");
            let reply = match etag {
                "" => reply,
                etag => reply.header("ETag", etag),
            };
            reply.cut(if asked.before == 0 { 100_000 } else { 200_000 })
        });
        let finder = Finder::simple(&web);
        assert_eq!(finder.bytes(APP), bytes);
        assert_eq!(begins(&finder), [0, 0]);
        assert!(
            web.asked()
                .iter()
                .all(|asked| !asked.headers.contains_key("range"))
        );
    }
}

#[test]
fn a_part_that_is_not_the_one_that_was_asked_for_is_not_put_in() {
    let bytes = noise(9, 200_000);
    type Lie = fn(&Asked, &[u8]) -> Reply;
    let lies: [Lie; 4] = [
        // Another place.
        |asked, bytes| {
            let mut asked = asked.clone();
            asked
                .headers
                .insert("range".to_owned(), "bytes=7-".to_owned());
            Reply::file(&asked, bytes, "\"a\"")
        },
        // Another version, though `If-Range` asked for all of it then.
        |asked, bytes| {
            let mut asked = asked.clone();
            asked.headers.remove("if-range");
            let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
            Reply::file(&asked, &other, "\"b\"")
        },
        // A length that nobody tells.
        |_, bytes| {
            let range = format!("bytes 100000-{}/*", bytes.len() - 1);
            let rest = Reply::ok(&bytes[100_000..]).header("Content-Range", &range);
            partial(rest.header("ETag", "\"a\""))
        },
        // Nothing there.
        |_, _| Reply::status(416),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let web = serving(&bytes, move |asked, bytes| match asked.before {
            0 => Reply::file(asked, bytes, "\"a\"").cut(100_000),
            1 => lie(asked, bytes),
            _ => Reply::file(asked, bytes, "\"a\""),
        });
        assert_eq!(Finder::simple(&web).bytes(APP), bytes, "lie {number}");
    }
}

/// The same with status 206.
fn partial(reply: Reply) -> Reply {
    reply.with_status(206)
}

#[test]
fn a_part_that_nobody_asked_for_is_refused() {
    let bytes = noise(10, 1000);
    let web = serving(&bytes, |_, bytes| {
        partial(Reply::ok(bytes).header("Content-Range", "bytes 0-999/1000"))
    });
    says(
        &Finder::simple(&web).refused(APP),
        &["another part than the one"],
    );
}

#[test]
fn a_length_that_is_a_lie_is_told_as_a_cut() {
    let bytes = noise(11, 1000);
    let web = serving(&bytes, |_, bytes| Reply::ok(bytes).claiming(5000));
    let error = Finder::simple(&web).refused(APP);
    assert!(matches!(error, DiscoveryError::NotFetched { .. }));
    // Repeated, but not for ever.
    assert!(web.asked().len() < 10, "{}", web.asked().len());
}

#[test]
fn an_end_that_cannot_be_told_from_a_cut_is_refused() {
    let bytes = noise(12, 1000);
    let web = serving(&bytes, |_, bytes| Reply::ok(bytes).without_length());
    says(
        &Finder::simple(&web).refused(APP),
        &["does not say how long"],
    );
}

#[test]
fn chunks_that_end_early_are_a_cut() {
    let bytes = noise(13, 1000);
    let web = serving(&bytes, |_, bytes| {
        // Chunked, but the connection ends within a chunk.
        Reply::ok(&bytes[..500])
            .header("Transfer-Encoding", "chunked")
            .without_length()
    });
    let error = Finder::simple(&web).refused(APP);
    assert!(matches!(error, DiscoveryError::NotFetched { .. }));
}

#[test]
fn a_silent_server_is_given_up_and_gone_on_with() {
    let bytes = noise(14, 300_000);
    let web = serving(&bytes, |asked, bytes| match asked.before {
        0 => Reply::file(asked, bytes, "\"a\"").stall(200_000),
        _ => Reply::file(asked, bytes, "\"a\""),
    });
    let finder = Finder::simple(&web);
    let began = Instant::now();
    assert_eq!(finder.bytes(APP), bytes);
    assert_eq!(begins(&finder), [0, 200_000]);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_server_that_is_silent_for_ever_is_an_error() {
    let bytes = noise(15, 1000);
    let web = serving(&bytes, |_, bytes| Reply::ok(bytes).stall(0));
    says(
        &Finder::simple(&web).refused(APP),
        &["was silent for 0.4 s"],
    );
}

#[test]
fn a_server_that_drips_is_as_good_as_silent() {
    // Each byte comes long before the time of a stall is over.
    let bytes = noise(16, 5000);
    let web = serving(&bytes, |_, bytes| {
        Reply::ok(bytes).drip(1, Duration::from_millis(20))
    });
    says(
        &Finder::simple(&web).refused(APP),
        &["was silent for 0.4 s"],
    );
}

#[test]
fn a_slow_transfer_has_all_the_time_it_needs() {
    // It takes many times the time of a stall in all.
    let bytes = noise(17, 30_000);
    let web = serving(&bytes, |_, bytes| {
        Reply::ok(bytes).drip(200, Duration::from_millis(10))
    });
    let finder = Finder::simple(&web);
    let began = Instant::now();
    assert_eq!(finder.bytes(APP), bytes);
    assert!(
        began.elapsed() > Duration::from_millis(500),
        "it was not slow"
    );
}

#[test]
fn an_image_that_is_too_large_is_refused_before_and_while_it_comes() {
    let bytes = noise(18, 100_000);
    let told = serving(&bytes, |asked, bytes| Reply::file(asked, bytes, "\"a\""));
    let untold = serving(&bytes, |_, bytes| Reply::ok(bytes).chunked());
    for (web, words) in [
        (&told, "it has 100000 bytes, and more than 50000"),
        (&untold, "it has too many bytes, and more than 50000"),
    ] {
        let mut finder = Finder::simple(web);
        finder.settings.max_size = 50_000;
        let error = finder.refused(APP);
        says(&error, &[words]);
        assert!(error.hint().unwrap().contains("--max-size"));
        assert_eq!(web.asked().len(), 1, "it is not asked for again");
        let kept = std::fs::read_dir(finder.parts()).unwrap();
        let bytes: u64 = kept
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(bytes, 0, "nothing is kept of it");
    }
    let mut exact = Finder::simple(&told);
    exact.settings.max_size = 100_000;
    assert_eq!(exact.bytes(APP), bytes);
}

#[test]
fn no_more_is_fetched_than_is_declared() {
    let bytes = noise(18, 100_000);
    let told = serving(&bytes, |asked, bytes| Reply::file(asked, bytes, "\"a\""));
    let untold = serving(&bytes, |_, bytes| Reply::ok(bytes).chunked());
    for (web, declared, words) in [
        (&told, 50_000, "it has 100000 bytes, and 50000 are declared"),
        (&untold, 50_000, "it has more bytes, and 50000 are declared"),
        (
            &told,
            100_001,
            "it has 100000 bytes, and 100001 are declared",
        ),
        (
            &untold,
            100_001,
            "it has 100000 bytes, and 100001 are declared",
        ),
    ] {
        let finder = Finder::simple(web);
        let discovery = Discovery::new(finder.settings.clone()).unwrap();
        let mut found = discovery.find(&wanted_as(APP), &finder.stop).unwrap();
        found.size = Some(declared);
        let fetched = discovery.fetch(&mut found, &finder.parts(), &finder.seen, &finder.stop);
        let error = fetched.expect_err("it has another size");
        says(&error, &[words]);
        assert!(error.hint().is_none());
        assert_eq!(finder.left(), [""; 0]);
    }
}

#[test]
fn a_busy_server_is_asked_again_and_a_clear_answer_is_taken() {
    let bytes = noise(19, 1000);
    let web = serving(&bytes, |asked, bytes| match asked.before {
        0 => Reply::status(503),
        1 => Reply::status(429),
        _ => Reply::ok(bytes),
    });
    assert_eq!(Finder::simple(&web).bytes(APP), bytes);
    for (status, absent) in [
        (404, true),
        (410, true),
        (403, true),
        (400, false),
        (401, false),
    ] {
        let web = Web::new(move |_| Reply::status(status));
        let error = Finder::simple(&web).refused(APP);
        assert_eq!(
            matches!(error, DiscoveryError::NotFound { .. }),
            absent,
            "{status}"
        );
        says(
            &error,
            &[&format!(
                "`{}`: the server answered {status}",
                web.url(FILE)
            )],
        );
        assert_eq!(web.asked().len(), 1, "{status} is final");
    }
}

#[test]
fn redirects_are_followed_and_not_for_ever() {
    let bytes = noise(20, 1000);
    let web = serving(&bytes, |asked, bytes| {
        match asked.url.ends_with("/elsewhere") {
            true => Reply::ok(bytes),
            false => Reply::redirect("/elsewhere"),
        }
    });
    assert_eq!(Finder::simple(&web).bytes(APP), bytes);
    let round = Web::new(|asked| Reply::redirect(&asked.url));
    says(
        &Finder::simple(&round).refused(APP),
        &["redirected more than 10 times"],
    );
    assert_eq!(round.asked().len(), 11);
}

#[test]
fn plain_http_has_to_be_allowed() {
    let web = Web::new(|_| Reply::ok("x"));
    let mut finder = Finder::simple(&web);
    finder.settings.network.allow_http = false;
    let error = finder.refused(APP);
    says(&error, &["plain http is not allowed"]);
    assert!(error.hint().unwrap().contains("--allow-http"));
    assert!(web.asked().is_empty(), "nobody was asked");
}

#[test]
fn nobody_waits_for_a_silent_server_when_somebody_wants_to_stop() {
    let bytes = noise(21, 100_000);
    let web = serving(&bytes, |asked, bytes| {
        Reply::file(asked, bytes, "\"a\"").stall(50_000)
    });
    let mut finder = Finder::simple(&web);
    finder.settings.network.stall = Duration::from_secs(60);
    let began = Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            while finder.seen.0.lock().unwrap().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(200));
            finder.stop.store(true, Ordering::Relaxed);
        });
        finder.refused(APP)
    });
    assert!(matches!(error, DiscoveryError::Interrupted), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(finder.left().len(), 2, "what came is kept");
}

#[test]
fn two_who_fetch_the_same_do_not_disturb_each_other() {
    let bytes = noise(22, 200_000);
    let web = serving(&bytes, |asked, bytes| {
        std::thread::sleep(Duration::from_millis(50));
        match asked.before {
            0 | 1 => Reply::file(asked, bytes, "\"a\"").cut(120_000),
            _ => Reply::file(asked, bytes, "\"a\""),
        }
    });
    let finder = Finder::simple(&web);
    std::thread::scope(|scope| {
        let fetches = [0; 4].map(|_| {
            scope.spawn(|| {
                use std::io::Read as _;
                let mut got = Vec::new();
                finder
                    .fetched(APP)
                    .unwrap()
                    .file
                    .read_to_end(&mut got)
                    .unwrap();
                got
            })
        });
        for fetch in fetches {
            assert_eq!(fetch.join().unwrap(), bytes);
        }
    });
    assert_eq!(finder.left(), [""; 0]);
}

#[test]
fn a_part_of_an_earlier_boot_or_with_a_damaged_mark_is_fetched_anew() {
    let bytes = noise(23, 200_000);
    for (find, put) in [("\"boot\":\"", "\"boot\":\"x"), ("{", "["), ("\"a", "\"b")] {
        let web = serving(&bytes, |asked, bytes| match asked.before {
            0..6 => {
                Reply::file(asked, bytes, "\"a\"").cut(100_000 * usize::from(asked.before == 0))
            }
            _ => Reply::file(asked, bytes, "\"a\""),
        });
        let finder = Finder::simple(&web);
        finder.refused(APP);
        let mark = finder
            .left()
            .into_iter()
            .find(|name| name.ends_with(".json"));
        let mark = finder.parts().join(mark.unwrap());
        let text = std::fs::read_to_string(&mark).unwrap();
        assert!(text.contains(find), "{text}");
        std::fs::write(&mark, text.replacen(find, put, 1)).unwrap();
        assert_eq!(finder.bytes(APP), bytes, "{put}");
        assert_eq!(begins(&finder).last(), Some(&0), "{put}");
    }
}
