//! The objects of a large mesh, and the one service of which endpoints come and go.

use std::cell::Cell;
use std::cell::RefCell;
use std::net::SocketAddr;

use leno_control_plane::kube::fake::Fake;
use serde_json::Value;
use serde_json::json;

const NAMESPACE: &str = "scale";

pub(crate) struct World {
    services: usize,
    endpoints: usize,
    /// Which endpoints of the first service are ready, and the first of the last service.
    ready: RefCell<Vec<bool>>,
    last_ready: Cell<bool>,
}

pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl World {
    pub(crate) fn new(services: usize, endpoints: usize) -> World {
        World { services, endpoints, ready: RefCell::new(vec![true; endpoints]), last_ready: Cell::new(true) }
    }

    /// Puts all of it, and says how many Pods there are.
    pub(crate) fn put(&self, fake: &Fake) -> usize {
        let labels = json!({"leno.dev/inject": "enabled"});
        fake.put("/api/v1/namespaces/scale", json!({"metadata": {"name": NAMESPACE, "labels": labels}}));
        for service in 0..self.services {
            let address = self.address(service).ip().to_string();
            let ports =
                json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "appProtocol": "http"}]);
            let spec = json!({"clusterIP": address, "clusterIPs": [address], "ports": ports, "selector": {"app": name(service)}});
            let object = json!({"metadata": {"name": name(service)}, "spec": spec});
            fake.put(&format!("/api/v1/namespaces/{NAMESPACE}/services/{}", name(service)), object);
            if service.is_multiple_of(256) {
                eprintln!("  {service} of {} services", self.services);
            }
            for endpoint in 0..self.endpoints {
                let Pod { name: pod, uid } = self.pod(service * self.endpoints + endpoint);
                let ip = pod_address(service * self.endpoints + endpoint);
                let object = json!({
                    "metadata": {"name": pod, "uid": uid, "labels": {"app": name(service)}},
                    "spec": {
                        "serviceAccountName": name(service),
                        "nodeName": format!("node-{}", endpoint % 10),
                        "initContainers": [{"name": "leno-proxy"}],
                        "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}],
                    },
                    "status": {
                        "phase": "Running",
                        "podIP": ip,
                        "podIPs": [{"ip": ip}],
                        "conditions": [{"type": "Ready", "status": "True"}],
                    },
                });
                fake.put(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}"), object);
            }
            self.slice(fake, service);
        }
        self.services * self.endpoints
    }

    /// The services that sessions use: all but the last.
    pub(crate) fn used(&self) -> usize {
        (self.services - 1).max(1)
    }

    /// What a proxy asks for.
    pub(crate) fn address(&self, service: usize) -> SocketAddr {
        let number = service % self.services;
        ([10, 96, u8::try_from(number >> 8).unwrap(), u8::try_from(number & 255).unwrap()], 80).into()
    }

    pub(crate) fn pod(&self, number: usize) -> Pod {
        let number = number % (self.services * self.endpoints);
        Pod { name: format!("pod-{number}"), uid: format!("uid-{number}") }
    }

    pub(crate) fn account(&self, number: usize) -> String {
        name(number % (self.services * self.endpoints) / self.endpoints)
    }

    /// Takes an endpoint of the first service away, or brings it back. False: it was so already.
    pub(crate) fn flip(&self, fake: &Fake, endpoint: usize, away: bool) -> bool {
        if self.ready.borrow()[endpoint] != away {
            return false;
        }
        self.ready.borrow_mut()[endpoint] = !away;
        self.slice(fake, 0);
        true
    }

    /// An endpoint of the last service, which nobody uses, goes or comes.
    pub(crate) fn flip_unused(&self, fake: &Fake, number: usize) {
        self.last_ready.set(number % 2 == 1);
        self.slice(fake, self.services - 1);
    }

    fn slice(&self, fake: &Fake, service: usize) {
        let endpoints: Vec<Value> = (0..self.endpoints)
            .map(|endpoint| {
                let number = service * self.endpoints + endpoint;
                let ready = match service {
                    0 => self.ready.borrow()[endpoint],
                    last if last == self.services - 1 && endpoint == 0 => self.last_ready.get(),
                    _ => true,
                };
                json!({
                    "addresses": [pod_address(number)],
                    "conditions": {"ready": ready, "serving": ready, "terminating": false},
                    "nodeName": format!("node-{}", endpoint % 10),
                    "targetRef": {"kind": "Pod", "name": self.pod(number).name, "uid": self.pod(number).uid},
                })
            })
            .collect();
        let slice = json!({
            "metadata": {"name": name(service), "labels": {"kubernetes.io/service-name": name(service)}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"}],
        });
        fake.put(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{}", name(service)), slice);
    }
}

fn name(service: usize) -> String {
    format!("service-{service}")
}

fn pod_address(number: usize) -> String {
    format!("10.{}.{}.{}", 128 + (number >> 16), (number >> 8) & 255, number & 255)
}
