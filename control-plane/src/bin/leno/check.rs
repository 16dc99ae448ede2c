//! `leno check`: is the cluster fit for Leno, is the control plane well, are the sidecars? Every line has a code and a remedy. It
//! looks and never repairs; what it may not see it says, and never counts as well.

mod cluster;
mod installed;
mod sidecars;

use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use leno_control_plane::config::duration;
use leno_control_plane::lint::codes;
use leno_control_plane::lint::codes::Level;
use serde::Serialize;
use serde_json::json;

use crate::lint::Format;
use crate::paint::Tone;
use crate::paint::count;
use crate::paint::paint;
use crate::reach::Cluster;
use crate::reach::Reach;
use crate::reach::block;

const POLL: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only what must be true before Leno is installed.
    #[arg(long)]
    before: bool,
    /// Only the sidecars; with `-n`, of one namespace.
    #[arg(long, conflicts_with = "before")]
    data_plane: bool,
    /// Looks again until nothing fails, for so long at most.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Well,
    Warning,
    Failed,
    /// It could not be looked at.
    Unknown,
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) section: &'static str,
    pub(crate) code: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) message: String,
    /// Empty where all is well.
    pub(crate) remedy: String,
}

/// The lines so far.
pub(crate) struct Lines {
    section: &'static str,
    all: Vec<Line>,
}

impl Lines {
    pub(crate) fn section(&mut self, name: &'static str) {
        self.section = name;
    }

    pub(crate) fn well(&mut self, code: &'static str, message: impl Into<String>) {
        self.push(code, Verdict::Well, message.into(), String::new());
    }

    /// As bad as the code is, with the code's own remedy.
    pub(crate) fn wrong(&mut self, code: &'static str, message: impl Into<String>) {
        let remedy = codes::named(code).map(|code| code.remedy).unwrap_or_default();
        self.wrong_with(code, message, remedy);
    }

    pub(crate) fn wrong_with(&mut self, code: &'static str, message: impl Into<String>, remedy: &str) {
        let warns = codes::named(code).is_some_and(|code| code.level == Level::Warning);
        let verdict = if warns { Verdict::Warning } else { Verdict::Failed };
        self.push(code, verdict, message.into(), remedy.to_owned());
    }

    /// Nothing can be said, and why.
    pub(crate) fn unknown(&mut self, code: &'static str, why: impl Into<String>) {
        self.push(
            code,
            Verdict::Unknown,
            why.into(),
            "ask for the right that is missing, or have somebody look who has it".to_owned(),
        );
    }

    fn push(&mut self, code: &'static str, verdict: Verdict, message: String, remedy: String) {
        self.all.push(Line { section: self.section, code, verdict, message, remedy });
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let cluster = options.reach.cluster()?;
    let lines = block(async {
        let end = Instant::now() + options.wait.unwrap_or_default();
        loop {
            let lines = look(&cluster, options).await;
            let failed = lines.iter().any(|line| line.verdict == Verdict::Failed);
            if !failed || Instant::now() >= end {
                return Ok(lines);
            }
            tokio::time::sleep(POLL).await;
        }
    })?;
    let of = |verdict: Verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    let failed = of(Verdict::Failed);
    match options.output {
        Format::Json => println!("{:#}", json!({"well": failed == 0, "lines": lines})),
        Format::Text => show(&lines),
    }
    let tone = if failed > 0 { Tone::Bad } else { Tone::Good };
    let unknown = match of(Verdict::Unknown) {
        0 => String::new(),
        some => format!(", {} could not be looked at", some),
    };
    let counts = format!(
        "{} well, {}, {} failed{unknown}",
        of(Verdict::Well),
        count(of(Verdict::Warning), "warning", "warnings"),
        failed
    );
    if options.output == Format::Text {
        println!("\n{}", paint(tone, &counts));
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn look(cluster: &Cluster, options: &Options) -> Vec<Line> {
    let mut lines = Lines { section: "cluster", all: Vec::new() };
    let namespace = options.reach.namespace.as_deref();
    if options.data_plane {
        lines.section("sidecars");
        sidecars::look(cluster, &mut lines, namespace).await;
        return lines.all;
    }
    if cluster::look(cluster, &mut lines, options.before).await && !options.before {
        lines.section("control plane");
        if installed::look(cluster, &mut lines).await {
            lines.section("sidecars");
            sidecars::look(cluster, &mut lines, namespace).await;
        }
    }
    lines.all
}

fn show(lines: &[Line]) {
    let mut section = "";
    for line in lines {
        if line.section != section {
            section = line.section;
            println!("{}", paint(Tone::Strong, section));
        }
        let (tone, mark) = match line.verdict {
            Verdict::Well => (Tone::Good, "ok  "),
            Verdict::Warning => (Tone::Doubt, "warn"),
            Verdict::Failed => (Tone::Bad, "FAIL"),
            Verdict::Unknown => (Tone::Faint, "?   "),
        };
        match line.verdict {
            Verdict::Well => println!("  {} {}", paint(tone, mark), line.message),
            _ => println!(
                "  {} {} {}\n       {}",
                paint(tone, mark),
                paint(Tone::Strong, line.code),
                line.message,
                line.remedy
            ),
        }
    }
}
