use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;

use super::*;
use crate::http::h2::batch::tests::Counted;
use crate::net::big_read::BigRead;
use crate::tls::Alpn;
use crate::tls::tests::ca::Ca;
use crate::tls::tests::ca::Leaf;

type Ends = (
    tokio_rustls::client::TlsStream<BigRead<DuplexStream>>,
    tokio_rustls::server::TlsStream<BigRead<Counted<DuplexStream>>>,
);

/// Two ends over TLS 1.3, the server's writes counted.
async fn tls() -> (Ends, Rc<Cell<usize>>) {
    let made = rcgen::generate_simple_self_signed(["web.test".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let versions = [&rustls::version::TLS13];
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .expect("1.3")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they fit");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .expect("1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(1 << 20);
    let writes = Rc::new(Cell::new(0));
    let far = BigRead::new(Counted { io: far, writes: Rc::clone(&writes) });
    let name = ServerName::try_from("web.test").expect("a name");
    let (connector, acceptor) = (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)));
    let ends = tokio::join!(connector.connect(name, BigRead::new(near)), acceptor.accept(far));
    ((ends.0.expect("a client"), ends.1.expect("a server")), writes)
}

#[test]
fn ready_answers_share_tls_records() {
    run(async {
        let ((near, far), writes) = tls().await;
        let (timers, app) = (Timers::new(), Rc::new(App::default()));
        let (server, service) = (timers.clone(), Rc::clone(&app));
        tokio::task::spawn_local(
            async move { serve(far, &settings(), service, &server, std::future::pending()).await },
        );
        let client = connect(near, &settings(), &timers).await;
        let readers: Vec<_> = (0..32)
            .map(|_| {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    let (_, body) = exchange(&client, &get("/gate"), Body::Empty).await;
                    whole(body).await.map(|all| all.len())
                })
            })
            .collect();
        while app.running.get() < 32 {
            tokio::task::yield_now().await;
        }
        let before = writes.get();
        app.gate.notify_waiters();
        for reader in readers {
            assert_eq!(reader.await.expect("no panic"), Ok(1024));
        }
        let used = writes.get() - before;
        assert!(used <= 3, "{used} writes");
    });
}

#[test]
fn a_connection_that_ends_well_says_so_in_tls() {
    run_paused(async {
        let ((mut near, far), _) = tls().await;
        let (timers, app) = (Timers::new(), Rc::new(App::default()));
        let settings = Settings { idle: Some(std::time::Duration::from_millis(10)), ..settings() };
        let done =
            tokio::task::spawn_local(async move { serve(far, &settings, app, &timers, std::future::pending()).await });
        let (_send, connection) = ::h2::client::handshake(&mut near).await.expect("a handshake");
        connection.await.expect("told to go");
        drop(_send);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.expect("close_notify, not a bare end");
        assert_eq!(done.await.expect("no panic"), Ok(()));
    });
}

#[test]
fn a_refused_certificate_is_the_reason_and_proves_that_nobody_read_the_request() {
    run(async {
        let ca = Ca::new("mesh.test");
        let (caller, server) = (ca.tls("web", Leaf::Expired), ca.tls("orders", Leaf::Good));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let far = far.expect("accepted").0;
        let judged = tokio::task::spawn_local(async move { server.accept(far, &[]).await.err().map(|e| e.reason) });
        let (io, _) =
            caller.connect(near.expect("open"), &ca.id("orders"), Alpn::H2).await.expect("the server is good");
        let client = connect(io, &settings(), &Timers::new()).await;
        let slot = client.ready().await.expect("open");
        let Err(error) = client.exchange(slot, &get("/"), Body::Empty, &Interim::default()).await else {
            panic!("the server takes no expired certificate");
        };
        assert_eq!((error.reason, error.never_processed), (Reason::TlsExpired, true));
        drop((error, client));
        assert_eq!(judged.await.expect("no panic"), Some(Reason::TlsExpired));
    });
}
