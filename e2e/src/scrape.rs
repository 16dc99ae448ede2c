//! Reads Prometheus text. It must never guess: a metric that is not there is an error where a test asks for it.

use std::net::SocketAddr;

use anyhow::Context;

use crate::http::Client;

/// One scrape: every sample with its labels.
#[derive(Debug, Default, Clone)]
pub struct Scrape(Vec<Sample>);

#[derive(Debug, Clone)]
pub struct Sample {
    pub name: String,
    /// As written, without braces.
    pub labels: String,
    pub value: f64,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect())
    }

    /// Sum over all series of `name` whose labels contain every one of `with` (such as `direction="outbound"`).
    pub fn sum(&self, name: &str, with: &[&str]) -> f64 {
        // Not `sum`: of nothing that is -0.0, which prints so.
        self.matching(name, with).fold(0.0, |sum, sample| sum + sample.value)
    }

    pub fn matching<'a>(&'a self, name: &'a str, with: &'a [&'a str]) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |s| s.name == name && with.iter().all(|w| s.labels.contains(w)))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|s| s.name == name)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.trim_end_matches('}')),
        None => (series, ""),
    };
    Some(Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.parse().ok()? })
}

pub async fn scrape(address: SocketAddr) -> anyhow::Result<Scrape> {
    let answer = Client::new(address).get("metrics", "/metrics").await.with_context(|| format!("scrape {address}"))?;
    Ok(Scrape::parse(&String::from_utf8_lossy(answer.body())))
}
