//! What a request's spans say.

use std::rc::Rc;
use std::time::Duration;

use leno_proto::request::Headers;

use super::*;
use crate::trace::Context;
use crate::trace::Format;

fn span(id: u8) -> Span {
    Span {
        context: Context { trace: [9; 16], span: [id; 8], sampled: true, format: Format::W3c },
        parent: Some([7; 8]),
    }
}

fn head(method: &str, target: &str, kind: &str) -> RequestHead {
    let mut headers = Headers::new();
    headers.push(b"content-type", kind.as_bytes());
    headers.push(b"user-agent", b"test/1");
    RequestHead {
        version: Version::Http11,
        method: method.to_owned().into(),
        scheme: "",
        authority: "orders:8080".into(),
        target: target.into(),
        headers,
    }
}

/// The spans of one request in `direction`, told by `story`.
fn records(
    direction: Direction,
    head: &RequestHead,
    end: End,
    story: impl FnOnce(&mut Ending, &mut Traced),
) -> Vec<Record> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let local = crate::local::fixtures::local();
        let mut ending = Ending::request(&local, direction, ([127, 0, 0, 2], 999).into(), head);
        ending.service = "shop/orders:8080".into();
        let mut traced = Traced::new(span(1), head);
        story(&mut ending, &mut traced);
        let records = ending.records(&traced, end);
        ending.silence();
        assert_eq!(Rc::strong_count(&local), 1);
        records
    })
}

fn number(record: &Record, key: &str) -> Option<i64> {
    record.attributes.iter().find(|(name, _)| *name == key).and_then(|(_, value)| match value {
        Value::Number(number) => Some(*number),
        Value::Text(_) => None,
    })
}

fn words<'a>(record: &'a Record, key: &str) -> Option<&'a str> {
    record.attributes.iter().find(|(name, _)| *name == key).and_then(|(_, value)| match value {
        Value::Text(text) => Some(text.as_str()),
        Value::Number(_) => None,
    })
}

fn endpoint(last: u8) -> SocketAddr {
    ([127, 0, 0, last], 8080).into()
}

#[test]
fn each_attempt_is_a_child_with_its_endpoint_and_outcome() {
    let head = head("GET", "/items?secret=1", "text/plain");
    let records = records(Direction::Outbound, &head, End::default(), |ending, traced| {
        for (number, last) in [(0, 3), (1, 4), (2, 5)] {
            traced.attempt(span(2 + number), number.into(), endpoint(last));
            let (status, reason) = if number == 0 { (0, Some(Reason::ConnectRefused)) } else { (503, None) };
            if number < 2 {
                let detail = "refused".to_owned();
                traced.attempted(Outcome { ended: Instant::now(), status, grpc_status: None, reason, detail });
            }
        }
        ending.tries = 3;
        ending.status = 200;
    });
    let [hop, first, second, third] = &records[..] else { panic!("{records:?}") };
    assert_eq!((hop.kind, hop.name.as_str(), hop.parent), (Kind::Client, "GET", Lives::InAnotherProcess));
    assert_eq!(number(hop, "leno.attempts"), Some(3));
    assert_eq!(words(hop, "url.full"), Some("http://orders:8080/items"), "queries stay out");
    assert_eq!((words(hop, "server.address"), number(hop, "server.port")), (Some("orders"), Some(8080)));
    assert_eq!(hop.status, Status::Unset, "what counts is how it ended");
    for (attempt, last, resends, status) in
        [(first, 3, None, None), (second, 4, Some(1), Some(503)), (third, 5, Some(2), Some(200))]
    {
        assert_eq!((attempt.kind, attempt.parent), (Kind::Client, Lives::Here));
        assert_eq!(words(attempt, "network.peer.address"), Some(&*format!("127.0.0.{last}")));
        assert_eq!(number(attempt, "http.request.resend_count"), resends);
        assert_eq!(number(attempt, "http.response.status_code"), status);
    }
    assert_eq!(words(first, "leno.reason"), Some("connect_refused"));
    assert_eq!(first.status, Status::Failed("refused".to_owned()));
    assert_eq!(words(second, "error.type"), Some("503"));
    assert_eq!(third.status, Status::Unset);
    assert!(hop.start <= first.start && first.end <= second.end && third.end <= hop.end);
}

#[test]
fn a_request_has_so_many_attempt_spans_and_no_more() {
    let head = head("GET", "/", "");
    let records = records(Direction::Outbound, &head, End::default(), |_, traced| {
        for number in 0..100 {
            let given = traced.attempt(span(2), number, endpoint(3));
            assert_eq!(given.is_some(), (number as usize) < ATTEMPTS_MAX);
        }
    });
    assert_eq!(records.len(), 1 + ATTEMPTS_MAX);
}

#[test]
fn a_grpc_call_is_named_after_its_method_and_its_status() {
    let call = head("POST", "/orders.Orders/Place", "application/grpc+proto");
    let end = |grpc_status| End { grpc_status: Some(grpc_status), ..End::default() };
    let named = |status| records(Direction::Inbound, &call, end(status), |ending, _| ending.status = 200).remove(0);
    let well = named(0);
    assert_eq!((well.kind, well.name.as_str()), (Kind::Server, "orders.Orders/Place"));
    assert_eq!(words(&well, "rpc.system.name"), Some("grpc"));
    assert_eq!(words(&well, "rpc.method"), Some("orders.Orders/Place"));
    assert_eq!(words(&well, "rpc.response.status_code"), Some("OK"));
    assert_eq!((&well.status, words(&well, "error.type")), (&Status::Unset, None));
    assert_eq!(words(&well, "user_agent.original"), Some("test/1"));
    let away = named(14);
    assert_eq!(words(&away, "error.type"), Some("UNAVAILABLE"));
    assert_eq!(away.status, Status::Failed(String::new()));
    let unknown = named(12);
    assert_eq!((unknown.name.as_str(), words(&unknown, "rpc.method")), ("_OTHER", Some("_OTHER")));
    assert_eq!(words(&unknown, "rpc.method_original"), Some("orders.Orders/Place"));
}

#[test]
fn an_answer_of_400_fails_the_client_and_not_the_server_and_names_stay_few() {
    let kinds = [(Direction::Inbound, 404, false), (Direction::Outbound, 404, true), (Direction::Inbound, 500, true)];
    for (direction, status, failed) in kinds {
        let head = head("BREW", "/pot/1", "");
        let hop = records(direction, &head, End::default(), |ending, _| ending.status = status).remove(0);
        assert_eq!(hop.status != Status::Unset, failed, "{direction:?} {status}");
        assert_eq!((hop.name.as_str(), words(&hop, "http.request.method")), ("HTTP", Some("_OTHER")));
        assert_eq!(words(&hop, "http.request.method_original"), Some("BREW"));
    }
}

#[test]
fn whoever_hangs_up_has_not_failed_and_a_long_text_is_cut() {
    let head = head("GET", &format!("/{}", "é".repeat(4000)), "");
    let hop = records(Direction::Inbound, &head, End::default(), |ending, _| {
        ending.failed(Reason::ClientGone, "gone".to_owned());
    });
    assert_eq!(hop[0].status, Status::Unset);
    assert_eq!(words(&hop[0], "leno.reason"), Some("client_gone"));
    assert!(words(&hop[0], "url.path").unwrap().len() <= TEXT_MAX + 2);
    let age = hop[0].end.duration_since(hop[0].start).unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
}
