//! Open-loop load: requests leave at their intended times on a fixed set of connections, latency counts from the intended
//! time. It must never slow down because the mesh does: what cannot be sent in time is late, and shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::http::Client;
use crate::http::get;

/// How one request ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub at: Instant,
    pub latency: Duration,
    /// 0: no answer.
    pub status: u16,
    /// `leno-reason` of the answer, or the client's own error.
    pub reason: Option<String>,
    /// The storefront's `x-catalog-version`.
    pub version: Option<String>,
}

impl Outcome {
    pub fn is_success(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

/// Outcomes of the last while, newest last; bounded.
#[derive(Clone)]
pub struct Load {
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    stop: Arc<AtomicBool>,
    /// Connections that still drive.
    driving: Arc<AtomicUsize>,
}

const KEPT: usize = 200_000;

impl Load {
    /// Starts `rate` requests a second over `connections` connections to `address`, until dropped or stopped.
    pub fn start(address: SocketAddr, host: &str, path: &str, rate: u32, connections: u32) -> Self {
        let load = Self { outcomes: Arc::default(), stop: Arc::default(), driving: Arc::default() };
        load.driving.store(connections as usize, Ordering::Relaxed);
        let period = Duration::from_secs(1) * connections / rate.max(1);
        for number in 0..connections {
            let (load, host, path) = (load.clone(), host.to_owned(), path.to_owned());
            let first = period * number / connections;
            tokio::spawn(async move {
                load.drive(Client::new(address), &host, &path, period, first).await;
                load.driving.fetch_sub(1, Ordering::Relaxed);
            });
        }
        load
    }

    async fn drive(&self, mut client: Client, host: &str, path: &str, period: Duration, first: Duration) {
        let start = tokio::time::Instant::now() + first;
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let intended = start + period * number;
            tokio::time::sleep_until(intended).await;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let result = match get(host, path, &[]) {
                Ok(request) => tokio::time::timeout(Duration::from_secs(20), client.send(request)).await,
                Err(error) => Ok(Err(error)),
            };
            self.record(intended.into_std(), result);
            // After a stall of the machine itself, go on from now: a burst would be this program's doing.
            let behind = intended.elapsed();
            number +=
                1 + (behind.saturating_sub(Duration::from_millis(500)).as_micros() / period.as_micros().max(1)) as u32;
        }
    }

    fn record(
        &self,
        intended: Instant,
        result: Result<anyhow::Result<crate::http::Response>, tokio::time::error::Elapsed>,
    ) {
        let mut outcome =
            Outcome { at: Instant::now(), latency: intended.elapsed(), status: 0, reason: None, version: None };
        match result {
            Ok(Ok(answer)) => {
                let text =
                    |name: &str| answer.headers().get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
                outcome.status = answer.status().as_u16();
                outcome.reason = text("leno-reason").or_else(|| text("x-storefront-error"));
                outcome.version = text("x-catalog-version");
            }
            Ok(Err(error)) => outcome.reason = Some(format!("{error:#}")),
            Err(_) => outcome.reason = Some("no answer within 20 s".to_owned()),
        }
        let mut outcomes = self.outcomes.lock().expect("no holder of this lock panics");
        if outcomes.len() >= KEPT {
            outcomes.drain(..KEPT / 2);
        }
        outcomes.push(outcome);
    }

    /// What ended since `since`.
    pub fn since(&self, since: Instant) -> Window {
        let outcomes = self.outcomes.lock().expect("no holder of this lock panics");
        let from = outcomes.partition_point(|o| o.at < since);
        Window::new(&outcomes[from..], since.elapsed())
    }

    /// Waits after `stop` for what is under way, so long at most.
    pub async fn finished(&self, limit: Duration) {
        let start = Instant::now();
        while self.driving.load(Ordering::Relaxed) > 0 && start.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Figures over a stretch of time.
#[derive(Debug, Clone, Default)]
pub struct Window {
    pub total: usize,
    pub failed: usize,
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub versions: BTreeMap<String, usize>,
    /// Failures by what they said.
    pub reasons: BTreeMap<String, usize>,
}

impl Window {
    fn new(outcomes: &[Outcome], span: Duration) -> Self {
        let mut window = Self { total: outcomes.len(), ..Self::default() };
        window.rate = outcomes.len() as f64 / span.as_secs_f64().max(0.001);
        let mut latencies: Vec<Duration> = outcomes.iter().map(|o| o.latency).collect();
        latencies.sort();
        let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
        (window.p50, window.p99) = (at(50), at(99));
        for outcome in outcomes {
            if let Some(version) = &outcome.version {
                *window.versions.entry(version.clone()).or_default() += 1;
            }
            if !outcome.is_success() {
                window.failed += 1;
                let said = outcome.reason.clone().unwrap_or_default();
                *window.reasons.entry(format!("{} {said}", outcome.status)).or_default() += 1;
            }
        }
        window
    }

    /// Percent of the answers that name this catalog version.
    pub fn share(&self, version: &str) -> f64 {
        let all: usize = self.versions.values().sum();
        100.0 * self.versions.get(version).copied().unwrap_or_default() as f64 / all.max(1) as f64
    }
}
