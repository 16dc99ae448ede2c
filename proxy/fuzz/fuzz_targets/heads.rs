//! A request's and a response's head: no panic, the same verdict however the bytes arrive, and what is accepted is written
//! so that it is read the same again.
#![no_main]

use bytes::BytesMut;
use leno_proxy::http::h1::encode;
use leno_proxy::http::h1::parse;
use leno_proxy::http::h1::parse::Kind;
use leno_proxy::http::h1::parse::Limits;
use leno_proxy::http::h1::parse::Scan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    for kind in [Kind::Request, Kind::Response] {
        let Some((start, end)) = same_however_split(data, kind, &limits) else { continue };
        let head = &data[start..end];
        match kind {
            Kind::Request => request(head, &limits),
            Kind::Response => response(head, &limits),
        }
    }
});

fn same_however_split(data: &[u8], kind: Kind, limits: &Limits) -> Option<(usize, usize)> {
    let whole = Scan::default().head_end(data, limits, kind);
    let mut scan = Scan::default();
    let mut bit_by_bit = Ok(None);
    for end in 0..=data.len() {
        bit_by_bit = scan.head_end(&data[..end], limits, kind);
        if bit_by_bit != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, bit_by_bit);
    whole.ok().flatten()
}

fn request(head: &[u8], limits: &Limits) {
    let Ok(first) = parse::request(head, limits, &mut parse::Texts::default()) else { return };
    let mut out = BytesMut::new();
    encode::request(&first.head, first.framing, &mut out).expect("what was parsed can be said");
    assert_eq!(Scan::default().head_end(&out, limits, Kind::Request), Ok(Some((0, out.len()))));
    let second = parse::request(&out, limits, &mut parse::Texts::default()).expect("what we write is well formed");
    assert_eq!(second.framing, first.framing);
    assert_eq!(second.head.method, first.head.method);
    assert_eq!(second.head.authority, first.head.authority);
    assert_eq!(second.head.target, first.head.target);
}

fn response(head: &[u8], limits: &Limits) {
    for method in ["GET", "HEAD", "CONNECT"] {
        let Ok(first) = parse::response(head, method, limits) else { continue };
        let mut out = BytesMut::new();
        encode::response(&first.head, first.framing, encode::After::KeepAlive, &mut out).expect("as above");
        let second = parse::response(&out, method, limits).expect("what we write is well formed");
        assert_eq!(second.head.status, first.head.status);
        assert_eq!(second.framing, first.framing);
    }
}
