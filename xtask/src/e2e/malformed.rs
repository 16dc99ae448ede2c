//! What users write by mistake, on a real cluster: the API server refuses it, or kubectl says what is wrong with it, and whatever
//! becomes of it, sidecars keep what they have. It must never take an object for quarantined of which nothing was said.

use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use serde_json::Value;

use super::cli;
use super::smoke::SHOP;
use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    step("two applications with sidecars", || target.inject().and_then(|()| target.calls()))?;
    step("malformed objects are refused, or say so, and no sidecar hears of them", || all(target))?;
    target.calls()
}

fn all(target: &Target) -> anyhow::Result<()> {
    let before = configured(target)?;
    let text = target.manifest("malformed.yaml")?.replace("HUGE", &"x".repeat(300_000));
    let (mut refused, mut quarantined) = (0, 0);
    for one in text.split("\n---\n") {
        let field = |name: &str| {
            let line = one.lines().find_map(|line| line.strip_prefix(name));
            line.with_context(|| format!("no {name} in {one}"))
        };
        let (kind, name) = (field("kind: ")?, field("name: ")?);
        let said = match target.feed(&["create", "-f", "-"], &manifest(kind, name, one)) {
            Err(error) => {
                refused += 1;
                why(&error.to_string())?
            }
            Ok(()) => {
                quarantined += 1;
                let said = told(target, kind, name)?;
                ensure!(configured(target)? == before, "{kind} {name} changes what sidecars hold");
                target.kubectl(&["-n", SHOP, "delete", kind, name])?;
                said
            }
        };
        eprintln!("  {kind} {name}: {}", said.chars().take(160).collect::<String>());
    }
    ensure!(refused > 0 && quarantined > 0, "{refused} are refused, {quarantined} stored");
    eventually(Duration::from_secs(30), || {
        ensure!(configured(target)? == before, "something is left behind");
        Ok(())
    })?;
    eprintln!("  {refused} are refused, {quarantined} are stored and have no effect");
    Ok(())
}

/// The object with its head; what the file says of it ends it.
fn manifest(kind: &str, name: &str, one: &str) -> String {
    let version = if kind.ends_with("Route") { "gateway.networking.k8s.io/v1" } else { "policy.leno.dev/v1alpha1" };
    let namespace = if kind == "Mesh" { String::new() } else { format!(", namespace: {SHOP}") };
    let spec = one.lines().find(|line| line.starts_with("spec:")).unwrap_or_default();
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\n{spec}\n")
}

/// The API server's answer without what is the same in all. That it could not be asked is none.
fn why(said: &str) -> anyhow::Result<String> {
    let answers = ["is invalid", "denied the request", "strict decoding error", "error validating"];
    ensure!(answers.iter().any(|answer| said.contains(answer)), "not refused for what it says: {said:.2000}");
    Ok(said.split_once("kubectl create -f -: ").map_or(said, |(_, answer)| answer).replace('\n', " "))
}

/// The first condition that says no.
fn told(target: &Target, kind: &str, name: &str) -> anyhow::Result<String> {
    let mut said = String::new();
    eventually(Duration::from_secs(60), || {
        let object = target.kubectl(&["-n", SHOP, "get", kind, name, "-o", "json"])?;
        let object: Value = serde_json::from_str(&object).context("read what kubectl says")?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut all = list(&object["status"]["conditions"]);
        for parent in list(&object["status"]["parents"]) {
            all.extend(list(&parent["conditions"]));
        }
        let no = all.iter().find(|one| {
            one["status"] == "False" && ["Accepted", "ResolvedRefs"].iter().any(|kind| one["type"] == *kind)
        });
        let no = no.with_context(|| format!("{kind} {name} is stored, and nothing is wrong with it: {all:?}"))?;
        said = format!("{}: {}", no["reason"].as_str().unwrap_or_default(), no["message"].as_str().unwrap_or_default());
        Ok(())
    })?;
    Ok(said)
}

/// All that both sidecars hold. Its number, which says how often it was told, is no part of it.
fn configured(target: &Target) -> anyhow::Result<[Value; 2]> {
    let config = |name: &str| {
        let said = cli::ask(target, &["proxy", "config", "-n", SHOP, &format!("deployment/{name}")], 0, &[])?;
        let mut all: Value = serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))?;
        all["version"] = Value::Null;
        anyhow::Ok(all)
    };
    Ok([config("client")?, config("catalog")?])
}
