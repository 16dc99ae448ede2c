//! A server that processes a request and then breaks the connection: the client hears of it, and nothing is done twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use leno_e2e::http::Client;

use crate::pair::Pair;
use crate::pair::script;

const EACH: usize = 40;

#[tokio::test]
async fn a_post_that_was_processed_arrives_once_however_the_server_ends_it() {
    let pair = Pair::start(Some("http"), |_| script("python3", "reset.py")).await;
    let mut client = Client::new(pair.listener);
    let mut reasons = BTreeMap::new();
    for number in 0..EACH {
        for path in ["/reset", "/close"] {
            // Half of them on a connection that has served before, where an idle race might be suspected.
            if number % 2 == 0 {
                assert_eq!(post(&mut client, "/ok", number).await.unwrap().status(), 200);
            }
            let answer = post(&mut client, path, number).await.unwrap();
            *reasons.entry(failed(path, &answer)).or_insert(0) += 1;
        }
        // Where the head has gone out already, all that is left is to cut the answer.
        let saw = match post(&mut client, "/half", number).await {
            Err(_) => "cut".to_owned(),
            Ok(answer) => failed("/half", &answer),
        };
        *reasons.entry(saw).or_insert(0) += 1;
    }
    let counted = client.get("server", "/count").await.unwrap();
    let counted: BTreeMap<String, u64> = serde_json::from_slice(counted.body()).unwrap();
    for number in 0..EACH {
        for path in ["/reset", "/close", "/half"] {
            let times = counted.get(&format!("POST {path} {number}"));
            assert_eq!(times, Some(&1), "{path} {number}\n{}", pair.tails());
        }
    }
    println!("processed, then broken: {} POSTs arrived once each; the client saw {reasons:?}", 3 * EACH);
}

/// An answer that says that the request failed, and why.
fn failed(path: &str, answer: &http::Response<Bytes>) -> String {
    assert!(answer.status().is_server_error(), "{path}: {answer:?}");
    let reason = answer.headers().get("leno-reason").unwrap_or_else(|| panic!("{path}: {answer:?}"));
    format!("{path} {} {}", answer.status(), reason.to_str().unwrap())
}

async fn post(client: &mut Client, path: &str, number: usize) -> anyhow::Result<http::Response<Bytes>> {
    let body = Full::new(Bytes::from(number.to_string()));
    client.send(http::Request::post(path).header("host", "server").body(body)?).await
}
