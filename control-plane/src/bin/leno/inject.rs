//! `leno inject`: manifests in, manifests with sidecars out. It decides nothing: the webhook's own functions do.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::bail;
use leno_control_plane::inject;
use leno_control_plane::inject::Namespace;
use leno_control_plane::inject::Outcome;
use leno_control_plane::inject::Settings;

/// Documents in which nothing makes Pods come out as they went in.
pub(crate) fn run(files: &[PathBuf], settings: &Settings) -> anyhow::Result<ExitCode> {
    for file in files {
        let text = match file.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin())?,
            false => std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?,
        };
        for document in text.split("\n---").filter(|document| !document.trim().is_empty()) {
            let document = document.trim_start_matches("---").trim_start_matches('\n');
            let mut manifest: serde_json::Value =
                serde_saphyr::from_str(document).with_context(|| format!("{}: not YAML", file.display()))?;
            let name = format!("{} {}", text_of(&manifest["kind"]), text_of(&manifest["metadata"]["name"]));
            let namespace = text_of(&manifest["metadata"]["namespace"]).to_owned();
            let namespace = Namespace { name: &namespace, asks: true, enforces: "" };
            println!("---");
            let outcome = inject::template(&mut manifest).map(|pod| (inject::inject(pod, namespace, settings), pod));
            match outcome {
                Some((Outcome::Injected(injected), pod)) => {
                    *pod = *injected;
                    print!("{}", serde_saphyr::to_string(&manifest)?);
                }
                Some((Outcome::Refused(why), _)) => bail!("{}: {name}: {why}", file.display()),
                Some((Outcome::Left(why), _)) => {
                    eprintln!("{name}: left as it is: {why}");
                    println!("{}", document.trim_end());
                }
                None => println!("{}", document.trim_end()),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text_of(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}
