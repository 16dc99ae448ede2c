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
use opentelemetry::trace::Status;
use opentelemetry::trace::TraceFlags;
use opentelemetry::trace::TraceId;
use opentelemetry::trace::TraceState;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use opentelemetry_sdk::trace::SpanEvents;
use opentelemetry_sdk::trace::SpanExporter as _;
use opentelemetry_sdk::trace::SpanLinks;
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::trace::Kind;
use crate::trace::Record;
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
    cap: Arc<Cap>,
    metrics: Arc<Metrics>,
}

/// Spans offered in the running second since `start`: the second in the upper half, the count in the lower.
struct Cap {
    start: Instant,
    state: AtomicU64,
}

impl Cap {
    fn admits(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.start).as_secs() & 0xffff_ffff;
        let next = |state: u64| {
            let count = if state >> 32 == second { state & 0xffff_ffff } else { 0 };
            (count < PER_SECOND_MAX).then_some((second << 32) | (count + 1))
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

impl Spans {
    /// Offers an ended span without waiting.
    pub fn offer(&self, record: Record, now: Instant) {
        if !self.cap.admits(now) || self.queue.try_send(record).is_err() {
            self.metrics.proxy.spans_dropped.increment();
        }
    }
}

/// The exporter's end.
pub struct Queue {
    records: mpsc::Receiver<Record>,
    metrics: Arc<Metrics>,
}

pub fn queue(metrics: Arc<Metrics>, now: Instant) -> (Spans, Queue) {
    let (queue, records) = mpsc::channel(WAITING_MAX);
    let cap = Arc::new(Cap { start: now, state: AtomicU64::new(0) });
    (Spans { queue, cap, metrics: metrics.clone() }, Queue { records, metrics })
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
    let Some(endpoint) = environment.endpoint.as_deref().or(endpoint).filter(|_| !environment.disabled) else {
        return Ok(None);
    };
    // Since 0.33 an endpoint without a scheme would mean https.
    let endpoint = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    };
    let uri: http::Uri =
        endpoint.parse().map_err(|e| anyhow::anyhow!("trace endpoint {endpoint}: {e}; write http://host:4317"))?;
    let has_path = !matches!(uri.path(), "" | "/");
    let over_http = match environment.protocol.as_deref() {
        Some("grpc") => false,
        Some(_) => true,
        None => has_path || uri.port_u16() == Some(4318),
    };
    let mut exporter = match over_http {
        true => {
            let url = if has_path { endpoint } else { format!("{}/v1/traces", endpoint.trim_end_matches('/')) };
            SpanExporter::builder().with_http().with_endpoint(url).build()?
        }
        false => SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?,
    };
    exporter.set_resource(&resource(source));
    Ok(Some(exporter))
}

/// The `OTEL_*` variables that the exporter's own crate does not settle. Read by `config`.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, else `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: Option<String>,
    /// `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`, else `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: Option<String>,
    /// `OTEL_SDK_DISABLED`.
    pub disabled: bool,
}

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over what we know.
fn resource(source: &Source) -> Resource {
    let known = [
        ("service.name", &source.service),
        ("k8s.namespace.name", &source.namespace),
        ("k8s.pod.name", &source.pod),
        ("k8s.pod.uid", &source.pod_uid),
    ];
    let known = known.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| KeyValue::new(k, v.clone()));
    let detectors: [Box<dyn opentelemetry_sdk::resource::ResourceDetector>; 1] =
        [Box::new(opentelemetry_sdk::resource::EnvResourceDetector::new())];
    Resource::builder_empty().with_attributes(known).with_detectors(&detectors).build()
}

impl Queue {
    /// Exports until every `Spans` is gone. A backend that is away costs spans, never requests.
    pub async fn run(mut self, exporter: Option<SpanExporter>) {
        let scope = InstrumentationScope::builder("leno-proxy").with_version(env!("CARGO_PKG_VERSION")).build();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while let Some(first) = self.records.recv().await {
            let Some(exporter) = &exporter else { continue };
            batch.push(span_data(first, &scope));
            let deadline = tokio::time::Instant::now() + BATCH_WAIT;
            while batch.len() < BATCH_MAX {
                match tokio::time::timeout_at(deadline, self.records.recv()).await {
                    Ok(Some(record)) => batch.push(span_data(record, &scope)),
                    Ok(None) | Err(_) => break,
                }
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
        parent_span_is_remote: record.parent_is_remote,
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
        status: if record.failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

#[cfg(test)]
mod tests;
