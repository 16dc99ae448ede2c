//! First bytes and what they are.

use proptest::prelude::*;

use super::*;

#[test]
fn first_bytes_name_their_protocol() {
    let cases: &[(&[u8], Sniff)] = &[
        (b"", Sniff::NeedMore),
        (b"G", Sniff::NeedMore),
        (b"GET ", Sniff::NeedMore),
        (b"GET /", Sniff::Http1),
        (b"get /", Sniff::Http1),
        (b"OPTIONS *", Sniff::Http1),
        (b"CONNECT a:1", Sniff::Http1),
        (b"GET http://a/", Sniff::Http1),
        (b"X-ODD~ /", Sniff::Http1),
        (b"\r\nGET /", Sniff::Http1),
        (b"\r", Sniff::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Sniff::NeedMore),
        (b"PRI * HTTP/1.1\r\n", Sniff::Http1),
        (b"PRINT /", Sniff::Http1),
        (&[0x16], Sniff::NeedMore),
        (&[0x16, 3], Sniff::NeedMore),
        (&[0x16, 3, 1, 2, 0, 1], Sniff::Tls),
        (&[0x16, 4, 1], Sniff::Opaque),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Sniff::Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Sniff::Opaque),
        (b"SSH-2.0-x\r\n", Sniff::Opaque),
        (b"GET  /", Sniff::Opaque),
        (b"GET\t/", Sniff::Opaque),
        (b" GET /", Sniff::Opaque),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Sniff::Opaque),
    ];
    for (bytes, expected) in cases {
        assert_eq!(sniff(bytes), *expected, "{:?}", String::from_utf8_lossy(bytes));
    }
}

proptest! {
    #[test]
    fn an_answer_stands_whatever_follows(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0usize..64) {
        let cut = cut.min(bytes.len());
        let early = sniff(&bytes[..cut]);
        if early != Sniff::NeedMore {
            prop_assert_eq!(early, sniff(&bytes));
        }
    }

    #[test]
    fn enough_bytes_always_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), SNIFF_MAX..80)) {
        prop_assert_ne!(sniff(&bytes), Sniff::NeedMore);
    }
}
