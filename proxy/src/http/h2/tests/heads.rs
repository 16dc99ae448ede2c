use ::http::uri::PathAndQuery;
use proptest::prelude::*;

use super::*;
use crate::http::h2::head;
use crate::http::h2::head::Memory;
use crate::http::h2::head::Refusal;
use crate::http::h2::head::RequestFields;
use crate::http::h2::head::ResponseFields;
use crate::http::h2::hpack::decode::Decoder;
use crate::http::h2::hpack::encode::Encoder;
use crate::http::head::ResponseHead;
use crate::http::head::Version;

/// A request's block, by hand: every field a literal.
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block
}

fn request(block: &[u8], bytes: usize, fields: usize) -> Result<RequestHead, Refusal> {
    let mut memory = Memory::new();
    let mut to = RequestFields::new(&mut memory, bytes, fields);
    Decoder::new().decode(block, &mut to).expect("HPACK");
    to.finish().map(|(head, _)| head)
}

const PSEUDO: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];

fn with(more: &[(&str, &str)]) -> Result<RequestHead, Refusal> {
    request(&literals(&[&PSEUDO, more].concat()), 1 << 16, 100)
}

fn without(name: &str, more: &[(&str, &str)]) -> Result<RequestHead, Refusal> {
    let rest: Vec<_> = PSEUDO.into_iter().filter(|(n, _)| *n != name).collect();
    request(&literals(&[&rest, more].concat()), 1 << 16, 100)
}

fn shown(head: &RequestHead) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    head.headers.iter().map(|(name, value)| (text(name), text(value))).collect()
}

#[test]
fn a_request_is_taken_or_refused() {
    assert_eq!(&*with(&[]).expect("plain").authority, "a.test");
    assert_eq!(&*with(&[("host", "A.test")]).expect("the same host").authority, "a.test");
    assert_eq!(&*without(":authority", &[("host", "b.test:80")]).expect("a host").authority, "b.test:80");
    assert!(with(&[("te", "trailers")]).is_ok());
    let long = "x".repeat(120);
    for (name, refused) in [
        ("another host", with(&[("host", "b.test")])),
        ("two hosts", with(&[("host", "a.test"), ("host", "a.test")])),
        ("no host", without(":authority", &[])),
        ("an empty host", without(":authority", &[("host", "")])),
        ("a host that is none", without(":authority", &[("host", "a/b")])),
        ("a user", without(":authority", &[(":authority", "me@a.test")])),
        ("no method", without(":method", &[])),
        ("no method's name", without(":method", &[(":method", "G T")])),
        ("no scheme", without(":scheme", &[])),
        ("no path", without(":path", &[])),
        ("an empty path", without(":path", &[(":path", "")])),
        ("a path without a root", without(":path", &[(":path", "a")])),
        ("an asterisk to GET", without(":path", &[(":path", "*")])),
        ("a fragment", without(":path", &[(":path", "/a#b")])),
        ("a blank in the path", without(":path", &[(":path", "/a b")])),
        ("a method again", with(&[(":method", "GET")])),
        ("a path again", with(&[(":path", "/")])),
        ("a pseudo-header behind a field", without(":path", &[("a", "b"), (":path", "/")])),
        ("a status", with(&[(":status", "200")])),
        ("a protocol", with(&[(":protocol", "websocket")])),
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te", with(&[("te", "gzip")])),
        ("blanks around a value", with(&[("x", " padded")])),
        ("a name in capitals", with(&[("X", "y")])),
        ("two lengths", with(&[("content-length", "5"), ("content-length", "6")])),
        ("no length", with(&[("content-length", "+5")])),
        ("a length beyond all", with(&[("content-length", "99999999999999999999")])),
    ] {
        assert_eq!(refused.map(|_| ()), Err(Refusal::Malformed), "{name}");
    }
    let tunnel = literals(&[(":method", "CONNECT"), (":authority", "a.test:443")]);
    assert_eq!(request(&tunnel, 1 << 16, 100).map(|_| ()), Err(Refusal::Connect));
    let many: Vec<_> = PSEUDO.into_iter().chain((0..101).map(|_| ("x", "y"))).collect();
    assert_eq!(request(&literals(&many), 1 << 16, 100).map(|_| ()), Err(Refusal::TooLarge));
    let large: Vec<_> = PSEUDO.into_iter().chain((0..8).map(|_| ("x", &*long))).collect();
    assert_eq!(request(&literals(&large), 1000, 100).map(|_| ()), Err(Refusal::TooLarge));
}

#[test]
fn cookie_crumbs_become_one_field_and_lengths_one() {
    let head = with(&[
        ("cookie", "a=1"),
        ("content-length", "5"),
        ("cookie", "b=2"),
        ("content-length", "5"),
        ("cookie", "c=3"),
    ])
    .expect("valid");
    let expected = [("content-length".into(), "5".into()), ("cookie".into(), "a=1; b=2; c=3".into())];
    assert_eq!(shown(&head), expected);
}

#[test]
fn an_answer_is_taken_or_refused() {
    let answer = |fields: &[(&str, &str)]| {
        let mut memory = Memory::new();
        let mut to = ResponseFields::new(&mut memory, 1000);
        Decoder::new().decode(&literals(fields), &mut to).expect("HPACK");
        to.finish().map(|(head, _)| head.status)
    };
    assert_eq!(answer(&[(":status", "204")]), Ok(204));
    assert_eq!(answer(&[(":status", "200"), ("x", " padded ")]), Ok(200));
    let long = "x".repeat(120);
    for refused in [
        &[][..],
        &[(":status", "20")],
        &[(":status", "099")],
        &[(":status", "+20")],
        &[(":status", "200"), (":status", "200")],
        &[("a", "b"), (":status", "200")],
        &[(":status", "200"), (":path", "/")],
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        &[(":status", "200"), ("transfer-encoding", " chunked")],
        &[(":status", "200"), ("content-length", "x")],
        &[(":status", "200"), ("content-length", "1"), ("content-length", "2")],
    ] {
        assert_eq!(answer(refused), Err(Refusal::Malformed), "{refused:?}");
    }
    let large: Vec<_> = std::iter::once((":status", "200")).chain((0..8).map(|_| ("x", &*long))).collect();
    assert_eq!(answer(&large), Err(Refusal::TooLarge));
}

/// The h2 crate's way with the same bytes.
#[test]
fn targets_are_what_the_http_crate_takes_for_one() {
    for byte in 0..=255_u8 {
        for target in [vec![b'/', byte], vec![b'/', b'?', byte], vec![b'/', byte, b'?', byte, b'a']] {
            let theirs = PathAndQuery::try_from(&target[..]).is_ok_and(|parsed| parsed.as_str().len() == target.len());
            let ours = head::is_target(&target);
            assert!(!ours || theirs, "{target:?} is taken by us alone");
            assert!(ours || !theirs || !target.is_ascii(), "{target:?} is taken by them alone");
        }
    }
}

fn written(encoder: &mut Encoder, head: &RequestHead) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    head::write_request(encoder, &mut Memory::new(), &mut out, head).ok().map(|()| out)
}

#[test]
fn what_http_2_cannot_say_is_not_said() {
    for target in ["", "a", "/a b", "/a#b", "/\u{0}", "/a\r\nx: y"] {
        assert!(written(&mut Encoder::new(), &get(target)).is_none(), "{target:?}");
    }
    for (name, value) in [(&b"a b"[..], &b"c"[..]), (b"", b"c"), (b":path", b"/"), (b"a", b"b\r\nc"), (b"a", b"\0")] {
        let mut head = get("/");
        head.headers.push(name, value);
        assert!(written(&mut Encoder::new(), &head).is_none(), "{name:?}: {value:?}");
    }
    for (method, authority) in [("G T", "a.test"), ("GET", "a b"), ("GET", "a/b")] {
        let head = RequestHead { method: method.into(), authority: authority.into(), ..get("/") };
        assert!(written(&mut Encoder::new(), &head).is_none(), "{method} {authority}");
    }
    for status in [0, 99, 1000] {
        let head =
            ResponseHead { version: Version::Http2, status, reason_phrase: Vec::new(), headers: get("/").headers };
        assert!(head::write_response(&mut Encoder::new(), &mut Vec::new(), &head).is_err());
    }
}

#[test]
fn what_belongs_to_an_http_1_connection_ends_there() {
    let mut head = get("/a?b=c");
    for (name, value) in [
        (&b"Host"[..], &b"other"[..]),
        (b"Connection", b"close, x"),
        (b"Keep-Alive", b"5"),
        (b"Proxy-Connection", b"close"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"HTTP2-Settings", b"AAA"),
        (b"TE", b"gzip"),
        (b"X-Kept", b"yes"),
        (b"te", b"Trailers"),
    ] {
        head.headers.push(name, value);
    }
    let block = written(&mut Encoder::new(), &head).expect("valid");
    let read = request(&block, 1 << 16, 100).expect("valid");
    assert_eq!(shown(&read), [("x-kept".into(), "yes".into()), ("te".into(), "Trailers".into())]);
    assert_eq!((&*read.target, &*read.authority), ("/a?b=c", "web.test"));
}

proptest! {
    /// What goes out and comes in again is what it was; what cannot is not said at all.
    #[test]
    fn a_request_survives_the_way(
        heads in prop::collection::vec((
            "[A-Z]{1,8}",
            "[a-z]{1,9}(\\.[a-z]{1,5})?(:[1-9][0-9]{0,3})?",
            "/[!$-;=@-_a-z~?&%]{0,40}",
            prop::collection::vec(("[xX]-[a-zA-Z0-9-]{1,3}", "([!-~]([ -~]{0,20}[!-~])?)?"), 0..10),
        ), 1..6),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let (mut out_memory, mut in_memory) = (Memory::new(), Memory::new());
        // Each twice, so that the second is met by what the first left.
        for (method, authority, target, fields) in heads.iter().flat_map(|head| [head, head]) {
            let mut head = RequestHead {
                method: method.clone().into(), authority: (&**authority).into(), ..get(target)
            };
            if method == "CONNECT" {
                continue;
            }
            for (name, value) in fields {
                head.headers.push(name.as_bytes(), value.as_bytes());
            }
            let mut block = Vec::new();
            if head::write_request(&mut encoder, &mut out_memory, &mut block, &head).is_err() {
                encoder.undo();
                continue;
            }
            let mut to = RequestFields::new(&mut in_memory, 1 << 16, 100);
            decoder.decode(&block, &mut to).expect("what we say we read");
            let back = to.finish().expect("what we say we take").0;
            prop_assert_eq!(&back.method, &head.method);
            prop_assert_eq!(&back.authority, &head.authority);
            prop_assert_eq!(&back.target, &head.target);
            let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
            prop_assert_eq!(shown(&head).into_iter().map(lower).collect::<Vec<_>>(), shown(&back));
        }
    }
}
