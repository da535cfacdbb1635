//! `lazyroot recover`

use std::collections::BTreeSet;

use super::containers::{backend_failure, failure, keeper};
use super::report::{Exit, Failure, chain};
use super::{Context, logging, print, print_json};
use crate::backend::lower;
use crate::container::recover::Action;
use crate::container::{Containers, Done};
use crate::container_id::ContainerId;
use crate::store::metrics::Counter;

/// Put everything right after a crash or a reboot.
///
/// Every container is kept, and mounted again with what was written in it where its
/// mount is gone. What was never ready goes, what only held others of which none is left, and what was being
/// destroyed. Directories among those of containers that belong to none are told. Applied
/// again it changes nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A container that is still wanted. With this, all that are not named are destroyed, but for those that
    /// hold a named one, and those that `run` is at work in, which are told. An empty list (--known=)
    /// names none.
    #[arg(long, value_name = "ID", value_delimiter = ',', num_args = 0..)]
    known: Option<Vec<String>>,
    /// Only say what would be done.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    action: &'a Action,
    /// `planned`, `done`, `skipped` (somebody else was at it), `failed`, `told`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    context.stop_by_signals()?;
    let known = args.known.as_ref().map(|known| {
        let named = known.iter().filter(|name| !name.is_empty());
        named
            .map(|name| name.parse())
            .collect::<Result<BTreeSet<ContainerId>, _>>()
    });
    let known = known
        .transpose()
        .map_err(|error| Failure::of(Exit::Usage, &error))?;
    let store = context.open()?;
    let keeper = keeper(context, &store);
    let actions = keeper
        .plan(known.as_ref())
        .map_err(|error| failure(&error))?;
    if args.dry_run {
        let planned = actions.iter().map(|action| Line {
            action,
            outcome: if action.is_only_told() {
                "told"
            } else {
                "planned"
            },
            error: None,
        });
        return report(&planned.collect::<Vec<_>>(), args.json);
    }
    // Nothing is mounted before.
    let keeper = Containers {
        log: logging::of_server(context.log_file.as_deref(), &context.log),
        ..keeper
    };
    let done = keeper.repair(actions);
    store.count(Counter::Recoveries);
    lower::sweep_locks(&store).map_err(|error| backend_failure(&error))?;
    store.sweep_containers()?;
    store.sweep_staging()?;
    let lines: Vec<Line<'_>> = done.iter().map(line).collect();
    report(&lines, args.json)?;
    match done.iter().find_map(|done| done.outcome.as_ref().err()) {
        None => Ok(()),
        Some(first) => {
            let failed = done.iter().filter(|done| done.outcome.is_err()).count();
            let mut failure = failure(first);
            failure.message = format!("{failed} of {} actions failed: {}", done.len(), failure);
            Err(failure)
        }
    }
}

fn line(done: &Done) -> Line<'_> {
    Line {
        action: &done.action,
        outcome: match &done.outcome {
            _ if done.action.is_only_told() => "told",
            Ok(Some(())) => "done",
            Ok(None) => "skipped",
            Err(_) => "failed",
        },
        error: done.outcome.as_ref().err().map(|error| chain(error)),
    }
}

fn report(lines: &[Line<'_>], json: bool) -> Result<(), Failure> {
    if json {
        return print_json(&lines);
    }
    let mut text = String::new();
    for line in lines {
        let outcome = match line.outcome {
            "done" | "told" => String::new(),
            other => format!(" ({other})"),
        };
        let error = line.error.as_deref().map(|error| format!(": {error}"));
        text.push_str(&format!(
            "{}{outcome}{}\n",
            line.action,
            error.unwrap_or_default()
        ));
    }
    print(text.as_bytes())
}
