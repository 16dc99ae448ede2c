//! The API server's word on a token (TokenReview), for our audience alone. It must never fall back to a review without one, nor
//! remember a refusal.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::json;

use crate::kube::client::Client;
use crate::token::AUDIENCE;
use crate::token::Caller;
use crate::token::TOKEN_MAX;
use crate::token::TokenError;
use crate::token::base64url;
use crate::token::is_name;
use crate::token::unix;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// A proxy that connects calls Certify and Session within moments of each other. A deleted Pod's token lives as much longer.
const REMEMBERED: Duration = Duration::from_secs(10);
const REMEMBERED_MAX: usize = 10_000;

/// Reviews tokens, and remembers what was good for a moment.
pub struct Review {
    client: Arc<Client>,
    good: Mutex<HashMap<[u8; 32], (Caller, SystemTime)>>,
}

impl std::fmt::Debug for Review {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Review").finish_non_exhaustive()
    }
}

impl Review {
    pub fn new(client: Arc<Client>) -> Review {
        Review { client, good: Mutex::default() }
    }

    pub(super) async fn verify(&self, token: &str, now: SystemTime) -> Result<Caller, TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::TooLarge);
        }
        // The hash, so that no memory of ours holds a token.
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        let hash: [u8; 32] = hash.as_ref().try_into().expect("SHA-256 has 32 bytes");
        if let Some((caller, until)) = self.good.lock().get(&hash)
            && now < *until
        {
            return Ok(caller.clone());
        }
        let expires = expiry(token)?;
        if expires <= now {
            return Err(TokenError::Expired(unix(now) - unix(expires)));
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        });
        let said = self.client.create(PATH, &review).await;
        let said = said.map_err(|error| TokenError::Unavailable(error.to_string()))?;
        let caller = caller(&said["status"], expires)?;
        let mut good = self.good.lock();
        good.retain(|_, (_, until)| now < *until);
        if good.len() < REMEMBERED_MAX {
            good.insert(hash, (caller.clone(), expires.min(now + REMEMBERED)));
        }
        Ok(caller)
    }
}

/// Its own word, of which the review vouches.
fn expiry(token: &str) -> Result<SystemTime, TokenError> {
    let claims = token.split('.').nth(1).and_then(base64url::decode).ok_or(TokenError::Malformed("not three parts"))?;
    let claims: Value = serde_json::from_slice(&claims).map_err(|_| TokenError::Malformed("claims are not JSON"))?;
    let seconds = claims["exp"].as_u64().ok_or(TokenError::Malformed("it does not say when it ends"))?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(TokenError::Malformed("exp is beyond time"))
}

fn caller(status: &Value, expires: SystemTime) -> Result<Caller, TokenError> {
    if status["authenticated"] != true {
        let why = status["error"].as_str().unwrap_or("it is not one of this cluster's").to_owned();
        return Err(TokenError::Unauthenticated(why));
    }
    // An API server that does not know of audiences says none, and has then not checked ours.
    let ours = status["audiences"].as_array().is_some_and(|all| all.iter().any(|one| one == AUDIENCE));
    if !ours {
        return Err(TokenError::Audience);
    }
    let user = status["user"]["username"].as_str().unwrap_or_default();
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let (namespace, service_account) = account.ok_or(TokenError::Malformed("it is not a service account's"))?;
    let extra = |name: &str| status["user"]["extra"][format!("authentication.kubernetes.io/{name}")][0].as_str();
    let (Some(pod_name), Some(pod_uid)) = (extra("pod-name"), extra("pod-uid")) else {
        return Err(TokenError::NotBound);
    };
    if pod_uid.is_empty() || ![namespace, service_account, pod_name].into_iter().all(is_name) {
        return Err(TokenError::Malformed("a name is not a Kubernetes name"));
    }
    Ok(Caller {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod_name: pod_name.into(),
        pod_uid: pod_uid.into(),
        expires,
    })
}
