use ::http::Request as H2Request;
use proptest::prelude::*;

use super::*;
use crate::http::h2::convert;

fn parsed(uri: &str, fields: &[(&str, &str)]) -> Result<RequestHead, Reason> {
    let mut request = H2Request::builder().uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    convert::request_head(&request.body(()).expect("valid").into_parts().0, 100)
}

fn shown(headers: &Headers) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), String::from_utf8_lossy(v).into_owned()))
        .collect()
}

#[test]
fn requests_are_taken_or_refused() {
    let taken = [
        ("http://a.test/", &[][..], "a.test"),
        ("http://a.test/", &[("host", "A.test")], "a.test"),
        ("/", &[("host", "a.test:80")], "a.test:80"),
    ];
    for (uri, fields, authority) in taken {
        let head = parsed(uri, fields).unwrap_or_else(|reason| panic!("{uri} {fields:?}: {reason:?}"));
        assert_eq!(&*head.authority, authority);
        assert!(!head.headers.contains("host"));
    }
    let refused = [
        ("http://a.test/", &[("host", "b.test")][..]),
        ("http://a.test/", &[("host", "a.test"), ("host", "a.test")]),
        ("http://a.test/", &[("host", "a.test/x")]),
        ("http://user@a.test/", &[]),
        ("/", &[]),
        ("/", &[("host", "")]),
        ("http://a.test/", &[("x", " padded")]),
        ("http://a.test/", &[("x", "padded\t")]),
    ];
    for (uri, fields) in refused {
        assert_eq!(parsed(uri, fields).map(|_| ()), Err(Reason::BadFraming), "{uri} {fields:?}");
    }
    let many: Vec<_> = (0..101).map(|_| ("x", "y")).collect();
    assert_eq!(parsed("http://a.test/", &many).map(|_| ()), Err(Reason::HeadersTooLarge));
}

#[test]
fn cookie_crumbs_become_one_field_and_lengths_one() {
    let head = parsed(
        "http://a.test/",
        &[("cookie", "a=1"), ("content-length", "5"), ("cookie", "b=2"), ("content-length", "5"), ("cookie", "c=3")],
    )
    .expect("valid");
    assert_eq!(
        shown(&head.headers),
        [("cookie".into(), "a=1; b=2; c=3".into()), ("content-length".into(), "5".into())]
    );
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
    ] {
        head.headers.push(name, value);
    }
    let request = convert::request(&head).expect("valid");
    assert_eq!(request.uri(), "http://web.test/a?b=c");
    assert_eq!(request.headers().len(), 1);
    assert_eq!(request.headers()["x-kept"], "yes");
    head.headers.set("te", b"trailers");
    assert_eq!(convert::request(&head).expect("valid").headers()["te"], "trailers");
}

#[test]
fn what_http_2_cannot_say_is_not_said() {
    for target in ["", "a", "/a b", "/a#b", "/\u{0}", "/a\r\nx: y"] {
        assert!(convert::request(&get(target)).is_none(), "{target:?}");
    }
    for (name, value) in [(&b"a b"[..], &b"c"[..]), (b"", b"c"), (b":path", b"/"), (b"a", b"b\r\nc"), (b"a", b"\0")] {
        let mut head = get("/");
        head.headers.push(name, value);
        assert!(convert::request(&head).is_none(), "{name:?}: {value:?}");
    }
    let asterisk = RequestHead { method: "OPTIONS".into(), ..get("*") };
    assert_eq!(convert::request(&asterisk).expect("valid").uri().path(), "*");
    let old = RequestHead { authority: "".into(), ..get("/") };
    assert!(convert::request(&old).is_some());
}

proptest! {
    /// What goes out and comes in again is what it was; what cannot is not said at all.
    #[test]
    fn a_request_survives_the_way(
        method in "[A-Z]{1,8}",
        authority in "[a-z]{1,9}(\\.[a-z]{1,5})?(:[1-9][0-9]{0,3})?",
        target in "/[!$-;=@-_a-z~?&%]{0,40}",
        fields in prop::collection::vec(("x-[a-z0-9-]{1,10}", "([!-~]([ -~]{0,20}[!-~])?)?"), 0..10),
    ) {
        prop_assume!(method != "CONNECT");
        let mut head = RequestHead { method: method.into(), authority: authority.into(), ..get(&target) };
        for (name, value) in &fields {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        if let Some(request) = convert::request(&head) {
            let back = convert::request_head(&request.into_parts().0, 100).expect("what we say we take");
            prop_assert_eq!(&back.method, &head.method);
            prop_assert_eq!(&back.authority, &head.authority);
            prop_assert_eq!(&back.target, &head.target);
            let (mut was, mut is) = (shown(&head.headers), shown(&back.headers));
            was.sort();
            is.sort();
            prop_assert_eq!(was, is);
        }
    }

    /// Nothing that would frame an HTTP/1 message differently gets through.
    #[test]
    fn no_bytes_break_a_line(name in prop::collection::vec(any::<u8>(), 0..12), value in prop::collection::vec(any::<u8>(), 0..20)) {
        let mut head = get("/");
        head.headers.push(&name, &value);
        if let Some(request) = convert::request(&head) {
            for (name, value) in request.headers() {
                prop_assert!(!value.as_bytes().iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
                prop_assert!(!name.as_str().contains([':', ' ', '\r', '\n']));
            }
        }
    }
}
