//! `lazyroot config`

use serde_json::Value;

use super::images::columns;
use super::report::Failure;
use super::{Context, print, print_json};

/// Show all settings in force, and where each was said.
///
/// A flag goes before the environment, that before a config file, that before the
/// default. Config files are /etc/lazyroot/config.toml, for ordinary users then
/// $XDG_CONFIG_HOME/lazyroot/config.toml (~/.config); or --config FILE alone.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    if args.json {
        return print_json(&context.settings);
    }
    let line = |setting: &super::settings::Setting| {
        let value = match &setting.value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        [setting.name.to_owned(), value, setting.from.clone()]
    };
    let lines: Vec<_> = context.settings.iter().map(line).collect();
    print(columns(&lines).as_bytes())
}
