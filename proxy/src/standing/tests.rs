//! Who may go on when policy changes.

use std::future::poll_fn;
use std::time::Duration;
use std::time::Instant;

use leno_proto::key::Key;
use leno_proto::policy::AccessRule;
use leno_proto::policy::DefaultAccess;
use leno_proto::policy::InboundPort;
use leno_proto::policy::InboundTraffic;
use leno_proto::policy::Protocol;
use leno_proto::policy::Resource;

use super::*;
use crate::state::Change;

fn inbound(access: Access) -> Inbound {
    let port = InboundPort {
        port: 8080,
        protocol: Protocol::Http1,
        listen: None,
        policy: Arc::new(InboundTraffic::default()),
        access,
    };
    Inbound {
        uid: "web".into(),
        identity: "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap(),
        namespace: "shop".into(),
        pod: "web".into(),
        addresses: vec![],
        other: InboundPort { port: 0, ..port.clone() },
        ports: vec![port],
        grace: Duration::from_secs(30),
        node: "".into(),
        zone: "".into(),
    }
}

fn denying(paths: &[&str]) -> Access {
    let rule = AccessRule {
        origin: "shop/no".into(),
        paths: paths.iter().map(|path| (*path).into()).collect(),
        ..AccessRule::default()
    };
    Access { deny: vec![rule], ..Access::default() }
}

fn facts(path: Option<&str>) -> Facts {
    let request = path.map(|path| Asked { method: "GET".into(), target: path.into() });
    Facts { port: 8080, ip: [10, 0, 0, 1].into(), identity: None, request }
}

async fn is_revoked(stand: &Stand) -> bool {
    poll_fn(|cx| Poll::Ready(stand.poll_revoked(cx).is_ready())).await
}

#[tokio::test]
async fn only_what_is_not_allowed_any_more_ends() {
    let standing = Rc::new(Standing::default());
    let (secret, open, bytes) = (
        standing.enter(facts(Some("/secret?of=all"))),
        standing.enter(facts(Some("/open"))),
        standing.enter(facts(None)),
    );
    let before = inbound(Access::default());
    standing.judge(Some(&before), &inbound(denying(&["/secret"]))).await;
    assert!(is_revoked(&secret).await);
    assert!(!is_revoked(&open).await);
    // What carries no requests is judged by the rule's part about the peer.
    assert!(is_revoked(&bytes).await);
    assert_eq!(poll_fn(|cx| secret.poll_revoked(cx)).await.as_deref(), Some("shop/no"));
}

#[tokio::test]
async fn a_lost_allow_ends_all_and_what_comes_later_stands() {
    let standing = Rc::new(Standing::default());
    let many: Vec<Stand> = (0..3 * AT_ONCE).map(|_| standing.enter(facts(Some("/")))).collect();
    let closed = Access { default: DefaultAccess::Deny, ..Access::default() };
    standing.judge(None, &inbound(closed.clone())).await;
    for stand in &many {
        assert!(is_revoked(stand).await);
    }
    let late = standing.enter(facts(Some("/")));
    standing.judge(Some(&inbound(closed.clone())), &inbound(closed)).await;
    assert!(!is_revoked(&late).await, "nothing changed since it came");
    drop((many, late));
    assert!(standing.slots.borrow().taken.is_empty());
}

#[tokio::test]
async fn a_change_of_policy_wakes_whoever_waits() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let (state, _wanted) = State::new(|_| Box::new(|| ()));
            let put = |access| {
                let resource = Resource::Inbound(inbound(access));
                state.apply(vec![Change::Put(Key::Inbound("web".into()), Arc::new(resource))], Instant::now());
            };
            put(Access::default());
            let standing = Rc::new(Standing::default());
            tokio::task::spawn_local(Rc::clone(&standing).watch(Arc::clone(&state)));
            tokio::task::yield_now().await;
            let stand = standing.enter(facts(None));
            let revoked = tokio::task::spawn_local(async move { poll_fn(|cx| stand.poll_revoked(cx)).await });
            tokio::task::yield_now().await;
            put(denying(&[]));
            assert_eq!(revoked.await.unwrap().as_deref(), Some("shop/no"));
        })
        .await;
}
