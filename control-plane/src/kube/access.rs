//! Where the API server is and how we prove who we are: from inside a Pod, or from a kubeconfig. It must never speak to a server
//! that did not prove itself, nor keep a token that has been replaced on disk.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use crate::kube::Error;
use crate::kube::base64;

/// Where the kubelet puts a Pod's own credentials.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What it takes to speak to one API server.
#[derive(Clone)]
pub struct Access {
    pub host: String,
    pub port: u16,
    /// `None`: without TLS, for a server on this machine in a test.
    pub tls: Option<Arc<ClientConfig>>,
    pub credential: Credential,
}

#[derive(Clone)]
pub enum Credential {
    /// The client certificate says who we are, or nobody asks.
    None,
    Token(String),
    /// Read anew at every request: the kubelet replaces it.
    File(PathBuf),
}

impl Access {
    /// As a Pod: `host` and `port` come from the kubelet.
    pub fn in_cluster(host: &str, port: u16) -> Result<Access, Error> {
        let folder = Path::new(ACCOUNT);
        let anchors = read(&folder.join("ca.crt"))?;
        let tls = Some(Arc::new(client_config(&anchors, None)?));
        Ok(Access { host: host.to_owned(), port, tls, credential: Credential::File(folder.join("token")) })
    }

    /// From a kubeconfig's current context.
    pub fn kubeconfig(path: &Path) -> Result<Access, Error> {
        Access::context(path, None).map(|(access, _)| access)
    }

    /// From a context of a kubeconfig, the current one where none is named; and the namespace that it means.
    pub fn context(path: &Path, named: Option<&str>) -> Result<(Access, String), Error> {
        let wrong = |why: String| Error::Access(format!("{}: {why}", path.display()));
        let text = String::from_utf8(read(path)?).map_err(|error| wrong(error.to_string()))?;
        let file: Kubeconfig = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let chosen = named.unwrap_or(&file.current_context);
        let context = file.contexts.iter().find(|one| one.name == *chosen).ok_or_else(|| {
            let names: Vec<&str> = file.contexts.iter().map(|one| one.name.as_str()).collect();
            wrong(format!("there is no context {chosen:?}; there are {}", names.join(", ")))
        })?;
        let context = &context.context;
        let cluster = file.clusters.iter().find(|one| one.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| wrong(format!("there is no cluster {:?}", context.cluster)))?.cluster;
        let user = file.users.iter().find(|one| one.name == context.user).map(|one| one.user.clone());
        let user = user.unwrap_or_default();
        let base = path.parent().unwrap_or(Path::new("."));
        let (secure, host, port) =
            address(&cluster.server).ok_or_else(|| wrong(format!("{:?} is no server", cluster.server)))?;
        let given = user.exec.as_ref().map(Plugin::ask).transpose().map_err(wrong)?.unwrap_or_default();
        let tls = match secure {
            false => None,
            true => {
                let anchors = either(base, &cluster.certificate_authority_data, &cluster.certificate_authority)?;
                let anchors = anchors.ok_or_else(|| wrong("the cluster names no certificate authority".to_owned()))?;
                let certificate = either(base, &user.client_certificate_data, &user.client_certificate)?;
                let key = either(base, &user.client_key_data, &user.client_key)?;
                let made = given.client_certificate_data.zip(given.client_key_data);
                let made = made.map(|(certificate, key)| (certificate.into_bytes(), key.into_bytes()));
                Some(Arc::new(client_config(&anchors, certificate.zip(key).or(made))?))
            }
        };
        let credential = match (user.token.or(given.token), user.token_file) {
            (Some(token), _) => Credential::Token(token),
            (None, Some(file)) => Credential::File(base.join(file)),
            (None, None) => Credential::None,
        };
        let namespace = if context.namespace.is_empty() { "default" } else { &context.namespace };
        Ok((Access { host, port, tls, credential }, namespace.to_owned()))
    }

    /// What goes into `Authorization`, if anything does.
    pub(super) fn bearer(&self) -> Result<Option<String>, Error> {
        Ok(match &self.credential {
            Credential::None => None,
            Credential::Token(token) => Some(token.clone()),
            Credential::File(path) => {
                let token = String::from_utf8(read(path)?);
                Some(token.map_err(|_| Error::Access(format!("{} is no token", path.display())))?.trim().to_owned())
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(default)]
    certificate_authority: Option<PathBuf>,
    #[serde(default)]
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    #[serde(default)]
    client_certificate: Option<PathBuf>,
    #[serde(default)]
    client_certificate_data: Option<String>,
    #[serde(default)]
    client_key: Option<PathBuf>,
    #[serde(default)]
    client_key_data: Option<String>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default, rename = "tokenFile")]
    token_file: Option<PathBuf>,
    #[serde(default)]
    exec: Option<Plugin>,
}

/// A program that makes credentials, as managed clusters have it (client.authentication.k8s.io).
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plugin {
    api_version: String,
    command: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
}

#[derive(Clone, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// What it made.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    client_certificate_data: Option<String>,
    #[serde(default)]
    client_key_data: Option<String>,
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Given,
}

impl Plugin {
    fn ask(&self) -> Result<Given, String> {
        let asked = serde_json::json!({"apiVersion": self.api_version, "kind": "ExecCredential", "spec": {"interactive": false}});
        let mut command = Command::new(&self.command);
        command.args(self.args.iter().flatten()).env("KUBERNETES_EXEC_INFO", asked.to_string());
        command.envs(self.env.iter().flatten().map(|one| (&one.name, &one.value)));
        let output = command.output().map_err(|error| format!("run {} for credentials: {error}", self.command))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} gave no credentials: {}: {}", self.command, output.status, said.trim()));
        }
        let made: Result<ExecCredential, _> = serde_json::from_slice(&output.stdout);
        made.map(|made| made.status)
            .map_err(|error| format!("what {} printed is no ExecCredential: {error}", self.command))
    }
}

fn either(base: &Path, data: &Option<String>, file: &Option<PathBuf>) -> Result<Option<Vec<u8>>, Error> {
    match (data, file) {
        (Some(text), _) => {
            let bytes =
                base64::decode(text).ok_or_else(|| Error::Access("a kubeconfig's data is not base64".to_owned()));
            bytes.map(Some)
        }
        (None, Some(file)) => read(&base.join(file)).map(Some),
        (None, None) => Ok(None),
    }
}

fn address(server: &str) -> Option<(bool, String, u16)> {
    let uri: http::Uri = server.parse().ok()?;
    let secure = uri.scheme_str()? == "https";
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    Some((secure, host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 })))
}

/// TLS 1.3, which every API server of a supported Kubernetes speaks.
fn client_config(anchors: &[u8], own: Option<(Vec<u8>, Vec<u8>)>) -> Result<ClientConfig, Error> {
    let wrong = |why: String| Error::Access(format!("the API server's credentials: {why}"));
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_slice_iter(anchors) {
        let anchor = anchor.map_err(|error| wrong(error.to_string()))?;
        roots.add(anchor).map_err(|error| wrong(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = own else { return Ok(builder.with_no_client_auth()) };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.map_err(|error| wrong(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| wrong(error.to_string()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Access(format!("read {}: {error}", path.display())))
}
