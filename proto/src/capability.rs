//! Capabilities that decide about security: what a proxy must know before it may take a resource. It must never list what
//! is only convenient: that is reported as `Unsupported` (see `fields`).

use crate::policy::Access;
use crate::policy::AccessRule;
use crate::policy::Resource;
use crate::policy::TlsMode;

/// Who may call, by identity, namespace or address.
pub const ACCESS: &str = "access";
/// Who may call, by method and path.
pub const ACCESS_HTTP: &str = "access.http";
/// Plaintext is refused.
pub const INBOUND_TLS_STRICT: &str = "inbound.tls.strict";
/// TLS towards an external host.
pub const EGRESS_TLS: &str = "egress.tlsOrigination";

/// All that this build's model can express.
pub const SECURITY: [&str; 4] = [ACCESS, ACCESS_HTTP, INBOUND_TLS_STRICT, EGRESS_TLS];

/// What a proxy must be able to enforce to take the resource, sorted. A proxy that lacks one keeps its last good version
/// (or is not ready), and counts as not applied.
pub fn required(resource: &Resource) -> Vec<&'static str> {
    let mut names = Vec::new();
    match resource {
        Resource::Inbound(inbound) => {
            for port in inbound.ports.iter().chain([&inbound.other]) {
                if port.policy.tls == TlsMode::Strict {
                    names.push(INBOUND_TLS_STRICT);
                }
                if port.access != Access::default() {
                    names.push(ACCESS);
                }
                if port.access.deny.iter().chain(&port.access.allow).any(AccessRule::speaks_http) {
                    names.push(ACCESS_HTTP);
                }
            }
        }
        Resource::EgressIndex(index) => {
            if index.hosts.iter().flat_map(|host| &host.ports).any(|port| port.originate_tls.is_some()) {
                names.push(EGRESS_TLS);
            }
        }
        Resource::Destination(_)
        | Resource::Outbound(_)
        | Resource::Endpoints(_)
        | Resource::TrustBundle(_)
        | Resource::ProxyConfig(_)
        | Resource::Share(_) => {}
    }
    names.sort_unstable();
    names.dedup();
    names
}
