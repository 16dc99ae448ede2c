use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;

use leno_proto::policy::Keepalive;

use crate::net;
use crate::net::Acceptor;
use crate::net::Share;

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn keepalive() -> Keepalive {
    net::KEEPALIVE
}

#[tokio::test]
async fn workers_share_one_address() {
    let first = net::listen(loopback(), Share::Workers).unwrap();
    let address = first.local_addr().unwrap();
    net::listen(address, Share::Workers).unwrap();
    assert!(net::listen(address, Share::Alone).is_err());
}

#[tokio::test]
async fn an_idle_connection_is_quiet_until_the_peer_speaks_or_closes() {
    let acceptor = Acceptor::new(net::listen(loopback(), Share::Alone).unwrap()).unwrap();
    let ours = net::connect(acceptor.address().unwrap(), &keepalive()).await.unwrap();
    let (mut theirs, _) = acceptor.accept().await.unwrap();
    assert!(net::is_quiet(&ours));
    theirs.write_all(b"x").unwrap();
    ours.readable().await.unwrap();
    assert!(!net::is_quiet(&ours));

    let ours = net::connect(acceptor.address().unwrap(), &keepalive()).await.unwrap();
    let (theirs, _) = acceptor.accept().await.unwrap();
    drop(theirs);
    ours.readable().await.unwrap();
    assert!(!net::is_quiet(&ours));
}

#[tokio::test]
async fn acknowledged_bytes_are_counted() {
    let acceptor = Acceptor::new(net::listen(loopback(), Share::Alone).unwrap()).unwrap();
    let ours = net::connect(acceptor.address().unwrap(), &keepalive()).await.unwrap();
    let (mut theirs, _) = acceptor.accept().await.unwrap();
    theirs.set_nonblocking(false).unwrap();
    let before = net::bytes_acked(&ours).unwrap();
    ours.writable().await.unwrap();
    assert_eq!(ours.try_write(b"hello").unwrap(), 5);
    let mut five = [0; 5];
    theirs.read_exact(&mut five).unwrap();
    // What has arrived over loopback has been acknowledged, or will be before the answer is read.
    theirs.write_all(b"!").unwrap();
    ours.readable().await.unwrap();
    assert_eq!(net::bytes_acked(&ours).unwrap() - before, 5);
}

#[tokio::test]
async fn a_connection_that_was_not_redirected_has_no_original_destination() {
    let acceptor = Acceptor::new(net::listen(loopback(), Share::Alone).unwrap()).unwrap();
    let _ours = net::connect(acceptor.address().unwrap(), &keepalive()).await.unwrap();
    let (theirs, _) = acceptor.accept().await.unwrap();
    assert_eq!(net::original_destination(&net::adopt(theirs).unwrap()), None);
}
