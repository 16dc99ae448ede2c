//! Stories of a mesh in one process: an application behind its sidecar calls another behind its own, over loopback and mTLS.

mod ceiling;
mod mesh;
mod mirror;
mod permission;
mod route;

use std::sync::Arc;

use leno_proto::policy::*;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::net::tests::Refusing;
use mesh::Mesh;
use mesh::STANDSTILL;
use mesh::Served;
use mesh::head;
use mesh::until_counted;

const GET: &[u8] = b"GET /items?x=1 HTTP/1.1\r\nHost: orders\r\nX-Odd-CASE: 1\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-App: A\r\n\r\nok";

/// The head and `length` bytes of body of an answer.
async fn answer(client: &mut TcpStream, length: usize) -> (String, String) {
    let mut read = Vec::new();
    let head = head(client, &mut read).await;
    while read.len() < length {
        assert!(client.read_buf(&mut read).await.unwrap() > 0, "{head}");
    }
    (head, String::from_utf8_lossy(&read).into_owned())
}

#[test]
fn a_request_goes_through_both_sidecars_and_its_answer_comes_back() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        let request = served.head().await;
        assert!(request.starts_with("GET /items?x=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nX-Odd-CASE: 1\r\n"), "{request}");
        assert!(request.contains("spiffe=\"spiffe://mesh.test/ns/shop/sa/web\""), "{request}");
        assert!(!request.contains("leno-hop"), "{request}");
        served.io.write_all(OK).await.unwrap();
        let (head, body) = answer(&mut client, 2).await;
        assert!(head.starts_with("HTTP/1.1 200 Fine\r\n"), "{head}");
        assert!(head.contains("X-App: A"), "{head}");
        assert!(!head.contains("leno-"), "{head}");
        assert_eq!(body, "ok");
    });
}

#[test]
fn connections_are_kept_on_every_hop_and_used_again() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        for round in 0..3 {
            served.head().await;
            served.io.write_all(OK).await.unwrap();
            assert_eq!(answer(&mut client, 2).await.1, "ok");
            if round < 2 {
                client.write_all(GET).await.unwrap();
            }
        }
        assert_eq!(mesh.application("web").metrics.proxy.handshakes.value(), 0);
        assert_eq!(app.metrics.proxy.handshakes.value(), 1);
    });
}

#[test]
fn a_post_arrives_once_when_the_application_closed_its_idle_connection() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        served.io.write_all(OK).await.unwrap();
        answer(&mut client, 2).await;
        drop(served);
        client.write_all(b"POST /buy HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbook").await.unwrap();
        let mut served = app.accept().await;
        assert!(served.head().await.starts_with("POST /buy"));
        served.io.write_all(OK).await.unwrap();
        assert!(answer(&mut client, 2).await.0.starts_with("HTTP/1.1 200"));
    });
}

/// One exchange, so that a connection to the application idles; then `request`, which the application answers with an end as
/// `end` makes it; what the client gets, and how many connections the application has accepted by then.
async fn ended_by(mesh: &Mesh, request: &[u8], end: impl AsyncFn(Served)) -> String {
    let app = mesh.application("orders");
    let mut client = mesh.call("web", "orders").await;
    client.write_all(GET).await.unwrap();
    let mut served = app.accept().await;
    served.head().await;
    served.io.write_all(OK).await.unwrap();
    answer(&mut client, 2).await;
    client.write_all(request).await.unwrap();
    end(served).await;
    let again = async {
        let mut served = app.accept().await;
        served.head().await;
        served.io.write_all(OK).await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        (head, _) = answer(&mut client, 0) => head,
        () = again => unreachable!(),
    }
}

const POST: &[u8] = b"POST /buy HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbook";

/// Takes the request whole, and then breaks the connection.
async fn process_and_reset(mut served: Served) {
    served.head().await;
    served.io.set_zero_linger().unwrap();
}

#[test]
fn a_server_that_processes_and_then_ends_the_connection_gets_each_post_once() {
    for meshed in [true, false] {
        let run = |end: fn(Served) -> std::pin::Pin<Box<dyn Future<Output = ()>>>| {
            let mut mesh = Mesh::new();
            mesh.meshed = meshed;
            mesh.run(move |mesh| async move {
                let head = ended_by(&mesh, POST, async |served| end(served).await).await;
                assert!(head.starts_with("HTTP/1.1 502"), "{meshed}: {head}");
                let reason = if meshed { "leno-reason: app_reset" } else { "leno-reason: reset_before_response" };
                assert!(head.contains(reason), "{head}");
            });
        };
        run(|served| Box::pin(process_and_reset(served)));
        run(|mut served| {
            Box::pin(async move {
                served.head().await;
                served.bytes(4).await;
            })
        });
    }
}

#[test]
fn a_get_on_a_kept_connection_that_is_reset_is_sent_again() {
    for meshed in [true, false] {
        let mut mesh = Mesh::new();
        mesh.meshed = meshed;
        mesh.run(move |mesh| async move {
            let head = ended_by(&mesh, GET, process_and_reset).await;
            assert!(head.starts_with("HTTP/1.1 200"), "{meshed}: {head}");
            let pod = mesh.application(if meshed { "orders" } else { "web" });
            assert!(pod.metrics.render().contains(r#"kind="idle_reset"} 1"#), "{}", pod.metrics.render());
        });
    }
}

#[test]
fn gets_on_many_kept_connections_that_are_reset_at_one_moment_are_all_sent_again() {
    const CROWD: usize = 32;
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let (mut clients, mut kept) = (Vec::new(), Vec::new());
        for _ in 0..CROWD {
            let mut client = mesh.call("web", "orders").await;
            client.write_all(GET).await.unwrap();
            clients.push(client);
        }
        // Nobody is answered before all are here, so that each has a connection of its own.
        for _ in 0..CROWD {
            let mut served = app.accept().await;
            served.head().await;
            kept.push(served);
        }
        for served in &mut kept {
            served.io.write_all(OK).await.unwrap();
        }
        for client in &mut clients {
            answer(client, 2).await;
            client.write_all(GET).await.unwrap();
        }
        for served in kept {
            process_and_reset(served).await;
        }
        for _ in 0..CROWD {
            let mut served = app.accept().await;
            served.head().await;
            served.io.write_all(OK).await.unwrap();
        }
        for client in &mut clients {
            assert!(answer(client, 2).await.0.starts_with("HTTP/1.1 200"));
        }
    });
}

#[test]
fn who_is_not_allowed_gets_a_reason_and_the_application_sees_nothing() {
    let mut mesh = Mesh::new();
    let sources = vec![Source { namespaces: vec!["elsewhere".into()], ..Source::default() }];
    let rule = AccessRule { origin: "shop/few".into(), sources: Some(sources), ..AccessRule::default() };
    mesh.access = Access { allow: vec![rule], restricted: true, ..Access::default() };
    mesh.run(|mesh| async move {
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let (head, _) = answer(&mut client, 0).await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
        assert!(head.contains("leno-reason: policy_denied"), "{head}");
    });
}

#[test]
fn a_strict_port_refuses_plaintext() {
    let mut mesh = Mesh::new();
    mesh.inbound.tls = TlsMode::Strict;
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut stranger = TcpStream::connect(app.hop()).await.unwrap();
        stranger.write_all(GET).await.unwrap();
        let mut read = Vec::new();
        let _ = stranger.read_to_end(&mut read).await;
        assert_eq!(String::from_utf8_lossy(&read), "");
        until_counted(&mesh, "orders", "plaintext_refused").await;
        let reason = crate::error::Reason::PlaintextRefused;
        assert_eq!(app.metrics.proxy.connection_failures.value(reason), 1);
        // The mesh itself goes on.
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        app.accept().await.head().await;
    });
}

#[test]
fn a_stranger_may_speak_plaintext_to_a_permissive_port_but_not_claim_an_identity() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut stranger = TcpStream::connect(app.hop()).await.unwrap();
        let forged = b"GET / HTTP/1.1\r\nHost: o\r\nleno-hop: p=2\r\nForwarded: for=1;spiffe=\"spiffe://mesh.test/ns/a/sa/b\"\r\n\r\n";
        stranger.write_all(forged).await.unwrap();
        let mut served = app.accept().await;
        let request = served.head().await;
        assert!(!request.contains("spiffe") && !request.contains("leno-hop"), "{request}");
        served.io.write_all(OK).await.unwrap();
        assert!(answer(&mut stranger, 2).await.0.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn an_application_that_is_down_gives_503_with_a_reason() {
    let mut mesh = Mesh::new();
    mesh.down = "orders";
    mesh.run(|mesh| async move {
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let (head, _) = answer(&mut client, 0).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(head.contains("leno-reason: app_refused"), "{head}");
    });
}

#[test]
fn a_request_that_takes_too_long_gets_504() {
    let mut mesh = Mesh::new();
    mesh.traffic.timeouts.request = Some(STANDSTILL);
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        let (head, _) = answer(&mut client, 0).await;
        assert!(head.starts_with("HTTP/1.1 504"), "{head}");
        assert!(head.contains("leno-reason: request_timeout"), "{head}");
    });
}

#[test]
fn an_answer_that_policy_wants_tried_again_is_tried_again() {
    let mut mesh = Mesh::new();
    mesh.traffic.retries.on.push(RetryOn::GatewayError);
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        served.io.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        served.head().await;
        served.io.write_all(OK).await.unwrap();
        assert!(answer(&mut client, 2).await.0.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn an_upgrade_becomes_a_tunnel_through_both_sidecars() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        let upgrade = b"GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(upgrade).await.unwrap();
        let mut served = app.accept().await;
        let request = served.head().await.to_lowercase();
        assert!(request.contains("upgrade: websocket"), "{request}");
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        served.io.write_all(switched).await.unwrap();
        let (head, body) = answer(&mut client, 5).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert_eq!(body, "hello");
        client.write_all(b"ping").await.unwrap();
        assert_eq!(served.bytes(4).await, b"ping");
        drop(served);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    });
}

#[test]
fn a_tunnel_in_which_nothing_moves_ends_by_the_policy_s_stream_idle() {
    let mut mesh = Mesh::new();
    mesh.traffic.timeouts.stream_idle = Some(STANDSTILL);
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        let upgrade = b"GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(upgrade).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        served.io.write_all(switched).await.unwrap();
        answer(&mut client, 0).await;
        // A reset, since it is no honest end.
        assert!(client.read(&mut [0; 1]).await.is_err());
        until_counted(&mesh, "web", "stream_idle").await;
    });
}

#[test]
fn a_client_that_abuses_http_2_is_named_in_log_and_metric() {
    opaque(Protocol::Http2).run(|mesh| async move {
        let app = mesh.application("orders");
        let reason = crate::error::Reason::H2Abuse;
        for (pod, address) in [("orders", app.hop()), ("web", mesh.application("web").calls["orders"])] {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
            for stream in (1..1000_u32).step_by(2) {
                // GET http://a/, and at once a reset: Rapid Reset (CVE-2023-44487).
                flood.extend_from_slice(b"\0\0\x06\x01\x05");
                flood.extend_from_slice(&stream.to_be_bytes());
                flood.extend_from_slice(b"\x82\x86\x84\x41\x01a\0\0\x04\x03\0");
                flood.extend_from_slice(&stream.to_be_bytes());
                flood.extend_from_slice(&8_u32.to_be_bytes());
            }
            stranger.write_all(&flood).await.unwrap();
            let _ = stranger.read_to_end(&mut Vec::new()).await;
            let metrics = Arc::clone(&mesh.application(pod).metrics);
            while metrics.proxy.connection_failures.value(reason) == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
}

fn opaque(protocol: Protocol) -> Mesh {
    let mut mesh = Mesh::new();
    mesh.protocol = protocol;
    mesh
}

#[test]
fn an_opaque_port_carries_bytes_and_half_closes() {
    opaque(Protocol::Opaque).run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        let mut served = app.accept().await;
        client.write_all(b"\0question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        served.io.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"\0question");
        served.io.write_all(b"answer").await.unwrap();
        drop(served);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    });
}

#[test]
fn a_server_that_speaks_first_needs_no_declaration() {
    opaque(Protocol::Detect).run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        let mut served = app.accept().await;
        served.io.write_all(b"220 mail").await.unwrap();
        let mut greeting = [0; 8];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 mail");
        client.write_all(b"HELO\r\n").await.unwrap();
        assert_eq!(served.bytes(6).await, b"HELO\r\n");
    });
}

#[test]
fn an_undeclared_port_that_speaks_http_is_served_as_http() {
    opaque(Protocol::Detect).run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        assert!(served.head().await.contains("spiffe="));
        served.io.write_all(OK).await.unwrap();
        assert_eq!(answer(&mut client, 2).await.1, "ok");
    });
}

#[test]
fn more_requests_than_policy_allows_at_once_are_shed() {
    let mut mesh = Mesh::new();
    mesh.traffic.concurrency.max_requests = 1;
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut first = mesh.call("web", "orders").await;
        first.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        let mut second = mesh.call("web", "orders").await;
        second.write_all(GET).await.unwrap();
        let (head, _) = answer(&mut second, 0).await;
        assert!(head.starts_with("HTTP/1.1 503") && head.contains("leno-reason: concurrency_limit"), "{head}");
        assert!(head.contains("retry-after: 1"), "{head}");
        served.io.write_all(OK).await.unwrap();
        answer(&mut first, 2).await;
    });
}

#[test]
fn an_application_s_connections_are_bounded_and_the_next_request_waits_for_one() {
    let mut mesh = Mesh::new();
    mesh.inbound.app.max_connections = 1;
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut first = mesh.call("web", "orders").await;
        first.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        let mut second = mesh.call("web", "orders").await;
        second.write_all(GET).await.unwrap();
        served.io.write_all(OK).await.unwrap();
        answer(&mut first, 2).await;
        // The second request comes over the same connection.
        served.head().await;
        served.io.write_all(OK).await.unwrap();
        answer(&mut second, 2).await;
    });
}

#[test]
fn every_request_leaves_one_line_on_each_side() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        served.io.write_all(OK).await.unwrap();
        answer(&mut client, 2).await;
        drop(client);
        for name in ["web", "orders"] {
            let metrics = Arc::clone(&mesh.application(name).metrics);
            let text = metrics.render();
            assert!(text.contains("leno_requests_total"), "{text}");
        }
        let _: &Served = &served;
    });
}

/// One bidirectional call over HTTP/2 with trailers, as gRPC makes it: `count` messages there and back.
async fn echo_call(mesh: &Mesh, count: usize) -> http::HeaderMap {
    let app = mesh.application("orders");
    let client = mesh.call("web", "orders").await;
    let server = async {
        let served = app.accept().await;
        let mut connection = ::h2::server::handshake(served.io).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let work = async move {
            assert_eq!(request.headers()["content-type"], "application/grpc");
            assert_eq!(request.uri().path(), "/orders.Orders/Watch");
            let mut body = request.into_body();
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                send.send_data(data, false).unwrap();
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            send.send_trailers(trailers).unwrap();
        };
        tokio::join!(work, async { while connection.accept().await.is_some() {} }).0
    };
    let caller = async {
        let (send, connection) = ::h2::client::handshake(client).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut send = send.ready().await.unwrap();
        let request =
            http::Request::post("http://orders/orders.Orders/Watch").header("content-type", "application/grpc");
        let (response, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        for round in 0..count {
            let message = bytes::Bytes::from(format!("message {round:08}"));
            stream.send_data(message.clone(), false).unwrap();
            let mut echoed = Vec::new();
            while echoed.len() < message.len() {
                let data = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                echoed.extend_from_slice(&data);
            }
            assert_eq!(echoed, message);
        }
        stream.send_data(bytes::Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        body.trailers().await.unwrap().unwrap()
    };
    tokio::select! {
        trailers = caller => trailers,
        () = server => panic!("the server ended first"),
    }
}

#[test]
fn a_grpc_call_streams_both_ways_and_keeps_its_trailers() {
    opaque(Protocol::Grpc).run(|mesh| async move {
        let trailers = echo_call(&mesh, 200).await;
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn a_grpc_caller_that_is_not_allowed_gets_a_grpc_status() {
    let mut mesh = opaque(Protocol::Grpc);
    mesh.access = Access { default: DefaultAccess::Deny, ..Access::default() };
    mesh.run(|mesh| async move {
        let client = mesh.call("web", "orders").await;
        let (send, connection) = ::h2::client::handshake(client).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut send = send.ready().await.unwrap();
        let request = http::Request::post("http://orders/a.B/C").header("content-type", "application/grpc");
        let (response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["leno-reason"], "policy_denied");
    });
}

#[test]
fn a_large_body_goes_there_and_back() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let client = mesh.call("web", "orders").await;
        let (mut read, mut write) = client.into_split();
        let size = 3 << 20;
        let upload = async move {
            let head = format!("PUT /big HTTP/1.1\r\nHost: orders\r\nContent-Length: {size}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&vec![b'x'; size]).await.unwrap();
            write
        };
        let echo = async {
            let mut served = app.accept().await;
            served.head().await;
            let body = served.bytes(size).await;
            served.io.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await.unwrap();
            served.io.write_all(&body).await.unwrap();
            served
        };
        let download = async {
            let mut all = vec![0; 64 << 10];
            let mut total = 0;
            while total < size {
                let count = read.read(&mut all).await.unwrap();
                assert!(count > 0);
                total += count;
            }
            total
        };
        let (_write, _served, total) = tokio::join!(upload, echo, download);
        assert!(total >= size);
    });
}

#[test]
fn a_pod_that_calls_its_own_service_is_served_without_leaving_the_process() {
    Mesh::new().run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("orders", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        let request = served.head().await;
        assert!(request.contains("sa/orders\""), "{request}");
        served.io.write_all(OK).await.unwrap();
        assert_eq!(answer(&mut client, 2).await.1, "ok");
        assert_eq!(app.metrics.proxy.handshakes.value(), 0);
    });
}

#[test]
fn an_endpoint_that_died_is_not_noticed_even_by_a_post() {
    let dead = Refusing::new();
    let mut mesh = Mesh::new();
    mesh.ghosts = vec![dead.address];
    // In turn, so that the dead one is asked for certain.
    mesh.traffic.load_balancing.algorithm = Algorithm::RoundRobin;
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        let serve = async {
            let mut served = app.accept().await;
            loop {
                let head = served.head().await;
                assert!(head.starts_with("POST"), "{head}");
                served.bytes(4).await;
                served.io.write_all(OK).await.unwrap();
            }
        };
        let call = async {
            for _ in 0..30 {
                client.write_all(b"POST /buy HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\nbook").await.unwrap();
                let (head, _) = answer(&mut client, 2).await;
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            }
        };
        tokio::select! {
            () = call => {}
            () = serve => {}
        }
        assert!(mesh.application("web").metrics.render().contains("never_processed"));
    });
}

#[test]
fn a_client_over_its_rate_is_told_to_come_back_later() {
    let mut mesh = Mesh::new();
    let rate = Rate { requests_per_second: 1, burst: 1 };
    mesh.inbound.rate_limit = Some(InboundRateLimit { total: None, per_identity: Some(rate), overrides: Vec::new() });
    mesh.run(|mesh| async move {
        let app = mesh.application("orders");
        let mut client = mesh.call("web", "orders").await;
        client.write_all(GET).await.unwrap();
        let mut served = app.accept().await;
        served.head().await;
        served.io.write_all(OK).await.unwrap();
        answer(&mut client, 2).await;
        client.write_all(GET).await.unwrap();
        let (head, _) = answer(&mut client, 0).await;
        assert!(head.starts_with("HTTP/1.1 429") && head.contains("leno-reason: rate_limited"), "{head}");
    });
}
