//! The congestion control of what is measured: that of nearly all nodes, whatever this host has. It must never outlive the run
//! that asked for it, unless that is killed.

use std::fs;

/// Until it is dropped, new TCP connections of this machine use CUBIC. Where the host has BBR, each connection is paced, also
/// on loopback: a timer for each send, and a message waits behind a large one for longer than the network takes.
pub struct Cubic {
    before: String,
}

impl Cubic {
    /// Where this user may not set it, the host's own stays, and that is said.
    pub fn start() -> Self {
        let before = fs::read_to_string(SETTING).unwrap_or_default().trim().to_owned();
        if before != CUBIC
            && let Err(error) = fs::write(SETTING, CUBIC)
        {
            eprintln!(
                "TCP's congestion control stays {before:?}, whose pacing may be in all figures: {SETTING}: {error}"
            );
        }
        Self { before }
    }
}

impl Drop for Cubic {
    fn drop(&mut self) {
        if self.before != CUBIC {
            let _ = fs::write(SETTING, &self.before);
        }
    }
}

const SETTING: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const CUBIC: &str = "cubic";
