//! The client's end of an HTTP/2 connection: a handle that many requests share, driven by a local task. It must never send a request without
//! a slot, nor call a request unprocessed that the peer may have seen.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;

use crate::error::Reason;
use crate::http::Interim;
use crate::http::SendError;
use crate::http::body::Body;
use crate::http::h2::Settings;
use crate::http::h2::Slot;
use crate::http::h2::batch::BatchIo;
use crate::http::h2::connection::Connection;
use crate::http::h2::frame::Code;
use crate::http::h2::frame::MOST;
use crate::http::h2::gathered::Cut;
use crate::http::h2::gathered::Gathered;
use crate::http::h2::handle::Handle;
use crate::http::h2::head;
use crate::http::h2::incoming::Incoming;
use crate::http::h2::outgoing;
use crate::http::h2::slot::Link;
use crate::http::h2::state::Core;
use crate::http::h2::state::Ended;
use crate::http::h2::state::State;
use crate::http::h2::stream::Gone;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::timer::Timers;

/// A connection, as everybody has it who sends on it. When the last handle and the last stream are gone it says GOAWAY
/// and closes.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

struct Shared {
    core: Core,
    link: Rc<Link>,
    most: usize,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.link.close();
        let mut state = self.core.borrow_mut();
        state.going = true;
        state.wake_driver();
    }
}

/// What a client takes for the peer's limit until it has heard it.
const UNTOLD: u32 = 100;

/// The connection takes no more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl Client {
    /// Says the preface and spawns the driver, a local task. Nothing is waited for: the first requests ride along.
    pub fn connect<T>(io: T, settings: &Settings, timers: &Timers) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let io = BatchIo::new(io);
        let link = Rc::new(Link { refusal: io.refusal(), ..Link::default() });
        let core = Rc::new(State::new(false, settings, io.writer()).into());
        let connection = Connection::new(io, Rc::clone(&core), timers);
        tokio::task::spawn_local(drive(connection, Rc::clone(&link)));
        Self(Rc::new(Shared { core, link, most: settings.streams as usize }))
    }

    /// A place for one request, if there is one now.
    pub fn try_slot(&self) -> Option<Slot> {
        self.has_room().then(|| Slot::take(&self.0.link))
    }

    pub fn has_room(&self) -> bool {
        !self.is_closed() && self.in_flight() < self.capacity()
    }

    /// A place for one request, when there is one.
    pub async fn ready(&self) -> Result<Slot, Closed> {
        loop {
            let freed = self.0.link.freed.notified();
            if let Some(slot) = self.try_slot() {
                return Ok(slot);
            }
            if self.is_closed() {
                // Whoever waits behind us must learn it too.
                self.0.link.freed.notify_one();
                return Err(Closed);
            }
            freed.await;
        }
    }

    /// Streams that may be open: ours and the peer's limit.
    pub fn capacity(&self) -> usize {
        self.0.most.min(self.0.core.borrow().peer_streams.unwrap_or(UNTOLD) as usize)
    }

    pub fn in_flight(&self) -> usize {
        self.0.link.in_flight.get()
    }

    /// Whether a large transfer is on it; small requests are better off elsewhere.
    pub fn is_bulk(&self) -> bool {
        self.0.link.bulk.get() > 0
    }

    /// Whether it takes no more requests: closed by us, ended, or told to go away.
    pub fn is_closed(&self) -> bool {
        self.0.link.closed.get() || self.0.core.borrow().going
    }

    /// No new requests. What is in flight ends in its own time, then the connection closes.
    pub fn close(&self) {
        self.0.link.close();
    }

    /// Sends one request and waits for the head of its answer. Interim answers go to `interim` as they come; the answer's
    /// body carries on with what is left of the request's.
    pub async fn exchange<'c>(
        &self,
        slot: Slot,
        head: &RequestHead,
        body: Body<'c>,
        interim: &Interim,
    ) -> Result<(ResponseHead, Body<'c>), SendError<'c>> {
        let empty = body.length() == Some(0) && !body.may_have_trailers();
        let stream = match open(&self.0.core, head, empty) {
            Ok(stream) => stream,
            Err(Unsent::Unsayable) => {
                return Err(unsent(Reason::BadFraming, "not to be said in HTTP/2".to_owned(), body));
            }
            Err(Unsent::Closed) => {
                let reason = slot.link.refusal.get().unwrap_or(Reason::ResetBeforeResponse);
                return Err(unsent(reason, "the connection takes no more requests".to_owned(), body));
            }
        };
        let upload = (!empty).then(|| {
            let gathered = Gathered::keeping(head::content_length(&head.headers));
            Box::new(Upload { body, gathered })
        });
        let mut exchange = Exchange { stream, upload, uploaded: None, slot, answered: false };
        let answer = poll_fn(|cx| exchange.poll(interim, cx)).await;
        exchange.finish(answer)
    }
}

enum Unsent {
    Unsayable,
    Closed,
}

fn open(core: &Core, head: &RequestHead, end: bool) -> Result<Handle, Unsent> {
    let mut state = core.borrow_mut();
    if head.method == "CONNECT" {
        return Err(Unsent::Unsayable);
    }
    let id = state.next_id;
    if state.ended.is_some() || state.going || id > MOST {
        return Err(Unsent::Closed);
    }
    let begun_at = state.writer.position();
    if !state.say_head(id, end, |encoder, known, out| head::write_request(encoder, known, out, head)) {
        return Err(Unsent::Unsayable);
    }
    state.next_id += 2;
    // Ids do not come again: the last one is followed by another connection.
    state.going |= state.next_id > MOST;
    let key = state.begin(id);
    let stream = state.stream(key);
    stream.begun_at = begun_at;
    stream.ended = end;
    stream.is_head = head.method == "HEAD";
    drop(state);
    Ok(Handle::adopt(core, key))
}

/// A request that is out and not answered.
struct Exchange<'c> {
    stream: Handle,
    upload: Option<Box<Upload<'c>>>,
    /// The same, once it is done: whether the request may go elsewhere depends on it.
    uploaded: Option<Box<Upload<'c>>>,
    slot: Slot,
    /// A byte of an answer came.
    answered: bool,
}

enum Answer<'c> {
    Head(ResponseHead),
    /// The request's own body was cut.
    Cut(Reason),
    Gone(Gone, Option<Box<Upload<'c>>>),
}

impl<'c> Exchange<'c> {
    fn poll(&mut self, interim: &Interim, cx: &mut Context<'_>) -> Poll<Answer<'c>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(result) = upload.poll(&self.stream, &mut self.slot, cx)
        {
            self.uploaded = self.upload.take();
            if let Err(reason) = result {
                return Poll::Ready(Answer::Cut(reason));
            }
        }
        let answer = self.stream.with(|stream| {
            for head in stream.interim.drain(..) {
                self.answered = true;
                interim.push(head);
            }
            if let Some(head) = stream.head.take() {
                return Poll::Ready(Ok(head));
            }
            if let Some(gone) = stream.gone {
                return Poll::Ready(Err(gone));
            }
            match &mut stream.reader {
                Some(waker) => waker.clone_from(cx.waker()),
                None => stream.reader = Some(cx.waker().clone()),
            }
            Poll::Pending
        });
        Poll::Ready(match ready!(answer) {
            Ok(head) => Answer::Head(head),
            Err(gone) => Answer::Gone(gone, self.upload.take().or(self.uploaded.take())),
        })
    }

    fn finish(self, answer: Answer<'c>) -> Result<(ResponseHead, Body<'c>), SendError<'c>> {
        let answered = self.answered;
        match answer {
            Answer::Head(head) => {
                let Self { stream, mut upload, slot, .. } = self;
                if stream.with(|stream| stream.has_nothing()) {
                    return Ok((head, Body::Empty));
                }
                if let Some(upload) = &mut upload {
                    upload.gathered.keep_no_more();
                }
                Ok((head, Body::H2(Incoming::answer(stream, upload, slot))))
            }
            Answer::Cut(reason) => {
                let detail = "the request was cut".to_owned();
                Err(SendError { reason, detail, never_processed: false, written: true, answered, body: None })
            }
            Answer::Gone(gone, upload) => Err(failed(gone, answered, upload, self.slot.link.refusal.get())),
        }
    }
}

fn unsent(reason: Reason, detail: String, body: Body<'_>) -> SendError<'_> {
    SendError { reason, detail, never_processed: true, written: false, answered: false, body: Some(body) }
}

/// What an end says about a request that went out. Who refuses our certificate has read nothing of it.
fn failed<'c>(gone: Gone, answered: bool, upload: Option<Box<Upload<'c>>>, refusal: Option<Reason>) -> SendError<'c> {
    let unseen = matches!(gone, Gone::Unseen | Gone::Reset(Code::REFUSED_STREAM));
    let (own, detail) = match gone {
        Gone::Reset(code) => (Reason::ResetBeforeResponse, format!("the stream was reset with code {}", code.0)),
        Gone::Unseen => (Reason::ResetBeforeResponse, "the peer went away before this request".to_owned()),
        Gone::Ours(code) => (Reason::ProtocolError, format!("the answer broke HTTP/2, code {}", code.0)),
        Gone::Lost { broken: true } => (Reason::ProtocolError, "the peer broke HTTP/2".to_owned()),
        Gone::Lost { broken: false } => (Reason::ResetBeforeResponse, "the connection was lost".to_owned()),
    };
    let body = match upload {
        None => Some(Body::Empty),
        Some(upload) => upload.gathered.before(upload.body),
    };
    SendError {
        reason: refusal.unwrap_or(own),
        detail,
        never_processed: unseen || refusal.is_some(),
        written: true,
        answered,
        body,
    }
}

/// A request's body on its way.
pub(super) struct Upload<'c> {
    body: Body<'c>,
    gathered: Gathered,
}

impl Upload<'_> {
    /// A peer that needs no more is no error: the answer tells.
    pub(super) fn poll(&mut self, stream: &Handle, slot: &mut Slot, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let before = self.gathered.taken;
        let polled = outgoing::poll_send(&mut self.gathered, &mut self.body, stream, cx);
        slot.moved((self.gathered.taken - before) as usize);
        polled.map(|result| match result {
            Err(Cut::Source(reason)) => Err(reason),
            Err(Cut::Peer { .. }) | Ok(()) => Ok(()),
        })
    }
}

/// The connection's own task: ends when the connection does, or when the peer answers no ping.
async fn drive<T>(mut connection: Connection<T>, link: Rc<Link>)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut most = 0;
    let done = poll_fn(|cx| {
        if connection.poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        let state = connection.core.borrow();
        // The peer's SETTINGS may have made room.
        let now = state.peer_streams.unwrap_or(UNTOLD);
        if now > most {
            most = now;
            link.freed.notify_one();
        }
        if state.going {
            link.close();
            if state.live == 0 {
                return Poll::Ready(true);
            }
        }
        Poll::Pending
    })
    .await;
    link.close();
    if done {
        connection.core.borrow_mut().say_goaway(0, Code::NO_ERROR);
        poll_fn(|cx| connection.poll_shutdown(cx)).await;
        connection.core.borrow_mut().end(Ended::Closed);
    } else if let Some(Ended::Broken(code)) = connection.core.borrow().ended {
        tracing::debug!(code = code.0, "the server broke HTTP/2");
    }
}
