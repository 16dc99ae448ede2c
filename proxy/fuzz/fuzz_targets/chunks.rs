//! Chunked bodies: no panic, no byte taken beyond the end, and the same data and verdict however the bytes arrive.
#![no_main]

use bytes::BytesMut;
use leno_proxy::http::h1::decode::Decoder;
use leno_proxy::http::h1::decode::Step;
use leno_proxy::http::h1::parse::Framing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = decode(data, data.len().max(1));
    for step in [1, 2, 3, 7, 61] {
        assert_eq!(decode(data, step), whole);
    }
});

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ended { taken: usize },
    Unfinished,
    Broken,
}

fn decode(raw: &[u8], step: usize) -> (Vec<u8>, Verdict) {
    let (mut decoder, mut buf, mut data) = (Decoder::new(Framing::Chunked), BytesMut::new(), Vec::new());
    let mut fed = 0;
    for piece in raw.chunks(step) {
        buf.extend_from_slice(piece);
        fed += piece.len();
        loop {
            match decoder.decode(&mut buf) {
                Ok(Step::Data(bytes)) => data.extend_from_slice(&bytes),
                Ok(Step::More) => break,
                Ok(Step::End) => return (data, Verdict::Ended { taken: fed - buf.len() }),
                Err(_) => return (data, Verdict::Broken),
            }
        }
    }
    (data, Verdict::Unfinished)
}
