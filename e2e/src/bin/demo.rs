//! The demo: a storefront behind Leno under steady load, and a short story told on it. With `--check` every step is asserted
//! on measured traffic; in a terminal it is shown live and goes on until Ctrl-C.

use std::time::Duration;

use clap::Parser;
use leno_e2e::load::Load;
use leno_e2e::manifests;
use leno_e2e::mesh;
use leno_e2e::mesh::Mesh;
use leno_e2e::story;
use leno_e2e::view;

#[derive(Parser)]
#[command(name = "leno-demo", about = "A whole mesh on this machine, under load")]
struct Options {
    /// No terminal: tell the story, assert each step, exit non-zero where one fails.
    #[arg(long)]
    check: bool,
    /// Send the sidecars' traces to this OTLP endpoint.
    #[arg(long)]
    otlp: Option<String>,
    /// Requests a second at the front door.
    #[arg(long, default_value_t = 100)]
    rate: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let network = mesh::free_network()?;
    let plan = mesh::Plan {
        pods: manifests::storefront(network),
        // Short, so that one sees them renewed; long, so that the 18 s that one has at least outlast the control plane's absence.
        leaf_ttl: Duration::from_secs(60),
        fail_percent: 10,
        manifests: manifests::storefront_policies(),
        otlp: options.otlp.clone(),
    };
    let mut mesh = Mesh::start(network, plan, &|step| eprintln!("starting {step}")).await?;
    let door = {
        let (_, shopper) = mesh.pod("shopper-0")?;
        shopper.listener("web").expect("the shopper calls web")
    };
    let load = Load::start(door, "web", "/", options.rate, 16);
    view::introduction(&mesh, door);
    let told = tokio::select! {
        told = story::tell(&mut mesh, &load, options.check) => told,
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    if options.check {
        if told.is_err() {
            eprintln!("{}", mesh.tails());
        }
        load.stop();
        return told;
    }
    if let Err(error) = told {
        println!("this step did not go as told: {error:#}");
    }
    tokio::select! {
        () = view::watch(&mesh, &load) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    println!("\nstopping the mesh");
    Ok(())
}
