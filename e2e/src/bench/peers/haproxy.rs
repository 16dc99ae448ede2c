//! HAProxy as a pair of sidecars: HTTP/2 between them, both certificates checked, the caller's name allowed, retries of what
//! failed before the application, timeouts, and limits. It has no per-route metrics and no tracing of its own.

use crate::bench::peers::Door;
use crate::bench::peers::Setup;
use crate::bench::peers::Static;
use crate::bench::peers::text;

pub(super) fn made(setup: &Setup) -> Static {
    let folder = |file: &str| text(&setup.folder.join(file));
    let argv = |file: &str| ["/usr/sbin/haproxy", "-db", "-f", &folder(file)].map(str::to_owned).to_vec();
    Static {
        files: vec![("out.cfg", common(setup) + &outbound(setup)), ("in.cfg", common(setup) + &inbound(setup))],
        outbound: argv("out.cfg"),
        inbound: argv("in.cfg"),
        doors: &[Door::Http1, Door::Http2, Door::Grpc, Door::Tls],
    }
}

fn common(setup: &Setup) -> String {
    format!(
        "global\n  maxconn 8000\n  nbthread {}\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
         ssl-default-server-options ssl-min-ver TLSv1.3\n\ndefaults\n  mode http\n  timeout connect 1s\n  \
         timeout client 60s\n  timeout server 15s\n  timeout http-keep-alive 60s\n  http-reuse always\n  retries 2\n  \
         option redispatch\n  retry-on conn-failure empty-response 503\n\n",
        setup.workers
    )
}

fn outbound(setup: &Setup) -> String {
    let (http1, http2, grpc) = (setup.front(Door::Http1), setup.front(Door::Http2), setup.front(Door::Grpc));
    let certificates = text(&setup.certificates);
    let tls = format!(
        "ssl crt {certificates}/client.both.pem ca-file {certificates}/ca.pem verify required \
         verifyhost server.bench.test sni str(server.bench.test) alpn h2 maxconn 4096"
    );
    format!(
        "frontend out\n  bind {http1}\n  bind {http2} proto h2\n  use_backend web if {{ path /admin }}\n  default_backend web\n\
         frontend out-echo\n  bind {grpc} proto h2\n  default_backend echo\n\
         backend web\n  server web {} {tls}\nbackend echo\n  server echo {} {tls}\n",
        setup.front(Door::Tls),
        setup.inbound_http2(),
    )
}

fn inbound(setup: &Setup) -> String {
    let certificates = text(&setup.certificates);
    let front = |name: &str, bind: std::net::SocketAddr| {
        format!(
            "frontend {name}\n  bind {bind} ssl crt {certificates}/server.both.pem ca-file {certificates}/ca.pem verify required \
             alpn h2,http/1.1\n  http-request deny unless {{ ssl_c_s_dn(cn) -m str client.bench.test }}\n  \
             http-request set-header x-forwarded-client-cert Subject=%[ssl_c_s_dn]\n  default_backend {name}-app\n"
        )
    };
    format!(
        "{}{}backend web-app\n  server app {} maxconn 4096\nbackend echo-app\n  server app {} maxconn 4096 proto h2\n",
        front("web", setup.front(Door::Tls)),
        front("echo", setup.inbound_http2()),
        setup.http1,
        setup.http2,
    )
}
