//! Every way in which a peer may not be who it should be, over real sockets.

pub(crate) mod ca;

use std::sync::Arc;

use rustls::NamedGroup;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use super::hello::Hello;
use super::hello::Sniffed;
use super::hello::client_hello;
use super::*;
use ca::Ca;
use ca::Leaf;

const DOMAIN: &str = "mesh.test";

/// A connected pair of sockets.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

struct Outcome {
    server: Result<Peer, Reason>,
    /// What the client's handshake or, where that passed, its first read says.
    client: Result<Peer, Reason>,
    group: Option<NamedGroup>,
}

/// A handshake, then one byte from the server so that tickets and late refusals arrive.
async fn handshake(client: &Tls, server: &Tls, expected: &SpiffeId) -> Outcome {
    let (near, far) = pair().await;
    let serve = async {
        let (mut io, peer) = server.accept(far, &[]).await?;
        io.write_all(b"!").await.unwrap();
        io.flush().await.unwrap();
        // Stays open until the client has read.
        let _ = io.read_u8().await;
        Ok::<_, TlsError>(peer)
    };
    let call = async {
        let (mut io, peer) = client.connect(near, expected, Alpn::H2).await.map_err(|error| error.reason)?;
        io.read_u8().await.map_err(|error| refusal(&error).expect("only TLS refuses here"))?;
        let Io::TlsClient(stream) = &io else { panic!("a client's stream") };
        Ok((peer, stream.get_ref().1.negotiated_key_exchange_group().map(|group| group.name())))
    };
    let (server, client) = tokio::join!(serve, call);
    let group = client.as_ref().ok().and_then(|(_, group)| *group);
    Outcome { server: server.map_err(|error| error.reason), client: client.map(|(peer, _)| peer), group }
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is_under_hybrid_key_exchange() {
    let ca = Ca::new(DOMAIN);
    let (client, server) = (ca.tls("web", Leaf::Good), ca.tls("orders", Leaf::Good));
    let outcome = handshake(&client, &server, &ca.id("orders")).await;
    assert_eq!(outcome.server, Ok(Peer { identity: ca.id("web"), alpn: Alpn::H2, resumed: false }));
    assert_eq!(outcome.client, Ok(Peer { identity: ca.id("orders"), alpn: Alpn::H2, resumed: false }));
    assert_eq!(outcome.group, Some(NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn each_bad_server_is_refused_with_its_own_reason() {
    let (ca, foreign) = (Ca::new(DOMAIN), Ca::new("other.test"));
    let impostor = Ca::new(DOMAIN);
    let client = ca.tls("web", Leaf::Good);
    let trusting = |of: &Ca, leaf| of.tls_trusting("orders", leaf, &ca.bundle());
    for (what, server, expected, reason) in [
        ("another trust domain", trusting(&foreign, Leaf::Good), ca.id("orders"), Reason::TlsUntrusted),
        ("another authority", trusting(&impostor, Leaf::Good), ca.id("orders"), Reason::TlsUntrusted),
        ("expired", trusting(&ca, Leaf::Expired), ca.id("orders"), Reason::TlsExpired),
        ("not yet valid", trusting(&ca, Leaf::NotYet), ca.id("orders"), Reason::TlsExpired),
        ("wrong workload", trusting(&ca, Leaf::Good), ca.id("payments"), Reason::TlsWrongIdentity),
        ("two ids", trusting(&ca, Leaf::TwoIds), ca.id("orders"), Reason::TlsWrongIdentity),
        ("no id", trusting(&ca, Leaf::NoId), ca.id("orders"), Reason::TlsWrongIdentity),
    ] {
        let outcome = handshake(&client, &server, &expected).await;
        assert_eq!(outcome.client, Err(reason), "{what}");
        assert!(outcome.server.is_err(), "{what}");
    }
}

#[tokio::test]
async fn each_bad_client_is_refused_with_its_own_reason_on_both_sides() {
    let (ca, foreign) = (Ca::new(DOMAIN), Ca::new("other.test"));
    let impostor = Ca::new(DOMAIN);
    let server = ca.tls("orders", Leaf::Good);
    let trusting = |of: &Ca, leaf| of.tls_trusting("web", leaf, &ca.bundle());
    for (what, client, reason) in [
        ("another trust domain", trusting(&foreign, Leaf::Good), Reason::TlsUntrusted),
        ("another authority", trusting(&impostor, Leaf::Good), Reason::TlsUntrusted),
        ("expired", trusting(&ca, Leaf::Expired), Reason::TlsExpired),
        ("two ids", trusting(&ca, Leaf::TwoIds), Reason::TlsWrongIdentity),
        ("no id", trusting(&ca, Leaf::NoId), Reason::TlsWrongIdentity),
    ] {
        let outcome = handshake(&client, &server, &ca.id("orders")).await;
        assert_eq!(outcome.server, Err(reason), "{what}");
        assert_eq!(outcome.client, Err(reason), "{what}");
    }
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let ca = Ca::new(DOMAIN);
    let server = ca.tls("orders", Leaf::Good);
    let trust = Arc::new(Trust::new(&ca.bundle()));
    let config = client_config(&trust, &ca.id("orders"), None, "leno/h2").unwrap();
    let (near, far) = pair().await;
    let name = ServerName::IpAddress(near.peer_addr().unwrap().ip().into());
    let call = async {
        let mut stream = TlsConnector::from(config).connect(name, near).await.unwrap();
        stream.read_u8().await.map_err(|error| refusal(&error))
    };
    let (server, client) = tokio::join!(server.accept(far, &[]), call);
    assert_eq!(server.err().map(|error| error.reason), Some(Reason::NoCertificate));
    assert_eq!(client, Err(Some(Reason::NoCertificate)));
}

#[tokio::test]
async fn a_refused_client_that_has_already_spoken_still_hears_why() {
    let ca = Ca::new(DOMAIN);
    let (client, server) = (ca.tls("web", Leaf::Expired), ca.tls("orders", Leaf::Good));
    for _ in 0..20 {
        let (near, far) = pair().await;
        let call = async {
            let (mut io, _) = client.connect(near, &ca.id("orders"), Alpn::H2).await.unwrap();
            // Before the server has read, let alone judged, what the handshake ended with.
            io.write_all(&[7; 32 * 1024]).await.unwrap();
            io.flush().await.unwrap();
            io.read_u8().await.map_err(|error| refusal(&error))
        };
        let (told, refused) = tokio::join!(call, server.accept(far, &[]));
        assert_eq!(refused.err().map(|error| error.reason), Some(Reason::TlsExpired));
        assert_eq!(told, Err(Some(Reason::TlsExpired)));
    }
}

#[tokio::test]
async fn plaintext_and_foreign_tls_are_refused_as_plaintext() {
    let ca = Ca::new(DOMAIN);
    let server = ca.tls("orders", Leaf::Good);
    let (mut near, far) = pair().await;
    near.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(server.accept(far, &[]).await.err().map(|error| error.reason), Some(Reason::PlaintextRefused));

    let (mut near, far) = pair().await;
    near.write_all(&hello_bytes(&["h2", "http/1.1"], Some("shop.test"))).await.unwrap();
    assert_eq!(server.accept(far, &[]).await.err().map(|error| error.reason), Some(Reason::PlaintextRefused));
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_hello_is_gone() {
    let ca = Ca::new(DOMAIN);
    let server = ca.tls("orders", Leaf::Good);
    let (mut near, far) = pair().await;
    near.write_all(&hello_bytes(&["leno/h2"], None)[..100]).await.unwrap();
    drop(near);
    assert_eq!(server.accept(far, &[]).await.err().map(|error| error.reason), Some(Reason::ClientGone));
}

#[tokio::test]
async fn bytes_that_were_read_before_belong_to_the_handshake() {
    let ca = Ca::new(DOMAIN);
    let (client, server) = (ca.tls("web", Leaf::Good), ca.tls("orders", Leaf::Good));
    let (near, mut far) = pair().await;
    let serve = async {
        let mut head = [0; 300];
        far.read_exact(&mut head).await.unwrap();
        server.accept(far, &head).await.map(|(_, peer)| peer.identity)
    };
    let expected = ca.id("orders");
    let (served, called) = tokio::join!(serve, client.connect(near, &expected, Alpn::Tcp));
    assert_eq!(served.unwrap(), ca.id("web"));
    assert_eq!(called.unwrap().1.alpn, Alpn::Tcp);
}

#[tokio::test]
async fn sessions_resume_until_trust_or_certificate_change() {
    let ca = Ca::new(DOMAIN);
    let (client, server) = (ca.tls("web", Leaf::Good), ca.tls("orders", Leaf::Good));
    let expected = ca.id("orders");
    let resumed = async || {
        let outcome = handshake(&client, &server, &expected).await;
        assert_eq!(outcome.client.as_ref().unwrap().identity, expected);
        assert_eq!(outcome.server.as_ref().unwrap().identity, ca.id("web"));
        (outcome.client.unwrap().resumed, outcome.server.unwrap().resumed)
    };
    assert_eq!(resumed().await, (false, false));
    assert_eq!(resumed().await, (true, true));
    server.set_trust(Trust::new(&ca.bundle())).unwrap();
    assert_eq!(resumed().await, (false, false), "the server's trust changed");
    assert_eq!(resumed().await, (true, true));
    client.set_identity(ca.identity("web", Leaf::Good)).unwrap();
    assert_eq!(resumed().await, (false, false), "the client has another certificate");
}

#[tokio::test]
async fn a_session_is_not_resumed_under_a_bundle_that_no_longer_trusts_the_peer() {
    let (ca, next) = (Ca::new(DOMAIN), Ca::new(DOMAIN));
    let (client, server) = (ca.tls("web", Leaf::Good), ca.tls("orders", Leaf::Good));
    let expected = ca.id("orders");
    assert!(handshake(&client, &server, &expected).await.client.is_ok());
    server.set_trust(Trust::new(&next.bundle())).unwrap();
    let outcome = handshake(&client, &server, &expected).await;
    assert_eq!(outcome.server, Err(Reason::TlsUntrusted));
    client.set_trust(Trust::new(&next.bundle())).unwrap();
    assert_eq!(handshake(&client, &server, &expected).await.client, Err(Reason::TlsUntrusted));
}

#[tokio::test]
async fn without_a_certificate_there_is_no_handshake() {
    let (near, far) = pair().await;
    let tls = Tls::new();
    assert_eq!(tls.accept(far, &[]).await.err().map(|error| error.reason), Some(Reason::NoCertificate));
    let expected = Ca::new(DOMAIN).id("orders");
    let refused = tls.connect(near, &expected, Alpn::H2).await.err();
    assert_eq!(refused.map(|error| error.reason), Some(Reason::NoCertificate));
}

/// What rustls sends first.
fn hello_bytes(alpn: &[&str], sni: Option<&'static str>) -> Vec<u8> {
    let ca = Ca::new(DOMAIN);
    let trust = Arc::new(Trust::new(&ca.bundle()));
    let mut config = Arc::unwrap_or_clone(client_config(&trust, &ca.id("a"), None, "").unwrap());
    config.alpn_protocols = alpn.iter().map(|one| one.as_bytes().to_vec()).collect();
    config.enable_sni = sni.is_some();
    let name = ServerName::try_from(sni.unwrap_or("10.0.0.1")).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_hello_shows_whose_it_is_and_what_it_names() {
    let check = |alpn: &[&str], sni, leno| {
        let found = client_hello(&hello_bytes(alpn, sni));
        assert_eq!(found, Sniffed::Hello(Hello { leno, sni: sni.map(str::to_owned) }), "{alpn:?}");
    };
    check(&["leno/h2"], None, true);
    check(&["leno/tcp"], None, true);
    check(&["http/1.1", "leno/h1"], Some("shop.test"), true);
    check(&["h2", "http/1.1"], Some("shop.test"), false);
    check(&["leno/h3"], None, false);
    check(&[], Some("shop.test"), false);
}

#[test]
fn a_hello_needs_more_at_every_byte_but_the_last() {
    let bytes = hello_bytes(&["leno/h2"], Some("shop.test"));
    for end in 0..bytes.len() {
        assert_eq!(client_hello(&bytes[..end]), Sniffed::NeedMore, "{end} of {}", bytes.len());
    }
    let more = [bytes.as_slice(), b"whatever follows"].concat();
    assert!(matches!(client_hello(&more), Sniffed::Hello(Hello { leno: true, .. })));
}

#[test]
fn a_hello_in_many_records_is_read_like_one() {
    let bytes = hello_bytes(&["leno/h2"], Some("shop.test"));
    let mut split = Vec::new();
    for fragment in bytes[5..].chunks(7) {
        split.extend_from_slice(&[22, 3, 1, 0, fragment.len() as u8]);
        split.extend_from_slice(fragment);
    }
    assert_eq!(client_hello(&split), client_hello(&bytes));
}

#[test]
fn what_is_not_a_hello_is_said_as_early_as_possible() {
    for bytes in [
        b"GET / HTTP/1.1".as_slice(),
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        // An alert, a ServerHello, a hello of 16 MiB.
        b"\x15\x03\x01\x00\x02\x01\x00",
        b"\x16\x03\x01\x00\x10\x02",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    ] {
        assert_eq!(client_hello(bytes), Sniffed::NotTls, "{bytes:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        client_hello(&bytes);
        let mut record = vec![22, 3, 1];
        record.extend_from_slice(&(bytes.len() as u16 + 4).to_be_bytes());
        record.extend_from_slice(&[1, 0]);
        record.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        record.extend_from_slice(&bytes);
        client_hello(&record);
    }
}
