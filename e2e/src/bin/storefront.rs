//! The demo's applications, one role a process: plain HTTP/1.1 and gRPC programs that know nothing of Leno. They must never
//! name it; all they do for tracing is to pass `traceparent` and its kin on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use clap::ValueEnum;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use leno_e2e::http::Client;
use leno_e2e::http::get;
use leno_e2e::orders;
use leno_e2e::orders::orders_client::OrdersClient;
use leno_e2e::orders::orders_server::OrdersServer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    role: Role,
    #[arg(long)]
    listen: SocketAddr,
    /// What a catalog calls itself.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Of a flaky role's answers, how many in a hundred are 503.
    #[arg(long, default_value_t = 10)]
    fail_percent: u64,
    /// Where the web role finds the others, as HOST:PORT: its sidecar's listeners, or Services. Who is not named is not asked.
    #[arg(long)]
    catalog: Option<String>,
    #[arg(long)]
    pricing: Option<String>,
    #[arg(long)]
    orders: Option<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Front door: asks catalog, pricing and orders for each page.
    Web,
    /// HTTP/1.1, in two versions.
    Catalog,
    /// HTTP/1.1, flaky on purpose.
    Pricing,
    /// gRPC.
    Orders,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match options.role {
        Role::Orders => serve_orders(options.listen).await,
        Role::Web | Role::Catalog | Role::Pricing => serve_http(options).await,
    }
}

/// How long a new connection has for its first request when the application is told to end.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// For which page the front asks: its run and its number.
const PAGE: &str = "x-storefront-page";
/// Longer is no page of ours.
const PAGE_MAX: usize = 40;
/// Pages that are remembered: far more than are under way at once.
const JAMMED_MAX: usize = 1000;

type Request = hyper::Request<hyper::body::Incoming>;
type Answer = hyper::Response<Full<Bytes>>;

struct App {
    options: Options,
    served: AtomicU64,
    /// Tells the pages of this front from those of another.
    run: u32,
    /// Pages that have met the flaky role's failure, the newest last.
    jammed: RefCell<VecDeque<String>>,
    catalog: Pool,
    pricing: Pool,
    orders: Option<OrdersClient<Channel>>,
}

async fn serve_http(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    let orders =
        options.orders.map(|a| Endpoint::from_shared(format!("http://{a}")).map(|e| e.connect_lazy())).transpose()?;
    let app = Rc::new(App {
        served: AtomicU64::new(0),
        run: rand::random(),
        jammed: RefCell::default(),
        catalog: Pool::new(options.catalog.clone()),
        pricing: Pool::new(options.pricing.clone()),
        orders: orders.map(OrdersClient::new),
        options,
    });
    tokio::task::LocalSet::new().run_until(accept(listener, app)).await
}

/// Serves until SIGTERM, then finishes what is under way: what every well-behaved server does.
async fn accept(listener: TcpListener, app: Rc<App>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (serving, leaving) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => break,
        };
        socket.set_nodelay(true)?;
        connections.spawn_local(connection(socket, app.clone(), leaving.clone()));
        while connections.try_join_next().is_some() {}
    }
    // Who waits in the kernel's queue is connected as far as he knows, and has asked.
    let listener = listener.into_std()?;
    while let Ok((socket, _)) = listener.accept() {
        socket.set_nonblocking(true)?;
        connections.spawn_local(connection(TcpStream::from_std(socket)?, app.clone(), leaving.clone()));
    }
    drop((listener, serving));
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn connection(socket: TcpStream, app: Rc<App>, mut leaving: watch::Receiver<()>) {
    let asked = Rc::new(Notify::new());
    let told = asked.clone();
    let service = hyper::service::service_fn(move |request| {
        told.notify_one();
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(&request).await) }
    });
    let server = hyper::server::conn::http1::Builder::new();
    let mut connection = pin!(server.serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        // Nothing is ever sent: this is the sender's end.
        _ = leaving.changed() => {}
    }
    // hyper cuts a connection of which it has read nothing, though the first request may be there already.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = asked.notified() => {}
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

impl App {
    async fn answer(&self, request: &Request) -> Answer {
        let number = self.served.fetch_add(1, Ordering::Relaxed);
        match self.options.role {
            Role::Catalog => {
                let version = &self.options.version;
                reply(
                    200,
                    &[("x-catalog-version", version)],
                    format!("{{\"items\":[\"mug\",\"scarf\"],\"version\":\"{version}\"}}\n"),
                )
            }
            // Spread evenly: every hundred pages meet exactly the asked number of failures, and each page one at most.
            Role::Pricing if self.jams(request, number) => reply(503, &[], "till is jammed\n".to_owned()),
            Role::Pricing => reply(200, &[], "{\"cents\":1200}\n".to_owned()),
            Role::Web | Role::Orders => match self.page(request, number).await {
                Ok((version, page)) => reply(200, &[("x-catalog-version", &version)], page),
                Err(said) => reply(502, &[("x-storefront-error", &said)], format!("{said}\n")),
            },
        }
    }

    /// Whether the till is jammed for this request. Only for the first that a page makes: whoever asks again is served, so that
    /// no chance decides whether retries hide it.
    fn jams(&self, request: &Request, number: u64) -> bool {
        let jams = |number: u64| number % 100 * 37 % 100 < self.options.fail_percent;
        let page = request.headers().get(PAGE).and_then(|page| page.to_str().ok());
        let Some((page, (_, of_page))) = page.and_then(|page| Some((page, page.split_once('-')?))) else {
            return jams(number);
        };
        let mut jammed = self.jammed.borrow_mut();
        if !jams(of_page.parse().unwrap_or(number)) || jammed.iter().any(|known| known == page) {
            return false;
        }
        if jammed.len() >= JAMMED_MAX {
            jammed.pop_front();
        }
        jammed.push_back(page.chars().take(PAGE_MAX).collect());
        true
    }

    async fn page(&self, request: &Request, number: u64) -> Result<(String, String), String> {
        let trace = trace_headers(request);
        let catalog = self.catalog.get("catalog", "/items", &trace).await?;
        let page = (PAGE.to_owned(), format!("{}-{number}", self.run));
        let price = self.pricing.get("pricing", "/price", &[&trace[..], &[page]].concat()).await?;
        let order = match self.orders {
            Some(_) => self.order(&trace).await?,
            None => "none".to_owned(),
        };
        let version =
            catalog.headers().get("x-catalog-version").map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        let text = |body: &Bytes| String::from_utf8_lossy(body).trim().to_owned();
        let page = format!(
            "{{\"catalog\":{},\"price\":{},\"order\":\"{order}\"}}\n",
            text(catalog.body()),
            text(price.body())
        );
        Ok((version.unwrap_or_default(), page))
    }

    async fn order(&self, trace: &[(String, String)]) -> Result<String, String> {
        let mut client = self.orders.clone().ok_or("orders: no address given")?;
        let mut request = tonic::Request::new(orders::PlaceRequest { item: "mug".to_owned() });
        for (name, value) in trace {
            let name = tonic::metadata::AsciiMetadataKey::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, value.parse()) {
                request.metadata_mut().insert(name, value);
            }
        }
        let answer = client.place(request).await.map_err(|status| {
            let reason = status.metadata().get("leno-reason").and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
            format!("orders: {:?} {} ({reason})", status.code(), status.message())
        })?;
        Ok(answer.into_inner().order)
    }
}

/// Idle connections to one address; as many as there are requests at once.
struct Pool {
    address: Option<String>,
    idle: RefCell<Vec<Client>>,
}

impl Pool {
    fn new(address: Option<String>) -> Self {
        Self { address, idle: RefCell::default() }
    }

    async fn get(
        &self,
        host: &str,
        path: &str,
        headers: &[(String, String)],
    ) -> Result<hyper::Response<Bytes>, String> {
        let address = self.address.clone().ok_or_else(|| format!("{host}: no address given"))?;
        let idle = self.idle.borrow_mut().pop();
        let mut client = idle.unwrap_or_else(|| Client::named(address));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let request = get(host, path, &headers).map_err(|e| e.to_string())?;
        let answer = client.send(request).await.map_err(|e| format!("{host}: {e:#}"))?;
        self.idle.borrow_mut().push(client);
        if !answer.status().is_success() {
            let reason = answer.headers().get("leno-reason").and_then(|v| v.to_str().ok()).unwrap_or("its own");
            return Err(format!("{host}: {} ({reason})", answer.status()));
        }
        Ok(answer)
    }
}

/// What a traced application passes on.
fn trace_headers(request: &Request) -> Vec<(String, String)> {
    let names = [
        "traceparent",
        "tracestate",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
    ];
    let value = |name: &str| request.headers().get(name)?.to_str().ok().map(str::to_owned);
    names.iter().filter_map(|name| Some(((*name).to_owned(), value(name)?))).collect()
}

fn reply(status: u16, headers: &[(&str, &str)], body: String) -> Answer {
    let mut answer = hyper::Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, hyper::header::HeaderValue::from_str(value)) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

async fn serve_orders(listen: SocketAddr) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let told = async move {
        let _ = terminate.recv().await;
    };
    let orders = OrdersServer::new(Desk::default());
    tonic::transport::Server::builder().add_service(orders).serve_with_shutdown(listen, told).await?;
    Ok(())
}

#[derive(Default)]
struct Desk(AtomicU64);

#[tonic::async_trait]
impl orders::orders_server::Orders for Desk {
    async fn place(
        &self,
        request: tonic::Request<orders::PlaceRequest>,
    ) -> tonic::Result<tonic::Response<orders::PlaceResponse>> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let item = request.into_inner().item;
        Ok(tonic::Response::new(orders::PlaceResponse { order: format!("{item}-{number}") }))
    }

    type WatchStream = Pin<Box<dyn tokio_stream::Stream<Item = tonic::Result<orders::Tick>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<orders::WatchRequest>,
    ) -> tonic::Result<tonic::Response<Self::WatchStream>> {
        let orders::WatchRequest { count, bytes } = request.into_inner();
        let padding = vec![b'x'; bytes.min(1 << 20) as usize];
        let ticks = (0..count).map(move |number| Ok(orders::Tick { number, padding: padding.clone() }));
        Ok(tonic::Response::new(Box::pin(tokio_stream::iter(ticks))))
    }
}
