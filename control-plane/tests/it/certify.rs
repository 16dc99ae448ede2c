use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use leno_control_plane::folder::Folder;
use leno_control_plane::push::session::Limits;
use leno_control_plane::token::FolderKey;
use leno_control_plane::token::Subject;
use leno_proto::key::Key;
use leno_proto::wire::control;
use leno_proto::wire::policy;
use prost::Message;
use rcgen::CertificateParams;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use tonic::Code;
use tonic::Request;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::GeneralName;
use x509_parser::prelude::X509Certificate;

use crate::mesh::Scratch;
use crate::mesh::start;
use crate::mesh::table;
use crate::proxy::Memory;
use crate::proxy::Proxy;
use crate::proxy::client;
use crate::proxy::roots;
use crate::proxy::with_token;

fn csr() -> control::CertifyRequest {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    control::CertifyRequest { csr: CertificateParams::default().serialize_request(&key).unwrap().der().to_vec().into() }
}

#[tokio::test]
async fn a_token_buys_the_certificate_of_its_own_workload() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut client = client(&control_plane).await;
    let response = client.certify(with_token(csr(), &control_plane.token())).await.unwrap().into_inner();
    let chain: Vec<_> = response.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]);
    assert_eq!(response.not_after_unix - response.not_before_unix, 60);

    let anchor = std::fs::read(control_plane.state.path().join("trust-anchor.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&anchor)), provider).build().unwrap();
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).unwrap();
    let bundle = policy::Resource::decode(response.trust_bundle).unwrap();
    let Some(policy::resource::Kind::TrustBundle(bundle)) = bundle.kind else { unreachable!() };
    assert_eq!(bundle.domains[0].trust_domain, "cluster.local");
    assert_eq!(bundle.domains[0].anchors.len(), 1);
}

#[tokio::test]
async fn every_wrong_caller_is_refused_for_its_own_reason() {
    let control_plane = start(Some(table()), Limits { park: Duration::from_millis(200), ..Limits::default() }).await;
    let mut client = client(&control_plane).await;
    let elsewhere = Scratch::new();
    let mint = |scratch: &Scratch, uid: &str, issued: SystemTime| {
        let key = FolderKey::open(&Folder::open(scratch.path()).unwrap()).unwrap();
        let [namespace, service_account, pod_name, pod_uid] = ["shop", "cart", "cart-1", uid].map(str::to_owned);
        let subject = Subject { namespace, service_account, pod_name, pod_uid };
        format!("Bearer {}", key.mint(&subject, Duration::from_secs(60), issued).unwrap())
    };
    let now = SystemTime::now();
    let state = &control_plane.state;
    let table = [
        (None, Code::Unauthenticated, "no bearer token"),
        (Some("Basic eDp5".to_owned()), Code::Unauthenticated, "no bearer token"),
        (Some("Bearer x".to_owned()), Code::Unauthenticated, "malformed"),
        (Some(format!("Bearer {}", "x".repeat(9000))), Code::Unauthenticated, "larger"),
        (Some(mint(&elsewhere, "uid-1", now)), Code::Unauthenticated, "another key"),
        (Some(mint(state, "uid-1", now - Duration::from_secs(100))), Code::Unauthenticated, "expired"),
        (Some(mint(state, "uid-1", now + Duration::from_secs(600))), Code::Unauthenticated, "clocks"),
        (Some(mint(state, "uid-9", now)), Code::NotFound, "manifest"),
    ];
    for (authorization, code, words) in table {
        let mut request = Request::new(csr());
        if let Some(value) = &authorization {
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        let refused = client.certify(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{authorization:?}: {refused:?}");
        assert!(refused.message().contains(words), "{refused:?}");
    }
    let bad = control::CertifyRequest { csr: vec![0x30; 5000].into() };
    let refused = client.certify(with_token(bad, &control_plane.token())).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    client.certify(with_token(csr(), &control_plane.token())).await.unwrap();
}

#[tokio::test]
async fn a_new_anchor_reaches_open_sessions() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    proxy.take().await.unwrap();
    std::fs::write(control_plane.state.path().join("rotate-root.request"), b"").unwrap();
    proxy.take().await.unwrap();
    let bundle = policy::Resource::decode(proxy.memory.held[&Key::TrustBundle].1.as_slice()).unwrap();
    let Some(policy::resource::Kind::TrustBundle(bundle)) = bundle.kind else { unreachable!() };
    assert_eq!(bundle.domains[0].anchors.len(), 2);
    // Everybody knows it: the new root takes over, the order of the anchors says so, and a fresh connection is trusted.
    proxy.take().await.unwrap();
    let mut client = client(&control_plane).await;
    let response = client.certify(with_token(csr(), &control_plane.token())).await.unwrap().into_inner();
    assert_eq!(response.chain.len(), 2);
}

#[tokio::test]
async fn a_pod_that_asks_in_a_loop_is_told_to_wait() {
    let control_plane = start(Some(table()), Limits::default()).await;
    let mut client = client(&control_plane).await;
    let refused = loop {
        match client.certify(with_token(csr(), &control_plane.token())).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("too many certificates; the next one in "), "{refused:?}");
}
