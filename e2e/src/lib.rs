//! Leno's behaviour on real parts: processes, sockets, foreign peers. The demo and the tests drive the same mesh.

pub mod bench;
pub mod http;
pub mod load;
pub mod manifests;
pub mod mesh;
pub mod process;
pub mod scrape;
pub mod story;
pub mod view;

/// The storefront's gRPC service.
pub mod orders {
    #![allow(unreachable_pub, unused_qualifications, clippy::all)]
    tonic::include_proto!("storefront.v1");
}
