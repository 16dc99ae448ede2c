use std::time::Duration;

use leno_proto::request::Headers;

use crate::edge;
use crate::edge::Hop;
use crate::edge::Voucher;
use crate::http::head::Version;

fn headers(fields: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::new();
    fields.iter().for_each(|(name, value)| headers.push(name.as_bytes(), value.as_bytes()));
    headers
}

fn fields(headers: &Headers) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    headers.iter().map(|(name, value)| (text(name), text(value))).collect()
}

/// As HTTP/2 would carry it.
fn lowered(sent: &Headers) -> Headers {
    let mut headers = Headers::new();
    sent.iter().for_each(|(name, value)| headers.push(&name.to_ascii_lowercase(), value));
    headers
}

#[test]
fn claims_of_identity_are_stripped_and_the_rest_stays() {
    let mut headers = headers(&[
        ("X-Forwarded-Client-Cert", "By=spiffe://x"),
        ("l5d-client-id", "me"),
        ("x-envoy-peer", "me"),
        ("Leno-Hop", "p=2"),
        ("leno-reason", "none"),
        ("X-Request-Id", "7"),
    ]);
    edge::strip(&mut headers);
    assert_eq!(fields(&headers), [("X-Request-Id".to_owned(), "7".to_owned())]);
}

#[test]
fn a_hop_header_is_read_as_it_was_written() {
    for version in [Version::Http10, Version::Http11, Version::Http2] {
        let hop = Hop { version, attempt: 3, deadline: Some(Duration::from_millis(1500)), phrase: Vec::new() };
        let mut headers = headers(&[("leno-hop", "p=2;a=99")]);
        hop.write(&mut headers);
        assert_eq!(Hop::take(&mut headers), Some(hop));
        assert!(headers.is_empty());
    }
}

#[test]
fn the_case_of_http1_names_survives_the_hop() {
    let check = |sent: &[(&str, &str)]| {
        let mut message = headers(sent);
        Hop { version: Version::Http11, attempt: 1, deadline: None, phrase: Vec::new() }.write(&mut message);
        let mut arrived = lowered(&message);
        Hop::take(&mut arrived);
        assert_eq!(fields(&arrived), fields(&headers(sent)));
    };
    check(&[("Content-Type", "a"), ("X-Api-Key", "b")]);
    check(&[("content-type", "a"), ("accept", "b")]);
    check(&[("X-API-key", "a"), ("Accept", "b"), ("etag", "c")]);
}

#[test]
fn a_reason_phrase_survives_the_hop_and_never_brings_a_line_end() {
    let carried = |phrase: &[u8]| {
        let mut message = headers(&[("X-Odd-CASE", "1")]);
        Hop { version: Version::Http11, attempt: 1, deadline: None, phrase: phrase.to_vec() }.write(&mut message);
        assert!(message.get("leno-hop").unwrap().iter().all(|byte| (b' '..=b'~').contains(byte)));
        Hop::take(&mut message).unwrap().phrase
    };
    let longest = vec![b'x'; 128];
    for phrase in [&b"As You Like"[..], b"50 % off; p=2, c=l", b"caf\xc3\xa9\t!", b"", &longest] {
        assert_eq!(carried(phrase), phrase);
    }
    assert_eq!(carried(&[b'x'; 129]), b"", "a longer one is left out");
    for forged in ["a%0d%0aSet-Cookie: x", "a%", "a%0", "a%zz", "a%00", "a%7f", &"x".repeat(129)] {
        let mut message = headers(&[("leno-hop", &format!("p=1.1;a=2;r={forged}"))]);
        let hop = Hop::take(&mut message).unwrap();
        assert_eq!((hop.attempt, &hop.phrase[..]), (2, &b""[..]), "{forged}");
    }
}

#[test]
fn the_caller_is_the_last_element_and_forged_identities_are_gone() {
    let mut forged = headers(&[("Forwarded", "for=1.2.3.4;spiffe=\"spiffe://evil/x\""), ("Forwarded", "for=9.9.9.9")]);
    edge::forwarded(&mut forged, &Voucher::new([10, 0, 0, 7].into(), None), "orders");
    assert_eq!(
        fields(&forged),
        [("forwarded".to_owned(), "for=9.9.9.9, for=10.0.0.7;host=\"orders\";proto=http".to_owned())]
    );
}
