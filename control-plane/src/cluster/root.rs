//! Who signs in a cluster: the state of the certificate authority, kept in one Secret that is made once and that every replica
//! follows; one replica at a time moves it on. A root must never be made a second time while any namespace still trusts the
//! first, and nothing is in force that the Secret does not hold.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use leno_proto::identity::TrustDomain;
use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::interval;

use crate::ca;
use crate::ca::Ask;
use crate::ca::Ca;
use crate::ca::Issuer;
use crate::ca::Signer;
use crate::error::Error;
use crate::folder::Access;
use crate::folder::Folder;
use crate::kube;
use crate::kube::base64;
use crate::kube::client::Client;
use crate::kube::watch::News;
use crate::kube::watch::Resource;
use crate::kube::watch::Sink;

/// In our own namespace.
pub const SECRET: &str = "leno-root";
/// Where Pods find the anchors, in every namespace with injected Pods.
pub const TRUST: &str = "leno-trust";
/// The key in that ConfigMap.
pub const ANCHOR: &str = "anchor.pem";
/// Whoever may write the Secret may ask for a rotation by this annotation.
pub const ROTATE: &str = "leno.dev/rotate";
/// Conflicts with other replicas that start at the same moment.
const ATTEMPTS: usize = 5;
/// The Secret is read anew though no change was heard of, which is how we know that there was none.
const REREAD: Duration = Duration::from_secs(30);
/// How often the leader looks at an operator's issuer.
const LOOK: Duration = Duration::from_secs(5);

/// Which mesh it is, and who is to sign in it.
#[derive(Debug, Clone)]
pub struct Place {
    pub namespace: String,
    pub trust_domain: TrustDomain,
    pub leaf_ttl: Duration,
    /// The Secret of an operator's issuer.
    pub issuer: Option<String>,
}

/// What the Secret asks for beside its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes {
    pub rotate: bool,
    /// It is not there any more.
    pub missing: bool,
}

impl Place {
    fn secrets(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    fn secret(&self) -> String {
        format!("{}/{SECRET}", self.secrets())
    }

    /// The operator's issuer as its Secret has it now; `None`: there is to be none.
    async fn issuer(&self, client: &Client, now: SystemTime) -> Result<Option<Issuer>, Error> {
        let Some(name) = &self.issuer else { return Ok(None) };
        let called = format!("{}/{name}", self.namespace);
        match client.get(&format!("{}/{name}", self.secrets())).await {
            Ok(secret) => Issuer::read(&secret, &called, &self.trust_domain, now).map(Some),
            Err(error) if error.not_found() => Err(Error::NoIssuer(called)),
            Err(error) => Err(said("read the issuer's Secret", error)),
        }
    }

    fn state(&self, secret: &Value) -> Result<Vec<u8>, Error> {
        let text = secret["data"][ca::ROOTS_FILE].as_str().and_then(base64::decode);
        text.ok_or_else(|| {
            let place = format!("Secret {}/{SECRET}", self.namespace);
            Error::Usage(format!("{place} holds no {}; restore it from a backup", ca::ROOTS_FILE))
        })
    }
}

/// Brings the state into the folder from which `ca` reads it, making it if there never was one.
pub async fn fetch(client: &Client, folder: &Folder, place: &Place) -> Result<(), Error> {
    for _ in 0..ATTEMPTS {
        match client.get(&place.secret()).await {
            Ok(secret) => return folder.write(ca::ROOTS_FILE, Access::Private, &place.state(&secret)?),
            Err(error) if error.not_found() => {}
            Err(error) => return Err(said("read the root of trust", error)),
        }
        refuse_second(client, &place.namespace).await?;
        let now = SystemTime::now();
        let issuer = place.issuer(client, now).await?;
        let state = ca::first(&place.trust_domain, issuer.as_ref(), place.leaf_ttl, now)?;
        match client.create(&place.secrets(), &secret(&state)).await {
            Ok(_) => tracing::warn!(
                "no root of trust was ever made here; Secret {}/{SECRET} holds the first one: back it up",
                place.namespace
            ),
            // Another replica was first; the next turn reads what it made.
            Err(error) if error.conflicts() => {}
            Err(error) => return Err(said("keep the root of trust", error)),
        }
    }
    Err(Error::Usage(format!("Secret {}/{SECRET} comes and goes; see who else writes it", place.namespace)))
}

fn secret(state: &[u8]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "labels": {"app.kubernetes.io/part-of": "leno"}},
        "type": "Opaque",
        "data": {ca::ROOTS_FILE: base64::encode(state)},
    })
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

/// Every replica: what the Secret holds is in force here within moments. For ever.
pub async fn follow(client: Arc<Client>, place: Place, ca: Arc<Ca>, wishes: watch::Sender<Wishes>) {
    let (to, mut news) = mpsc::channel(4);
    let resource = Resource { paths: vec![place.secrets()], only: Some(SECRET) };
    let watched = client.clone();
    let mut watch = tokio::task::JoinSet::new();
    watch.spawn(async move { kube::watch::follow(&watched, resource, drop, Sink { tag: (), to }).await });
    let mut tick = interval(REREAD);
    loop {
        // What the watch says may be older than what was read last: it only tells when to read.
        tokio::select! {
            one = news.recv() => match one {
                Some(((), News::Failing(error))) => {
                    tracing::debug!("watch Secret {SECRET}: {error}");
                    continue;
                }
                Some(_) => {}
                None => return,
            },
            _ = tick.tick() => {}
        }
        match client.get(&place.secret()).await {
            Ok(secret) => hear(&place, &ca, &secret, &wishes),
            Err(error) if error.not_found() => wishes.send_modify(|wishes| wishes.missing = true),
            Err(error) => tracing::warn!("read Secret {}/{SECRET}: {error}", place.namespace),
        }
    }
}

fn hear(place: &Place, ca: &Ca, secret: &Value, wishes: &watch::Sender<Wishes>) {
    let rotate = !secret["metadata"]["annotations"][ROTATE].is_null();
    wishes.send_replace(Wishes { rotate, missing: false });
    match place.state(secret).and_then(|state| ca.adopt(&state, SystemTime::now())) {
        Ok(false) => {}
        Ok(true) => {
            let under_way = ca.rotation();
            tracing::info!("trust changed: {}", under_way.as_deref().unwrap_or("one root signs and is trusted"));
        }
        Err(error) => tracing::error!("Secret {}/{SECRET}: {error}; what was in force stays", place.namespace),
    }
}

/// The leader: moves the common state on, step by step.
#[derive(Default)]
pub struct Mover {
    issuer: Option<Issuer>,
    looked: Option<Instant>,
    /// What was last said about the issuer, so that it is said once.
    complaint: String,
}

impl Mover {
    /// One look at what is to be done. True when the operator's issuer, if there is to be one, is fit to sign.
    pub async fn turn(
        &mut self,
        client: &Client,
        place: &Place,
        ca: &Ca,
        wishes: Wishes,
        trusted_everywhere: bool,
    ) -> Result<bool, Error> {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.look(client, place).await;
        }
        let ask = || Ask {
            rotate: wishes.rotate,
            trusted_everywhere,
            signer: match (&place.issuer, &self.issuer) {
                (None, _) => Signer::Own,
                (Some(_), Some(issuer)) => Signer::Issuer(issuer),
                (Some(_), None) => Signer::AsItIs,
            },
        };
        let fit = self.complaint.is_empty();
        if wishes.missing {
            return restore(client, place, ca).await.map(|()| fit);
        }
        if ca.next(&ask(), SystemTime::now())?.is_none() && !wishes.rotate {
            return Ok(fit);
        }
        // Decided anew on what the API server has, and written only over that.
        let mut secret = match client.get(&place.secret()).await {
            Ok(secret) => secret,
            Err(error) => return Err(said("read the root of trust", error)),
        };
        let now = SystemTime::now();
        ca.adopt(&place.state(&secret)?, now)?;
        let rotate = secret["metadata"]["annotations"].as_object_mut().and_then(|all| all.remove(ROTATE)).is_some();
        let next = ca.next(&Ask { rotate, ..ask() }, now)?;
        if next.is_none() && !rotate {
            return Ok(fit);
        }
        if next.is_none() {
            tracing::warn!(
                "a rotation was asked for while one is under way, or while an issuer's Secret says who signs"
            );
        }
        let state = next.unwrap_or_else(|| ca.encoded());
        secret["data"][ca::ROOTS_FILE] = base64::encode(&state).into();
        match client.replace(&place.secret(), &secret).await {
            Ok(_) => ca.adopt(&state, now)?,
            // Somebody wrote in between; the next turn reads that.
            Err(error) if error.conflicts() => return Ok(fit),
            Err(error) => return Err(said("keep the root of trust", error)),
        };
        let under_way = ca.rotation();
        tracing::info!("trust moved on: {}", under_way.as_deref().unwrap_or("one root signs and is trusted"));
        Ok(fit)
    }

    async fn look(&mut self, client: &Client, place: &Place) {
        self.looked = Some(Instant::now());
        match place.issuer(client, SystemTime::now()).await {
            Ok(issuer) => (self.issuer, self.complaint) = (issuer, String::new()),
            Err(error) => {
                let complaint = format!("{error}; who signed last goes on");
                if complaint != self.complaint {
                    tracing::error!("{complaint}");
                    self.complaint = complaint;
                }
            }
        }
    }
}

/// Somebody deleted the Secret; what is in force is written back before a restart would miss it.
async fn restore(client: &Client, place: &Place, ca: &Ca) -> Result<(), Error> {
    match client.create(&place.secrets(), &secret(&ca.encoded())).await {
        Ok(_) => tracing::warn!("Secret {}/{SECRET} was gone; it is written back as it was", place.namespace),
        Err(error) if error.conflicts() => {}
        Err(error) => return Err(said("write the root of trust back", error)),
    }
    Ok(())
}

fn said(doing: &'static str, source: kube::Error) -> Error {
    Error::Cluster { doing, source }
}
