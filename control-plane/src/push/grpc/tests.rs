use bytes::BytesMut;
use leno_proto::wire::control::Heartbeat;
use prost::Message;
use tonic::Code;
use tonic::Status;

use super::MESSAGE_MAX;
use super::cut;
use super::trailers;

fn framed(flag: u8, length: u32, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::from(&[flag][..]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn beat(unix_millis: i64) -> Vec<u8> {
    Heartbeat { unix_millis, digest: bytes::Bytes::new() }.encode_to_vec()
}

#[test]
fn a_message_is_refused_by_its_prefix_before_its_body_has_come() {
    let too_long = u32::try_from(MESSAGE_MAX + 1).unwrap();
    for (flag, length, code) in
        [(0, too_long, Code::OutOfRange), (0, u32::MAX, Code::OutOfRange), (1, 1, Code::Unimplemented)]
    {
        assert_eq!(cut::<Heartbeat>(&mut framed(flag, length, &[])).unwrap_err().code(), code, "{flag} {length}");
    }
    let longest = u32::try_from(MESSAGE_MAX).unwrap();
    assert_eq!(cut::<Heartbeat>(&mut framed(0, longest, &[0])).unwrap(), None);
}

#[test]
fn what_is_no_message_is_refused() {
    assert_eq!(cut::<Heartbeat>(&mut framed(0, 2, &[0xff, 0xff])).unwrap_err().code(), Code::Internal);
}

#[test]
fn messages_come_out_as_they_went_in_however_they_are_cut() {
    let mut bytes = BytesMut::new();
    for number in 0..3 {
        let body = beat(number * 1000);
        bytes.extend_from_slice(&framed(0, u32::try_from(body.len()).unwrap(), &body));
    }
    for piece in 1..bytes.len() {
        let (mut gathered, mut heard) = (BytesMut::new(), Vec::new());
        for part in bytes.chunks(piece) {
            gathered.extend_from_slice(part);
            while let Some(beat) = cut::<Heartbeat>(&mut gathered).unwrap() {
                heard.push(beat.unix_millis);
            }
        }
        assert_eq!(heard, [0, 1000, 2000], "in pieces of {piece}");
        assert_eq!(gathered.capacity(), 0, "nothing is kept between messages");
    }
}

#[test]
fn a_status_is_said_whatever_its_words() {
    let fields = trailers(&Status::not_found("no such pod: \u{e9}\n"));
    assert_eq!(fields[Status::GRPC_STATUS], "5");
    assert!(fields["grpc-message"].as_bytes().ends_with(b"%C3%A9%0A"));
    assert_eq!(trailers(&Status::ok(""))[Status::GRPC_STATUS], "0");
}
