//! A backend fails for a while and every client would like to try again: what it receives stays bounded, and when it is well
//! again nobody tramples it.

use std::time::Duration;
use std::time::Instant;

use leno_e2e::load::Load;

use crate::stage::PATIENCE;
use crate::stage::Setting;
use crate::stage::Stage;
use crate::stage::is_long;
use crate::stage::line;
use crate::stage::tell;
use crate::stage::traffic_policy;

/// As eager as policy allows without asking for more budget.
const EAGER: &str = "retries: {attempts: 5, retryOn: [GatewayError], backoff: {base: 10ms, max: 100ms}}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_backend_is_not_stormed_by_two_clients_of_50_a_second() {
    storm(&["caller", "other"], 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_backend_is_not_stormed_by_a_client_of_200_a_second() {
    storm(&["caller"], 200).await;
}

async fn storm(clients: &[&str], rate: u32) {
    let callers: Vec<(&str, &[&str])> = clients.iter().map(|client| (*client, &["server"] as &[&str])).collect();
    let manifests = vec![("eager.yaml", traffic_policy("server", EAGER))];
    let stage = Stage::set(Setting { callers: &callers, manifests, ..Setting::default() }).await;
    let mut loads = Vec::new();
    for client in clients {
        loads.push(stage.load(&format!("{client}-0"), "server", rate).await);
    }
    // The budgets' windows hold good requests: the worst moment to fail.
    let well = Instant::now();
    tokio::time::sleep(Duration::from_secs(if is_long() { 12 } else { 4 })).await;
    let before: usize = loads.iter().map(|load| load.since(well).total).sum::<usize>() + rate as usize * clients.len();
    let failing = Duration::from_secs(if is_long() { 60 } else { 20 });
    let start = Instant::now();
    stage.apps.iter().for_each(|app| app.fail(true));
    tokio::time::sleep(failing).await;
    let received = stage.arrivals(start).len();
    let (end, seconds) = (Instant::now(), start.elapsed().as_secs_f64());
    stage.apps.iter().for_each(|app| app.fail(false));
    let asked: usize = loads.iter().map(|load| load.since(start).total).sum();
    let free = 10.0 * seconds * clients.len() as f64;
    // In a minute, what the good requests of before have paid for disappears in the rest; in the short run it is added.
    let saved = if is_long() { 0.0 } else { 0.2 * before as f64 };
    let bound = 1.2 * asked as f64 + free + saved;
    tell(format_args!(
        "backend fails {seconds:.0} s, {} x {rate}/s: {asked} asked, {received} received ({:.2}x; the bound is {bound:.0})",
        clients.len(),
        received as f64 / asked as f64
    ));
    assert!(received as f64 <= bound, "{received} received of {asked} asked");
    for client in clients {
        let metrics = stage.metrics(&format!("{client}-0")).await;
        let refused = metrics.sum("leno_retries_total", &["refused_by_budget"]);
        assert!(refused > 0.0, "the budget of {client} was what held it back");
    }
    recovery(&stage, &loads, end, f64::from(rate) * clients.len() as f64).await;
}

/// The first seconds after the backend is well.
async fn recovery(stage: &Stage, loads: &[Load], end: Instant, share: f64) {
    stage
        .until(PATIENCE, "every client is well again", || async {
            loads.iter().all(|load| {
                let last = load.since(Instant::now() - Duration::from_secs(1));
                last.total > 0 && last.failed == 0
            })
        })
        .await;
    let well = end.elapsed();
    let arrivals = stage.arrivals(end);
    let (tenth, second) = (busiest(&arrivals, Duration::from_millis(100)), busiest(&arrivals, Duration::from_secs(1)));
    tell(format_args!(
        "well again after {:.1} s; busiest 100 ms {tenth} (fair share {:.0}), busiest 1 s {second} (fair share {share:.0})",
        well.as_secs_f64(),
        share / 10.0
    ));
    for load in loads {
        tell(format_args!("   a client since: {}", line(&load.since(end))));
        load.stop();
    }
    // Half as much again, which is what the load generator itself catches up on after the machine stood still, and a request on
    // each of its connections.
    let most = 1.5 * share + 20.0 * loads.len() as f64;
    assert!(second as f64 <= most, "a herd: {second} in one second where {share} are asked");
}

/// The most arrivals in any stretch of that length.
fn busiest(arrivals: &[Instant], length: Duration) -> usize {
    let after = |from: &Instant| arrivals.partition_point(|at| *at < *from + length);
    arrivals.iter().enumerate().map(|(first, from)| after(from) - first).max().unwrap_or(0)
}

impl Stage {
    /// At all servers, in the order of time.
    fn arrivals(&self, since: Instant) -> Vec<Instant> {
        let mut all: Vec<Instant> = self.apps.iter().flat_map(|app| app.arrivals(since)).collect();
        all.sort_unstable();
        all
    }
}
