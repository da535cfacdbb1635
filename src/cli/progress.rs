//! How far an import is: a bar on a terminal, a line per layer otherwise.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::digest::Digest;
use crate::image::Named;
use crate::import::Progress;
use crate::registry::Arrival;

/// Of what has a length. A line that is wider than the terminal would be broken in two and drawn
/// below itself each time, so what comes last takes the room that is left.
const KNOWN: &str = "{spinner} {bytes} of {total_bytes} [{bar:20}] {bytes_per_sec} {wide_msg}";
/// Of what has none.
const ENDLESS: &str = "{spinner} {bytes} {bytes_per_sec} {wide_msg}";
/// Of one of several.
const OF_SEVERAL: &str =
    "{prefix} {bytes:>10} of {total_bytes:<10} [{wide_bar}] {bytes_per_sec:>12}";
/// Of what is written.
const WRITTEN: &str = "{spinner} {bytes} written, {msg}";

fn dress(bar: &ProgressBar, template: &str) {
    // They are ours, and tests draw them.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

/// Shows progress on standard error.
#[derive(Debug)]
pub(super) struct Shown {
    bar: ProgressBar,
    lines: bool,
    /// Length of all layers so far, as far as it is known.
    total: Mutex<u64>,
}

impl Shown {
    /// A bar when standard error is a terminal, lines when not; nothing when `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = match terminal && !quiet {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Self {
            lines: !terminal && !quiet,
            ..Self::on(target)
        }
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        dress(&bar, ENDLESS);
        Self {
            bar,
            lines: false,
            total: Mutex::new(0),
        }
    }

    /// How much there will be, if that is known: a bar can only be drawn of that.
    fn expect(&self, len: Option<u64>) {
        match len {
            Some(len) => {
                // What came before, `commit` making its layer for instance, is no part of it.
                if self.bar.length().is_none() {
                    self.bar.set_position(0);
                }
                dress(&self.bar, KNOWN);
                self.bar.set_length(len);
            }
            None => {
                dress(&self.bar, ENDLESS);
                self.bar.unset_length();
            }
        }
    }

    /// Takes the bar away, so that results and errors stand alone.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Shown {
    fn layer(&self, name: &str, len: Option<u64>) {
        let mut total = self.total.lock();
        *total += len.unwrap_or(0);
        self.expect(len.map(|_| *total));
        self.bar.set_message(short(name));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn layer_done(&self, name: &str, kept: bool) {
        if self.lines {
            let what = if kept { "is in the store" } else { "taken" };
            // A progress line that nobody can read is no reason to fail.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("layer {} {what}\n", short(name)),
            );
        }
    }

    fn left_out(&self, why: &str) {
        // Also where nobody wants to see progress: it is told nowhere else.
        self.bar.suspend(|| {
            let mut to = std::io::stderr();
            // Nobody may be there to read it.
            let _ = std::io::Write::write_fmt(&mut to, format_args!("note: left out: {why}\n"));
        });
    }
}

impl crate::discovery::Progress for Shown {
    fn begin(&self, url: &str, there: u64, len: Option<u64>) {
        self.expect(len);
        self.bar.set_position(there);
        self.bar.set_message(short(url));
        if self.lines {
            let what = if there > 0 { "goes on with" } else { "fetches" };
            // As below: nobody there to read it.
            let _ =
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{what} {url}\n"));
        }
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

/// Shows layers that come from a registry: a bar for each on a terminal, lines otherwise.
#[derive(Debug)]
pub(super) struct Layers {
    all: MultiProgress,
    /// Those that are on their way.
    bars: Mutex<BTreeMap<Digest, ProgressBar>>,
    lines: bool,
    quiet: bool,
}

impl Layers {
    /// Bars when standard error is a terminal, lines when not; nothing when `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = match terminal && !quiet {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Self {
            all: MultiProgress::with_draw_target(target),
            bars: Mutex::default(),
            lines: !terminal && !quiet,
            quiet,
        }
    }

    /// Takes the bars away, so that results and errors stand alone.
    pub(super) fn end(&self) {
        for bar in std::mem::take(&mut *self.bars.lock()).into_values() {
            bar.finish_and_clear();
        }
    }

    /// A line for people, also between bars.
    fn note(&self, text: String) {
        self.line(&text);
        if !self.lines && !self.quiet {
            // As below.
            let _ = self.all.println(text);
        }
    }

    fn line(&self, text: &str) {
        if self.lines {
            // Nobody may be there to read it.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
        }
    }
}

impl crate::registry::Progress for Layers {
    fn begin(&self, blob: &Digest, there: u64, len: Option<u64>) {
        let mut bars = self.bars.lock();
        let known = bars.contains_key(blob);
        let bar = bars.entry(*blob).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::no_length());
            dress(&bar, OF_SEVERAL);
            bar.set_prefix(blob.hex()[..12].to_owned());
            bar
        });
        if let Some(len) = len {
            bar.set_length(len);
        }
        bar.set_position(there);
        drop(bars);
        if !known {
            let what = match (there, len) {
                (0, _) => "fetches",
                (there, Some(len)) if there == len => "has",
                _ => "goes on with",
            };
            let len = len.map_or_else(String::new, |len| format!(", {}", super::human(len)));
            self.line(&format!("{what} layer {}{len}", &blob.hex()[..12]));
        }
    }

    fn advance(&self, blob: &Digest, bytes: u64) {
        if let Some(bar) = self.bars.lock().get(blob) {
            bar.inc(bytes);
        }
    }

    fn again(&self, server: &str, why: &str) {
        self.note(format!("note: {server} is asked again: {why}"));
    }

    fn passed_over(&self, mirror: &str, why: &str) {
        self.note(format!("note: mirror {mirror} is passed over: {why}"));
    }
}

impl Progress for Layers {
    fn layer_done(&self, name: &str, kept: bool) {
        if let Some(Named::Blob(digest)) = Named::of(name) {
            if let Some(bar) = self.bars.lock().remove(&digest) {
                bar.finish_and_clear();
            }
            let what = if kept { "is in the store" } else { "taken" };
            self.line(&format!("layer {} {what}", &digest.hex()[..12]));
        }
    }
}

/// Shows how much of a tree is written. Lines would say nothing that the end does not.
#[derive(Debug)]
pub(super) struct Written(ProgressBar);

impl Written {
    /// A bar when standard error is a terminal; nothing otherwise, or when `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        let target = match std::io::stderr().is_terminal() && !quiet {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        dress(&bar, WRITTEN);
        Self(bar)
    }

    /// So much by now.
    pub(super) fn tell(&self, bytes: u64, objects: u64) {
        self.0.set_position(bytes);
        self.0.set_message(format!("{objects} objects"));
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

impl crate::export::Progress for Shown {
    fn begin(&self, bytes: u64) {
        self.expect(Some(bytes));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl crate::export::push::Progress for Shown {
    fn begin(&self, bytes: u64) {
        self.expect(Some(bytes));
    }

    fn moved(&self, bytes: i64) {
        match u64::try_from(bytes) {
            Ok(more) => self.bar.inc(more),
            Err(_) => self.bar.dec(bytes.unsigned_abs()),
        }
    }

    fn arrived(&self, blob: &Digest, arrival: Arrival) {
        if self.lines {
            let what = match arrival {
                Arrival::There => "is there",
                Arrival::Mounted => "mounted from another repository",
                Arrival::Sent => "sent",
            };
            // As above: nobody there to read it.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("blob {} {what}\n", &blob.hex()[..12]),
            );
        }
    }
}

/// Digests are cut to what tells them apart, places to the name at their end.
fn short(name: &str) -> String {
    let name = match name.starts_with('/') || name.contains("://") {
        true => name.rsplit('/').next().unwrap_or(name),
        false => name.strip_prefix("blobs/sha256/").unwrap_or(name),
    };
    name.chars().take(24).collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;

    /// A terminal that remembers its lines.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<Vec<String>>>);

    impl Terminal {
        const WIDTH: u16 = 80;

        fn target(&self) -> ProgressDrawTarget {
            ProgressDrawTarget::term_like(Box::new(self.clone()))
        }

        /// The last line; none was wider than the terminal.
        fn last(&self) -> String {
            let lines = self.0.lock();
            for line in lines.iter() {
                let width = line.chars().count();
                assert!(width <= Self::WIDTH.into(), "{width}: {line}");
            }
            let shown = lines.iter().rev().find(|line| !line.trim().is_empty());
            shown.cloned().unwrap_or_default()
        }
    }

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            Self::WIDTH
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().push(text.to_owned());
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Of most digits.
    const LARGE: u64 = 1023 << 20;

    #[test]
    fn no_line_of_progress_is_wider_than_a_terminal() {
        let terminal = Terminal::default();
        let shown = Shown::on(terminal.target());
        Progress::layer(
            &shown,
            &format!("blobs/sha256/{}", "a".repeat(64)),
            Some(LARGE),
        );
        Progress::advance(&shown, LARGE / 2);
        shown.bar.tick();
        let line = terminal.last();
        assert!(line.contains("MiB of ") && line.contains("===>"), "{line}");
        let url = "https://images.example.com/a/b/application-1.0.0-linux-amd64.aci";
        crate::discovery::Progress::begin(&shown, url, LARGE / 2, Some(LARGE));
        shown.bar.tick();
        assert!(terminal.last().contains(" applicat"), "{}", terminal.last());

        let terminal = Terminal::default();
        let layers = Layers {
            all: MultiProgress::with_draw_target(terminal.target()),
            bars: Mutex::default(),
            lines: false,
            quiet: false,
        };
        let blob = Digest::sha256(b"");
        crate::registry::Progress::begin(&layers, &blob, 0, Some(LARGE));
        crate::registry::Progress::advance(&layers, &blob, LARGE / 2);
        layers.bars.lock()[&blob].tick();
        let line = terminal.last();
        assert!(line.contains("MiB of ") && line.contains("===>"), "{line}");
    }

    /// The bar of `commit` stayed empty beside `N of N`.
    #[test]
    fn what_has_no_length_has_no_bar() {
        let terminal = Terminal::default();
        let shown = Shown::on(terminal.target());
        Progress::advance(&shown, LARGE);
        shown.bar.tick();
        let line = terminal.last();
        assert!(
            line.contains("1023.00 MiB") && !line.contains(" of "),
            "{line}"
        );
        assert!(!line.contains('['), "{line}");
        // The layer that was made is read again.
        Progress::layer(&shown, "layer", Some(LARGE));
        Progress::advance(&shown, 1 << 20);
        shown.bar.tick();
        assert!(
            terminal.last().contains(" 1.00 MiB of "),
            "{}",
            terminal.last()
        );
    }
}
