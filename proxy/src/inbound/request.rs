//! One request for the application: who asks, whether they may, and the application's answer. It must never be sent on without
//! a `Permit`.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use leno_proto::authorize;
use leno_proto::authorize::Peer;
use leno_proto::authorize::Permit;
use leno_proto::identity::SpiffeId;
use leno_proto::policy::Protocol;

use crate::answer;
use crate::answer::Caller as Speaks;
use crate::edge;
use crate::edge::Hop;
use crate::edge::Voucher;
use crate::ending::Ending;
use crate::error::Error;
use crate::error::Reason;
use crate::http::Interim;
use crate::http::Request;
use crate::http::Response;
use crate::http::SendError;
use crate::http::Service;
use crate::http::body::Body;
use crate::http::h1;
use crate::http::h1::Answered;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::head::Version;
use crate::inbound;
use crate::inbound::Caller;
use crate::inbound::PortPolicy;
use crate::inbound::app;
use crate::inbound::app::Application;
use crate::local::Local;
use crate::metrics::Direction;
use crate::metrics::Retry;
use crate::metrics::Tls;
use crate::pool::Take;
use crate::pool::Wire;
use crate::retry;
use crate::retry::Asked;
use crate::retry::Ended;
use crate::standing;
use crate::standing::Facts;
use crate::standing::Stand;

/// The requests of one connection.
pub(crate) struct Requests {
    pub(crate) local: Rc<Local>,
    pub(crate) caller: Caller,
    voucher: Voucher,
    /// The application's port, as metrics and logs print it.
    service: Arc<str>,
}

impl Service for Requests {
    type Log = Ending;

    async fn call<'c>(&'c self, request: Request<'c>) -> Response<'c, Ending> {
        let speaks = Speaks::of(&request.head);
        let mut ending = Ending::request(&self.local, Direction::Inbound, self.caller.address, &request.head);
        ending.service = Arc::clone(&self.service);
        ending.endpoint = Some(self.caller.app);
        ending.client_identity = self.caller.identity.as_ref().map(SpiffeId::text);
        ending.tls = if self.caller.identity.is_some() { Tls::Mtls } else { Tls::Plaintext };
        ending.tries = 1;
        ending.count();
        match self.answer(request, &mut ending).await {
            Ok(Answered { head, body, tunnel }) => {
                ending.status = head.status;
                Response { head, body, tunnel, log: ending }
            }
            Err(error) => {
                ending.failed(error.reason(), error.to_string());
                let head = answer::answer(error.reason(), speaks, None);
                ending.status = head.status;
                Response { head, body: Body::Empty, tunnel: None, log: ending }
            }
        }
    }

    fn refused(&self, reason: Reason) -> ResponseHead {
        let mut ending = Ending::connection(&self.local, Direction::Inbound, self.caller.address);
        ending.protocol = "http/1.1";
        ending.service = Arc::clone(&self.service);
        ending.failed(reason, "the request could not be read".to_owned());
        let head = answer::answer(reason, Speaks::Http, None);
        ending.status = head.status;
        drop(ending);
        head
    }
}

impl Requests {
    pub(crate) fn new(local: &Rc<Local>, caller: Caller) -> Self {
        let service = caller.app.port().to_string().into();
        let voucher = Voucher::new(caller.address.ip(), caller.identity.as_ref().map(|identity| identity.as_str()));
        Self { local: Rc::clone(local), caller, voucher, service }
    }

    /// Also the way of a request that our own application sends to itself: the same rules, without a socket between.
    pub(crate) async fn answer<'c>(&self, request: Request<'c>, ending: &mut Ending) -> Result<Answered<'c>, Error> {
        let Request { mut head, body, interim } = request;
        let policy = inbound::policy(&self.local, self.caller.app.port())?;
        let hop = self.edge(&mut head);
        ending.begin_span(&mut head);
        let permit = self.authorize(&policy, &head)?;
        let stand = self.stand(&head);
        let version = self.version(&policy, &head, hop.as_ref());
        let wire = if version == Version::Http2 { Wire::Http2 } else { Wire::Http1 };
        let application = Application::new(&self.local, &self.caller, &policy, wire);
        if !application.app.admits(self.caller.identity.as_ref(), ending.started()) {
            return Err(Error::RateLimited(application.app.name.clone()));
        }
        match application.app.requests.try_acquire() {
            Some(slot) => ending.hold(slot),
            None => return Err(Error::ConcurrencyLimit(application.app.name.clone())),
        }
        head.version = version;
        let deadline = hop.as_ref().and_then(|hop| hop.deadline);
        let sent = {
            // Pinned here: handed on by value, a future is copied at each step, and this one is large.
            let sent = pin!(self.send(&application, &permit, &head, body, interim, ending));
            let sent = pin!(standing::unless_revoked(&stand, sent));
            match deadline {
                Some(most) => self.local.timers.timeout(most, sent).await.ok_or(Error::RequestTimeout(most))?,
                None => sent.await,
            }
        };
        let mut answered = sent.map_err(Error::denied)??;
        ending.stand = Some(stand);
        if let Some(tunnel) = &mut answered.tunnel {
            tunnel.idle = Some(inbound::TUNNEL_IDLE);
        }
        edge::strip(&mut answered.head.headers);
        if let Some(hop) = hop.filter(|hop| hop.version != Version::Http2) {
            // The client's sidecar gives the names their case back, and the status its phrase.
            let phrase = std::mem::take(&mut answered.head.reason_phrase);
            Hop { phrase, deadline: None, ..hop }.write(&mut answered.head.headers);
        }
        Ok(answered)
    }

    /// What the other sidecar says counts over mTLS alone; what anybody says about identity never does.
    fn edge(&self, head: &mut RequestHead) -> Option<Hop> {
        let hop = self.caller.identity.as_ref().and_then(|_| Hop::take(&mut head.headers));
        edge::strip(&mut head.headers);
        edge::forwarded(&mut head.headers, &self.voucher, &head.authority);
        hop
    }

    fn authorize(&self, policy: &PortPolicy, head: &RequestHead) -> Result<Permit, Error> {
        let peer = Peer { identity: self.caller.identity.as_ref(), ip: self.caller.address.ip() };
        authorize::authorize(&policy.port().access, &peer, Some(&head.view()))
            .map_err(|denied| Error::denied(denied.origin))
    }

    /// The same permission for as long as the request runs.
    fn stand(&self, head: &RequestHead) -> Stand {
        let request = Some(standing::Asked { method: head.method.clone(), target: Arc::clone(&head.target) });
        let Caller { address, identity, app } = &self.caller;
        let facts = Facts { port: app.port(), ip: address.ip(), identity: identity.clone(), request };
        self.local.standing.enter(facts)
    }

    /// What the application is spoken to in: as declared, else as its client speaks.
    fn version(&self, policy: &PortPolicy, head: &RequestHead, hop: Option<&Hop>) -> Version {
        match policy.port().protocol {
            Protocol::Http2 | Protocol::Grpc => Version::Http2,
            Protocol::Http1 => match hop.map_or(head.version, |hop| hop.version) {
                Version::Http10 => Version::Http10,
                Version::Http11 | Version::Http2 => Version::Http11,
            },
            Protocol::Detect | Protocol::Opaque | Protocol::Tls => hop.map_or(head.version, |hop| hop.version),
        }
    }

    async fn send<'c>(
        &self,
        application: &Application,
        permit: &Permit,
        head: &RequestHead,
        mut body: Body<'c>,
        interim: &Interim,
        ending: &mut Ending,
    ) -> Result<Answered<'c>, Error> {
        let way = application.way(permit);
        let pool = &self.local.pool;
        let mut now = ending.started();
        application.app.retries.deposit(now);
        let mut take = Take::of(is_idempotent(head), &body);
        loop {
            let mut reused = false;
            let sent = match way.key.wire {
                Wire::Http2 => {
                    let stream = pool.http2(way, now, application.deadline(now)).await.map_err(app::as_application)?;
                    let sent = stream.client.exchange(stream.slot, head, body, interim).await;
                    sent.map(|(head, body)| Answered { head, body, tunnel: None })
                }
                Wire::Http1 if head.headers.contains("upgrade") => {
                    let opened = application.open(&self.local, permit).await?;
                    let client = h1::Client::new(opened.io, Some(Box::new(opened.guard)));
                    client.exchange(head, body, interim, Box::new(NoHome)).await
                }
                Wire::Http1 | Wire::Hop | Wire::HopUpgrade | Wire::HopOpaque | Wire::Opaque => {
                    let lease =
                        pool.http1(way, take, now, application.deadline(now)).await.map_err(app::as_application)?;
                    reused = lease.reused;
                    lease.client.exchange(head, body, interim, lease.home).await
                }
            };
            let SendError { reason, detail, never_processed, answered, body: returned, .. } = match sent {
                Ok(answered) => return Ok(answered),
                Err(error) => error,
            };
            let ended = Ended::Failed { reason, never_processed, reused, answered };
            match returned.filter(|_| self.repeats(application, head, ended, ending)) {
                Some(returned) => (body, take, now) = (returned, Take::Fresh, Instant::now()),
                None => {
                    let reason = match reason {
                        Reason::ResetBeforeResponse => Reason::AppReset,
                        other => other,
                    };
                    return Err(Error::Because { reason, detail: format!("{}: {detail}", self.caller.app) });
                }
            }
        }
    }

    /// Whether the request goes out once more: the application closed a kept connection as we spoke, and saw nothing of it,
    /// or may see it twice.
    fn repeats(&self, application: &Application, head: &RequestHead, ended: Ended, ending: &mut Ending) -> bool {
        let app = &application.app;
        let asked = Asked { idempotent: is_idempotent(head), replayable: true, remaining: None };
        let Some(kind) = retry::always(ended, asked) else { return false };
        if !app.may_repeat() || ending.tries > RACES_MAX {
            return false;
        }
        let paid = retry::pay(kind, &app.retries, Instant::now());
        if paid {
            ending.tries += 1;
            ending.retry = Some(self.local.count_retry(&app.label, kind));
        } else {
            self.local.pool_metrics(&app.label).retries[Retry::Refused as usize].increment();
        }
        paid
    }
}

fn is_idempotent(head: &RequestHead) -> bool {
    retry::is_idempotent(&head.method, head.headers.contains("idempotency-key"))
}

/// For connections that carry one exchange.
struct NoHome;

impl h1::Home for NoHome {
    fn keep(self: Box<Self>, client: h1::Client) {
        drop(client);
    }
}

/// More than this, and the application is not closing idle connections but all of them.
const RACES_MAX: u32 = 2;
