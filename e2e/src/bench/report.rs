//! Records into verdicts, a table and JSON. Ratios pair the figures of one round; what is shown is their median, and how far
//! the rounds lie apart.

use std::fmt::Write as _;

use serde_json::Value;
use serde_json::json;

use crate::bench::figures::median;
use crate::bench::gates::Bound;
use crate::bench::gates::Figure;
use crate::bench::gates::Limit;
use crate::bench::gates::Of;
use crate::bench::gates::TESTS;
use crate::bench::gates::Test;
use crate::bench::peers::Name;
use crate::bench::run::Record;

/// One limit and what was measured.
pub struct Verdict {
    pub test: &'static Test,
    pub limit: &'static Limit,
    pub is_goal: bool,
    /// The median of what the limit bounds: a ratio, or the figure itself. `None`: not measured.
    pub value: Option<f64>,
}

impl Verdict {
    pub fn holds(&self) -> Option<bool> {
        let value = self.value?;
        Some(match self.limit.bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        })
    }

    /// As one would say it: `1.31 >= 1.2 x haproxy`.
    pub fn text(&self) -> String {
        let value = self.value.map_or("not measured".to_owned(), short);
        let (sign, bound) = match self.limit.bound {
            Bound::AtLeast(bound) => (">=", bound),
            Bound::AtMost(bound) => ("<=", bound),
        };
        let of = match self.limit.of {
            Of::Times(name) => format!(" x {}", name.as_str()),
            Of::Plain => String::new(),
        };
        format!("{} {}: {value} {sign} {}{of}", self.test.name, self.limit.figure.label(), short(bound))
    }
}

pub struct Report {
    records: Vec<Record>,
}

/// A median with its rounds' extremes.
#[derive(Debug, Clone, Copy)]
struct Spread {
    middle: f64,
    low: f64,
    high: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let middle = median(values)?;
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { middle, low, high })
    }
}

impl Report {
    pub fn new(records: Vec<Record>) -> Self {
        Self { records }
    }

    fn tests(&self) -> impl Iterator<Item = &'static Test> {
        TESTS.iter().filter(|test| self.records.iter().any(|record| record.test == test.name))
    }

    fn of<'a>(&'a self, test: &'a Test, peer: Name) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| record.test == test.name && record.peer == peer)
    }

    /// A figure of one round; for latencies what the pair adds to the same load without sidecars.
    fn value(&self, test: &Test, peer: Name, figure: Figure, round: usize) -> Option<f64> {
        let find = |peer| {
            let record = self.of(test, peer).find(|record| record.round == round)?;
            record.figures.get(&figure).copied()
        };
        let value = find(peer)?;
        if figure.is_added() && peer != Name::Direct { Some(value - find(Name::Direct)?) } else { Some(value) }
    }

    fn values(&self, test: &Test, peer: Name, figure: Figure) -> Vec<f64> {
        self.of(test, peer).filter_map(|record| self.value(test, peer, figure, record.round)).collect()
    }

    fn ratios(&self, test: &Test, figure: Figure, peer: Name) -> Vec<f64> {
        let ratio = |record: &Record| {
            let own = self.value(test, Name::Leno, figure, record.round)?;
            let other = self.value(test, peer, figure, record.round)?;
            (other > 0.0).then(|| own / other)
        };
        self.of(test, Name::Leno).filter_map(ratio).collect()
    }

    pub fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for test in self.tests() {
            let limits =
                test.gate.iter().map(|limit| (limit, false)).chain(test.goal.iter().map(|limit| (limit, true)));
            for (limit, is_goal) in limits {
                let values = match limit.of {
                    Of::Times(peer) => self.ratios(test, limit.figure, peer),
                    Of::Plain => self.values(test, Name::Leno, limit.figure),
                };
                verdicts.push(Verdict { test, limit, is_goal, value: median(&values) });
            }
        }
        verdicts
    }

    /// The figures of a test that are worth a line: what is bounded, and always the rate or what stands for it.
    fn figures(test: &Test) -> Vec<Figure> {
        let mut figures: Vec<Figure> = test.gate.iter().chain(test.goal).map(|limit| limit.figure).collect();
        if figures.contains(&Figure::Rate) {
            figures.push(Figure::Cpu);
        }
        figures.sort();
        figures.dedup();
        figures
    }

    pub fn table(&self) -> String {
        let mut out = String::new();
        let peers = [Name::Leno, Name::Haproxy, Name::Envoy, Name::Nginx, Name::Direct];
        let _ = write!(out, "{:12} {:17} {:>22}", "test", "figure", "leno (low..high)");
        for peer in &peers[1..] {
            let _ = write!(out, " {:>9}", peer.as_str());
        }
        let _ = writeln!(out, " {:>6} {:>6}  gate            goal", "/hapr.", "/envoy");
        let verdicts = self.verdicts();
        for test in self.tests() {
            for figure in Self::figures(test) {
                let own = Spread::of(&self.values(test, Name::Leno, figure));
                let shown = own
                    .map_or("-".to_owned(), |s| format!("{} ({}..{})", short(s.middle), short(s.low), short(s.high)));
                let _ = write!(out, "{:12} {:17} {shown:>22}", test.name, figure.label());
                for peer in &peers[1..] {
                    let value = median(&self.values(test, *peer, figure));
                    let _ = write!(out, " {:>9}", value.map_or("-".to_owned(), short));
                }
                for peer in [Name::Haproxy, Name::Envoy] {
                    let ratio = median(&self.ratios(test, figure, peer));
                    let _ = write!(out, " {:>6}", ratio.map_or("-".to_owned(), |r| format!("{r:.2}")));
                }
                let marks = |goal: bool| {
                    let here = |v: &&Verdict| v.test.name == test.name && v.limit.figure == figure && v.is_goal == goal;
                    verdicts.iter().filter(here).map(mark).collect::<Vec<_>>().join(" ")
                };
                let _ = writeln!(out, "  {:15} {}", marks(false), marks(true));
            }
        }
        out + &self.notes()
    }

    fn notes(&self) -> String {
        let mut out = String::new();
        let bad: u64 = self.records.iter().map(|record| record.bad).sum();
        if bad > 0 {
            let _ = writeln!(out, "\n{bad} answers were not what was expected:");
            for record in self.records.iter().filter(|record| record.bad > 0) {
                let _ = writeln!(
                    out,
                    "  {} {} round {}: {}",
                    record.test,
                    record.peer.as_str(),
                    record.round + 1,
                    record.bad
                );
            }
        }
        let groups: Vec<String> = [Name::Leno, Name::Haproxy, Name::Envoy, Name::Nginx]
            .into_iter()
            .filter_map(|peer| {
                let record = self.records.iter().find(|record| record.peer == peer && !record.group.is_empty())?;
                Some(format!("{} {}", peer.as_str(), record.group))
            })
            .collect();
        if !groups.is_empty() {
            let _ = writeln!(out, "\nkey exchange: {}", groups.join(", "));
        }
        let foreign: Vec<f64> = self.records.iter().map(|record| record.foreign).collect();
        let worst = foreign.iter().copied().fold(0.0, f64::max);
        let middle = median(&foreign).unwrap_or_default();
        let _ =
            writeln!(out, "other programs and the host took {middle:.2} of a core (median slice; worst {worst:.2})");
        if middle > 0.15 {
            let _ = writeln!(out, "the machine was not quiet: read the ratios as a hint, and run again");
        }
        out
    }

    /// Everything, for other programs.
    pub fn json(&self) -> Value {
        let records: Vec<Value> = self
            .records
            .iter()
            .map(|record| {
                let figures: serde_json::Map<String, Value> =
                    record.figures.iter().map(|(figure, value)| (figure.label().to_owned(), (*value).into())).collect();
                json!({
                    "test": record.test, "peer": record.peer.as_str(), "round": record.round, "figures": figures,
                    "bad": record.bad, "late": record.late, "foreign": record.foreign, "group": record.group,
                })
            })
            .collect();
        let verdicts: Vec<Value> = self
            .verdicts()
            .iter()
            .map(|v| {
                json!({
                    "test": v.test.name, "kind": if v.is_goal { "goal" } else { "gate" }, "figure": v.limit.figure.label(),
                    "value": v.value, "holds": v.holds(), "text": v.text(),
                })
            })
            .collect();
        json!({"records": records, "verdicts": verdicts})
    }

    /// Ratios of the gates' figures to HAProxy and Envoy: name of the test, figure, ratio to each.
    pub fn bars(&self) -> Vec<(String, Option<f64>, Option<f64>)> {
        let mut bars = Vec::new();
        for test in self.tests() {
            for figure in Self::figures(test) {
                let of = |peer| median(&self.ratios(test, figure, peer));
                let (haproxy, envoy) = (of(Name::Haproxy), of(Name::Envoy));
                if haproxy.is_some() || envoy.is_some() {
                    bars.push((format!("{} {}", test.name, figure.label()), haproxy, envoy));
                }
            }
        }
        bars
    }
}

fn mark(verdict: &Verdict) -> String {
    let (sign, bound) = match verdict.limit.bound {
        Bound::AtLeast(bound) => ('>', bound),
        Bound::AtMost(bound) => ('<', bound),
    };
    let of = match verdict.limit.of {
        Of::Times(Name::Haproxy) => "H",
        Of::Times(Name::Envoy) => "E",
        Of::Times(Name::Minimal) => "M",
        Of::Times(_) | Of::Plain => "",
    };
    let verdict = match verdict.holds() {
        Some(true) => "ok",
        Some(false) => "MISSED",
        None => "?",
    };
    format!("{sign}{bound}{of} {verdict}")
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => {
            let whole = format!("{value:.0}");
            let (sign, digits) = whole.strip_prefix('-').map_or(("", whole.as_str()), |digits| ("-", digits));
            let mut out = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    out.push(',');
                }
                out.push(digit);
            }
            format!("{sign}{out}")
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
