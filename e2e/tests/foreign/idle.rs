//! A server that closes idle connections: the keep-alive race.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use leno_e2e::http::Client;

use crate::pair::Pair;
use crate::pair::script;

#[tokio::test]
async fn no_request_fails_against_a_server_that_closes_idle_connections() {
    let pair = Pair::start(Some("http"), |_| script("node", "server.js")).await;
    let rounds = 40;
    let clients: Vec<_> = (0..8u32)
        .map(|number| {
            let mut client = Client::new(pair.listener);
            tokio::spawn(async move {
                for round in 0..rounds {
                    let body = Full::new(Bytes::from(format!("{number}-{round}")));
                    let method = if round % 2 == 0 { "POST" } else { "GET" };
                    let request =
                        http::Request::builder().method(method).uri("/").header("host", "server").body(body).unwrap();
                    let answer = client.send(request).await.unwrap();
                    assert_eq!(answer.status(), 200, "round {round}: {:?}", answer.headers());
                    // Around the server's own limit, so that the closes and the requests meet: the test is about this gap.
                    tokio::time::sleep(Duration::from_millis(240 + u64::from(number * 3 + round % 10))).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap_or_else(|error| panic!("{error}\n{}", pair.tails()));
    }
    let counted = Client::new(pair.listener).get("server", "/count").await.unwrap();
    let counted: serde_json::Value = serde_json::from_slice(counted.body()).unwrap();
    assert_eq!(
        (counted["different"].as_u64(), counted["all"].as_u64()),
        (Some(160), Some(160)),
        "each POST arrived once"
    );
}
