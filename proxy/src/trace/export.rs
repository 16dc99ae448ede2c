//! Sends ended spans to an OpenTelemetry backend over OTLP, gRPC or HTTP, from the control runtime. The request path only
//! offers; what the queue or the cap does not take is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use opentelemetry::InstrumentationScope;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanContext;
use opentelemetry::trace::SpanId;
use opentelemetry::trace::SpanKind;
use opentelemetry::trace::TraceFlags;
use opentelemetry::trace::TraceId;
use opentelemetry::trace::TraceState;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SpanData;
use opentelemetry_sdk::trace::SpanEvents;
use opentelemetry_sdk::trace::SpanExporter as _;
use opentelemetry_sdk::trace::SpanLinks;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::trace::Kind;
use crate::trace::Lives;
use crate::trace::Record;
use crate::trace::Rules;
use crate::trace::Status;
use crate::trace::Value;

/// Spans that may wait for the exporter.
const WAITING_MAX: usize = 2048;

/// Spans in one call to the backend, and how long the first of them waits for others.
const BATCH_MAX: usize = 512;
const BATCH_WAIT: Duration = Duration::from_millis(500);

/// Spans a second that one proxy offers at most: a parent may sample everything.
pub const PER_SECOND_MAX: u64 = 1000;

/// The workers' end. Clones share the queue and the cap.
#[derive(Clone)]
pub struct Spans {
    queue: mpsc::Sender<Record>,
    close: Arc<watch::Sender<bool>>,
    cap: Arc<Cap>,
    metrics: Arc<Metrics>,
}

/// Spans offered in the running second since `start`: the second in the upper half, the count in the lower.
struct Cap {
    start: Instant,
    state: AtomicU64,
}

impl Cap {
    fn admits(&self, spans: u64, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.start).as_secs() & 0xffff_ffff;
        let next = |state: u64| {
            let count = if state >> 32 == second { state & 0xffff_ffff } else { 0 } + spans;
            (count <= PER_SECOND_MAX).then_some((second << 32) | count)
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

impl Spans {
    /// No more are to come, whoever may still hold a clone.
    pub fn close(&self) {
        self.close.send_replace(true);
    }

    /// Offers the spans of one request without waiting: all of them or none, for half a request explains nothing.
    pub fn offer(&self, records: Vec<Record>, now: Instant) {
        let count = records.len() as u64;
        match self.queue.try_reserve_many(records.len()) {
            Ok(places) if self.cap.admits(count, now) => {
                places.zip(records).for_each(|(place, record)| place.send(record));
            }
            Ok(_) | Err(_) => self.metrics.proxy.spans_dropped.add(count),
        }
    }
}

/// The exporter's end.
pub struct Queue {
    records: mpsc::Receiver<Record>,
    closed: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
}

pub fn queue(metrics: Arc<Metrics>, now: Instant) -> (Spans, Queue) {
    let (queue, records) = mpsc::channel(WAITING_MAX);
    let (close, closed) = watch::channel(false);
    let cap = Arc::new(Cap { start: now, state: AtomicU64::new(0) });
    (Spans { queue, close: Arc::new(close), cap, metrics: metrics.clone() }, Queue { records, closed, metrics })
}

/// Who the spans come from.
#[derive(Debug, Clone)]
pub struct Source {
    pub service: String,
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
}

/// The exporter for `endpoint`; where that is `None`, for what the environment's `OTEL_*` variables name. `Ok(None)`: there
/// is nowhere to send to. The protocol is `OTEL_EXPORTER_OTLP_PROTOCOL`, else HTTP where the endpoint has a path or port
/// 4318, else gRPC.
///
/// # Errors
/// The endpoint is not a URL.
pub fn exporter(
    endpoint: Option<&str>,
    source: &Source,
    environment: &Environment,
) -> anyhow::Result<Option<SpanExporter>> {
    let exact = environment.traces_endpoint.as_deref();
    let endpoint = exact.or(environment.endpoint.as_deref()).or(endpoint).filter(|_| !environment.disabled);
    let Some(endpoint) = endpoint else { return Ok(None) };
    // Since 0.33 an endpoint without a scheme would mean https.
    let endpoint = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    };
    let uri: http::Uri =
        endpoint.parse().map_err(|e| anyhow::anyhow!("trace endpoint {endpoint}: {e}; write http://host:4317"))?;
    anyhow::ensure!(
        uri.scheme_str() == Some("http"),
        "trace endpoint {endpoint}: spans leave the pod in plaintext HTTP; write http://host:4317, perhaps of a collector beside"
    );
    let has_path = !matches!(uri.path(), "" | "/");
    let over_http = match environment.protocol.as_deref() {
        Some("grpc") => false,
        Some(_) => true,
        None => has_path || uri.port_u16() == Some(4318),
    };
    let mut exporter = match over_http {
        true => {
            // What is named for traces alone is taken as it is (OpenTelemetry, "OTLP Exporter Configuration").
            let whole = endpoint.ends_with("/v1/traces") || (exact.is_some() && has_path);
            let url = if whole { endpoint } else { format!("{}/v1/traces", endpoint.trim_end_matches('/')) };
            SpanExporter::builder().with_http().with_endpoint(url).build()?
        }
        false => SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?,
    };
    exporter.set_resource(&resource(source, environment));
    Ok(Some(exporter))
}

/// The `OTEL_*` variables that the exporter's own crate does not settle. Read by `config`.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: Option<String>,
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`.
    pub traces_endpoint: Option<String>,
    /// `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`, else `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: Option<String>,
    /// `OTEL_SERVICE_NAME`.
    pub service: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource: Option<String>,
    /// `OTEL_SDK_DISABLED`.
    pub disabled: bool,
    /// `OTEL_TRACES_SAMPLER`, `OTEL_PROPAGATORS`.
    pub rules: Rules,
}

impl Environment {
    pub fn names_an_endpoint(&self) -> bool {
        self.endpoint.is_some() || self.traces_endpoint.is_some()
    }
}

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over what we know, in that order.
fn resource(source: &Source, environment: &Environment) -> Resource {
    let known = [
        ("service.name", workload(&source.pod).unwrap_or(&source.service)),
        ("service.namespace", &source.namespace),
        ("service.instance.id", &source.pod_uid),
        ("k8s.namespace.name", &source.namespace),
        ("k8s.pod.name", &source.pod),
        ("k8s.pod.uid", &source.pod_uid),
    ];
    let known = known.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| KeyValue::new(k, v.to_owned()));
    let told = attributes(environment.resource.as_deref().unwrap_or_default());
    let name = environment.service.as_ref().map(|name| KeyValue::new("service.name", name.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(known.chain(told).chain(name))
        .build()
}

/// `key=value,key=value`, the values percent-encoded. As OpenTelemetry asks for, an error anywhere voids the whole.
fn attributes(text: &str) -> Vec<KeyValue> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some(KeyValue::new(key.trim().to_owned(), percent_decoded(value.trim())?))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect::<Option<Vec<_>>>().unwrap_or_default()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// The name of the workload whose pod this is: what stands before the parts that its controller appended, `-7d4b9c6f5-x2x4z`
/// of a Deployment, `-x2x4z` of a DaemonSet or Job, `-0` of a StatefulSet.
fn workload(pod: &str) -> Option<&str> {
    // Kubernetes makes suffixes of these alone, so that they are never words (apimachinery, util/rand).
    let random = |part: &str| part.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b));
    let (name, last) = pod.rsplit_once('-')?;
    if !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) && last.len() < 5 {
        return Some(name);
    }
    if last.len() != 5 || !random(last) {
        return Some(pod);
    }
    match name.rsplit_once('-') {
        Some((deployment, hash)) if (6..=10).contains(&hash.len()) && random(hash) => Some(deployment),
        Some(_) | None => Some(name),
    }
}

impl Queue {
    /// Exports until no more spans are to come. A backend that is away costs spans, never requests.
    pub async fn run(mut self, exporter: Option<SpanExporter>) {
        let scope = InstrumentationScope::builder("leno-proxy").with_version(env!("CARGO_PKG_VERSION")).build();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while let Some(first) = self.next().await {
            let Some(exporter) = &exporter else { continue };
            batch.push(span_data(first, &scope));
            self.gather().await;
            while batch.len() < BATCH_MAX
                && let Ok(record) = self.records.try_recv()
            {
                batch.push(span_data(record, &scope));
            }
            let count = batch.len() as u64;
            match exporter.export(std::mem::take(&mut batch)).await {
                Ok(()) => self.metrics.proxy.spans_exported.add(count),
                Err(error) => {
                    tracing::debug!(%error, count, "spans were not accepted");
                    self.metrics.proxy.spans_dropped.add(count);
                }
            }
        }
    }
}

impl Queue {
    /// The next span; after `Spans::close`, of those that were offered before.
    async fn next(&mut self) -> Option<Record> {
        tokio::select! {
            // What waits goes before the end.
            biased;
            record = self.records.recv() => record,
            _ = self.closed.wait_for(|closed| *closed) => None,
        }
    }

    /// Lets those that follow the first gather where they are: to be woken for each would cost its request more than itself.
    async fn gather(&mut self) {
        if self.records.len() < BATCH_MAX {
            let _ = tokio::time::timeout(BATCH_WAIT, self.closed.wait_for(|closed| *closed)).await;
        }
    }
}

fn span_data(record: Record, scope: &InstrumentationScope) -> SpanData {
    let context = record.span.context;
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from_bytes(context.trace), SpanId::from_bytes(context.span));
    let attributes = record.attributes.into_iter().map(|(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
    });
    SpanData {
        span_context: SpanContext::new(trace, span, flags, false, TraceState::default()),
        parent_span_id: record.span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: record.parent == Lives::InAnotherProcess,
        span_kind: match record.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        },
        name: record.name.into(),
        start_time: record.start,
        end_time: record.end,
        attributes: attributes.collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match record.status {
            Status::Unset => opentelemetry::trace::Status::Unset,
            Status::Failed(detail) => opentelemetry::trace::Status::error(detail),
        },
        instrumentation_scope: scope.clone(),
    }
}

#[cfg(test)]
mod tests;
