use proptest::prelude::*;

use super::decode::Broken;
use super::decode::Decoder;
use super::decode::Fields;
use super::encode::Encoder;
use super::*;

type Field = (String, String);

#[derive(Default)]
struct List(Vec<(Kind, Field)>);

impl Fields for List {
    fn field(&mut self, kind: Kind, name: &[u8], value: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.0.push((kind, (text(name), text(value))));
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |d: u8| (d as char).to_digit(16).expect("a digit") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, Broken> {
    let mut list = List::default();
    decoder.decode(block, &mut list)?;
    Ok(list.0.into_iter().map(|(_, field)| field).collect())
}

fn pairs(of: &[(&str, &str)]) -> Vec<Field> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn reads(blocks: &[(&str, &[(&str, &str)])]) {
    let mut decoder = Decoder::new();
    for (block, expected) in blocks {
        assert_eq!(fields(&mut decoder, &bytes(block)), Ok(pairs(expected)), "{block}");
    }
}

const FIRST: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const THIRD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

/// RFC 7541 appendix C.2 to C.4 and C.6.
#[test]
fn the_examples_of_the_specification_are_read() {
    reads(&[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &[("custom-key", "custom-header")])]);
    reads(&[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")])]);
    reads(&[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")])]);
    reads(&[("82", &[(":method", "GET")])]);
    reads(&[
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST),
        ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND),
        ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", THIRD),
    ]);
    reads(&[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST),
        ("8286 84be 5886 a8eb 1064 9cbf", SECOND),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", THIRD),
    ]);
    let (private, date, place) = ("private", "Mon, 21 Oct 2013 20:13:21 GMT", "https://www.example.com");
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    reads(&[
        // The table of these examples has 256 bytes, so entries go.
        (
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d \
             29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &[(":status", "302"), ("cache-control", private), ("date", date), ("location", place)],
        ),
        ("4883 640e ffc1 c0bf", &[(":status", "307"), ("cache-control", private), ("date", date), ("location", place)]),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
             b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            &[
                (":status", "200"),
                ("cache-control", private),
                ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                ("location", place),
                ("content-encoding", "gzip"),
                ("set-cookie", cookie),
            ],
        ),
    ]);
}

#[test]
fn what_is_no_block_breaks_the_connection() {
    for (name, block) in [
        ("index nought", "80"),
        ("index beyond the table", "be"),
        ("name beyond the table", "7e 01 61"),
        ("integer without an end", "ff"),
        ("integer without an end, longer", "ff ff ff"),
        ("integer too large", "ff ff ff ff ff 0f"),
        ("integer padded for ever", "ff 80 80 80 80 80 80 00"),
        ("text longer than the block", "40 05 61"),
        ("value longer than the block", "00 01 61 05 62"),
        ("no value", "00 01 61"),
        ("table larger than agreed", "3f e2 1f"),
        ("table resized behind a field", "82 20"),
        ("padding of nought", "00 01 61 81 18"),
        ("padding of a whole byte", "00 01 61 82 1f ff"),
        ("the end symbol", "00 01 61 84 ff ff ff ff"),
    ] {
        assert_eq!(fields(&mut Decoder::new(), &bytes(block)), Err(Broken), "{name}");
    }
}

#[test]
fn names_and_values_are_judged() {
    for (name, value, kind) in [
        ("x-plain", "a b", Kind::Plain),
        ("x-plain", "a\tb\u{e4}", Kind::Plain),
        ("x-plain", "", Kind::Plain),
        ("x-padded", " a", Kind::Padded),
        ("transfer-encoding", "chunked ", Kind::Connection),
        ("host", "a\t", Kind::Malformed),
        ("content-length", "5 ", Kind::Malformed),
        ("X-Upper", "a", Kind::Malformed),
        ("", "a", Kind::Malformed),
        (":status", "200", Kind::Status),
        (":protocol", "websocket", Kind::Malformed),
        ("a b", "c", Kind::Malformed),
        ("a:", "c", Kind::Malformed),
        ("a", "b\r\nc: d", Kind::Malformed),
        ("a", "b\0", Kind::Malformed),
        ("a", "\u{7f}", Kind::Malformed),
    ] {
        let mut block = vec![0x40, name.len() as u8];
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
        // Once as it comes, and once out of the table.
        block.push(0xbe);
        let mut list = List::default();
        assert_eq!(Decoder::new().decode(&block, &mut list), Ok(()));
        assert_eq!(list.0.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [kind; 2], "{name}: {value:?}");
    }
}

#[test]
fn a_name_is_judged_anew_where_it_came_with_a_bad_value() {
    // `te: \0` into the table, then that name with another value.
    let mut list = List::default();
    assert_eq!(Decoder::new().decode(&bytes("40 02 7465 01 00 0f 2f 01 61"), &mut list), Ok(()));
    assert_eq!(list.0.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Kind::Malformed, Kind::Te]);
}

fn block(encoder: &mut Encoder, fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.field(&mut out, name.as_bytes(), value.as_bytes()).expect("valid");
    }
    out
}

#[test]
fn a_head_that_comes_again_is_an_index_for_each_field() {
    let mut encoder = Encoder::new();
    let head = pairs(&[("Accept", "*/*"), ("user-agent", "one"), ("x-tenant", "a")]);
    let lengths: Vec<_> = (0..3).map(|_| block(&mut encoder, &head).len()).collect();
    assert_eq!(lengths[2], 3, "{lengths:?}");
    let fewer = pairs(&[("user-agent", "one"), ("x-tenant", "a")]);
    assert_eq!(block(&mut encoder, &fewer).len(), 2, "the order is found again");
}

#[test]
fn secrets_are_never_indexed_and_what_never_repeats_is_not() {
    let mut encoder = Encoder::new();
    let secrets = pairs(&[("authorization", "x"), ("Cookie", "y"), ("set-cookie", "z")]);
    let once = pairs(&[("traceparent", "00-1-2-00"), ("leno-hop", "1"), ("date", "now")]);
    for _ in 0..4 {
        assert_eq!(block(&mut encoder, &secrets)[0] & 0xf0, 0x10);
        let all = [&secrets[..], &once].concat();
        assert!(!block(&mut encoder, &all).iter().any(|b| b & 0x80 != 0), "no index");
    }
}

#[test]
fn a_head_that_was_not_sent_leaves_the_tables_alike() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let head = pairs(&[("x-one", "a"), ("x-two", "b")]);
    for _ in 0..3 {
        assert_eq!(fields(&mut decoder, &block(&mut encoder, &head)), Ok(head.clone()));
    }
    for _ in 0..3 {
        let mut lost = Vec::new();
        encoder.begin(&mut lost);
        encoder.field(&mut lost, b"x-new", b"c").expect("valid");
        encoder.field(&mut lost, b"x bad", b"c").expect_err("a blank in a name");
        encoder.undo();
        assert_eq!(fields(&mut decoder, &block(&mut encoder, &head)), Ok(head.clone()));
    }
}

proptest! {
    /// Whatever heads follow each other on a connection, and whatever the peer makes of its table meanwhile.
    #[test]
    fn what_is_written_is_read_again(
        heads in prop::collection::vec(
            (prop::collection::vec(("[a-f]{1,3}", "[ -~]{0,6}"), 0..8), prop::option::of(0..300_usize)), 1..30),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for (head, resize) in heads {
            if let Some(size) = resize {
                encoder.resize(size);
            }
            let read = fields(&mut decoder, &block(&mut encoder, &head));
            prop_assert_eq!(read, Ok(head));
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 1..4)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            // Either way it comes back.
            let _ = decoder.decode(&block, &mut List::default());
        }
    }
}
