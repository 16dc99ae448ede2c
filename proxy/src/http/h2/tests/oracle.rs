//! Our client against the h2 crate's server, and the reverse: heads, bodies, trailers, small windows, small tables.

use ::h2::SendStream;
use ::http::HeaderMap;
use ::http::HeaderName;
use ::http::HeaderValue;
use leno_proto::request::Headers;
use proptest::prelude::*;

use super::*;

type Fields = Vec<(String, String)>;

#[derive(Debug, Clone)]
struct Message {
    target: String,
    fields: Fields,
    body: usize,
    trailers: Fields,
}

fn fields() -> impl Strategy<Value = Fields> {
    let name = prop_oneof!["x-[a-c]{1,2}", Just("accept".to_owned()), Just("authorization".to_owned())];
    prop::collection::vec((name, "([!-~]([ -~]{0,12}[!-~])?)?"), 0..6)
}

fn message() -> impl Strategy<Value = Message> {
    let body = prop_oneof![Just(0_usize), 1..2000_usize, 16_000..17_000_usize, Just(300_000)];
    ("/[a-z?]{0,3}", fields(), body, prop_oneof![Just(Fields::new()), fields()])
        .prop_map(|(target, fields, body, trailers)| Message { target, fields, body, trailers })
}

fn map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("valid");
        map.append(name, HeaderValue::from_str(value).expect("valid"));
    }
    map
}

fn of_map(map: &HeaderMap) -> Fields {
    let text = |value: &HeaderValue| value.to_str().expect("ASCII").to_owned();
    let mut fields: Fields = map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    fields.sort();
    fields
}

fn headers(fields: &Fields) -> Headers {
    let mut headers = Headers::new();
    fields.iter().for_each(|(name, value)| headers.push(name.as_bytes(), value.as_bytes()));
    headers
}

fn of_headers(headers: &Headers) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields: Fields = headers.iter().map(|(name, value)| (text(name), text(value))).collect();
    fields.sort();
    fields
}

fn sorted(fields: &Fields) -> Fields {
    let mut fields = fields.clone();
    fields.sort();
    fields
}

async fn say(stream: &mut SendStream<Bytes>, body: usize, trailers: &Fields) {
    stream.send_data(vec![7; body].into(), trailers.is_empty()).expect("open");
    if !trailers.is_empty() {
        stream.send_trailers(map(trailers)).expect("open");
    }
}

async fn hear(mut body: ::h2::RecvStream) -> (usize, Fields) {
    let mut read = 0;
    while let Some(data) = body.data().await {
        let data = data.expect("whole");
        assert!(data.iter().all(|byte| *byte == 7));
        read += data.len();
        body.flow_control().release_capacity(data.len()).expect("received");
    }
    let trailers = body.trailers().await.expect("whole");
    (read, trailers.as_ref().map(of_map).unwrap_or_default())
}

/// The h2 crate's server, with limits that our client must keep: answers each request with what it heard.
async fn echo(io: DuplexStream, table: u32, window: u32) {
    let mut builder = ::h2::server::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(70_000).header_table_size(table);
    let mut server = builder.handshake::<_, Bytes>(io).await.expect("a handshake");
    while let Some(Ok((request, mut respond))) = server.accept().await {
        tokio::task::spawn_local(async move {
            let (parts, body) = request.into_parts();
            let (read, trailers) = hear(body).await;
            let mut response = ::http::Response::new(());
            *response.headers_mut() = parts.headers;
            let target = parts.uri.path_and_query().expect("a path").as_str().to_owned();
            response.headers_mut().append("x-target", target.parse().expect("valid"));
            let mut stream = respond.send_response(response, false).expect("open");
            say(&mut stream, read, &trailers).await;
        });
    }
}

/// A body with trailers, as an HTTP/2 application would send it.
async fn with_trailers(message: &Message) -> Body<'static> {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (message, timers) = (message.clone(), Timers::new());
    tokio::task::spawn_local(async move {
        let mut server = ::h2::server::handshake(far).await.expect("a handshake");
        while let Some(Ok((_, mut respond))) = server.accept().await {
            let mut stream = respond.send_response(::http::Response::new(()), false).expect("open");
            say(&mut stream, message.body, &message.trailers).await;
        }
    });
    let client = connect(near, &settings(), &timers).await;
    exchange(&client, &get("/"), Body::Empty).await.1
}

async fn our_client(messages: Vec<Message>, table: u32, window: u32) {
    let (near, far) = tokio::io::duplex(10_000);
    tokio::task::spawn_local(echo(far, table, window));
    let client = connect(near, &settings(), &Timers::new()).await;
    // Each twice: the second is met by what the first left in the tables.
    for message in messages.iter().flat_map(|message| [message, message]) {
        let head = RequestHead { headers: headers(&message.fields), ..get(&message.target) };
        let body = with_trailers(message).await;
        let (answer, mut body) = exchange(&client, &head, body).await;
        let mut expected = message.fields.clone();
        expected.push(("x-target".to_owned(), message.target.clone()));
        assert_eq!(of_headers(&answer.headers), sorted(&expected));
        let mut read = 0;
        while let Some(data) = body.data().await {
            read += data.expect("whole").len();
        }
        assert_eq!(read, message.body);
        assert_eq!(body.trailers().map(|trailers| of_headers(&trailers)).unwrap_or_default(), echoed(message));
    }
}

/// `authorization` may not trail, whichever sidecar sees it first.
fn echoed(message: &Message) -> Fields {
    sorted(&message.trailers.iter().filter(|(name, _)| name != "authorization").cloned().collect())
}

async fn our_server(messages: Vec<Message>, table: u32, window: u32) {
    let mut served = served(&settings());
    let mut builder = ::h2::client::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(70_000).header_table_size(table);
    let io = served.io.take().expect("unused");
    let (mut send, connection) = builder.handshake::<_, Bytes>(io).await.expect("a handshake");
    tokio::task::spawn_local(async move {
        // How it ends is the server's to say.
        let _ = connection.await;
    });
    for message in messages.iter().flat_map(|message| [message, message]) {
        let mut request = ::http::Request::builder()
            .uri("http://web.test/echo")
            .version(::http::Version::HTTP_2)
            .body(())
            .expect("valid");
        *request.headers_mut() = map(&message.fields);
        send = send.ready().await.expect("open");
        let (response, mut stream) = send.send_request(request, false).expect("open");
        say(&mut stream, message.body, &message.trailers).await;
        let (parts, body) = response.await.expect("an answer").into_parts();
        assert_eq!(parts.status, 200);
        assert_eq!(hear(body).await, (message.body, echoed(message)));
        let head = served.app.heads.borrow_mut().pop().expect("a request");
        assert_eq!(of_headers(&head.headers), sorted(&message.fields));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_h2_crates_server_hears_what_our_client_says(
        messages in prop::collection::vec(message(), 1..4),
        table in prop_oneof![Just(0_u32), Just(70), Just(4096), Just(1 << 20)],
        window in prop_oneof![Just(100_u32), Just(65_535), Just(1 << 20)],
    ) {
        run(our_client(messages, table, window));
    }

    #[test]
    fn our_server_hears_what_the_h2_crates_client_says(
        messages in prop::collection::vec(message(), 1..4),
        table in prop_oneof![Just(0_u32), Just(70), Just(4096), Just(1 << 20)],
        window in prop_oneof![Just(100_u32), Just(65_535), Just(1 << 20)],
    ) {
        run(our_server(messages, table, window));
    }
}

/// More than a frame of head, both ways.
#[test]
fn a_head_of_several_frames_goes_both_ways() {
    run(async {
        let fields: Fields = (0..40).map(|i| (format!("x-{i}"), format!("{i}").repeat(500))).collect();
        let message = Message { target: "/".to_owned(), fields, body: 3, trailers: Fields::new() };
        our_client(vec![message.clone()], 4096, 65_535).await;
        our_server(vec![message], 4096, 65_535).await;
    });
}
