//! gRPC on grpcio, an implementation in C: its client and its server.

use std::process::Command;

use crate::pair::Pair;
use crate::pair::python;
use crate::pair::script;

fn server() -> Command {
    script(&python(), "grpc_server.py")
}

#[tokio::test]
async fn every_kind_of_grpc_call_passes() {
    let pair = Pair::start(Some("kubernetes.io/h2c"), |_| server()).await;
    println!("grpcio, declared:\n{}", calls(&pair));
}

#[tokio::test]
async fn every_kind_of_grpc_call_passes_undeclared() {
    let pair = Pair::start(None, |_| server()).await;
    println!("grpcio, undeclared:\n{}", calls(&pair));
}

fn calls(pair: &Pair) -> String {
    let output = pair.finish(&mut script(&python(), "grpc_client.py"));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
