use std::collections::HashSet;

use leno_proto::request::Headers;

use crate::answer::Caller;
use crate::answer::answer;
use crate::error::Reason;
use crate::http::head::RequestHead;
use crate::http::head::Version;

#[test]
fn every_reason_has_a_name_of_its_own_that_reads_back() {
    let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.as_str().as_bytes()), Some(reason));
        assert!((400..=599).contains(&reason.status()), "{reason}");
        assert!((1..=16).contains(&reason.grpc_code()), "{reason}");
    }
    assert_eq!(Reason::parse(b"other"), None);
}

#[test]
fn a_grpc_caller_gets_trailers_only() {
    let head = answer(Reason::ConcurrencyLimit, Caller::Grpc, None);
    assert_eq!(head.status, 200);
    assert_eq!(head.headers.get("grpc-status"), Some(b"8".as_slice()));
    assert_eq!(head.headers.get("leno-reason"), Some(b"concurrency_limit".as_slice()));
    assert!(!head.headers.contains("content-length"));
}

#[test]
fn what_is_shed_says_when_to_come_back_and_what_is_wrong_does_not() {
    assert_eq!(answer(Reason::RateLimited, Caller::Http, None).headers.get("retry-after"), Some(b"1".as_slice()));
    assert_eq!(answer(Reason::PolicyDenied, Caller::Http, None).headers.get("retry-after"), None);
}

#[test]
fn only_the_content_type_of_grpc_makes_a_grpc_caller() {
    let check = |value: &str, caller| {
        let mut headers = Headers::new();
        headers.push(b"content-type", value.as_bytes());
        let head = RequestHead {
            version: Version::Http2,
            method: "POST".into(),
            scheme: "http",
            authority: "a".into(),
            target: "/".into(),
            headers,
        };
        assert_eq!(Caller::of(&head), caller, "{value}");
    };
    check("application/grpc", Caller::Grpc);
    check("application/grpc+proto", Caller::Grpc);
    check("application/grpc-web", Caller::Http);
    check("application/json", Caller::Http);
}
