//! Tells every proxy what concerns it: one session each, and certificates for their keys.
//!
//! `offer` is what there is to tell, `ledger` what one proxy wants and holds, `frame` the wire's messages, `session` one
//! proxy's conversation, `sessions` all of them, `quota` who may be certified how often, `door` the port, `replica` what replicas
//! tell each other there. It must never answer a caller without a verified token, nor take a caller's word for who it is.

pub mod door;
pub mod frame;
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
use leno_proto::wire::control;
use leno_proto::wire::control::FromProxy;
use leno_proto::wire::control::ToProxy;
use leno_proto::wire::control::control_server;
use leno_proto::wire::control::control_server::ControlServer;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

use crate::ca::Ca;
use crate::ca::PublicKey;
use crate::ca::Trust;
use crate::ca::unix;
use crate::error::Error;
use crate::push::quota::Quota;
use crate::push::session::Phase;
use crate::push::session::Shared;
use crate::token::Caller;

/// Messages between a session and its connection; with `frame::MESSAGE_MAX` it bounds what a slow proxy costs.
const OUT_MAX: usize = 2;

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
    pub fn into_server(self) -> ControlServer<Control> {
        ControlServer::new(self)
            .max_decoding_message_size(frame::MESSAGE_MAX)
            .max_encoding_message_size(frame::MESSAGE_MAX)
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

#[tonic::async_trait]
impl control_server::Control for Control {
    type SessionStream = ReceiverStream<Result<ToProxy, Status>>;

    async fn session(&self, request: Request<Streaming<FromProxy>>) -> Result<Response<Self::SessionStream>, Status> {
        let caller = caller(&request)?;
        if *self.shared.phase.borrow() != Phase::Serving {
            return Err(Status::unavailable("this replica is stopping"));
        }
        let (to, out) = mpsc::channel(OUT_MAX);
        tokio::spawn(session::run(self.shared.clone(), caller, request.into_inner(), to));
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn certify(
        &self,
        request: Request<control::CertifyRequest>,
    ) -> Result<Response<control::CertifyResponse>, Status> {
        let caller = caller(&request)?;
        let metrics = &self.shared.metrics;
        let admitted = match self.may_ask(&caller) {
            Ok(()) => self.pod_is_known(&caller).await,
            Err(refused) => Err(refused),
        };
        let signed = admitted.and_then(|()| self.sign(&caller, &request.into_inner().csr));
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
        signed.map(Response::new)
    }
}

/// `door` puts it there; without it nobody gets this far.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::unauthenticated("no verified token"))
}
