//! The packet-filter rules that bring a pod's traffic to its sidecar: written by `leno-proxy init` in one nftables
//! transaction, for IPv4 and IPv6 alike. It must never leave half a rule set behind, nor touch a table that is not its own.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;
use ipnet::IpNet;

/// What is captured and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Where the sidecar takes what arrives, and what leaves.
    pub inbound_port: u16,
    pub outbound_port: u16,
    /// The sidecar's user: its own connections are not captured again.
    pub proxy_uid: u32,
    /// Ports that are never captured on arrival, such as the status port.
    pub skip_inbound_ports: Vec<u16>,
    /// Ports that are never captured when leaving.
    pub skip_outbound_ports: Vec<u16>,
    /// Addresses that are never captured when leaving.
    pub skip_outbound_subnets: Vec<IpNet>,
    /// Addresses that are never captured when arriving from them, such as a node's probes.
    pub skip_inbound_subnets: Vec<IpNet>,
}

/// Our table's name: whatever is in it is ours.
const TABLE: &str = "leno";

impl Rules {
    /// # Errors
    /// The ports contradict each other; the text names the field and the remedy.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { inbound_port, outbound_port, .. } = self;
        anyhow::ensure!(*inbound_port != 0, "inbound port: 0 is no port; choose one that the application does not use");
        anyhow::ensure!(
            *outbound_port != 0,
            "outbound port: 0 is no port; choose one that the application does not use"
        );
        anyhow::ensure!(
            inbound_port != outbound_port,
            "inbound and outbound port are both {inbound_port}; give each its own"
        );
        for (name, ports) in
            [("skip inbound ports", &self.skip_inbound_ports), ("skip outbound ports", &self.skip_outbound_ports)]
        {
            anyhow::ensure!(!ports.contains(&0), "{name}: 0 is no port; leave it out");
        }
        anyhow::ensure!(
            self.proxy_uid != 0,
            "proxy uid: 0 would exempt everything that root sends; run the proxy as a user of its own"
        );
        Ok(())
    }

    /// The script for `nft -f -`: one transaction that replaces whatever our table held before, so that running it twice
    /// is the same as running it once.
    pub fn script(&self) -> String {
        let mut script = format!("{}table inet {TABLE} {{\n", undo_script());
        self.inbound_chain(&mut script);
        self.outbound_chain(&mut script);
        // A packet that conntrack cannot place would leave with its address not translated back, and reset the connection.
        script.push_str("  chain invalid {\n    type filter hook prerouting priority mangle; policy accept;\n    ct state invalid drop\n  }\n}\n");
        script
    }

    fn inbound_chain(&self, script: &mut String) {
        script.push_str("  chain inbound {\n    type nat hook prerouting priority dstnat; policy accept;\n");
        skip(script, "tcp dport", &self.skip_inbound_ports);
        skip_subnets(script, "saddr", &self.skip_inbound_subnets);
        let _ = writeln!(script, "    meta l4proto tcp redirect to :{}\n  }}", self.inbound_port);
    }

    fn outbound_chain(&self, script: &mut String) {
        // `dstnat` by its number: nft knows the name for prerouting only.
        script.push_str("  chain outbound {\n    type nat hook output priority -100; policy accept;\n");
        let _ = writeln!(script, "    meta skuid {} return", self.proxy_uid);
        // Loopback stays loopback: ports bound to localhost are private to the pod.
        script.push_str("    oifname \"lo\" ip daddr 127.0.0.0/8 return\n    ip6 daddr ::1 return\n");
        skip(script, "tcp dport", &self.skip_outbound_ports);
        skip_subnets(script, "daddr", &self.skip_outbound_subnets);
        let _ = writeln!(script, "    meta l4proto tcp redirect to :{}\n  }}", self.outbound_port);
    }
}

/// Removes our table, whether or not it is there: adding it first makes deleting it always succeed.
pub fn undo_script() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn skip(script: &mut String, what: &str, ports: &[u16]) {
    if !ports.is_empty() {
        let list: Vec<String> = ports.iter().map(u16::to_string).collect();
        let _ = writeln!(script, "    {what} {{ {} }} return", list.join(", "));
    }
}

fn skip_subnets(script: &mut String, side: &str, subnets: &[IpNet]) {
    for subnet in subnets {
        let family = if subnet.addr().is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(script, "    {family} {side} {} return", subnet.trunc());
    }
}

/// Runs the script as one transaction.
///
/// # Errors
/// `nft` is missing, may not, or refused; nothing was changed then.
pub fn apply(script: &str) -> anyhow::Result<()> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start nft; install the package nftables, or use the image's own init")?;
    nft.stdin.take().expect("it was asked for").write_all(script.as_bytes()).context("write to nft")?;
    let output = nft.wait_with_output().context("wait for nft")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "nft refused the rules (NET_ADMIN is needed); nothing was changed: {}",
        said.trim()
    );
    Ok(())
}
