//! Numbers in Prometheus' text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Every counter is shown from the beginning, so that its first increase is seen.

use super::{Copied, Counter, Series, Timer, Values};
use crate::backend_kind::Kind;

/// A number that is measured when somebody asks.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Gauge {
    /// Its name.
    pub name: &'static str,
    /// What it means, in one line.
    #[serde(skip)]
    pub help: &'static str,
    /// Values, each with a label where there is more than one.
    pub values: Vec<(Option<(&'static str, String)>, u64)>,
}

impl Gauge {
    /// One without labels.
    #[must_use]
    pub fn plain(name: &'static str, help: &'static str, value: u64) -> Self {
        Self {
            name,
            help,
            values: vec![(None, value)],
        }
    }
}

/// Counters of one name, with what they mean.
fn counters() -> Vec<(&'static str, Vec<Counter>)> {
    let each = |of: fn(Kind) -> Counter| Kind::ALL.map(of).to_vec();
    let copied = [Copied::Layer, Copied::Rootfs];
    vec![
        (
            "Root file systems that could not be provided.",
            each(Counter::ProvisionErrors),
        ),
        ("Containers removed.", vec![Counter::Destroys]),
        (
            "Containers that could not be removed.",
            vec![Counter::RemoveContainerErrors],
        ),
        (
            "Root file systems that could not be removed.",
            each(Counter::RemoveRootfsErrors),
        ),
        ("Runs of recover.", vec![Counter::Recoveries]),
        ("Pulls that failed.", vec![Counter::PullErrors]),
        ("Images imported, also by pulls.", vec![Counter::Imports]),
        (
            "Archives that could not be imported.",
            vec![Counter::ImportErrors],
        ),
        (
            "Images that were in the store when a container was provided.",
            vec![Counter::CacheHits],
        ),
        (
            "Images that had to be pulled when a container was provided.",
            vec![Counter::CacheMisses],
        ),
        (
            "Bytes of files written out of images.",
            copied.map(Counter::MaterialisedBytes).to_vec(),
        ),
        ("Mounts that became usable.", vec![Counter::Mounts]),
        ("Mounts that failed.", vec![Counter::MountErrors]),
        ("Garbage collections.", vec![Counter::GcRuns]),
        ("Garbage collections that failed.", vec![Counter::GcErrors]),
        (
            "Bytes removed by garbage collections.",
            vec![Counter::GcFreedBytes],
        ),
        (
            "Images removed by garbage collections.",
            vec![Counter::GcFreedImages],
        ),
    ]
}

/// Times of one name, with what they mean.
fn timers() -> Vec<(&'static str, Vec<Timer>)> {
    vec![
        (
            "Time from the wish for a root file system to its use.",
            Kind::ALL.map(Timer::Provision).to_vec(),
        ),
        ("Time of pulls that succeeded.", vec![Timer::Pull]),
    ]
}

/// All in text.
#[must_use]
pub fn text(values: &Values, gauges: &[Gauge]) -> String {
    let mut text = String::new();
    for (help, group) in counters() {
        let all: Vec<Series> = group.iter().map(|counter| counter.series()).collect();
        text.push_str(&head(all[0].family, help, "counter"));
        for series in all {
            let name = series.text();
            text.push_str(&format!("{name} {}\n", values.get(&name)));
        }
    }
    for (help, group) in timers() {
        text.push_str(&head(group[0].series().family, help, "histogram"));
        group
            .iter()
            .for_each(|timer| text.push_str(&histogram(values, *timer)));
    }
    for gauge in gauges.iter().filter(|gauge| !gauge.values.is_empty()) {
        text.push_str(&head(gauge.name, gauge.help, "gauge"));
        for (label, value) in &gauge.values {
            let label = label.as_ref();
            let label = label.map(|(name, value)| format!("{{{name}=\"{}\"}}", escape(value)));
            let label = label.unwrap_or_default();
            text.push_str(&format!("{}{label} {value}\n", gauge.name));
        }
    }
    text
}

fn head(name: &str, help: &str, kind: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

/// A label's value as the format wants it.
fn escape(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn histogram(values: &Values, timer: Timer) -> String {
    let series = timer.series();
    let (file, family) = (series.text(), series.family);
    let own = series
        .label
        .map(|(name, value)| format!("{name}=\"{value}\""));
    let own = own.as_deref();
    let mut text = String::new();
    let mut sum = 0;
    let mut bucket = |end: &str, shown: &str| {
        sum += values.get(&format!("{file}#{end}"));
        let le = format!("le=\"{shown}\"");
        let labels: Vec<&str> = own.into_iter().chain([le.as_str()]).collect();
        text.push_str(&format!("{family}_bucket{{{}}} {sum}\n", labels.join(",")));
    };
    for end in timer.buckets() {
        bucket(&end.to_string(), &seconds(*end));
    }
    bucket("inf", "+Inf");
    let labels = own.map_or_else(String::new, |own| format!("{{{own}}}"));
    let total = seconds(values.get(&format!("{file}#sum")));
    text.push_str(&format!("{family}_sum{labels} {total}\n"));
    text.push_str(&format!("{family}_count{labels} {sum}\n"));
    text
}

/// All as JSON: series as Prometheus calls them, times with count and sum.
#[must_use]
pub fn json(values: &Values, gauges: &[Gauge]) -> serde_json::Value {
    let mut all = serde_json::Map::new();
    for line in text(values, gauges).lines() {
        // A series may have blanks in a label, its value has none.
        if let (false, Some((series, value))) = (line.starts_with('#'), line.rsplit_once(' ')) {
            let number = value.parse().unwrap_or(serde_json::Value::Null);
            all.insert(series.to_owned(), number);
        }
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut values = Values::default();
        values.add(Counter::ProvisionErrors(Kind::Bind).series().text(), 3);
        let timer = Timer::Provision(Kind::Fuse);
        for micros in [4_000, 12_345, 200_000_000] {
            values.observe(timer, Duration::from_micros(micros));
        }
        let gauge = Gauge {
            name: "lazyroot_containers",
            help: "Containers.",
            values: vec![(Some(("state", "a\"\\\nb".to_owned())), 2)],
        };
        let text = text(
            &values,
            &[gauge, Gauge::plain("lazyroot_images", "Images.", 9)],
        );
        for line in [
            "# HELP lazyroot_provision_errors_total Root file systems that could not be provided.",
            "# TYPE lazyroot_provision_errors_total counter",
            "lazyroot_provision_errors_total{backend=\"bind\"} 3",
            "lazyroot_provision_errors_total{backend=\"copy\"} 0",
            "# TYPE lazyroot_provision_seconds histogram",
            "lazyroot_provision_seconds_bucket{backend=\"fuse\",le=\"0.005\"} 1",
            "lazyroot_provision_seconds_bucket{backend=\"fuse\",le=\"0.015\"} 2",
            "lazyroot_provision_seconds_bucket{backend=\"fuse\",le=\"120\"} 2",
            "lazyroot_provision_seconds_bucket{backend=\"fuse\",le=\"+Inf\"} 3",
            "lazyroot_provision_seconds_sum{backend=\"fuse\"} 200.016345",
            "lazyroot_provision_seconds_count{backend=\"fuse\"} 3",
            "lazyroot_image_pull_seconds_count 0",
            "lazyroot_containers{state=\"a\\\"\\\\\\nb\"} 2",
            "lazyroot_images 9",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_family_is_announced_once_and_every_series_comes_once() {
        let text = text(&Values::default(), &[]);
        let mut seen = BTreeSet::new();
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && seen.insert(line), "{line}");
                family = name;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, family);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(series.starts_with(family) && seen.insert(series), "{line}");
                assert_eq!(value, "0", "{line}");
            }
        }
        assert!(seen.len() > 60);
    }

    #[test]
    fn json_has_the_same_numbers() {
        let mut values = Values::default();
        values.observe(Timer::Pull, Duration::from_millis(1500));
        let json = json(&values, &[Gauge::plain("lazyroot_images", "Images.", 9)]);
        assert_eq!(json["lazyroot_images"], 9);
        assert_eq!(json["lazyroot_image_pull_seconds_sum"], 1.5);
        assert_eq!(json["lazyroot_image_pull_seconds_bucket{le=\"2.5\"}"], 1);
        assert_eq!(json["lazyroot_mounts_total"], 0);
    }
}
