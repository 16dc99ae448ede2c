//! Permissions that outlast their moment: what was allowed and still runs is judged again when policy changes, and ends where
//! it would not be allowed any more. It must never hold up its worker, however much is open.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use leno_proto::authorize;
use leno_proto::authorize::Peer;
use leno_proto::identity::SpiffeId;
use leno_proto::policy::Access;
use leno_proto::policy::Inbound;
use leno_proto::request::Headers;
use leno_proto::request::RequestView;

use crate::state::State;

/// Judged in one go; then others have their turn.
const AT_ONCE: usize = 256;

/// What runs on one worker by a permission. As large as what is open at once, which the limits of connections and streams
/// bound.
#[derive(Default)]
pub struct Standing {
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    taken: Vec<Option<Case>>,
    free: Vec<usize>,
}

/// Who was allowed what.
pub struct Facts {
    pub port: u16,
    pub ip: IpAddr,
    pub identity: Option<SpiffeId>,
    /// `None`: a connection that carries no requests.
    pub request: Option<Asked>,
}

/// What a request asked for. The texts are its head's own.
pub struct Asked {
    pub method: Cow<'static, str>,
    /// Path and query.
    pub target: Arc<str>,
}

struct Case {
    facts: Facts,
    /// The permission is withdrawn, by the policy that denies it now.
    revoked: Option<Option<Arc<str>>>,
    waker: Option<Waker>,
}

/// One permission in use; struck off when dropped.
pub struct Stand {
    standing: Rc<Standing>,
    slot: usize,
}

impl Standing {
    /// Between `authorize` and this there must be no await: the policy of then must be the one that is watched.
    pub fn enter(self: &Rc<Self>, facts: Facts) -> Stand {
        let case = Some(Case { facts, revoked: None, waker: None });
        let slots = &mut *self.slots.borrow_mut();
        let slot = match slots.free.pop() {
            Some(slot) => {
                slots.taken[slot] = case;
                slot
            }
            None => {
                slots.taken.push(case);
                slots.taken.len() - 1
            }
        };
        Stand { standing: Rc::clone(self), slot }
    }

    /// Judges again whenever the policy of a port changes, until dropped.
    pub async fn watch(self: Rc<Self>, state: Arc<State>) {
        let mut changes = state.changes();
        let mut before = state.load().inbound.clone();
        while changes.changed().await.is_ok() {
            let now = state.load().inbound.clone();
            if let Some(now) = now.filter(|now| before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, now))) {
                self.judge(before.as_deref(), &now).await;
                before = Some(now);
            }
        }
    }

    /// Those who came while it was judged came under the new policy.
    async fn judge(&self, before: Option<&Inbound>, now: &Inbound) {
        let count = self.slots.borrow().taken.len();
        for start in (0..count).step_by(AT_ONCE) {
            for case in self.slots.borrow_mut().taken.iter_mut().skip(start).take(AT_ONCE).flatten() {
                let access = access(now, case.facts.port);
                if before.is_none_or(|before| self::access(before, case.facts.port) != access) {
                    case.judge(access);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    pub fn is_borrowed(&self) -> bool {
        self.slots.try_borrow().is_err()
    }
}

fn access(inbound: &Inbound, port: u16) -> &Access {
    &inbound.ports.iter().find(|declared| declared.port == port).unwrap_or(&inbound.other).access
}

impl Case {
    fn judge(&mut self, access: &Access) {
        let Facts { ip, identity, request, .. } = &self.facts;
        let peer = Peer { identity: identity.as_ref(), ip: *ip };
        let headers = Headers::new();
        // No rule is about more of a request than this (`authorize`).
        let view = request.as_ref().map(|Asked { method, target }| RequestView {
            method,
            authority: "",
            path: target.split_once('?').map_or(&**target, |(path, _)| path),
            query: None,
            headers: &headers,
        });
        if let Err(denied) = authorize::authorize(access, &peer, view.as_ref()) {
            self.revoked = Some(denied.origin);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Stand {
    /// Ready once the permission is withdrawn, with the policy that denies; `None`: none allows any more.
    pub fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<Option<Arc<str>>> {
        let slots = &mut *self.standing.slots.borrow_mut();
        let Some(case) = &mut slots.taken[self.slot] else { return Poll::Pending };
        if let Some(by) = &case.revoked {
            return Poll::Ready(by.clone());
        }
        match &mut case.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => case.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// What `work` gives, or who denies it now.
pub async fn unless_revoked<T>(stand: &Stand, work: impl Future<Output = T>) -> Result<T, Option<Arc<str>>> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => stand.poll_revoked(cx).map(Err),
    })
    .await
}

impl Drop for Stand {
    fn drop(&mut self) {
        let ended = {
            let slots = &mut *self.standing.slots.borrow_mut();
            let ended = slots.taken[self.slot].take();
            slots.free.push(self.slot);
            if slots.free.len() == slots.taken.len() && slots.taken.len() > AT_ONCE {
                // After a rush.
                *slots = Slots::default();
            }
            ended
        };
        // Its waker may be the last to know of its task, and what the task holds comes back here.
        drop(ended);
    }
}
