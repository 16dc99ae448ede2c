//! What the demo shows: the way in, and a live table. It must never change anything.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::load::Load;
use crate::load::Window;
use crate::mesh::Mesh;
use crate::scrape::Scrape;
use crate::scrape::scrape;

/// Where everything is.
pub fn introduction(mesh: &Mesh, door: SocketAddr) {
    println!();
    println!("A storefront of {} pods runs behind Leno.", mesh.plan.pods.len());
    println!("  front door        curl -H 'host: web' http://{door}/");
    println!("  manifests         {}   (edit one: it is live within a second)", mesh.manifests().display());
    println!("  status            http://{}/status?format=text", mesh.admin());
    println!("  control plane     http://{}/metrics", mesh.admin());
    for pod in &mesh.plan.pods {
        println!("  {:17} http://{}/metrics", pod.name, pod.status());
    }
    println!();
}

/// One line of a window's figures.
pub fn line(window: &Window) -> String {
    let success = 100.0 * (window.total - window.failed) as f64 / window.total.max(1) as f64;
    let versions: Vec<String> = window.versions.keys().map(|v| format!("{v} {:.0} %", window.share(v))).collect();
    format!(
        "{:6.0} requests/s  success {success:6.2} %  p50 {:5.1} ms  p99 {:6.1} ms  catalog {}",
        window.rate,
        window.p50.as_secs_f64() * 1e3,
        window.p99.as_secs_f64() * 1e3,
        versions.join(", "),
    )
}

/// The live table, until its future is dropped.
pub async fn watch(mesh: &Mesh, load: &Load) {
    let terminal = std::io::stdout().is_terminal();
    loop {
        let since = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let window = load.since(since);
        if !terminal {
            println!("{}", line(&window));
            continue;
        }
        let mut screen = String::from("\x1b[2J\x1b[H\x1b[1mLeno\x1b[0m  a storefront under load; Ctrl-C ends it\n\n");
        screen += &format!("{}\n\n{}", line(&window), HEADINGS);
        for pod in &mesh.plan.pods {
            if let Ok(metrics) = scrape(pod.status()).await {
                screen += &edges(&pod.name, &metrics);
            }
        }
        for (reason, count) in &window.reasons {
            screen += &format!("\x1b[31mfailed {count}: {reason}\x1b[0m\n");
        }
        print!("{screen}");
        let _ = std::io::Write::flush(&mut std::io::stdout());
    }
}

const HEADINGS: &str =
    "pod              to                        requests  retries  ejections  active  idle  pending  reuse\n";

/// One row for each service that this pod's sidecar reaches.
fn edges(pod: &str, metrics: &Scrape) -> String {
    let mut services: Vec<&str> = metrics
        .matching("leno_requests_total", &["direction=\"outbound\""])
        .filter_map(|s| label(&s.labels, "service"))
        .collect();
    services.sort_unstable();
    services.dedup();
    let mut rows = String::new();
    for service in services {
        let own = format!("service=\"{service}\"");
        let sum = |name: &str, more: &str| metrics.sum(name, &[own.as_str(), more]);
        let reused = sum("leno_pool_checkouts_total", "reused=\"true\"");
        let all = sum("leno_pool_checkouts_total", "");
        rows += &format!(
            "{pod:16} {service:24} {:9.0} {:8.0} {:10.0} {:7.0} {:5.0} {:8.0} {:5.0}%\n",
            sum("leno_requests_total", "direction=\"outbound\""),
            sum("leno_retries_total", ""),
            sum("leno_ejections_total", ""),
            sum("leno_pool_connections", "state=\"active\""),
            sum("leno_pool_connections", "state=\"idle\""),
            sum("leno_pool_pending", ""),
            100.0 * reused / all.max(1.0),
        );
    }
    rows
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0)
}
