//! The control plane's own numbers, and how Prometheus reads them. Labels come from closed sets only, never from the network.

use std::fmt::Write;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number of things that are there now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// Holds a gauge up by one until dropped.
#[derive(Debug)]
pub struct Up<'g>(&'g Gauge);

impl Counter {
    pub fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn up(&self) -> Up<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Up(self)
    }

    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The proxy left.
    Left,
    /// Nothing came from it for 30 s.
    Silent,
    /// It did not take what we sent, or did not report, for 30 s.
    Stalled,
    /// A newer session of the same pod took over.
    Replaced,
    /// Its Pod is gone, or was never known.
    PodGone,
    /// It broke the protocol.
    Violation,
    /// What it holds is not what we believe it holds.
    Diverged,
    /// We are going.
    Goaway,
}

impl End {
    const ALL: [End; 8] =
        [End::Left, End::Silent, End::Stalled, End::Replaced, End::PodGone, End::Violation, End::Diverged, End::Goaway];

    pub fn as_str(self) -> &'static str {
        match self {
            End::Left => "left",
            End::Silent => "silent",
            End::Stalled => "stalled",
            End::Replaced => "replaced",
            End::PodGone => "pod_gone",
            End::Violation => "violation",
            End::Diverged => "diverged",
            End::Goaway => "goaway",
        }
    }
}

#[derive(Debug, Default)]
pub struct Metrics {
    pub sessions: Gauge,
    ended: [Counter; 8],
    pub connections: Gauge,
    pub connections_refused: Counter,
    pub handshakes_failed: Counter,
    pub unauthenticated: Counter,
    pub transactions: Counter,
    pub messages: Counter,
    pub message_bytes: Counter,
    pub puts: Counter,
    pub unchanged: Counter,
    pub removed: Counter,
    pub applied: Counter,
    pub rejected: Counter,
    pub certified: Counter,
    pub certify_refused: Counter,
    pub leaf_not_after: Gauge,
    pub root_not_after: Gauge,
    pub trust_generation: Gauge,
    pub issuer_refused: Gauge,
    pub without_sidecar: Gauge,
    pub webhook_not_after: Gauge,
    pub table_generation: Gauge,
    pub source_stale: Gauge,
}

impl Metrics {
    pub fn ended(&self, end: End) -> &Counter {
        &self.ended[end as usize]
    }

    /// Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(4096);
        let gauges = [
            ("leno_control_sessions", "Proxies with an open session.", &self.sessions),
            ("leno_control_connections", "Open connections of proxies.", &self.connections),
            (
                "leno_control_leaf_not_after_seconds",
                "When our own certificate ends, in Unix time.",
                &self.leaf_not_after,
            ),
            (
                "leno_control_root_not_after_seconds",
                "When the certificate authority that signs ends, in Unix time.",
                &self.root_not_after,
            ),
            (
                "leno_control_webhook_not_after_seconds",
                "When the webhooks' certificate ends, in Unix time; 0: there is none.",
                &self.webhook_not_after,
            ),
            (
                "leno_control_issuer_refused",
                "1 while the issuer's Secret is missing or not fit to sign, seen by the leader.",
                &self.issuer_refused,
            ),
            (
                "leno_control_pods_without_sidecar",
                "Pods that should have a sidecar and have none, seen by the leader.",
                &self.without_sidecar,
            ),
            ("leno_control_trust_generation", "Grows with each change of the trust anchors.", &self.trust_generation),
            ("leno_control_table_generation", "Grows with each change of the mesh.", &self.table_generation),
            (
                "leno_control_source_stale_seconds",
                "How long what we know of the cluster may have been behind; 0: it is not.",
                &self.source_stale,
            ),
        ];
        let counters = [
            ("leno_control_connections_refused_total", "Connections beyond the limit.", &self.connections_refused),
            (
                "leno_control_handshakes_failed_total",
                "Connections without a complete TLS handshake.",
                &self.handshakes_failed,
            ),
            ("leno_control_unauthenticated_total", "Calls without a token that we accept.", &self.unauthenticated),
            ("leno_control_transactions_total", "Transactions sent to proxies.", &self.transactions),
            ("leno_control_messages_total", "Messages that carried parts of transactions.", &self.messages),
            ("leno_control_message_bytes_total", "Bytes of these messages.", &self.message_bytes),
            ("leno_control_resources_put_total", "Resources sent.", &self.puts),
            (
                "leno_control_resources_unchanged_total",
                "Resources that a returning proxy held already.",
                &self.unchanged,
            ),
            ("leno_control_resources_removed_total", "Resources that a proxy was told to forget.", &self.removed),
            ("leno_control_resources_applied_total", "Resources that proxies reported as applied.", &self.applied),
            ("leno_control_resources_rejected_total", "Resources that proxies reported as rejected.", &self.rejected),
            ("leno_control_certificates_total", "Certificates issued to workloads.", &self.certified),
            ("leno_control_certify_refused_total", "Certificates refused.", &self.certify_refused),
        ];
        for (name, help, gauge) in gauges {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}", gauge.value());
        }
        for (name, help, counter) in counters {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", counter.value());
        }
        let name = "leno_control_sessions_ended_total";
        let _ = writeln!(text, "# HELP {name} Sessions that ended, by reason.\n# TYPE {name} counter");
        for end in End::ALL {
            let _ = writeln!(text, "{name}{{reason=\"{}\"}} {}", end.as_str(), self.ended(end).value());
        }
        text
    }
}
