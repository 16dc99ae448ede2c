//! What one slice of load gave: counts and latencies, as one line of JSON between the load's process and the runner.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;

/// Latencies of one slice, in nanoseconds.
#[derive(Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    pub fn push(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
    }

    pub fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Microseconds below which `share` of all lie.
    pub fn quantile(&mut self, share: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        let at = ((self.0.len() as f64 * share) as usize).min(self.0.len() - 1);
        let (_, value, _) = self.0.select_nth_unstable(at);
        f64::from(*value) / 1e3
    }
}

/// One slice of load as its process reports it.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Whole exchanges with the expected answer.
    pub done: u64,
    /// Answers that were not what was expected, and connections that broke.
    pub bad: u64,
    pub seconds: f64,
    /// Microseconds.
    pub p50: f64,
    pub p99: f64,
    /// Left out because the generator itself was late: the machine stood still.
    pub late: u64,
    /// Of handshakes: the key exchange's group.
    pub group: String,
}

impl Figures {
    pub fn new(done: u64, bad: u64, took: Duration, mut latencies: Latencies) -> Self {
        let (p50, p99) = (latencies.quantile(0.5), latencies.quantile(0.99));
        Self { done, bad, seconds: took.as_secs_f64(), p50, p99, ..Self::default() }
    }

    pub fn rate(&self) -> f64 {
        self.done as f64 / self.seconds.max(1e-9)
    }

    pub fn line(&self) -> String {
        let Self { done, bad, seconds, p50, p99, late, group } = self;
        json!({"done": done, "bad": bad, "seconds": seconds, "p50": p50, "p99": p99, "late": late, "group": group})
            .to_string()
    }

    /// # Errors
    /// It is not a line of ours.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("figures expected, got {line:?}"))?;
        let float = |name: &str| value[name].as_f64().with_context(|| format!("no {name} in {line}"));
        let count = |name: &str| value[name].as_u64().with_context(|| format!("no {name} in {line}"));
        Ok(Self {
            done: count("done")?,
            bad: count("bad")?,
            seconds: float("seconds")?,
            p50: float("p50")?,
            p99: float("p99")?,
            late: count("late")?,
            group: value["group"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

/// The middle one; of an even number the mean of the two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 0 => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        _ => Some(sorted[middle]),
    }
}
