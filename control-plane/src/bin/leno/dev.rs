//! For a mesh on a folder of manifests: tokens, anchors, and a new root of trust. It must never speak to a cluster.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use anyhow::Context;
use anyhow::bail;
use clap::Subcommand;
use leno_control_plane::ca;
use leno_control_plane::config::duration;
use leno_control_plane::folder;
use leno_control_plane::folder::Access;
use leno_control_plane::folder::Folder;
use leno_control_plane::token::FolderKey;
use leno_control_plane::token::Subject;

#[derive(Subcommand)]
pub(crate) enum Dev {
    /// Write a pod's token, as Kubernetes would project it.
    Token {
        /// The control plane's state folder.
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        #[arg(long)]
        namespace: String,
        #[arg(long)]
        service_account: String,
        /// The pod's name.
        #[arg(long)]
        pod: String,
        #[arg(long)]
        pod_uid: String,
        #[arg(long, value_parser = duration, default_value = "24h")]
        ttl: Duration,
        /// Where to write it, 0600; `-` is standard output.
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Print the trust anchors that sidecars are started with.
    Anchor {
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
    },
    /// Replace the root of trust without a failed request: ask the control plane that runs on this folder.
    RotateRoot {
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// Wait until the old root is no longer trusted: a leaf's lifetime and up to a minute.
        #[arg(long)]
        wait: bool,
    },
}

pub(crate) fn run(dev: Dev) -> anyhow::Result<ExitCode> {
    match dev {
        Dev::Token { state, namespace, service_account, pod, pod_uid, ttl, output } => {
            let key = FolderKey::open(&Folder::open(&state)?)?;
            let subject = Subject { namespace, service_account, pod_name: pod, pod_uid };
            let token = key.mint(&subject, ttl, SystemTime::now())?;
            if output.as_os_str() == "-" {
                println!("{token}");
            } else {
                folder::write(&output, Access::Private, token.as_bytes())?;
            }
        }
        Dev::Anchor { state } => {
            let path = state.join(ca::ANCHOR_FILE);
            let pem = folder::read(&path)?.with_context(|| {
                format!("{} does not exist; the control plane writes it when it first starts", path.display())
            })?;
            print!("{}", String::from_utf8_lossy(&pem));
        }
        Dev::RotateRoot { state, wait } => rotate_root(&state, wait)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The request is a file, as whoever may write there holds the root already.
fn rotate_root(state: &Path, wait: bool) -> anyhow::Result<()> {
    let anchors = || -> anyhow::Result<usize> {
        let trust = folder::read(&state.join(ca::TRUST_FILE))?.context("no control plane has run on this folder")?;
        let trust: serde_json::Value = serde_json::from_slice(&trust).context("trust.json")?;
        Ok(trust["anchors"].as_array().map_or(0, Vec::len))
    };
    if anchors()? > 1 {
        bail!("a rotation is under way already; {} says where it is", state.join(ca::TRUST_FILE).display());
    }
    let request = state.join(ca::ROTATE_FILE);
    folder::write(&request, Access::Private, b"")?;
    until(Duration::from_secs(10), || Ok(!request.exists() && anchors()? > 1)).inspect_err(|_| {
        let _ = std::fs::remove_file(&request);
    })?;
    println!("a new root is trusted beside the old one; it takes over as soon as every sidecar knows it");
    if wait {
        until(Duration::from_secs(8 * 24 * 3600), || Ok(anchors()? == 1))?;
        println!("the old root is no longer trusted");
    }
    Ok(())
}

fn until(limit: Duration, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !done()? {
        if begun.elapsed() > limit {
            bail!("no control plane took the request; is one running on this folder?");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
