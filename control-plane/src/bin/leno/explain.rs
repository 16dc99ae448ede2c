//! `leno explain`: what becomes of a request, asked of a cluster's control plane, of one by its address, or of manifests alone.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use leno_control_plane::explain::Question;
use leno_control_plane::explain::explain;
use leno_control_plane::index::World;
use leno_control_plane::query;

use crate::reach::Reach;
use crate::reach::ask_address;
use crate::reach::block;
use crate::world;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The Pod that sends it: NAME or NAMESPACE/NAME, or on a cluster deployment/NAME.
    pod: String,
    /// NAME[.NAMESPACE][:PORT]; without a namespace, the Pod's.
    service: String,
    /// With the query.
    #[arg(default_value = "/")]
    path: String,
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// `Name: value`, as often as needed.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Also the values that nobody set.
    #[arg(long)]
    all: bool,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Ask these manifests instead of a control plane.
    #[arg(long, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Ask a control plane by its admin address, as http://HOST:PORT, instead of a cluster.
    #[arg(long, env = "LENO_ADMIN_URL", value_name = "URL")]
    admin: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let said = match (&options.admin, options.files.is_empty()) {
        (_, false) => of_files(options)?,
        (Some(admin), true) => ask_address(admin, &question(options, &options.pod))?,
        (None, true) => block(async {
            let cluster = options.reach.cluster()?;
            let (namespace, pod) = cluster.pod(&options.pod).await?;
            cluster.ask(&question(options, &format!("{namespace}/{pod}"))).await
        })?,
    };
    print!("{said}");
    Ok(ExitCode::SUCCESS)
}

fn question(options: &Options, pod: &str) -> String {
    let mut pairs = vec![
        ("pod", pod),
        ("service", &options.service),
        ("path", &options.path),
        ("method", &options.method),
        ("format", if options.json { "json" } else { "text" }),
    ];
    pairs.extend(options.headers.iter().map(|header| ("header", header.as_str())));
    pairs.extend(options.all.then_some(("all", "")));
    format!("/explain?{}", query::encode(&pairs))
}

fn of_files(options: &Options) -> anyhow::Result<String> {
    let header = |header: &String| {
        let (name, value) =
            header.split_once(':').with_context(|| format!("write -H 'Name: value', not {header:?}"))?;
        anyhow::Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    let question = Question {
        pod: options.pod.clone(),
        service: options.service.clone(),
        method: options.method.clone(),
        path: options.path.clone(),
        headers: options.headers.iter().map(header).collect::<anyhow::Result<_>>()?,
    };
    let declared = world::declared(&options.files)?;
    for refused in &declared.refused {
        eprintln!("leno: not admitted: {refused}");
    }
    let mut world = World::default();
    declared.apply(&mut world);
    let explanation = explain(&world, &question)?;
    Ok(match options.json {
        true => format!("{:#}\n", serde_json::json!(explanation)),
        false => explanation.text(options.all),
    })
}
