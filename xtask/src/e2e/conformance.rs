//! `cargo xtask conformance`: Gateway API's own mesh suite, unchanged, with its own manifests, against Leno. It must never skip
//! a test: a feature that is not there fails.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use anyhow::ensure;

use super::smoke::Target;
use super::smoke::step;
use crate::cluster::tools;
use crate::image;
use crate::shell;

/// Every feature that a mesh test of the suite asks for, in the order of an XMesh.
const FEATURES: [&str; 17] = [
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// The image that the suite's manifests name. Its program is ours: the upstream one is published as an image only.
const ECHO: &str = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1";

/// Where the suite writes its report, if nobody says where.
const REPORT: &str = "target/conformance.yaml";

/// Everything that the suite says.
const LOG: &str = "target/conformance.log";

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) place: super::Place,
    #[command(flatten)]
    pub(crate) suite: Suite,
}

/// How much of it.
#[derive(clap::Args)]
pub(crate) struct Suite {
    /// Only this test, such as MeshTrafficSplit.
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// Without Leno, on plain Kubernetes: the tests that route must fail then.
    #[arg(long)]
    without: bool,
    /// Where the suite writes its report.
    #[arg(long, value_name = "FILE", default_value = REPORT)]
    report: PathBuf,
}

/// The suite's application as an archive: one program, `server` or `client` by its name.
pub(crate) fn echo(programs: &Path) -> anyhow::Result<PathBuf> {
    let program = programs.join("echo");
    let mut image = image::image("echo", &[&program], &["/server"], "1000:1000")?;
    let file = image.files.remove("echo").context("the image holds its program")?;
    image.files.insert("client".to_owned(), file.clone());
    image.files.insert("server".to_owned(), file);
    ECHO.clone_into(&mut image.name);
    image::write(&image)
}

impl Suite {
    /// Every test, with Leno.
    pub(super) fn whole() -> Self {
        Self { test: None, without: false, report: REPORT.into() }
    }

    fn report(&self) -> PathBuf {
        shell::root().join(&self.report)
    }

    /// Removes what an earlier run has left: whoever finds a report finds this run's.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        for file in [self.report(), shell::root().join(LOG)] {
            fs::create_dir_all(file.parent().context("a file has a folder")?)?;
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// As a part of `--all`.
pub(super) fn whole(target: &Target) -> anyhow::Result<()> {
    let suite = Suite::whole();
    suite.clear()?;
    step("every core and every extended test of MESH-HTTP and MESH-GRPC passes, and none is skipped", || {
        run(&suite, target)
    })
}

pub(crate) fn run(options: &Suite, target: &Target) -> anyhow::Result<()> {
    tools::build(&["conformance"])?;
    target.gateway_api()?;
    if !options.without {
        target.install()?;
        declared(target)?;
    }
    let mut suite = tools::command("conformance");
    suite.env("KUBECONFIG", &target.kubeconfig);
    suite.args(["-test.v", "-test.run", "TestConformance", "-test.timeout", "40m"]);
    suite.arg(format!("--supported-features={}", FEATURES.join(",")));
    suite.args(["--conformance-profiles=MESH-HTTP,MESH-GRPC", "--namespace-labels=leno.dev/inject=enabled"]);
    suite.args(["--organization=leno", "--project=leno", "--url=https://leno.dev", "--contact=developers@leno.dev"]);
    // Its clients are started through the API server, a dozen at once: on a machine that builds meanwhile, that alone may take the
    // 30 s that it grants, and so may the rest. A route is on the wire within a second; the smoke test asks for that.
    let patience = [
        "MaxTimeToConsistency:120",
        "CreateTimeout:180",
        "DeleteTimeout:180",
        "GetTimeout:180",
        "HTTPRouteMustHaveCondition:180",
        "LatestObservedGenerationSet:180",
        "NamespacesMustBeReady:600",
        "RouteMustHaveParents:180",
    ];
    suite.arg(format!("--timeout-config-overrides={}", patience.join(";")));
    suite.arg(format!("--version=v{}", env!("CARGO_PKG_VERSION")));
    // It opens the file as it is, from the folder where it runs.
    let report = options.report();
    suite.arg(format!("--report-output={}", report.display()));
    suite.args(options.test.iter().map(|test| format!("--run-test={test}")));
    let passed = watch(suite)?;
    println!("the report is in {}, all that was said in {LOG}", report.display());
    let text = fs::read_to_string(&report).context("the suite wrote no report")?;
    ensure!(passed, "the suite failed; {LOG} says where");
    ensure!(options.test.is_some() || !text.contains("skippedTests"), "the suite skipped tests:\n{text}");
    Ok(())
}

/// What the control plane says of itself must be what is run here, no more and no less. The kind that it says it in is of the
/// experimental channel, and the suite takes one channel at a time: it is gone again before the tests run.
fn declared(target: &Target) -> anyhow::Result<()> {
    let kind = "config/crd/experimental/gateway.networking.x-k8s.io_xmeshes.yaml";
    let kind = tools::files("gateway-api", "sigs.k8s.io/gateway-api")?.join(kind);
    target.kubectl(&["apply", "--server-side", "-f", &kind.to_string_lossy()])?;
    target.kubectl(&["wait", "xmesh/leno", "--for=create", "--timeout=90s"])?;
    target.kubectl(&["wait", "xmesh/leno", "--for=condition=Accepted", "--timeout=90s"])?;
    let names = target.kubectl(&["get", "xmesh", "leno", "-o=jsonpath={.status.supportedFeatures[*].name}"])?;
    let names: Vec<&str> = names.split_whitespace().collect();
    target.kubectl(&["delete", "crd", "xmeshes.gateway.networking.x-k8s.io"])?;
    ensure!(names == FEATURES, "the XMesh claims {names:?}");
    Ok(())
}

/// Runs the suite and shows the tests that ran, one a line as each ends; the other profiles' tests, which do not concern a mesh,
/// it only lists. Whether all passed.
fn watch(mut suite: Command) -> anyhow::Result<bool> {
    let mut child = suite.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().context("start the suite")?;
    let mut log = fs::File::create(shell::root().join(LOG))?;
    for line in BufReader::new(child.stdout.take().expect("it was asked for")).lines() {
        let line = line?;
        writeln!(log, "{line}")?;
        if line.starts_with("    --- PASS: ") || line.starts_with("    --- FAIL: ") {
            println!("{}", line.trim());
        }
    }
    Ok(child.wait()?.success())
}
