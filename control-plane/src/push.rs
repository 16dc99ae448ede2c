//! Tells every proxy what concerns it: one session each, and certificates for their keys.
//!
//! `offer` is what there is to tell, `ledger` what one proxy wants and holds, `frame` the wire's messages, `grpc` how they travel,
//! `session` one proxy's conversation, `sessions` all of them, `quota` who may be certified how often, `door` the port, `replica`
//! what replicas tell each other there. It must never answer a caller without a verified token, nor take a caller's word for who it is.

pub mod door;
pub mod frame;
pub mod grpc;
pub mod ledger;
pub mod offer;
pub mod quota;
pub mod replica;
pub mod session;
pub mod sessions;

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use bytes::Bytes;
use h2::server::SendResponse;
use leno_proto::wire::control;
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::Status;

use crate::ca::Ca;
use crate::ca::PublicKey;
use crate::ca::Trust;
use crate::ca::unix;
use crate::error::Error;
use crate::push::grpc::Answer;
use crate::push::grpc::Messages;
use crate::push::quota::Quota;
use crate::push::session::Phase;
use crate::push::session::Shared;
use crate::token::Caller;

/// For the one message of a call, which comes with it.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How the anchors become a leno.policy.v1.Resource.
pub type EncodeTrust = fn(&Trust) -> Bytes;

/// The service `leno.control.v1.Control`.
pub struct Control {
    pub shared: Arc<Shared>,
    pub ca: Arc<Ca>,
    pub encode_trust: EncodeTrust,
    pub quota: Mutex<Quota>,
}

impl Control {
    /// A proxy's session, for as long as it lasts.
    pub async fn session(&self, caller: Caller, from: Messages, respond: SendResponse<Bytes>) {
        if *self.shared.phase.borrow() != Phase::Serving {
            return grpc::refuse(respond, &Status::unavailable("this replica is stopping"));
        }
        // Who is gone before it begins is nobody's session.
        let Ok(to) = Answer::begin(respond) else { return };
        session::run(self.shared.clone(), caller, from, to).await;
    }

    /// A certificate for the caller's key.
    pub async fn certify(&self, caller: Caller, mut from: Messages) -> Result<control::CertifyResponse, Status> {
        let metrics = &self.shared.metrics;
        let admitted = match self.may_ask(&caller) {
            Ok(()) => self.pod_is_known(&caller).await,
            Err(refused) => Err(refused),
        };
        let signed = match admitted {
            Ok(()) => asked(&mut from).await.and_then(|request| self.sign(&caller, &request.csr)),
            Err(refused) => Err(refused),
        };
        let Caller { namespace, service_account, pod_name, .. } = caller;
        match &signed {
            Ok(response) => {
                metrics.certified.one();
                let until = response.not_after_unix;
                tracing::info!(%namespace, %service_account, pod = %pod_name, until, "certificate issued");
            }
            Err(refused) => {
                metrics.certify_refused.one();
                tracing::warn!(%namespace, %service_account, pod = %pod_name, "certificate refused: {}", refused.message());
            }
        }
        signed
    }

    /// A token outlives its pod by up to an hour, and a pod may be here before its manifest: wait a little, then refuse.
    async fn pod_is_known(&self, caller: &Caller) -> Result<(), Status> {
        let mut offers = self.shared.offers.clone();
        let known = offers.wait_for(|offer| offer.as_ref().is_some_and(|offer| offer.knows_pod(&caller.pod_uid)));
        match timeout(self.shared.limits.park, known).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Status::unavailable("this replica is stopping")),
            Err(_) => Err(Status::not_found("the pod is not known here; see that its manifest is applied")),
        }
    }

    fn may_ask(&self, caller: &Caller) -> Result<(), Status> {
        self.quota.lock().take(&caller.pod_uid, Instant::now()).map_err(|wait| {
            // Whole seconds, and never none.
            let wait = Duration::from_secs(wait.as_secs() + 1);
            Status::resource_exhausted(format!(
                "this pod asked for too many certificates; the next one in {wait:?}. See why its sidecar loses its volume or restarts"
            ))
        })
    }

    fn sign(&self, caller: &Caller, csr: &[u8]) -> Result<control::CertifyResponse, Status> {
        let key = PublicKey::from_csr(csr).map_err(|refused| Status::invalid_argument(refused.to_string()))?;
        let issued = self.ca.issue(&key, &caller.namespace, &caller.service_account, SystemTime::now());
        let issued = issued.map_err(|error| match error {
            Error::RootExpired => Status::failed_precondition(error.to_string()),
            Error::RootUnheard => Status::unavailable(error.to_string()),
            other => Status::internal(other.to_string()),
        })?;
        let trust = self.ca.trust().borrow().clone();
        Ok(control::CertifyResponse {
            chain: issued.chain.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
            not_before_unix: i64::try_from(unix(issued.not_before)).unwrap_or(i64::MAX),
            not_after_unix: i64::try_from(unix(issued.not_after)).unwrap_or(i64::MAX),
            trust_bundle: (self.encode_trust)(&trust),
        })
    }
}

/// What a call of one message asks.
async fn asked(from: &mut Messages) -> Result<control::CertifyRequest, Status> {
    match timeout(ASK_TIMEOUT, from.next()).await {
        Ok(Ok(Some(request))) => Ok(request),
        Ok(Ok(None)) => Err(Status::invalid_argument("a call without its message")),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Status::deadline_exceeded("the call's message did not come")),
    }
}
