//! Functions into the stages of a request, for a profile that one can read. What the compiler inlined counts for whoever
//! swallowed it, so shares are approximate.

use std::collections::BTreeMap;

/// Parts of names, in this order, and the stage that a function with such a name belongs to. The first that fits counts.
const STAGES: &[(&str, &[&str])] = &[
    (
        "allocator",
        &["mi_", "__rust_alloc", "__rust_dealloc", "__rust_realloc", "__rg_", "malloc", "calloc", "cfree", "free_"],
    ),
    ("copying bytes", &["memcpy", "memmove", "memset", "memcmp", "bcmp", "__mem"]),
    ("TLS", &["rustls", "aws_lc", "aes_", "gcm_", "ghash", "sha256", "sha512", "chacha", "tls::", "EVP_", "CRYPTO_"]),
    ("hop: batching", &["hop_io"]),
    ("HTTP/2: our side", &["leno_proxy::http::h2"]),
    ("HTTP/2: h2, hpack", &["h2::", "hpack"]),
    ("HTTP/1: codec", &["leno_proxy::http::h1", "httparse"]),
    (
        "headers, trace context",
        &["leno_proto::request", "leno_proxy::edge", "leno_proxy::trace", "leno_proxy::http::head"],
    ),
    (
        "decide: route, authorize",
        &["leno_proto::select", "leno_proto::authorize", "outbound::route", "outbound::place", "leno_proxy::state"],
    ),
    (
        "decide: pick, limits, retry",
        &[
            "leno_proxy::balance",
            "leno_proxy::breaker",
            "leno_proxy::limit",
            "leno_proxy::gate",
            "leno_proxy::retry",
            "outbound::pick",
            "outbound::again",
            "leno_proxy::upstream",
        ],
    ),
    ("pool", &["leno_proxy::pool"]),
    (
        "end: metrics, log, span",
        &["leno_proxy::ending", "leno_proxy::metrics", "leno_proxy::access_log", "leno_proxy::local"],
    ),
    (
        "story: inbound, outbound",
        &["leno_proxy::outbound", "leno_proxy::inbound", "leno_proxy::app", "leno_proxy::worker"],
    ),
    ("sockets, timers", &["leno_proxy::net", "leno_proxy::timer", "leno_proxy::tcp"]),
    ("hashing", &["core::hash", "siphash", "hashbrown", "DefaultHasher"]),
    ("http crate", &["http::header", "http::uri", "http::request", "http::method"]),
    ("bytes crate", &["bytes::"]),
    ("clock, chance", &["clock_gettime", "vdso", "Instant", "Timespec", "rand", "chacha"]),
    (
        "runtime",
        &["tokio", "mio", "futures", "epoll", "std::sys", "syscall", "recv", "send", "__write", "__read", "pthread"],
    ),
    ("drop", &["drop_in_place"]),
];

/// What a stage costs, and each of its functions.
type Stage<'n> = (f64, Vec<(&'n str, f64)>);

const REST: &str = "the rest";
const KERNEL: &str = "kernel";

/// The stage of a function of the program.
pub fn stage(name: &str) -> &'static str {
    STAGES.iter().find(|(_, parts)| parts.iter().any(|part| name.contains(part))).map_or(REST, |(stage, _)| stage)
}

/// The stage of one of perf's symbols: `[k]` marks the kernel's.
pub fn stage_of_symbol(symbol: &str) -> &'static str {
    match symbol.strip_prefix("[k] ") {
        Some(_) => KERNEL,
        None => stage(symbol.trim_start_matches("[.] ")),
    }
}

/// Costs of one side by stage, the greatest first, each with its greatest functions.
pub fn table<'n>(costs: impl Iterator<Item = (&'n str, f64)>, of: impl Fn(&str) -> &'static str, unit: &str) -> String {
    let mut stages: BTreeMap<&'static str, Stage<'n>> = BTreeMap::new();
    let mut all = 0.0;
    for (name, cost) in costs {
        all += cost;
        let (sum, functions) = stages.entry(of(name)).or_default();
        *sum += cost;
        functions.push((name, cost));
    }
    let mut rows: Vec<_> = stages.into_iter().collect();
    rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    let mut out = format!("{all:>10.2} {unit}\n");
    for (stage, (sum, mut functions)) in rows {
        functions.sort_by(|a, b| b.1.total_cmp(&a.1));
        out += &format!("{sum:>10.2} {:>4.0}%  {stage}\n", 100.0 * sum / all.max(f64::MIN_POSITIVE));
        for (name, cost) in functions.into_iter().take(3).filter(|(_, cost)| *cost * 200.0 > all) {
            let name: String = name.chars().take(110).collect();
            out += &format!("{cost:>27.2}  {name}\n");
        }
    }
    out
}
