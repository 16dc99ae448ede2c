//! A small mesh for one test: some servers, some callers, load between them, and the words in which figures are told.

use std::fmt::Arguments;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use leno_e2e::http::Client;
use leno_e2e::http::Response;
use leno_e2e::load::Load;
use leno_e2e::load::Window;
use leno_e2e::manifests::Application;
use leno_e2e::manifests::Pod;
use leno_e2e::mesh;
use leno_e2e::mesh::Mesh;
use leno_e2e::mesh::Plan;
use leno_e2e::mesh::Settings;
use leno_e2e::scrape::Scrape;
use leno_e2e::scrape::scrape;
use leno_e2e::story;

use crate::app::App;

/// What is on stage. Pods are `SERVICE-NUMBER`.
pub(crate) struct Stage {
    pub(crate) mesh: Mesh,
    /// One a serving pod, in the order of the pods.
    pub(crate) apps: Vec<App>,
}

/// For what takes some seconds where all is well, on a machine that has other work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// How a stage is set.
pub(crate) struct Setting<'s> {
    /// Service and how many pods of it serve; each with an `App` unless `application` says otherwise.
    pub(crate) servers: &'s [(&'s str, usize)],
    /// Services that only call, with what they call.
    pub(crate) callers: &'s [(&'s str, &'s [&'s str])],
    pub(crate) application: Application,
    pub(crate) leaf_ttl: Duration,
    pub(crate) manifests: Vec<(&'static str, String)>,
    pub(crate) settings: Settings,
}

impl Default for Setting<'_> {
    fn default() -> Self {
        Self {
            servers: &[("server", 2)],
            callers: &[("caller", &["server"])],
            application: Application::Foreign,
            leaf_ttl: Duration::from_secs(3600),
            manifests: Vec::new(),
            settings: Settings::default(),
        }
    }
}

impl Stage {
    pub(crate) async fn set(setting: Setting<'_>) -> Self {
        let network = mesh::free_network().unwrap();
        let [a, b, c, _] = network.octets();
        let mut pods = Vec::new();
        let mut add = |service: &str, number: usize, calls: &[&str], application: Application| {
            pods.push(Pod {
                name: format!("{service}-{number}"),
                service: service.to_owned(),
                version: None,
                address: std::net::Ipv4Addr::new(a, b, c, 11 + pods.len() as u8),
                calls: calls.iter().map(|s| (*s).to_owned()).collect(),
                application,
                protocol: Some("http"),
            });
        };
        for (service, count) in setting.servers {
            (0..*count).for_each(|number| add(service, number, &[], setting.application));
        }
        for (service, calls) in setting.callers {
            add(service, 0, calls, Application::None);
        }
        let mut apps = Vec::new();
        for pod in pods.iter().filter(|p| p.application == Application::Foreign) {
            apps.push(App::start(pod.app()).await);
        }
        let (leaf_ttl, manifests) = (setting.leaf_ttl, setting.manifests);
        let plan = Plan { pods, leaf_ttl, fail_percent: 0, manifests, otlp: None };
        let mesh = Mesh::start_with(network, plan, setting.settings, &|_| ()).await.unwrap();
        Self { mesh, apps }
    }

    pub(crate) fn number(&self, pod: &str) -> usize {
        self.mesh.pod(pod).unwrap().0
    }

    /// Where `caller`'s application would call `service`.
    pub(crate) fn way(&self, caller: &str, service: &str) -> SocketAddr {
        self.mesh.pod(caller).unwrap().1.listener(service).unwrap()
    }

    /// Starts load from a caller to a service and waits until it flows.
    pub(crate) async fn load(&self, caller: &str, service: &str, rate: u32) -> Load {
        let load = Load::start(self.way(caller, service), service, "/", rate, 16);
        story::watch(&load, rate as usize / 2).await.unwrap();
        load
    }

    /// One request, on a connection of its own.
    pub(crate) async fn get(&self, caller: &str, service: &str) -> Response {
        Client::new(self.way(caller, service)).get(service, "/").await.unwrap()
    }

    /// Until a request is served: the very first may not wait for as long as a busy control plane takes to say where it is to go.
    pub(crate) async fn served(&self, caller: &str, service: &str) {
        let way = self.way(caller, service);
        self.until(PATIENCE, &format!("{caller} reaches {service}"), || async {
            Client::new(way).get(service, "/").await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    pub(crate) async fn metrics(&self, pod: &str) -> Scrape {
        scrape(self.mesh.pod(pod).unwrap().1.status()).await.unwrap()
    }

    pub(crate) async fn ready(&self, pod: &str) {
        let (_, found) = self.mesh.pod(pod).unwrap();
        self.mesh.until_ready(found.status(), pod).await.unwrap();
    }

    /// Kills the sidecar where it runs, starts it, and says how long that took until it was ready.
    pub(crate) async fn restart_sidecar(&mut self, pod: &str) -> Duration {
        let number = self.number(pod);
        self.mesh.kill_sidecar(number);
        let start = Instant::now();
        self.mesh.start_sidecar(number).unwrap();
        self.ready(pod).await;
        start.elapsed()
    }

    /// All that the sidecar wrote: its own log and its access log.
    pub(crate) fn said(&mut self, pod: &str) -> String {
        let number = self.number(pod);
        self.mesh.sidecar(number).unwrap().said()
    }

    /// Starts the control plane and waits until every sidecar has a session with it again.
    pub(crate) async fn sessions_resume(&mut self) -> (Scrape, Duration) {
        self.sessions_resume_without(0).await
    }

    /// The same while so many of the sidecars do not run.
    pub(crate) async fn sessions_resume_without(&mut self, missing: usize) -> (Scrape, Duration) {
        let start = Instant::now();
        self.mesh.start_control_plane().unwrap();
        let admin = self.mesh.admin();
        self.mesh.until_ready(admin, "control plane").await.unwrap();
        let expected = (self.mesh.plan.pods.len() - missing) as f64;
        // A report follows each first transaction: then nothing of it is still under way.
        self.until(PATIENCE, "every sidecar's session", || async {
            let metrics = scrape(admin).await.unwrap();
            let settled = metrics.sum("leno_control_resources_unchanged_total", &[])
                + metrics.sum("leno_control_resources_applied_total", &[]);
            metrics.sum("leno_control_sessions", &[]) >= expected && settled > 0.0
        })
        .await;
        (scrape(admin).await.unwrap(), start.elapsed())
    }

    /// Looks until it holds; fails with every log where it does not in time.
    pub(crate) async fn until<F, Fut>(&self, within: Duration, what: &str, mut holds: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = bool>,
    {
        let start = Instant::now();
        while !holds().await {
            assert!(start.elapsed() < within, "{what}: not within {within:?}\n{}", self.mesh.tails());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// No request of the window failed.
    pub(crate) fn all_succeeded(&self, window: &Window) {
        let Window { total, failed, reasons, .. } = window;
        assert!(*total > 0, "no request ended\n{}", self.mesh.tails());
        assert!(*failed == 0, "{failed} of {total} requests failed: {reasons:?}\n{}", self.mesh.tails());
    }
}

/// A TrafficPolicy of `service`: its spec after `targetRefs`.
pub(crate) fn traffic_policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: policy.leno.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  {spec}\n"
    )
}

/// An InboundPolicy of the pods of `service`: its spec after `workloads`.
pub(crate) fn inbound_policy(service: &str, spec: &str) -> String {
    format!(
        "apiVersion: policy.leno.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{name: {service}, namespace: shop}}\nspec:\n  \
         workloads: {{selector: {{matchLabels: {{app: {service}}}}}}}\n  {spec}\n"
    )
}

/// Whether the outages last as long as the promise is about, or only long enough to see it.
#[allow(clippy::disallowed_methods, reason = "a test's length is configured here")]
pub(crate) fn is_long() -> bool {
    std::env::var("LENO_TEST_LONG").is_ok_and(|value| value == "1")
}

/// Tells a figure past the test runner, which keeps what passing tests print to itself.
pub(crate) fn tell(figures: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "   {figures}");
}

/// One line of a window.
pub(crate) fn line(window: &Window) -> String {
    let millis = |d: Duration| d.as_secs_f64() * 1e3;
    format!(
        "{} of {} failed at {:.0}/s, p50 {:.1} ms, p99 {:.1} ms",
        window.failed,
        window.total,
        window.rate,
        millis(window.p50),
        millis(window.p99)
    )
}
