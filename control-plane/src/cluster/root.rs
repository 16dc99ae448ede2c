//! The root of trust in a cluster: kept in one Secret, made once, read by every replica before it starts. It must never be made
//! a second time while any namespace still trusts the first.

use std::time::SystemTime;

use serde_json::json;

use crate::ca;
use crate::error::Error;
use crate::folder::Access;
use crate::folder::Folder;
use crate::kube;
use crate::kube::base64;
use crate::kube::client::Client;
use leno_proto::identity::TrustDomain;

/// In our own namespace.
pub const SECRET: &str = "leno-root";
/// Where Pods find the anchors, in every namespace with injected Pods.
pub const TRUST: &str = "leno-trust";
/// The key in that ConfigMap.
pub const ANCHOR: &str = "anchor.pem";
/// Conflicts with other replicas that start at the same moment.
const ATTEMPTS: usize = 5;

/// Brings the root into the folder from which `ca` reads it, making it if there never was one.
pub async fn fetch(client: &Client, folder: &Folder, namespace: &str, trust_domain: &TrustDomain) -> Result<(), Error> {
    let secrets = format!("/api/v1/namespaces/{namespace}/secrets");
    let path = format!("{secrets}/{SECRET}");
    for _ in 0..ATTEMPTS {
        match client.get(&path).await {
            Ok(secret) => {
                let text = secret["data"][ca::ROOTS_FILE].as_str().and_then(base64::decode);
                let bytes = text.ok_or_else(|| {
                    let why =
                        format!("Secret {namespace}/{SECRET} holds no {}; restore it from a backup", ca::ROOTS_FILE);
                    Error::Usage(why)
                })?;
                return folder.write(ca::ROOTS_FILE, Access::Private, &bytes);
            }
            Err(error) if error.not_found() => {}
            Err(error) => return Err(said("read the root of trust", error)),
        }
        refuse_second(client, namespace).await?;
        let roots = ca::first(trust_domain, SystemTime::now())?;
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "labels": {"app.kubernetes.io/part-of": "leno"}},
            "type": "Opaque",
            "data": {ca::ROOTS_FILE: base64::encode(&roots)},
        });
        match client.create(&secrets, &secret).await {
            Ok(_) => tracing::warn!(
                "no root of trust was ever made here; Secret {namespace}/{SECRET} holds the first one: back it up"
            ),
            // Another replica was first; the next turn reads what it made.
            Err(error) if error.conflicts() => {}
            Err(error) => return Err(said("keep the root of trust", error)),
        }
    }
    Err(Error::Usage(format!("Secret {namespace}/{SECRET} comes and goes; see who else writes it")))
}

async fn refuse_second(client: &Client, namespace: &str) -> Result<(), Error> {
    let list = format!("/api/v1/configmaps?fieldSelector=metadata.name%3D{TRUST}&limit=1");
    let found = client.get(&list).await.map_err(|error| said("look for namespaces that trust a root", error))?;
    let item = found["items"].as_array().and_then(|items| items.iter().find(|item| item["metadata"]["name"] == TRUST));
    match item {
        None => Ok(()),
        Some(item) => Err(Error::RootSecretLost {
            secret: format!("{namespace}/{SECRET}"),
            trusting: item["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
        }),
    }
}

fn said(doing: &'static str, source: kube::Error) -> Error {
    Error::Cluster { doing, source }
}
