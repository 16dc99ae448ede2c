//! From a folder of manifests to a proxy: the whole line.

use leno_proto::key::Key;
use leno_proto::policy::Destination;
use leno_proto::policy::Resource;

use crate::mesh::Scratch;
use crate::mesh::endpoints;
use crate::mesh::inbound;
use crate::mesh::outbound;
use crate::mesh::start_on_folder;
use crate::proxy::Memory;
use crate::proxy::Proxy;

const MESH: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, uid: uid-1, labels: {app: cart}, annotations: {leno.dev/inject: enabled}}
spec: {serviceAccountName: cart, nodeName: here, containers: [{name: app, image: cart, ports: [{containerPort: 8080}]}]}
status: {phase: Running, podIP: 127.9.0.1, podIPs: [{ip: 127.9.0.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: main, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: orders-1, namespace: shop, uid: uid-5, labels: {app: orders}, annotations: {leno.dev/inject: enabled}}
spec: {serviceAccountName: orders, nodeName: here, containers: [{name: app, image: o, ports: [{containerPort: 8080}]}]}
status: {phase: Running, podIP: 127.9.0.2, podIPs: [{ip: 127.9.0.2}], conditions: [{type: Ready, status: "True"}]}
"#;

const POLICY: &str = r#"
apiVersion: policy.leno.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: quick, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: orders}]
  timeouts: {request: 3s}
"#;

fn model(proxy: &Proxy, key: &Key) -> Resource {
    Resource::decode(&proxy.memory.held[key].1).unwrap()
}

#[tokio::test]
async fn an_edited_folder_reaches_a_proxy_and_a_lost_file_takes_its_effect_back() {
    let folder = Scratch::new();
    std::fs::write(folder.path().join("mesh.yaml"), MESH).unwrap();
    let control_plane = start_on_folder(folder.path()).await;
    let mut proxy = Proxy::connect(&control_plane, Memory::default()).await.unwrap();
    while !proxy.memory.held.contains_key(&inbound()) {
        proxy.take().await.unwrap();
    }
    let address = Key::Destination(([10, 0, 0, 1], 80).into());
    let nobody = Key::Destination(([10, 0, 0, 99], 80).into());
    proxy.subscribe(&[address.clone(), nobody.clone()], &[]).await;
    proxy.take().await.unwrap();
    assert!(matches!(model(&proxy, &address), Resource::Destination(Destination::Service(port)) if port.port == 80));
    assert!(matches!(model(&proxy, &nobody), Resource::Destination(Destination::NotFound)));
    assert!(matches!(model(&proxy, &outbound()), Resource::Outbound(_)));
    let Resource::Endpoints(found) = model(&proxy, &endpoints(0)) else { unreachable!() };
    assert_eq!(found.endpoints.len(), 1);

    let before = proxy.memory.held[&outbound()].0;
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    proxy.take().await.unwrap();
    assert_ne!(proxy.memory.held[&outbound()].0, before);
    std::fs::remove_file(policy).unwrap();
    proxy.take().await.unwrap();
    assert_eq!(proxy.memory.held[&outbound()].0, before, "the same content is the same version");
}
