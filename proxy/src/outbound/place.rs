//! Where a connection of the application leads: a service, a pod, or out of the mesh. It must never guess: what is not known
//! is asked, and what is not answered fails.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use leno_proto::policy::Destination;
use leno_proto::policy::OnDiscoveryTimeout;
use leno_proto::policy::Protocol;
use leno_proto::policy::RouteKind;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use leno_proto::policy::Unknown;
use leno_proto::policy::Workload;
use tokio::net::TcpStream;

use crate::error::Error;
use crate::error::Reason;
use crate::local::Local;
use crate::net;
use crate::state::Service;
use crate::upstream::Target;
use crate::worker::Front;

#[derive(Clone)]
pub(super) enum Place {
    /// A Service's port; looked up anew for each request, so that policy is live.
    Service { service: Arc<Service>, name: ServicePort },
    /// One pod: no routes, no balancing.
    Workload { target: Arc<Target>, protocol: Protocol },
    /// Out of the mesh: as it is, to where the application meant.
    Outside(SocketAddr),
}

/// Where this connection leads.
pub(super) async fn of(local: &Rc<Local>, front: &Front, stream: &TcpStream) -> Result<Place, Error> {
    match front {
        Front::OutboundTo(name) => service(local, name.clone()).await,
        Front::Outbound => {
            let listened = || stream.local_addr().unwrap_or(([0, 0, 0, 0], 0).into());
            let address = net::original_destination(stream).ok_or_else(|| Error::Loop(listened()))?;
            if local.leads_back(address) {
                return Err(Error::Loop(address));
            }
            address_of(local, address).await
        }
        Front::Inbound | Front::InboundTo(_) => {
            Err(Error::Loop(stream.local_addr().unwrap_or(([0, 0, 0, 0], 0).into())))
        }
    }
}

async fn address_of(local: &Rc<Local>, address: SocketAddr) -> Result<Place, Error> {
    let config = local.snapshot().config.clone();
    let within = |address: SocketAddr| {
        config.as_ref().is_none_or(|config| config.mesh_networks.iter().any(|net| net.contains(&address.ip())))
    };
    let unknown = config.as_ref().map_or(Unknown::Allow, |config| config.unknown);
    if !within(address) {
        return outside(address, unknown);
    }
    let wait = discovery_timeout(local);
    match local.shared.state.destination(address, wait).await {
        Ok(destination) => match &*destination {
            Destination::Service(name) => service(local, name.clone()).await,
            Destination::Workload(workload) => Ok(pod(local, workload, address)),
            Destination::NotFound => outside(address, unknown),
        },
        Err(_) => match config.map_or(OnDiscoveryTimeout::Fail, |config| config.on_discovery_timeout) {
            OnDiscoveryTimeout::Fail => Err(Error::DiscoveryTimeout { address, after: wait }),
            OnDiscoveryTimeout::Passthrough => Ok(Place::Outside(address)),
        },
    }
}

fn outside(address: SocketAddr, unknown: Unknown) -> Result<Place, Error> {
    match unknown {
        Unknown::Allow => Ok(Place::Outside(address)),
        Unknown::Deny => Err(Error::EgressDenied(address)),
    }
}

async fn service(local: &Rc<Local>, name: ServicePort) -> Result<Place, Error> {
    let wait = discovery_timeout(local);
    let service = local.shared.state.service(&name.service, wait).await.map_err(|_| Error::Because {
        reason: Reason::DiscoveryTimeout,
        detail: format!("nobody said what {name} is in {wait:?}"),
    })?;
    match service.port(name.port) {
        Some(_) => Ok(Place::Service { service, name }),
        // The control plane has said so: nothing to wait for.
        None => Err(Error::Because { reason: Reason::UnknownPort, detail: unknown(&service, &name) }),
    }
}

fn unknown(service: &Service, name: &ServicePort) -> String {
    match service.ports.is_empty() {
        true => format!("there is no Service {}", name.service),
        false => format!("Service {} has no port {}", name.service, name.port),
    }
}

fn discovery_timeout(local: &Local) -> Duration {
    local.snapshot().config.as_ref().map_or(DISCOVERY_TIMEOUT, |config| config.discovery_timeout)
}

fn pod(local: &Local, workload: &Workload, address: SocketAddr) -> Place {
    Place::Workload {
        target: local.shared.pods.target(workload, address, &|name| local.shared.state.reclaim(name)),
        protocol: workload.protocol,
    }
}

impl Place {
    pub(super) fn label(&self) -> Arc<str> {
        match self {
            Self::Service { service, name } => match service.port(name.port) {
                Some(port) => Arc::clone(&port.own.label),
                None => name.to_string().into(),
            },
            Self::Workload { target, .. } => Arc::clone(&target.label),
            Self::Outside(_) => "outside".into(),
        }
    }

    pub(super) fn name(&self) -> ServicePort {
        match self {
            Self::Service { name, .. } => name.clone(),
            Self::Workload { target, .. } => target.name.clone(),
            Self::Outside(address) => ServicePort {
                service: ServiceName { namespace: "".into(), name: address.ip().to_string().into() },
                port: address.port(),
            },
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Service { service, name } => {
                service.port(name.port).map(|port| port.policy.protocol).unwrap_or_default()
            }
            Self::Workload { protocol, .. } => *protocol,
            // Nobody judges requests that leave the mesh undeclared: their bytes pass as they are.
            Self::Outside(_) => Protocol::Opaque,
        }
    }

    /// No rule about requests would be evaded.
    pub(super) fn may_be_opaque(&self) -> bool {
        match self {
            Self::Service { service, name } => service
                .port(name.port)
                .is_none_or(|port| port.policy.routes.iter().all(|route| route.kind == RouteKind::Tcp)),
            Self::Workload { .. } | Self::Outside(_) => true,
        }
    }

    /// The same place under the policy of now.
    pub(super) fn renewed(&self, local: &Local) -> Self {
        match self {
            Self::Service { service, name } => {
                let now = local.snapshot().service(&name.service).cloned();
                Self::Service { service: now.unwrap_or_else(|| Arc::clone(service)), name: name.clone() }
            }
            Self::Workload { .. } | Self::Outside(_) => self.clone(),
        }
    }
}

/// Until the mesh says otherwise (CONTRACTS section 1).
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(1);
