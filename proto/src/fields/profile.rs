//! The three profiles of a mesh: what stands below everything that users write. It must never say of a field what the table
//! says already: `Recommended` is the table's defaults.

use serde::Deserialize;
use serde_json::json;

use crate::fields::Body;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Profile {
    /// Bounds only: nothing is retried that a policy does not ask for, nothing is ejected, nothing starts slowly.
    Minimal,
    #[default]
    Recommended,
    /// For meshes that know their applications: calls end, broken destinations are given rest, plaintext is refused.
    Strict,
}

impl Profile {
    /// Below every TrafficPolicy.
    pub fn traffic(self) -> Body {
        body(match self {
            // Retries of requests that were provably never processed have a budget of their own and are always on.
            Self::Minimal => json!({
                "retries": {"attempts": 0},
                "circuitBreaker": {"endpoint": {"consecutiveFailures": 0}},
                "loadBalancing": {"slowStart": {"window": "0s"}},
            }),
            Self::Recommended => json!({}),
            Self::Strict => json!({"timeouts": {"request": "30s"}, "circuitBreaker": {"service": {}}}),
        })
    }

    /// Below every InboundPolicy.
    pub fn inbound(self) -> Body {
        body(match self {
            Self::Minimal | Self::Recommended => json!({}),
            Self::Strict => json!({"tls": {"mode": "Strict"}}),
        })
    }
}

fn body(value: serde_json::Value) -> Body {
    match value {
        serde_json::Value::Object(body) => body,
        _ => Body::new(),
    }
}
