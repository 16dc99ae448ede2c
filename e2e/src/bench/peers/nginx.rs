//! nginx as a pair of sidecars: HTTP/1.1 between them, for it has no HTTP/2 towards upstreams; certificates, the caller's
//! name, retries and timeouts as the others have them.

use crate::bench::peers::Door;
use crate::bench::peers::Setup;
use crate::bench::peers::Static;
use crate::bench::peers::text;

pub(super) fn made(setup: &Setup) -> Static {
    let argv = |name: &str| {
        let (folder, log) = (text(&setup.folder), text(&setup.folder.join(format!("{name}.log"))));
        let file = text(&setup.folder.join(format!("{name}.conf")));
        ["/usr/sbin/nginx", "-p", &folder, "-e", &log, "-c", &file].map(str::to_owned).to_vec()
    };
    Static {
        files: vec![
            ("out.conf", around(setup, "out", &outbound(setup))),
            ("in.conf", around(setup, "in", &inbound(setup))),
        ],
        outbound: argv("out"),
        inbound: argv("in"),
        doors: &[Door::Http1, Door::Http2, Door::Tls],
    }
}

fn around(setup: &Setup, name: &str, servers: &str) -> String {
    let folder = text(&setup.folder);
    let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {folder}/{name}-{kind};\n"))
        .concat();
    format!(
        "worker_processes {};\ndaemon off;\npid {folder}/{name}.pid;\nerror_log {folder}/{name}.log error;\n\
         worker_rlimit_nofile 20000;\nevents {{ worker_connections 8192; }}\nhttp {{\n  access_log off;\n  \
         keepalive_timeout 60s;\n  keepalive_requests 100000000;\n  http2_max_concurrent_streams 1000;\n{scratch}{servers}}}\n",
        setup.workers
    )
}

const FORWARD: &str = "      proxy_http_version 1.1;\n      proxy_set_header connection \"\";\n      proxy_set_header host $host;\n      \
     proxy_connect_timeout 1s;\n      proxy_read_timeout 15s;\n      proxy_next_upstream error timeout http_503;\n      \
     proxy_next_upstream_tries 3;\n";

fn outbound(setup: &Setup) -> String {
    let certificates = text(&setup.certificates);
    format!(
        "  upstream up {{ server {} max_fails=7 max_conns=4096; keepalive 1024; keepalive_requests 100000000; }}\n  server {{\n    \
         listen {};\n    listen {} http2;\n    location / {{\n      proxy_pass https://up;\n{FORWARD}      \
         proxy_ssl_certificate {certificates}/client.pem;\n      proxy_ssl_certificate_key {certificates}/client.key;\n      \
         proxy_ssl_trusted_certificate {certificates}/ca.pem;\n      proxy_ssl_verify on;\n      proxy_ssl_name server.bench.test;\n      \
         proxy_ssl_server_name on;\n      proxy_ssl_protocols TLSv1.3;\n    }}\n  }}\n",
        setup.front(Door::Tls),
        setup.front(Door::Http1),
        setup.front(Door::Http2),
    )
}

fn inbound(setup: &Setup) -> String {
    let certificates = text(&setup.certificates);
    format!(
        "  upstream app {{ server {}; keepalive 1024; keepalive_requests 100000000; }}\n  server {{\n    listen {} ssl;\n    \
         ssl_certificate {certificates}/server.pem;\n    ssl_certificate_key {certificates}/server.key;\n    ssl_protocols TLSv1.3;\n    \
         ssl_client_certificate {certificates}/ca.pem;\n    ssl_verify_client on;\n    location / {{\n      \
         if ($ssl_client_s_dn != \"CN=client.bench.test\") {{ return 403; }}\n      proxy_pass http://app;\n{FORWARD}      \
         proxy_set_header x-forwarded-client-cert Subject=$ssl_client_s_dn;\n    }}\n  }}\n",
        setup.http1,
        setup.front(Door::Tls),
    )
}
