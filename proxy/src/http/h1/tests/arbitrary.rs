//! Bytes that nobody thought of: no panic, the same outcome however they are split, bounded memory.

use bytes::BytesMut;
use proptest::prelude::Strategy;
use proptest::prelude::any;
use proptest::prop_oneof;
use proptest::proptest;
use proptest::sample::select;

use crate::http::h1::decode::Decoder;
use crate::http::h1::decode::Step;
use crate::http::h1::encode;
use crate::http::h1::parse;
use crate::http::h1::parse::Framing;
use crate::http::h1::parse::Kind;
use crate::http::h1::parse::Limits;
use crate::http::h1::parse::Scan;
use crate::http::h1::parse::Texts;
use crate::http::h1::tests::outcome;
use crate::http::h1::tests::run;

/// Pieces that matter to a parser, more often than chance would make them.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words = select(vec![
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        " ",
        ":",
        ": ",
        "GET ",
        "POST ",
        "/",
        "/x?y",
        " HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "0\r\n",
        "3\r\nabc\r\n",
        "3;x\r\n",
        "ffff",
        ",",
        ";",
        "\t",
        "\0",
        "Expect: 100-continue\r\n",
        "Upgrade: x\r\n",
        "HTTP/1.1 200 OK\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]);
    let piece = prop_oneof![
        4 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn chunks(raw: &[u8], step: usize) -> Result<(Vec<u8>, bool), ()> {
    let (mut decoder, mut buf, mut data) = (Decoder::new(Framing::Chunked), BytesMut::new(), Vec::new());
    for piece in raw.chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf).map_err(|_| ())? {
                Step::Data(bytes) => data.extend_from_slice(&bytes),
                Step::More => break,
                Step::End => return Ok((data, true)),
            }
        }
    }
    Ok((data, false))
}

proptest! {
    #[test]
    fn a_connection_survives_any_bytes(raw in pieces(), at in any::<proptest::sample::Index>()) {
        let at = at.index(raw.len() + 1);
        let (whole, halves) = run(async {
            (outcome(&[&raw]).await.0, outcome(&[&raw[..at], &raw[at..]]).await.0)
        });
        assert_eq!(whole, halves);
    }

    #[test]
    fn chunks_are_the_same_however_they_arrive(raw in pieces()) {
        let whole = chunks(&raw, raw.len().max(1));
        for step in [1, 2, 3, 7] {
            assert_eq!(chunks(&raw, step), whole);
        }
    }

    #[test]
    fn what_was_parsed_is_written_and_parsed_the_same(raw in pieces()) {
        let head = [&b"GET /x HTTP/1.1\r\nHost: a\r\n"[..], &raw, b"\r\n\r\n"].concat();
        let limits = Limits::default();
        if let Ok(Some((start, end))) = Scan::default().head_end(&head, &limits, Kind::Request)
            && let Ok(first) = parse::request(&head[start..end], &limits, &mut Texts::default())
        {
            let mut out = BytesMut::new();
            encode::request(&first.head, first.framing, &mut out).expect("what was parsed can be said");
            assert_eq!(Scan::default().head_end(&out, &limits, Kind::Request), Ok(Some((0, out.len()))));
            let second = parse::request(&out, &limits, &mut Texts::default()).expect("what we write is well formed");
            assert_eq!(second.framing, first.framing);
            assert_eq!(second.head.target, first.head.target);
            assert_eq!(second.head.authority, first.head.authority);
            let mut again = BytesMut::new();
            encode::request(&second.head, second.framing, &mut again).expect("as before");
            assert_eq!(again, out);
        }
    }
    #[test]
    fn an_answer_that_was_parsed_is_written_and_parsed_the_same(raw in pieces(), method in select(vec!["GET", "HEAD", "CONNECT"])) {
        let head = [&b"HTTP/1.1 203 x\r\n"[..], &raw, b"\r\n\r\n"].concat();
        let limits = Limits::default();
        if let Ok(Some((start, end))) = Scan::default().head_end(&head, &limits, Kind::Response)
            && let Ok(first) = parse::response(&head[start..end], method, &limits)
        {
            let mut out = BytesMut::new();
            encode::response(&first.head, first.framing, encode::After::KeepAlive, &mut out).expect("as above");
            let second = parse::response(&out, method, &limits).expect("what we write is well formed");
            assert_eq!((second.framing, second.head.status), (first.framing, first.head.status));
        }
    }
}
