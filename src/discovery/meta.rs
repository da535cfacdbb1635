//! Meta discovery: from an image's name to what its host says of it.
//!
//! `https://NAME?ac-discovery=1` is asked for the name, and for the names above it
//! down to the host, until somebody has tags for it. Templates and keys are looked for
//! separately: a page may have the one, and a page above it the other. Plain http
//! is asked where it is allowed and https failed.
//!
//! Of several templates the one with the most labels goes first (`spec/discovery.md`, "Best
//! matching templates"). The others are for when nothing is there, or another image.

use std::sync::atomic::{AtomicBool, Ordering};

use super::template;
use super::{Candidate, Found, Place, Tried, Wanted, page};
use crate::http::{Client, FetchError};

/// Largest page that is read, in bytes. Discovery pages are one line.
const PAGE_MAX: u64 = 1 << 20;
/// Most pages that are asked for: a name may have two thousand parts.
const ABOVE_MAX: usize = 32;

/// Fills in candidates and keys, and where there was nothing.
pub(super) fn walk(client: &Client, wanted: &Wanted, found: &mut Found, stop: &AtomicBool) {
    for name in wanted.ancestors().take(ABOVE_MAX) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Some((url, tags)) = ask(client, name, wanted, &mut found.tried) else {
            continue;
        };
        if found.keys.is_empty() {
            found.keys = tags.keys;
        }
        if found.candidates.is_empty() {
            let failed = found.tried.len();
            let mut templates = tags.templates;
            templates.sort_by_key(|template| template::rank(template, wanted));
            for template in &templates {
                let place = |ext| template::url(template, wanted, ext).map(Place::Url);
                match Candidate::of(place) {
                    // `latest` may be what is assumed, and what another template says.
                    Ok(candidate) if found.candidates.contains(&candidate) => {}
                    Ok(candidate) => found.candidates.push_back(candidate),
                    Err(error) => found.tried.push(Tried {
                        place: Place::Url(template.clone()),
                        why: error.to_string(),
                        absent: true,
                    }),
                }
            }
            if found.candidates.is_empty() && found.tried.len() == failed {
                found.tried.push(Tried {
                    place: Place::Url(url),
                    why: "no `ac-discovery` tag for this image".to_owned(),
                    absent: true,
                });
            }
        }
        if !found.candidates.is_empty() && !found.keys.is_empty() {
            return;
        }
    }
}

/// What the page of a name says, and where it was.
fn ask(
    client: &Client,
    name: &str,
    wanted: &Wanted,
    tried: &mut Vec<Tried>,
) -> Option<(String, page::Tags)> {
    for scheme in ["https", "http"] {
        let url = format!("{scheme}://{name}?ac-discovery=1");
        match client.page(&url, PAGE_MAX) {
            Ok(text) => return Some((url, page::tags(&text, wanted))),
            // Not allowed: that is no place that was tried.
            Err(FetchError::Plain) => {}
            Err(error) => tried.push(Tried::new(Place::Url(url), &error)),
        }
    }
    None
}
