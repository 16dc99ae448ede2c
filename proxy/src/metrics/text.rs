//! Prometheus text (exposition format 0.0.4) from the metrics' values. It must never print a family twice.

use std::fmt::Write;
use std::sync::Arc;

use crate::error::Reason;
use crate::metrics::BOUNDS;
use crate::metrics::Close;
use crate::metrics::Counter;
use crate::metrics::Direction;
use crate::metrics::Histogram;
use crate::metrics::Level;
use crate::metrics::Mirror;
use crate::metrics::Pool;
use crate::metrics::Proxy;
use crate::metrics::Requests;
use crate::metrics::RequestsKey;
use crate::metrics::Retry;

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
const TLS: [&str; 2] = ["mtls", "plaintext"];

#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    fn histogram<'a>(&mut self, name: &str, labels: &str, workers: impl Iterator<Item = &'a Histogram> + Clone) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (number, bound) in BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]).enumerate() {
            count += workers.clone().map(|h| h.buckets[number].value()).sum::<u64>();
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        let nanos: u64 = workers.map(|h| h.sum_nanos.value()).sum();
        self.sample(&format!("{name}_sum"), labels, nanos as f64 / 1e9);
        self.sample(&format!("{name}_count"), labels, count);
    }
}

pub(super) fn proxy(text: &mut Text, proxy: &Proxy) {
    text.family("leno_build_info", "gauge", "Always 1; the build is in the labels.");
    text.sample("leno_build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), 1);
    let counters = [
        (
            "leno_certificate_renewals_total",
            "Certificates obtained from the control plane.",
            &proxy.certificate_renewals,
        ),
        (
            "leno_certificate_failures_total",
            "Attempts to obtain a certificate that failed.",
            &proxy.certificate_failures,
        ),
        ("leno_control_connects_total", "Sessions opened with the control plane.", &proxy.control_connects),
        ("leno_resources_applied_total", "Resources put into force.", &proxy.resources_applied),
        ("leno_resources_rejected_total", "Resources refused; the last good version stays.", &proxy.resources_rejected),
        (
            "leno_resources_unchanged_total",
            "Resources confirmed by their hash at the start of a session.",
            &proxy.resources_unchanged,
        ),
        (
            "leno_resources_evicted_total",
            "Resources let go because they were not used for long.",
            &proxy.resources_evicted,
        ),
        (
            "leno_resources_revived_total",
            "Resources served from the volume again while no control plane answered.",
            &proxy.resources_revived,
        ),
        ("leno_tls_handshakes_total", "TLS handshakes completed with another sidecar.", &proxy.handshakes),
        (
            "leno_log_lines_dropped_total",
            "Access-log lines given up because the writer was behind.",
            &proxy.log_lines_dropped,
        ),
        ("leno_spans_exported_total", "Spans that the OTLP backend accepted.", &proxy.spans_exported),
        (
            "leno_spans_dropped_total",
            "Spans given up: the exporter was behind, or the backend refused them.",
            &proxy.spans_dropped,
        ),
        ("leno_panics_total", "Connections that ended in a panic: a defect of Leno, please report it.", &proxy.panics),
        ("leno_probes_total", "The kubelet's probes performed on the application.", &proxy.probes),
        ("leno_probe_failures_total", "Those of them that the application did not pass.", &proxy.probe_failures),
    ];
    for (name, help, counter) in counters {
        text.one(name, "counter", help, counter.value());
    }
    let gauges = [
        (
            "leno_certificate_expires_seconds",
            "End of the certificate's life, seconds since 1970.",
            &proxy.certificate_expires,
        ),
        ("leno_control_connected", "1 while a session with the control plane is open.", &proxy.control_connected),
        ("leno_resources", "Resources held.", &proxy.resources_held),
        ("leno_connections", "Accepted connections that are open.", &proxy.connections),
    ];
    for (name, help, gauge) in gauges {
        text.one(name, "gauge", help, gauge.value());
    }
    let name = "leno_connection_failures_total";
    text.family(name, "counter", "Connections that ended before there was a request, by reason.");
    for reason in Reason::ALL.into_iter().filter(|r| proxy.connection_failures.value(*r) > 0) {
        text.sample(name, &format!("reason=\"{}\"", reason.as_str()), proxy.connection_failures.value(reason));
    }
}

type RequestRows = [(RequestsKey, Vec<Arc<Requests>>)];

pub(super) fn requests(text: &mut Text, rows: &RequestRows) {
    let name = "leno_requests_total";
    text.family(name, "counter", "Requests that ended, by status class (none: no answer was sent).");
    each(rows, |labels, workers| {
        for (tls, class) in (0..TLS.len()).flat_map(|t| (0..CLASSES.len()).map(move |c| (t, c))) {
            let count = sum(workers, |r| &r.classes[tls][class]);
            if count > 0 {
                let more = format!("{labels},tls=\"{}\",class=\"{}\"", TLS[tls], CLASSES[class]);
                text.sample(name, &more, count);
            }
        }
    });
    let name = "leno_request_failures_total";
    text.family(name, "counter", "Requests that this proxy itself ended, by reason.");
    each(rows, |labels, workers| {
        for reason in Reason::ALL {
            let count = sum(workers, |r| &r.failures[reason as usize]);
            if count > 0 {
                text.sample(name, &format!("{labels},reason=\"{}\"", reason.as_str()), count);
            }
        }
    });
    let name = "leno_requests_active";
    text.family(name, "gauge", "Requests being served.");
    each(rows, |labels, workers| text.sample(name, labels, workers.iter().map(|r| r.active.value()).sum::<i64>()));
    let name = "leno_request_received_bytes_total";
    text.family(name, "counter", "Bytes of request bodies.");
    each(rows, |labels, workers| text.sample(name, labels, sum(workers, |r| &r.received_bytes)));
    let name = "leno_request_sent_bytes_total";
    text.family(name, "counter", "Bytes of response bodies.");
    each(rows, |labels, workers| text.sample(name, labels, sum(workers, |r| &r.sent_bytes)));
    let name = "leno_request_duration_seconds";
    text.family(name, "histogram", "From the request's head to the last byte of its answer.");
    each(rows, |labels, workers| text.histogram(name, labels, workers.iter().map(|r| &r.duration)));
}

fn each(rows: &RequestRows, mut row: impl FnMut(&str, &[Arc<Requests>])) {
    for (key, workers) in rows {
        let direction = match key.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        let (service, route) = (escape(&key.service), escape(&key.route));
        row(&format!("direction=\"{direction}\",service=\"{service}\",route=\"{route}\""), workers);
    }
}

fn sum(workers: &[Arc<Requests>], of: impl Fn(&Requests) -> &Counter) -> u64 {
    workers.iter().map(|r| of(r).value()).sum()
}

pub(super) fn pools(text: &mut Text, rows: &[(Arc<str>, Vec<Arc<Pool>>)]) {
    let labelled = |service: &str| format!("service=\"{}\"", escape(service));
    let name = "leno_pool_connections";
    text.family(name, "gauge", "Connections to the service's endpoints, by what they do.");
    for (service, workers) in rows {
        let level = |of: fn(&Pool) -> i64| workers.iter().map(|p| of(p)).sum::<i64>();
        let levels = [
            ("active", level(|p| p.active.value())),
            ("idle", level(|p| p.idle.value())),
            ("connecting", level(|p| p.connecting.value())),
        ];
        for (state, level) in levels {
            text.sample(name, &format!("{},state=\"{state}\"", labelled(service)), level);
        }
    }
    let name = "leno_pool_pending";
    text.family(name, "gauge", "Requests that wait for a connection.");
    for (service, workers) in rows {
        text.sample(name, &labelled(service), workers.iter().map(|p| p.pending.value()).sum::<i64>());
    }
    counted(
        text,
        rows,
        "leno_pool_checkouts_total",
        "Connections handed to requests.",
        &["reused=\"true\"", "reused=\"false\""],
        |p, n| {
            if n == 0 { p.checkouts_reused.value() } else { p.checkouts_new.value() }
        },
    );
    let closes = Close::ALL.map(|c| format!("reason=\"{}\"", c.as_str()));
    let closes: Vec<&str> = closes.iter().map(String::as_str).collect();
    counted(text, rows, "leno_pool_closes_total", "Connections closed, by reason.", &closes, |p, n| {
        p.closes[n].value()
    });
    let help = "Ages of closed connections, summed; divide by leno_pool_closes_total for the mean age at close.";
    counted(text, rows, "leno_pool_closed_age_milliseconds_total", help, &closes, |p, n| {
        p.closed_age_millis[n].value()
    });
    let retries = Retry::ALL.map(|r| format!("kind=\"{}\"", r.as_str()));
    let retries: Vec<&str> = retries.iter().map(String::as_str).collect();
    counted(
        text,
        rows,
        "leno_retries_total",
        "Further tries of requests, by what allowed or refused them.",
        &retries,
        |p, n| p.retries[n].value(),
    );
    counted(text, rows, "leno_ejections_total", "Endpoints left out after failures.", &[""], |p, _| {
        p.ejections.value()
    });
    let mirrors = Mirror::ALL.map(|m| format!("outcome=\"{}\"", m.as_str()));
    let mirrors: Vec<&str> = mirrors.iter().map(String::as_str).collect();
    let help = "Copies of requests for backends that watch, by what became of them.";
    counted(text, rows, "leno_mirrored_requests_total", help, &mirrors, |p, n| p.mirrors[n].value());
    let name = "leno_pool_acquire_seconds";
    text.family(name, "histogram", "Time that requests waited for a connection.");
    for (service, workers) in rows {
        text.histogram(name, &labelled(service), workers.iter().map(|p| &p.acquire));
    }
    let name = "leno_pool_connect_seconds";
    text.family(name, "histogram", "Time that new connections took, TCP and TLS.");
    for (service, workers) in rows {
        text.histogram(name, &labelled(service), workers.iter().map(|p| &p.connect));
    }
}

pub(super) fn levels(text: &mut Text, rows: &[Level]) {
    let labelled = |row: &Level| format!("service=\"{}\"", escape(&row.service));
    let name = "leno_pool_limit";
    text.family(name, "gauge", "Connections to the service's endpoints that policy allows.");
    rows.iter().for_each(|row| text.sample(name, &labelled(row), row.connections_max));
    let name = "leno_breaker_open";
    text.family(name, "gauge", "1 while the service's breaker is open or only tries requests.");
    for row in rows {
        if let Some(open) = row.breaker_open {
            text.sample(name, &labelled(row), u8::from(open));
        }
    }
}

/// One family with a row for each service and each of `labels`; rows that never counted are left out.
fn counted(
    text: &mut Text,
    rows: &[(Arc<str>, Vec<Arc<Pool>>)],
    name: &str,
    help: &str,
    labels: &[&str],
    value: impl Fn(&Pool, usize) -> u64,
) {
    text.family(name, "counter", help);
    for (service, workers) in rows {
        for (number, label) in labels.iter().enumerate() {
            let count: u64 = workers.iter().map(|p| value(p, number)).sum();
            if count > 0 {
                let comma = if label.is_empty() { "" } else { "," };
                text.sample(name, &format!("service=\"{}\"{comma}{label}", escape(service)), count);
            }
        }
    }
}

/// Names of policy objects hold none of these, but an `other` source of names may come one day.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
