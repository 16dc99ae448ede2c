use std::time::Duration;

use leno_control_plane::push::session::Limits;
use leno_proto::key::Key;
use leno_proto::wire::control;
use leno_proto::wire::control::from_proxy;
use leno_proto::wire::control::to_proxy;
use tonic::Code;

use crate::mesh::destination;
use crate::mesh::endpoints;
use crate::mesh::inbound;
use crate::mesh::outbound;
use crate::mesh::start;
use crate::mesh::start_on;
use crate::mesh::table;
use crate::proxy::MESSAGE_MAX;
use crate::proxy::Memory;
use crate::proxy::Proxy;
use crate::proxy::kinds;

#[tokio::test]
async fn an_address_brings_all_it_leads_to_and_a_change_follows() {
    let mut table = table();
    let control_plane = start(Some(table.clone()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    let first = proxy.take().await.unwrap();
    assert_eq!(kinds(&first), (3, 0, 0), "inbound, trust, configuration: {first:?}");
    proxy.subscribe(&[destination()], &[]).await;
    let second = proxy.take().await.unwrap();
    assert_eq!(kinds(&second), (3, 0, 0), "destination, outbound, endpoints: {second:?}");

    table.put(endpoints(0), "e2", &[]);
    control_plane.publish(&table);
    assert_eq!(kinds(&proxy.take().await.unwrap()), (1, 0, 0));
    assert_eq!(proxy.content(&endpoints(0)), Some("e2"));

    proxy.subscribe(&[], &[destination()]).await;
    assert_eq!(kinds(&proxy.take().await.unwrap()), (0, 0, 3));
}

#[tokio::test]
async fn a_returning_proxy_is_told_that_nothing_changed_by_any_replica() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.subscribe(&[destination()], &[]).await;
    while proxy.memory.held.len() < 6 {
        proxy.take().await.unwrap();
    }
    let (memory, state) = (proxy.memory.clone(), control_plane.state.clone());
    drop(proxy);
    control_plane.app.stop().await;

    let control_plane = start_on(state, None, Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, memory.clone()).await.unwrap();
    // The source has not been read: whatever the proxy holds must stay untouched.
    assert!(matches!(proxy.next().await, Ok(to_proxy::Message::Welcome(_))));
    control_plane.publish(&table());
    let back = proxy.take().await.unwrap();
    assert_eq!(kinds(&back), (0, 6, 0), "{back:?}");
    assert_eq!(control_plane.app.metrics.unchanged.value(), 6);
    assert_eq!(control_plane.app.metrics.puts.value(), 0);
}

#[tokio::test]
async fn a_slow_proxy_skips_what_it_missed() {
    let mut table = table();
    let control_plane = start(Some(table.clone()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    let first = proxy.transaction().await.unwrap();
    for version in 0..200 {
        table.put(inbound(), &format!("i{version}"), &[]);
        control_plane.publish(&table);
        tokio::task::yield_now().await;
    }
    proxy.apply(&first).await;
    let second = proxy.take().await.unwrap();
    assert_eq!(kinds(&second), (1, 0, 0));
    assert_eq!(proxy.content(&inbound()), Some("i199"));
    assert_eq!(control_plane.app.metrics.transactions.value(), 2);
}

#[tokio::test]
async fn a_large_transaction_comes_in_messages_of_bounded_size_and_at_once() {
    let buckets: Vec<Key> = (0..40).map(endpoints).collect();
    let mut table = table().with(outbound(), "o", &buckets);
    for (number, bucket) in buckets.iter().enumerate() {
        table.put(bucket.clone(), &"x".repeat(120_000 + 100 * number), &[]);
    }
    let control_plane = start(Some(table), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    proxy.subscribe(&[destination()], &[]).await;
    let large = proxy.take().await.unwrap();
    assert_eq!(kinds(&large), (42, 0, 0));
    assert!(large.parts > 15 && proxy.largest <= MESSAGE_MAX, "{} parts, {} bytes", large.parts, proxy.largest);
}

#[tokio::test]
async fn a_rejected_version_is_not_sent_again_and_the_mended_one_is() {
    let mut table = table().with(inbound(), "bad", &[]);
    let control_plane = start(Some(table.clone()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    assert_eq!(kinds(&proxy.take().await.unwrap()), (3, 0, 0));
    table.put(Key::ProxyConfig, "c2", &[]);
    control_plane.publish(&table);
    assert_eq!(kinds(&proxy.take().await.unwrap()), (1, 0, 0), "the configuration alone");
    let live = control_plane.app.sessions.by_pod("uid-1").unwrap();
    assert_eq!(live.ledger.lock().refused()[&inbound()][0].message, "no good");
    table.put(inbound(), "mended", &[]);
    control_plane.publish(&table);
    proxy.take().await.unwrap();
    assert_eq!(proxy.content(&inbound()), Some("mended"));
}

#[tokio::test]
async fn a_pod_that_the_source_sees_late_waits_and_one_that_it_never_sees_is_refused() {
    let mut without = table();
    without.remove(&inbound());
    let control_plane = start(Some(without), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    control_plane.publish(&table());
    assert_eq!(kinds(&proxy.take().await.unwrap()), (3, 0, 0), "nothing was said before the pod was known");
    assert_eq!(proxy.content(&inbound()), Some("i"));

    let limits = Limits { park: Duration::from_millis(300), ..Limits::default() };
    let control_plane = start(Some(table()), limits).await;
    let token = control_plane.token_for("ghost", "uid-9");
    let mut ghost = Proxy::connect_as(&control_plane, &token, "uid-9", Memory::default()).await.unwrap();
    let end = ghost.end().await;
    assert_eq!((end.code(), end.message().contains("manifest")), (Code::NotFound, true), "{end:?}");
}

#[tokio::test]
async fn a_session_ends_with_its_pod() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    let mut without = table();
    without.remove(&inbound());
    control_plane.publish(&without);
    assert_eq!(proxy.end().await.code(), Code::NotFound);
}

#[tokio::test]
async fn the_newest_session_of_a_pod_wins() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut old = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    old.take().await.unwrap();
    let mut new = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    assert_eq!(old.end().await.code(), Code::Aborted);
    new.take().await.unwrap();
    assert_eq!(control_plane.app.sessions.count(), 1);
}

#[tokio::test]
async fn silence_and_deafness_end_a_session() {
    let short = Duration::from_millis(300);
    let control_plane = start(Some(table()), Limits { silence: short, ..Limits::default() }).await;
    let mut silent = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    assert_eq!(silent.end().await.code(), Code::DeadlineExceeded);

    let control_plane = start(Some(table()), Limits { stall: short, ..Limits::default() }).await;
    let mut never_reports = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    let end = never_reports.end().await;
    assert!(end.message().contains("neither reads nor reports"), "{end:?}");
}

#[tokio::test]
async fn heartbeats_go_both_ways_and_a_wrong_digest_starts_anew() {
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let control_plane = start(Some(table()), limits).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    let heard = loop {
        if let to_proxy::Message::Heartbeat(heartbeat) = proxy.next().await.unwrap()
            && heartbeat.digest == proxy.digest()
        {
            break heartbeat;
        }
    };
    assert!(heard.unix_millis > 0);
    for _ in 0..5 {
        proxy.heartbeat(proxy.digest()).await;
    }
    proxy.heartbeat(vec![0; 32]).await;
    proxy.heartbeat(proxy.digest()).await;
    proxy.heartbeat(vec![0; 32]).await;
    proxy.heartbeat(vec![0; 32]).await;
    assert_eq!(proxy.end().await.code(), Code::Aborted);
}

#[tokio::test]
async fn heartbeats_are_not_counted_among_what_is_told() {
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let control_plane = start(Some(table()), limits).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    let counted = || {
        let metrics = &control_plane.app.metrics;
        (metrics.messages.value(), metrics.message_bytes.value())
    };
    let mut told = (0, 0);
    // What came before the first has been counted when the first arrives.
    for heard in 0..4 {
        while !matches!(proxy.next().await.unwrap(), to_proxy::Message::Heartbeat(_)) {}
        if heard == 0 {
            told = counted();
        }
    }
    assert!(told.0 > 0 && told.1 > 0);
    assert_eq!(counted(), told);
}

#[tokio::test]
async fn a_stop_says_goaway_serves_on_and_then_closes() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    let stopping = tokio::spawn(control_plane.app.stop());
    let within = loop {
        if let to_proxy::Message::Goaway(goaway) = proxy.next().await.unwrap() {
            break goaway.reconnect_within_millis;
        }
    };
    assert_eq!(within, 1000);
    proxy.subscribe(&[destination()], &[]).await;
    assert_eq!(kinds(&proxy.take().await.unwrap()), (3, 0, 0), "served until it goes");
    drop(proxy);
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    let (state, stop) = (control_plane.state, control_plane.app.stop());
    let (end, ()) = tokio::join!(proxy.end(), stop);
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    drop(state);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_named() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let held = |last| from_proxy::Message::Held(control::Held { resources: Vec::new(), last });
    let report = control::Report { transaction: 77, ..control::Report::default() };
    let subscribe =
        control::Subscribe { add: vec![crate::proxy::wire_key(&Key::Inbound("uid-2".into()))], remove: vec![] };
    let table = [
        (held(true), "Held after"),
        (from_proxy::Message::Hello(control::Hello::default()), "second Hello"),
        (from_proxy::Message::Report(report), "transaction 77"),
        (from_proxy::Message::Subscribe(subscribe), "only Destinations and Outbounds"),
    ];
    for (message, words) in table {
        let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
        proxy.send(message).await;
        let end = proxy.end().await;
        assert_eq!(end.code(), Code::InvalidArgument);
        assert!(end.message().contains(words), "{end:?}");
    }
    let mut stranger =
        Proxy::connect_as(&control_plane, &control_plane.token(), "uid-2", Memory::default()).await.unwrap();
    assert_eq!(stranger.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_new_pod_gets_at_once_what_its_siblings_use() {
    let mesh = table().with(Key::Inbound("uid-2".into()), "i2", &[]);
    let control_plane = start(Some(mesh), Limits::default()).await;
    let mut first = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    first.take().await.unwrap();
    first.subscribe(&[destination()], &[]).await;
    first.take().await.unwrap();
    let token = control_plane.token_for("cart-2", "uid-2");
    let mut second = Proxy::connect_as(&control_plane, &token, "uid-2", Memory::default()).await.unwrap();
    second.take().await.unwrap();
    assert_eq!(second.content(&endpoints(0)), Some("e"));
}

#[tokio::test]
async fn a_herd_is_served_and_converges() {
    const HERD: usize = 80;
    let mut mesh = table();
    for number in 0..HERD {
        mesh.put(Key::Inbound(format!("herd-{number}").into()), "i", &[]);
    }
    let control_plane = start(Some(mesh.clone()), Limits::default()).await;
    let mut herd = Vec::new();
    for number in 0..HERD {
        let uid = format!("herd-{number}");
        let token = control_plane.token_for(&uid, &uid);
        let mut proxy = Proxy::connect_as(&control_plane, &token, &uid, Memory::default()).await.unwrap();
        proxy.subscribe(&[destination()], &[]).await;
        herd.push(tokio::spawn(async move {
            while proxy.content(&endpoints(0)) != Some("last") {
                proxy.take().await.unwrap();
            }
        }));
    }
    for version in 0..50 {
        mesh.put(endpoints(0), &format!("e{version}"), &[]);
        control_plane.publish(&mesh);
        tokio::task::yield_now().await;
    }
    mesh.put(endpoints(0), "last", &[]);
    control_plane.publish(&mesh);
    for proxy in herd {
        proxy.await.unwrap();
    }
    assert_eq!(control_plane.app.metrics.rejected.value(), 0);
}
