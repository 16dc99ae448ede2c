//! The story that the demo tells: each step does something to the mesh, watches the traffic, and asserts what it saw.

use std::future::Future;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;

use crate::http::Client;
use crate::http::get;
use crate::load::Load;
use crate::load::Window;
use crate::manifests;
use crate::mesh::Mesh;
use crate::scrape::scrape;
use crate::view;

/// For what comes at once where all is well: how long it took is told, and a machine that has other work is no failure.
const PATIENCE: Duration = Duration::from_secs(180);

/// Tells every step; `strict` ends at the first that fails, otherwise it is said and the story goes on.
pub async fn tell(mesh: &mut Mesh, load: &Load, strict: bool) -> anyhow::Result<()> {
    let mut number = 0;
    let mut verdict = |title: &str, result: anyhow::Result<String>| {
        number += 1;
        match result {
            Ok(seen) => println!("\x1b[32m{number}. {title}\x1b[0m\n   {seen}"),
            Err(error) if strict => return Err(error.context(format!("step {number}, {title}"))),
            Err(error) => println!("\x1b[31m{number}. {title}\x1b[0m\n   {error:#}"),
        }
        Ok(())
    };
    verdict("Traffic flows, sidecar to sidecar, with mTLS", steady(mesh, load).await)?;
    verdict("A policy changed on disk goes live", policy(mesh, load).await)?;
    verdict("An endpoint dies and nobody notices", endpoint(mesh, load).await)?;
    verdict("A caller that AccessPolicy refuses gets its reason", refused(mesh).await)?;
    verdict("Certificates rotate under load", certificates(mesh, load).await)?;
    verdict(
        "The control plane is killed, traffic goes on, and its return costs no full push",
        outage(mesh, load).await,
    )?;
    Ok(())
}

/// Watches the load for as long as it takes `until` to hold, or fails with what was seen last.
pub async fn until<F, Fut>(within: Duration, what: &str, mut until: F) -> anyhow::Result<Duration>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<bool>>,
{
    let start = Instant::now();
    loop {
        if until().await? {
            return Ok(start.elapsed());
        }
        ensure!(start.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets at least `count` requests end, and returns what they were.
pub async fn watch(load: &Load, count: usize) -> anyhow::Result<Window> {
    let since = Instant::now();
    until(PATIENCE, "enough requests for a figure", || async { Ok(load.since(since).total >= count) }).await?;
    Ok(load.since(since))
}

pub fn all_succeeded(window: &Window) -> anyhow::Result<()> {
    ensure!(window.total > 0, "no request ended");
    ensure!(window.failed == 0, "{} of {} requests failed: {:?}", window.failed, window.total, window.reasons);
    Ok(())
}

async fn steady(mesh: &Mesh, load: &Load) -> anyhow::Result<String> {
    let window = watch(load, 300).await?;
    all_succeeded(&window)?;
    let share = window.share("v2");
    ensure!((2.0..25.0).contains(&share), "catalog v2 should answer about 10 %, answered {share:.0} %");
    let (_, web) = mesh.pod("web-0")?;
    let metrics = scrape(web.status()).await?;
    let mtls = metrics.sum("leno_requests_total", &["direction=\"inbound\"", "tls=\"mtls\""]);
    let plain = metrics.sum("leno_requests_total", &["direction=\"inbound\"", "tls=\"plaintext\""]);
    ensure!(mtls > 0.0 && plain == 0.0, "web saw {mtls} requests over mTLS and {plain} in plaintext");
    let retries = metrics.sum("leno_retries_total", &["pricing"]);
    ensure!(retries > 0.0, "pricing fails one request in ten, yet nothing was retried");
    Ok(format!(
        "{}; {mtls:.0} requests over mTLS, none in plaintext; {retries:.0} retries hid the flaky service",
        view::line(&window)
    ))
}

async fn policy(mesh: &Mesh, load: &Load) -> anyhow::Result<String> {
    let start = Instant::now();
    manifests::replace(&mesh.manifests().join("catalog-route.yaml"), &manifests::catalog_route(0, 100))
        .context("write the route")?;
    // Live: the last 20 answers all come from v2.
    let live = until(PATIENCE, "catalog v2 alone", || async {
        let recent = load.since(Instant::now() - Duration::from_millis(250));
        Ok(recent.total >= 10 && recent.share("v2") == 100.0)
    })
    .await?;
    let window = load.since(start);
    all_succeeded(&window)?;
    manifests::replace(&mesh.manifests().join("catalog-route.yaml"), &manifests::catalog_route(90, 10))
        .context("write the route")?;
    until(PATIENCE, "catalog v1 again", || async {
        let recent = load.since(Instant::now() - Duration::from_millis(250));
        Ok(recent.share("v1") > 50.0)
    })
    .await?;
    Ok(format!(
        "all of catalog's traffic moved to v2 {:.0} ms after the file was written, and back; 0 of {} failed",
        live.as_secs_f64() * 1e3,
        window.total
    ))
}

async fn endpoint(mesh: &mut Mesh, load: &Load) -> anyhow::Result<String> {
    let (number, pod) = mesh.pod("catalog-v1-0")?;
    let name = pod.name.clone();
    let start = Instant::now();
    mesh.kill_application(number);
    mesh.kill_sidecar(number);
    let window = watch(load, 500).await?;
    all_succeeded(&window)?;
    mesh.start_application(number)?;
    mesh.start_sidecar(number)?;
    let (_, pod) = mesh.pod(&name)?;
    mesh.until_ready(pod.status(), &name).await?;
    all_succeeded(&load.since(start))?;
    Ok(format!("{name} was killed with its sidecar: 0 of {} requests failed", window.total))
}

async fn refused(mesh: &Mesh) -> anyhow::Result<String> {
    let (_, stranger) = mesh.pod("stranger-0")?;
    let listener = stranger.listener("orders").context("the stranger calls orders")?;
    let answer = Client::new(listener).send(get("orders", "/storefront.v1.Orders/Place", &[])?).await?;
    let reason = answer.headers().get("leno-reason").map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    ensure!(answer.status() == 403, "the stranger got {} ({reason:?})", answer.status());
    ensure!(reason.as_deref() == Some("policy_denied"), "leno-reason is {reason:?}");
    Ok("stranger -> orders: 403, leno-reason: policy_denied".to_owned())
}

async fn certificates(mesh: &Mesh, load: &Load) -> anyhow::Result<String> {
    let start = Instant::now();
    let (_, web) = mesh.pod("web-0")?;
    let status = web.status();
    let renewals =
        || async { Ok::<_, anyhow::Error>(scrape(status).await?.sum("leno_certificate_renewals_total", &[])) };
    let before = renewals().await?;
    until(PATIENCE, "a renewed certificate", || async { Ok(renewals().await? > before) }).await?;
    watch(load, 200).await?;
    let window = load.since(start);
    all_succeeded(&window)?;
    Ok(format!(
        "web's certificate was renewed after {:.0} s: 0 of {} requests failed",
        start.elapsed().as_secs_f64(),
        window.total
    ))
}

async fn outage(mesh: &mut Mesh, load: &Load) -> anyhow::Result<String> {
    let start = Instant::now();
    mesh.kill_control_plane();
    let during = watch(load, 1000).await?;
    all_succeeded(&during)?;
    mesh.start_control_plane()?;
    mesh.until_ready(mesh.admin(), "control plane").await?;
    let admin = mesh.admin();
    let expected = mesh.plan.pods.len() as f64;
    until(PATIENCE, "every sidecar's session", || async {
        Ok(scrape(admin).await?.sum("leno_control_sessions", &[]) >= expected)
    })
    .await?;
    let metrics = scrape(admin).await?;
    let (unchanged, puts) = (
        metrics.sum("leno_control_resources_unchanged_total", &[]),
        metrics.sum("leno_control_resources_put_total", &[]),
    );
    ensure!(unchanged > puts, "sessions resumed with {unchanged} unchanged resources and {puts} pushed anew");
    all_succeeded(&load.since(start))?;
    Ok(format!(
        "0 of {} requests failed during the outage; sessions resumed with {unchanged:.0} resources unchanged, {puts:.0} pushed",
        during.total
    ))
}
