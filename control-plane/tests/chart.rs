//! What the chart's dashboards and alerts ask Prometheus for is what the programs say: a renamed metric is an alert that never
//! rings.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use leno_control_plane::metrics::Metrics;
use regex::Regex;

fn names(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\bleno_[a-z0-9_]+").unwrap();
    let found = name.find_iter(text).map(|found| found.as_str());
    let base = |name: &str| {
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        part.unwrap_or(name).to_owned()
    };
    found.map(base).collect()
}

#[test]
fn every_metric_of_a_dashboard_or_an_alert_is_exported() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    // The proxy prints each family that its source names, which its own tests see to.
    let mut exported = names(&read("proxy/src/metrics/text.rs"));
    exported.extend(names(&Metrics::default().text()));
    let mut asked = names(&read("charts/leno/templates/prometheusrule.yaml"));
    let dashboards = fs::read_dir(root.join("charts/leno/dashboards")).unwrap();
    let mut boards = 0;
    for board in dashboards {
        let text = fs::read_to_string(board.unwrap().path()).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() >= 6), "{}", parsed["title"]);
        asked.extend(names(&text));
        boards += 1;
    }
    assert!(boards >= 2 && asked.len() > 20, "{boards} dashboards ask for {} metrics", asked.len());
    let unknown: Vec<&String> = asked.difference(&exported).collect();
    assert!(unknown.is_empty(), "nobody exports {unknown:?}");
}
