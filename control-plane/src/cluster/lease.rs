//! Who of the replicas writes: a Lease, as Kubernetes' own controllers hold theirs. It must never believe another's clock: a
//! Lease is over when it has not changed for its whole time by ours.

use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use crate::kube::Error;
use crate::kube::client::Client;
use crate::kube::time::micros;

pub const LEASE: &str = "leno-control-plane";
/// How often it is renewed, or looked at.
pub const TURN: Duration = Duration::from_secs(2);
const LASTS: Duration = Duration::from_secs(15);
/// Who could not renew for so long writes no more, well before another begins.
const DOUBT: Duration = Duration::from_secs(10);

pub struct Lease {
    path: String,
    holder: String,
    /// The version last seen, and when it was new to us.
    seen: (String, Instant),
    renewed: Option<Instant>,
}

/// Whether who renewed it then may write now.
pub fn held(renewed: Option<Instant>, now: Instant) -> bool {
    renewed.is_some_and(|at| now.duration_since(at) < DOUBT)
}

impl Lease {
    pub fn new(namespace: &str, holder: &str, now: Instant) -> Lease {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        Lease { path, holder: holder.to_owned(), seen: (String::new(), now), renewed: None }
    }

    /// When it was ours for certain.
    pub fn renewed(&self) -> Option<Instant> {
        self.renewed
    }

    /// Renews it, takes it where it is over, or looks who has it.
    pub async fn turn(&mut self, client: &Client, wall: SystemTime, now: Instant) -> Result<(), Error> {
        let one = format!("{}/{LEASE}", self.path);
        let written = match client.get(&one).await {
            Err(error) if error.not_found() => client.create(&self.path, &self.lease(None, wall)).await,
            Err(error) => return Err(error),
            Ok(lease) => {
                let version = lease["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                if self.seen.0 != version {
                    self.seen = (version.to_owned(), now);
                }
                let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
                let over = holder.is_empty() || now.duration_since(self.seen.1) > LASTS;
                if holder != self.holder && !over {
                    self.renewed = None;
                    return Ok(());
                }
                client.replace(&one, &self.lease(Some(&lease), wall)).await
            }
        };
        match written {
            Ok(_) => self.renewed = Some(now),
            // Another replica was first.
            Err(error) if error.conflicts() => self.renewed = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Lets another have it at once.
    pub async fn leave(&mut self, client: &Client) {
        if self.renewed.take().is_none() {
            return;
        }
        let one = format!("{}/{LEASE}", self.path);
        if let Ok(mut lease) = client.get(&one).await
            && lease["spec"]["holderIdentity"] == self.holder.as_str()
        {
            lease["spec"]["holderIdentity"] = "".into();
            // Whoever comes next finds out by itself.
            let _ = client.replace(&one, &lease).await;
        }
    }

    fn lease(&self, before: Option<&Value>, wall: SystemTime) -> Value {
        let mut lease = before.cloned().unwrap_or_else(|| {
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE}, "spec": {}})
        });
        let at = micros(wall);
        let spec = &mut lease["spec"];
        if spec["holderIdentity"] != self.holder.as_str() {
            let transitions = spec["leaseTransitions"].as_i64().map_or(0, |before| before + 1);
            spec["leaseTransitions"] = transitions.into();
            spec["acquireTime"] = at.clone().into();
            spec["holderIdentity"] = self.holder.clone().into();
        }
        spec["leaseDurationSeconds"] = LASTS.as_secs().into();
        spec["renewTime"] = at.into();
        lease
    }
}
