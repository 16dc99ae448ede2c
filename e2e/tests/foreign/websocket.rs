//! WebSocket: Python's `websockets` against Node's `ws`.

use crate::pair::Pair;
use crate::pair::python;
use crate::pair::script;

#[tokio::test]
async fn a_websocket_passes() {
    let pair = Pair::start(Some("http"), |_| script("node", "websocket_server.js")).await;
    println!("websockets to ws, declared http:\n{}", talk(&pair));
}

#[tokio::test]
async fn a_websocket_passes_undeclared() {
    let pair = Pair::start(None, |_| script("node", "websocket_server.js")).await;
    println!("websockets to ws, undeclared:\n{}", talk(&pair));
}

fn talk(pair: &Pair) -> String {
    let output = pair.finish(&mut script(&python(), "websocket_client.py"));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
