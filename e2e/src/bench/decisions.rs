//! What deciding about one request costs, without any I/O: each step of the path alone, and all of them in a row. It must
//! never be read as a promise of the whole: sockets and codecs cost far more.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use leno_proto::authorize;
use leno_proto::authorize::Peer;
use leno_proto::identity::SpiffeId;
use leno_proto::policy::Access;
use leno_proto::policy::AccessRule;
use leno_proto::policy::Backend;
use leno_proto::policy::DefaultAccess;
use leno_proto::policy::Endpoint;
use leno_proto::policy::Match;
use leno_proto::policy::OutboundPort;
use leno_proto::policy::PathMatch;
use leno_proto::policy::Protocol;
use leno_proto::policy::Route;
use leno_proto::policy::RouteKind;
use leno_proto::policy::Rule;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::policy::Source;
use leno_proto::policy::SpiffeMatch;
use leno_proto::policy::Traffic;
use leno_proto::request::Headers;
use leno_proto::request::RequestView;
use leno_proto::select;
use leno_proxy::balance;
use leno_proxy::breaker::Outcome;
use leno_proxy::breaker::Verdict;
use leno_proxy::limit::TokenBucket;
use leno_proxy::pool::shelf::Kept;
use leno_proxy::pool::shelf::Shelf;
use leno_proxy::upstream::Context;
use leno_proxy::upstream::Here;
use leno_proxy::upstream::InFlight;
use leno_proxy::upstream::Target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

/// One step and its nanoseconds.
pub struct Step {
    pub name: &'static str,
    pub nanos: f64,
}

/// Measures every step; the last one is all of them together.
///
/// # Errors
/// The policy of the benchmark is not valid any more.
pub fn measure() -> anyhow::Result<Vec<Step>> {
    let mut scene = Scene::new()?;
    Ok(vec![
        Step { name: "select", nanos: time(|| scene.select()) },
        Step { name: "authorize", nanos: time(|| scene.authorize()) },
        Step { name: "rate limit", nanos: time(|| scene.rate()) },
        Step { name: "bulkhead", nanos: time(|| scene.bulkhead()) },
        Step { name: "breaker", nanos: time(|| scene.breaker()) },
        Step { name: "retry budgets", nanos: time(|| scene.budgets()) },
        Step { name: "pick and record", nanos: time(|| scene.pick()) },
        Step { name: "pool checkout", nanos: time(|| scene.checkout()) },
        Step { name: "together", nanos: time(|| scene.together()) },
    ])
}

/// Nanoseconds of one call: the least of many short series, because whatever else runs only adds.
fn time(mut work: impl FnMut()) -> f64 {
    const SERIES: usize = 200;
    const CALLS: u32 = 500;
    let series = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        (0..CALLS).for_each(|_| work());
        begun.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..SERIES).map(|_| series(&mut work)).fold(f64::INFINITY, f64::min)
}

/// A service with two routes, four endpoints and every limit, as seen by one request.
struct Scene {
    port: OutboundPort,
    access: Access,
    caller: SpiffeId,
    headers: Headers,
    target: Target,
    rate: TokenBucket,
    shelf: Shelf<u32>,
    dice: StdRng,
    now: Instant,
}

impl Scene {
    fn new() -> anyhow::Result<Self> {
        let now = Instant::now();
        let body = json!({
            "timeouts": {"request": "15s"},
            "circuitBreaker": {"endpoint": {"statusFailures": 7}, "service": {}},
        });
        let policy = Arc::new(leno_proto::fields::traffic(body.as_object().context("an object")?));
        let name = ServicePort { service: ServiceName { namespace: "shop".into(), name: "web".into() }, port: 80 };
        let endpoints: Vec<Endpoint> = (1..=4).map(endpoint).collect();
        let context = Context { now, reclaim: &|_| Box::new(|| ()), share: None, here: &Here::default() };
        let all: Vec<&Endpoint> = endpoints.iter().collect();
        let target = Target::build(&name, &policy, &all, None, &context);
        let mut headers = Headers::new();
        for (name, value) in crate::bench::load::HEADERS {
            headers.push(name.as_bytes(), value.as_bytes());
        }
        let mut shelf = Shelf::default();
        shelf.put(Kept::new(1, now, Some(Duration::from_secs(1800))));
        Ok(Self {
            port: port(&name, &policy),
            access: access()?,
            caller: "spiffe://cluster.local/ns/shop/sa/client".parse()?,
            headers,
            target,
            rate: TokenBucket::new(1_000_000, 1_000_000, now),
            shelf,
            dice: StdRng::seed_from_u64(1),
            now,
        })
    }

    fn view(&self) -> RequestView<'_> {
        let headers = &self.headers;
        RequestView { method: "GET", authority: "web.shop", path: "/orders/4711", query: None, headers }
    }

    fn select(&self) {
        black_box(select::select(black_box(&self.port), &self.view()));
    }

    fn authorize(&self) {
        let peer = Peer { identity: Some(&self.caller), ip: [127, 0, 0, 1].into() };
        let _ = black_box(authorize::authorize(black_box(&self.access), &peer, Some(&self.view())));
    }

    fn rate(&mut self) {
        self.now += Duration::from_micros(10);
        let _ = black_box(self.rate.take(self.now));
    }

    fn bulkhead(&self) {
        black_box(self.target.shared.requests.try_acquire());
    }

    fn breaker(&mut self) {
        let Some(breaker) = &self.target.shared.breaker else { return };
        if let Verdict::Admitted(admission) = breaker.admit(self.now) {
            black_box(admission.report(Outcome::Success, Duration::from_micros(100), self.now, &mut self.dice));
        }
    }

    fn budgets(&self) {
        self.target.shared.retries.deposit(self.now);
        self.target.shared.transport_retries.deposit(self.now);
    }

    fn pick(&mut self) {
        let choice = balance::Choice { target: &self.target, tried: &[], hash: None, turn: 0, now: self.now };
        let Some(picked) = balance::pick(&choice, |_| 1e6, &mut self.dice) else { return };
        let member = &self.target.members[picked.index].shared;
        let _in_flight = InFlight::begin(member);
        let rules = &self.target.policy.circuit_breaker.endpoint;
        black_box(member.ejection.record(Outcome::Success, self.now, rules, &mut self.dice));
    }

    fn checkout(&mut self) {
        let (kept, _) = self.shelf.take(self.now, Duration::from_secs(300), |_| true);
        if let Some(kept) = kept {
            self.shelf.put(Kept { since: self.now, ..kept });
        }
    }

    fn together(&mut self) {
        self.select();
        self.authorize();
        self.rate();
        self.bulkhead();
        self.breaker();
        self.budgets();
        self.pick();
        self.checkout();
    }
}

fn endpoint(last: u8) -> Endpoint {
    Endpoint {
        uid: format!("web-{last}").into(),
        addresses: vec![([10, 0, 0, last], 8080).into()],
        identity: "spiffe://cluster.local/ns/shop/sa/web".parse().ok(),
        hop_port: None,
        node: "".into(),
        zone: "".into(),
        cluster: "".into(),
        ready: true,
        serving: true,
        terminating: false,
        parallelism: 1,
        pod: format!("shop/web-{last}").into(),
    }
}

fn port(name: &ServicePort, policy: &Arc<Traffic>) -> OutboundPort {
    let backend = Backend {
        target: name.clone(),
        weight: 1,
        protocol: Protocol::Http1,
        filters: vec![],
        policy: policy.clone(),
        resolved: true,
    };
    let rule = |at: usize, path: PathMatch| Rule {
        name: at.to_string().into(),
        matches: vec![Match { path: Some(path), ..Match::default() }],
        filters: vec![],
        backends: vec![backend.clone()],
        policy: policy.clone(),
    };
    let rules = vec![rule(0, PathMatch::Exact("/admin".into())), rule(1, PathMatch::Prefix("/".into()))];
    let route = Route { kind: RouteKind::Http, origin: "shop/web".into(), hostnames: vec![], rules };
    OutboundPort {
        port: name.port,
        name: "main".into(),
        protocol: Protocol::Http1,
        routes: vec![route],
        backend,
        policy: policy.clone(),
        client_ip_affinity: None,
    }
}

fn access() -> anyhow::Result<Access> {
    let rule = |origin: &str, source: Source, methods: &[&str]| AccessRule {
        origin: origin.into(),
        sources: Some(vec![source]),
        methods: methods.iter().map(|method| (*method).into()).collect(),
        paths: vec![],
    };
    let stranger = Source { namespaces: vec!["elsewhere".into()], ..Source::default() };
    let client = SpiffeMatch::Exact("spiffe://cluster.local/ns/shop/sa/client".parse()?);
    let client = Source { spiffe: vec![client], ..Source::default() };
    Ok(Access {
        deny: vec![rule("shop/strangers", stranger, &[])],
        allow: vec![rule("shop/all", client, &["GET", "POST"])],
        audit: vec![],
        restricted: true,
        default: DefaultAccess::Allow,
    })
}
