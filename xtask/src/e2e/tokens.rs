//! Who gets which certificate on a real cluster: a pod gets its own ServiceAccount's whatever it asks for, and every other token is
//! refused in words of its own. It must never take a call that did not reach the control plane for a refusal.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::ensure;
use serde_json::Value;

use super::smoke::SYSTEM;
use super::smoke::Target;
use super::smoke::eventually;
use super::smoke::step;
use crate::shell;

const NAMESPACE: &str = "leno-e2e-tokens";
const AUDIENCE: &str = "leno";

pub(crate) fn run(target: &Target) -> anyhow::Result<()> {
    let tokens = Tokens { target };
    step("a pod in the mesh, and one that asks for certificates with any token", || tokens.begin())?;
    step("a token buys its own ServiceAccount's certificate, whatever name the request has in it", || tokens.own())?;
    step(
        "tokens of another audience, of no pod, of a pod that is gone, changed or expired: refused, each in its words",
        || tokens.refused(),
    )?;
    step("the API server makes no token of another ServiceAccount's pod", || tokens.foreign())?;
    step("a sidecar has no credentials of the API server, and its own are none there", || tokens.powerless())?;
    tokens.end()
}

struct Tokens<'a> {
    target: &'a Target,
}

impl Tokens<'_> {
    fn begin(&self) -> anyhow::Result<()> {
        self.end()?;
        self.target.apply(&self.target.manifest("tokens.yaml")?)?;
        let wait = ["-n", NAMESPACE, "wait", "pod", "--all", "--for=condition=Ready", "--timeout=300s"];
        self.target.kubectl(&wait).map(drop)
    }

    fn end(&self) -> anyhow::Result<()> {
        let arguments = ["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait", "--timeout=300s"];
        self.target.kubectl(&arguments).map(drop)
    }

    fn own(&self) -> anyhow::Result<()> {
        let said = self.certify(&self.token("one", AUDIENCE, Some("one"))?)?;
        ensure!(said == format!("certified spiffe://cluster.local/ns/{NAMESPACE}/sa/one"), "{said}");
        Ok(())
    }

    fn refused(&self) -> anyhow::Result<()> {
        let good = self.token("one", AUDIENCE, Some("one"))?;
        // Asked for while the pod was there, and shown when it is not.
        let gone = self.token("one", AUDIENCE, Some("gone"))?;
        self.target.kubectl(&["-n", NAMESPACE, "delete", "pod", "gone", "--wait", "--timeout=120s"])?;
        let renamed = with_claims(&good, |claims| {
            claims["sub"] = format!("system:serviceaccount:{NAMESPACE}:two").into();
            claims["kubernetes.io"]["serviceaccount"]["name"] = "two".into();
        })?;
        let mut cases = vec![
            ("of another audience", self.token("one", "another", Some("one"))?, "audiences"),
            ("bound to no pod", self.token("one", AUDIENCE, None)?, "the token is not bound to a pod"),
            ("of a deleted pod", gone, "invalidated"),
            ("with another ServiceAccount written into it", renamed, "cryptographic"),
        ];
        match self.key() {
            Some(key) => cases.push(("expired", expired(&good, &key)?, "expired 60")),
            None => eprintln!("not shown: an expired token, which takes this cluster's own key or ten minutes"),
        }
        let mut words = BTreeSet::new();
        for (what, token, holds) in cases {
            let said = self.certify(&token).with_context(|| format!("a token {what}"))?;
            eprintln!("  {what}: {said}");
            ensure!(said.starts_with("refused Unauthenticated: "), "a token {what}: {said}");
            ensure!(said.contains(holds), "a token {what}: not a word of {holds:?}: {said}");
            ensure!(words.insert(said.clone()), "a token {what} is refused as another is: {said}");
        }
        let said = self.certify(&good)?;
        ensure!(said.starts_with("certified "), "after all that, the good one: {said}");
        Ok(())
    }

    fn foreign(&self) -> anyhow::Result<()> {
        let said = self.token("two", AUDIENCE, Some("one")).err().context("it did")?;
        let said = format!("{said:#}");
        ensure!(said.contains("cannot bind token for serviceaccount"), "not refused for that: {said}");
        Ok(())
    }

    fn powerless(&self) -> anyhow::Result<()> {
        let path = "-o=jsonpath={.spec.automountServiceAccountToken} {..mountPath}";
        let said = self.target.kubectl(&["-n", NAMESPACE, "get", "pod", "one", path])?;
        ensure!(said.starts_with("false "), "{said}");
        ensure!(!said.contains("kubernetes.io"), "something mounts the API server's credentials: {said}");
        let (good, pods) = (self.token("one", AUDIENCE, Some("one"))?, format!("/api/v1/namespaces/{NAMESPACE}/pods"));
        // An administrator's own credentials would go first.
        let server =
            self.target.kubectl(&["config", "view", "--minify", "-o=jsonpath={.clusters[0].cluster.server}"])?;
        let mut kubectl = self.target.command("kubectl");
        kubectl.env("KUBECONFIG", "/dev/null").args(["--server", &server, "--insecure-skip-tls-verify"]);
        let said = shell::quiet(kubectl.args(["--token", &good, "get", "--raw", &pods]));
        let said = format!("{:#}", said.err().context("the API server lists pods for a sidecar's token")?);
        ensure!(said.contains("Unauthorized"), "not refused for its token: {said}");
        Ok(())
    }

    fn token(&self, account: &str, audience: &str, pod: Option<&str>) -> anyhow::Result<String> {
        let mut words = vec!["-n", NAMESPACE, "create", "token", account, "--audience", audience];
        words.extend(pod.iter().flat_map(|pod| ["--bound-object-kind", "Pod", "--bound-object-name", pod]));
        Ok(self.target.kubectl(&words)?.trim().to_owned())
    }

    /// What the control plane says to a token; the request itself always names the other ServiceAccount.
    fn certify(&self, token: &str) -> anyhow::Result<String> {
        let (address, name) = (format!("leno-control-plane.{SYSTEM}:15012"), format!("{NAMESPACE}/two"));
        let mut said = String::new();
        // What a name server was asked in vain it remembers for some seconds.
        eventually(Duration::from_secs(30), || {
            let exec = ["-n", NAMESPACE, "exec", "-i", "asker", "-c", "app", "--", "/certify", &address];
            said =
                self.target.ask(&[&exec[..], &["--anchor", "/trust/anchor.pem", "--name", &name]].concat(), token)?;
            Ok(())
        })?;
        Ok(said.trim().to_owned())
    }

    /// The key that signs the cluster's tokens, where the cluster is ours.
    fn key(&self) -> Option<std::path::PathBuf> {
        let key = self.target.kubeconfig.with_file_name("account.key");
        (self.target.cluster.is_some() && key.exists()).then_some(key)
    }
}

/// The same token with other claims, and with a signature that does not fit them any more.
fn with_claims(token: &str, change: impl FnOnce(&mut Value)) -> anyhow::Result<String> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        anyhow::bail!("a token has three parts");
    };
    let mut claims: Value = serde_json::from_slice(&decode(claims)?).context("claims are JSON")?;
    change(&mut claims);
    Ok(format!("{header}.{}.{signature}", encode(claims.to_string().as_bytes())))
}

/// The same token as the cluster would have made it two hours ago, for an hour and fifty-odd minutes: signed by its own key.
fn expired(token: &str, key: &Path) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let old = with_claims(token, |claims| {
        claims["iat"] = (now - 7200).into();
        claims["nbf"] = (now - 7200).into();
        claims["exp"] = (now - 600).into();
    })?;
    let (signed, _) = old.rsplit_once('.').context("a token has three parts")?;
    let folder = shell::root().join("target/tmp");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("token.{}", std::process::id()));
    fs::write(&file, signed)?;
    let output = Command::new("openssl").args(["dgst", "-sha256", "-sign"]).arg(key).arg(&file).output();
    fs::remove_file(&file)?;
    let output = output.context("start openssl")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(format!("{signed}.{}", encode(&raw(&output.stdout)?)))
}

/// An ECDSA signature as JOSE wants it (RFC 7518 section 3.4): two numbers of 32 bytes, without DER's frame around them.
fn raw(der: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut rest = der.get(2..).context("too short for DER")?;
    let mut raw = Vec::new();
    for _ in 0..2 {
        let length = usize::from(*rest.get(1).context("too short for DER")?);
        let number = rest.get(2..2 + length).context("too short for DER")?;
        let digits = &number[number.iter().take_while(|byte| **byte == 0).count()..];
        ensure!(digits.len() <= 32, "no number of P-256");
        raw.resize(raw.len() + 32 - digits.len(), 0);
        raw.extend(digits);
        rest = &rest[2 + length..];
    }
    Ok(raw)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// RFC 4648 section 5, without padding.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..=three.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

fn decode(text: &str) -> anyhow::Result<Vec<u8>> {
    let (mut bytes, mut word, mut bits) = (Vec::new(), 0u32, 0);
    for byte in text.bytes() {
        let value = ALPHABET.iter().position(|one| *one == byte).context("not base64url")?;
        word = (word << 6 | value as u32) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_goes_both_ways() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (&[0xfb, 0xff, 0xfe], "-__-")]
        {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).unwrap(), bytes);
        }
        assert!(decode("Zg==").is_err());
    }

    #[test]
    fn a_signature_leaves_its_frame() {
        let mut der = vec![0x30, 0x45, 0x02, 0x21, 0x00];
        der.extend([0x81; 32]);
        der.extend([0x02, 0x20]);
        der.extend([0x7f; 32]);
        assert_eq!(raw(&der).unwrap(), [[0x81; 32], [0x7f; 32]].concat());
        assert_eq!(raw(&[0x30, 6, 2, 1, 5, 2, 1, 6]).unwrap()[30..34], [0, 5, 0, 0]);
        assert!(raw(&[0x30, 6, 2, 9]).is_err());
    }

    #[test]
    fn claims_change_and_the_rest_stays() {
        let token = format!("head.{}.sign", encode(b"{\"sub\":\"a\",\"exp\":1}"));
        let changed = with_claims(&token, |claims| claims["sub"] = "b".into()).unwrap();
        let parts: Vec<&str> = changed.split('.').collect();
        assert_eq!((parts[0], parts[2], parts.len()), ("head", "sign", 3));
        let claims: Value = serde_json::from_slice(&decode(parts[1]).unwrap()).unwrap();
        assert_eq!(claims, serde_json::json!({"sub": "b", "exp": 1}));
    }
}
