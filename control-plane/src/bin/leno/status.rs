//! `leno status`: every policy and route with how many proxies it is in force in. It must never say that something is live which
//! its own status does not say.

use std::process::ExitCode;

use serde_json::json;

use crate::lint::Format;
use crate::live;
use crate::live::State;
use crate::paint::Tone;
use crate::paint::count;
use crate::paint::paint;
use crate::paint::table;
use crate::reach::Reach;
use crate::reach::ask_address;
use crate::reach::block;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Ask a control plane by its admin address, as http://HOST:PORT, instead of a cluster.
    #[arg(long, env = "LENO_ADMIN_URL", value_name = "URL")]
    admin: Option<String>,
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// As `-o json`.
    #[arg(long, hide = true)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let json = options.json || options.output == Format::Json;
    if let Some(admin) = &options.admin {
        print!("{}", ask_address(admin, if json { "/status" } else { "/status?format=text" })?);
        return Ok(ExitCode::SUCCESS);
    }
    let all = block(async { live::all(&options.reach.cluster()?, options.reach.namespace.as_deref()).await })?;
    if json {
        println!("{:#}", json!(all));
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        println!("no policies and no routes; every pod with a sidecar has the defaults");
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["STATE", "PROXIES", "OBJECT", ""].map(str::to_owned).to_vec()];
    for one in &all {
        let more = if one.message.is_empty() { &one.warnings } else { &one.message };
        rows.push(vec![one.state.as_str().to_owned(), one.proxies.clone(), one.object(), more.clone()]);
    }
    print!("{}", table(&rows));
    let waiting = all.iter().filter(|one| one.state != State::Live).count();
    match waiting {
        0 => eprintln!("{}", paint(Tone::Good, "all of them are in force")),
        _ => eprintln!("{} not in force; `leno diff` says what is waited for", count(waiting, "is", "are")),
    }
    Ok(ExitCode::SUCCESS)
}
