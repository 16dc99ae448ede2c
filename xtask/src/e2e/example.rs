//! The README's first half hour on Kubernetes as a test: the example application as it stands, its traces in an OTLP backend, what
//! is broken in it on purpose, and the commands that find it. It must never pass on spans that do not join up.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use serde_json::Value;

use super::application;
use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;
use crate::shell;

const SHOP: &str = "shop";
const TRACES: &str = "observability";
/// Everyone that one page passes through.
const HOPS: [&str; 4] = ["visitor", "web", "catalog", "pricing"];
/// Of fifty pages in a row some meet the till that is jammed for every fifth.
const PAGES: usize = 50;
/// A backend with a page, a command line and a store of its own in one program.
const OTELITE: &str = "0.1.156";

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    let example = Example { target, asked: Cell::new(0) };
    step("an OTLP backend and an application of three services start, unchanged", || example.begin())?;
    step("the spans of one page join up in the backend, across every hop", || example.traces())?;
    step("some pages fail; the traces say whose fault it is, and leno explain why nobody tries again", || {
        example.failures()
    })?;
    step("policies go live, and no page fails any more", || example.policies())?;
    step("leno finds what is broken in them on purpose", || example.findings())?;
    step("repaired, there is nothing to find", || example.repaired())?;
    example.end()
}

/// What `e2e/example` runs beside Leno.
pub(crate) fn images(programs: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut archives = applications(programs)?;
    archives.push(backend()?);
    Ok(archives)
}

/// The storefront's roles, and a shell.
pub(super) fn applications(programs: &Path) -> anyhow::Result<Vec<PathBuf>> {
    shell::install(&[("busybox", "busybox-static")])?;
    let busybox = shell::find("busybox").context("busybox is not installed; install the package busybox-static")?;
    Ok(vec![
        application("storefront", &[&programs.join("storefront")], &["/storefront"])?,
        application("shell", &[&busybox], &["/busybox", "sleep", "2147483647"])?,
    ])
}

/// The OTLP backend's image. Its program is built once, from its own locked dependencies.
pub(super) fn backend() -> anyhow::Result<PathBuf> {
    let folder = shell::root().join("target/otelite");
    let root = folder.join(OTELITE);
    let program = root.join("bin/otelite");
    if !program.exists() {
        shell::install(&[("pkg-config", "pkg-config"), ("/usr/include/openssl/ssl.h", "libssl-dev")])?;
        eprintln!("building Otelite {OTELITE} (a few minutes; it stays in target/otelite)");
        let mut cargo = shell::cargo(&["install", "otelite", "--locked", "--debug", "--version"]);
        cargo.arg(format!("={OTELITE}")).arg("--root").arg(&root);
        cargo.env("CARGO_TARGET_DIR", folder.join("build"));
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_STRIP", "symbols");
        shell::run(&mut cargo)?;
        fs::remove_dir_all(folder.join("build"))?;
    }
    application("traces", &[&program], &["/otelite"])
}

struct Example<'a> {
    target: &'a Target,
    /// How often the backend was asked for recent traces.
    asked: Cell<u32>,
}

impl Example<'_> {
    fn begin(&self) -> anyhow::Result<()> {
        self.end()?;
        self.apply("traces.yaml")?;
        self.rolled_out(TRACES, "traces")?;
        let endpoint = format!("tracing.endpoint=http://traces.{TRACES}:4317");
        self.target.install_with(&["--set", &endpoint, "--set", "tracing.samplingPercent=100"])?;
        self.apply("shop.yaml")?;
        HOPS.into_iter().try_for_each(|name| self.rolled_out(SHOP, name))
    }

    fn end(&self) -> anyhow::Result<()> {
        let arguments = ["delete", "namespace", SHOP, TRACES, "--ignore-not-found", "--wait", "--timeout=300s"];
        self.target.kubectl(&arguments).map(drop)
    }

    fn traces(&self) -> anyhow::Result<()> {
        eventually(Duration::from_secs(180), || {
            let traces = self.recent()?;
            let traces = traces.as_array().context("a list of traces")?;
            let whole = traces.iter().find(|trace| HOPS.iter().all(|hop| names(trace).contains(hop)));
            let trace = whole.with_context(|| {
                let seen: Vec<_> = traces.iter().map(names).collect();
                format!("none of {} traces has spans of all: {seen:?}", traces.len())
            })?;
            let id = trace["trace_id"].as_str().context("a trace has an id")?;
            let spans = self.spans(id)?;
            let ids: BTreeSet<&str> = spans.iter().filter_map(|span| span["span_id"].as_str()).collect();
            let parents = spans.iter().filter_map(|span| span["parent_span_id"].as_str());
            let parents: Vec<&str> = parents.filter(|parent| !parent.is_empty()).collect();
            ensure!(parents.len() + 1 == spans.len(), "{} roots: {spans:#?}", spans.len() - parents.len());
            let lost = parents.iter().find(|parent| !ids.contains(*parent));
            ensure!(lost.is_none(), "the parent {lost:?} is not among {spans:#?}");
            // A call is a client's span, one for each attempt, and a server's: visitor to web, web to catalog, web to pricing.
            ensure!(spans.len() >= 9, "three calls are nine spans: {spans:#?}");
            eprintln!("  {} spans of {:?} are one tree", spans.len(), names(trace));
            Ok(())
        })
    }

    fn failures(&self) -> anyhow::Result<()> {
        let failed = self.failed_pages()?;
        ensure!(failed > 0, "of {PAGES} pages none failed: the example is not broken");
        eprintln!("  {failed} of {PAGES} pages failed");
        eventually(Duration::from_secs(120), || {
            let traces = self.recent()?;
            let failed = traces.as_array().into_iter().flatten().filter(|trace| trace["has_errors"] == true);
            for id in failed.filter_map(|trace| trace["trace_id"].as_str()) {
                if self.spans(id)?.iter().any(|span| blames(span, "pricing")) {
                    return Ok(());
                }
            }
            anyhow::bail!("no trace says that pricing answers 503: {traces:#}")
        })?;
        let said = self.said(&["explain", "-n", SHOP, "deployment/web", "pricing", "/price", "--all"], 0)?;
        ensure!(said.contains("retries.retryOn") && said.contains("mTLS"), "{said}");
        Ok(())
    }

    fn policies(&self) -> anyhow::Result<()> {
        self.apply("policies.yaml")?;
        let live = ["wait", "-n", SHOP, "trafficpolicy/pricing", "inboundpolicy/catalog", "--timeout", "120s"];
        self.said(&live, 0)?;
        let failed = self.failed_pages()?;
        ensure!(failed == 0, "{failed} of {PAGES} pages failed, with retries on 503 in force");
        Ok(())
    }

    fn findings(&self) -> anyhow::Result<()> {
        eventually(Duration::from_secs(60), || {
            let status = self.said(&["status", "-n", SHOP], 0)?;
            let line = |name: &str| status.lines().find(|line| line.contains(name)).unwrap_or_default();
            ensure!(line("shop/pricing").starts_with("live"), "{status}");
            ensure!(line("shop/catalogue").starts_with("refused"), "{status}");
            Ok(())
        })?;
        // The same is known before anything is applied.
        for what in [&["lint", "cluster", "-n", SHOP][..], &["lint", &file("shop.yaml"), &file("policies.yaml")]] {
            let found = self.said(what, 1)?;
            for code in ["RETRIES_CUT_SHORT", "SERVER_CLOSES_FIRST", "TARGET_NOT_FOUND"] {
                ensure!(found.contains(code), "leno {} does not find {code}:\n{found}", what.join(" "));
            }
        }
        Ok(())
    }

    fn repaired(&self) -> anyhow::Result<()> {
        self.target.kubectl(&["delete", "-f", &file("policies.yaml")])?;
        self.apply("repaired.yaml")?;
        self.said(&["wait", "-f", &file("repaired.yaml"), "--timeout", "120s"], 0)?;
        let found = self.said(&["lint", "cluster", "-n", SHOP, "--strict"], 0)?;
        ensure!(found.is_empty(), "there is still something to find:\n{found}");
        let failed = self.failed_pages()?;
        ensure!(failed == 0, "{failed} of {PAGES} pages failed");
        self.said(&["check"], 0).map(drop)
    }

    /// From one shell in the visitor's pod: kubectl takes a second for each call where the machine is busy.
    fn failed_pages(&self) -> anyhow::Result<usize> {
        let script = format!(
            "n=0; while [ $n -lt {PAGES} ]; do /busybox wget -q -O /dev/null http://web/ 2>/dev/null && echo page || echo failed; n=$((n + 1)); done"
        );
        let exec = ["-n", SHOP, "exec", "deployment/visitor", "-c", "app", "--", "/busybox", "sh", "-c", &script];
        let said = self.target.kubectl(&exec)?;
        ensure!(said.lines().count() == PAGES, "not {PAGES} answers: {said}");
        Ok(said.lines().filter(|line| *line == "failed").count())
    }

    /// The backend answers the same question from memory for five minutes, so it is never asked the same twice.
    fn recent(&self) -> anyhow::Result<Value> {
        self.asked.set(self.asked.get() + 1);
        self.backend(&["list", "--limit", &format!("{}", 30 + self.asked.get())])
    }

    fn spans(&self, trace: &str) -> anyhow::Result<Vec<Value>> {
        let shown = self.backend(&["show", trace])?;
        Ok(shown["spans"].as_array().context("a trace has spans")?.clone())
    }

    /// `otelite traces ...` in the backend's pod.
    fn backend(&self, words: &[&str]) -> anyhow::Result<Value> {
        let exec = ["-n", TRACES, "exec", "deployment/traces", "--", "/otelite", "traces"];
        let said = self.target.kubectl(&[&exec[..], words, &["--format", "json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
    }

    fn apply(&self, name: &str) -> anyhow::Result<()> {
        let path = file(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let repository = self.target.repository.as_deref().unwrap_or("docker.io/leno");
        self.target.apply(&text.replace("docker.io/leno", repository))
    }

    fn rolled_out(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let name = format!("deployment/{name}");
        self.target.kubectl(&["-n", namespace, "rollout", "status", &name, "--timeout=300s"]).map(drop)
    }

    /// What `leno` prints, where it ends as it should.
    fn said(&self, arguments: &[&str], code: i32) -> anyhow::Result<String> {
        let output = self.leno(arguments)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let line = arguments.join(" ");
        ensure!(output.status.code() == Some(code), "leno {line}: {}, not {code}\n{out}{err}", output.status);
        Ok(out.into_owned())
    }

    fn leno(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.target.asking(Command::new(&self.target.leno)).args(arguments).output().context("start leno")
    }
}

fn file(name: &str) -> String {
    format!("e2e/example/{name}")
}

/// Whose spans a trace has.
fn names(trace: &Value) -> BTreeSet<&str> {
    trace["service_names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a server's span of this service tells of a 503.
fn blames(span: &Value, service: &str) -> bool {
    let resource = span["resource"].to_string();
    resource.contains(&format!("\"{service}\"")) && span["attributes"]["http.response.status_code"] == "503"
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_names_the_images_that_are_made() {
        let version = format!(":{}", env!("CARGO_PKG_VERSION"));
        for name in ["shop.yaml", "traces.yaml"] {
            let path = crate::shell::root().join(super::file(name));
            let text = std::fs::read_to_string(&path).unwrap();
            let images: Vec<&str> = text.lines().filter(|line| line.contains("image: ")).collect();
            assert!(!images.is_empty() && images.iter().all(|image| image.ends_with(&version)), "{name}: {images:?}");
        }
    }
}
