//! A control plane in this process on a mesh that the test writes by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use bytes::Bytes;
use clap::Parser;
use leno_control_plane::app;
use leno_control_plane::app::App;
use leno_control_plane::app::Mesh;
use leno_control_plane::config::Config;
use leno_control_plane::error::Error;
use leno_control_plane::folder::Folder;
use leno_control_plane::push::offer::Item;
use leno_control_plane::push::offer::Offer;
use leno_control_plane::push::session::Limits;
use leno_control_plane::push::sessions::Sessions;
use leno_control_plane::reconcile::Found;
use leno_control_plane::token::FolderKey;
use leno_control_plane::token::Subject;
use leno_proto::key::DEFAULT_VIEW;
use leno_proto::key::Key;
use leno_proto::policy::ServiceName;
use leno_proto::policy::ServicePort;
use tokio::sync::watch;
use tokio::time::sleep;

pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("leno-control-plane-it-{}-{next}", std::process::id()));
        // A process of the same number that was killed may have left one.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is there, and what leads to what. Addresses that are not there are answered as such.
#[derive(Clone, Default)]
pub(crate) struct Table(BTreeMap<Key, (Item, Vec<Key>)>);

impl Table {
    pub(crate) fn with(mut self, key: Key, content: &str, leads_to: &[Key]) -> Table {
        self.put(key, content, leads_to);
        self
    }

    pub(crate) fn put(&mut self, key: Key, content: &str, leads_to: &[Key]) {
        self.0.insert(key, (Item::new(Bytes::copy_from_slice(content.as_bytes())), leads_to.to_vec()));
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

impl Offer for Table {
    fn closure(&self, roots: &mut dyn Iterator<Item = &Key>, _namespace: &str) -> BTreeMap<Key, Arc<Found>> {
        let mut open: Vec<Key> = roots.cloned().collect();
        let mut closure = BTreeMap::new();
        while let Some(key) = open.pop() {
            let found = match (self.0.get(&key), &key) {
                (Some(found), _) => found.clone(),
                (None, Key::Destination(_)) => (Item::new(Bytes::from_static(b"not found")), Vec::new()),
                (None, _) => continue,
            };
            let resource = Found::of(found.0.bytes);
            // It may be another at any moment.
            resource.touch();
            if closure.insert(key, Arc::new(resource)).is_none() {
                open.extend(found.1);
            }
        }
        closure
    }

    fn renewed(&self, _: &Key, _: &Found, _: &str) -> Option<Arc<Found>> {
        None
    }

    fn knows_pod(&self, uid: &str) -> bool {
        self.0.contains_key(&Key::Inbound(uid.into()))
    }

    fn generation(&self) -> u64 {
        1
    }
}

pub(crate) fn service() -> ServiceName {
    ServiceName { namespace: "shop".into(), name: "orders".into() }
}

pub(crate) fn destination() -> Key {
    Key::Destination(([10, 0, 0, 1], 80).into())
}

pub(crate) fn outbound() -> Key {
    Key::Outbound { service: service(), view: DEFAULT_VIEW.into() }
}

pub(crate) fn endpoints(bucket: u32) -> Key {
    Key::Endpoints { target: ServicePort { service: service(), port: 80 }, bucket }
}

pub(crate) fn inbound() -> Key {
    Key::Inbound("uid-1".into())
}

/// One Service behind one address; the pod `cart-1`.
pub(crate) fn table() -> Table {
    Table::default()
        .with(destination(), "d", &[outbound()])
        .with(outbound(), "o", &[endpoints(0)])
        .with(endpoints(0), "e", &[])
        .with(inbound(), "i", &[])
        .with(Key::ProxyConfig, "c", &[])
}

pub(crate) struct ControlPlane {
    pub(crate) app: App,
    pub(crate) tables: watch::Sender<Option<Arc<dyn Offer>>>,
    pub(crate) state: Arc<Scratch>,
}

pub(crate) async fn start(table: Option<Table>, limits: Limits) -> ControlPlane {
    start_on(Arc::new(Scratch::new()), table, limits).await
}

pub(crate) async fn start_on(state: Arc<Scratch>, table: Option<Table>, limits: Limits) -> ControlPlane {
    let folder = state.path().to_string_lossy();
    let flags = ["leno-control-plane", "--source", "dir:unused", "--state", &folder];
    let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--leaf-ttl", "60s"];
    let config = Config::try_parse_from(flags.into_iter().chain(ports)).unwrap();
    let (tables, receiver) = watch::channel(table.map(|table| Arc::new(table) as Arc<dyn Offer>));
    let mesh = || Mesh {
        tables: receiver.clone(),
        status: Arc::new(|format| format!("{format:?}")),
        explain: Arc::new(|_| Err("no world".to_owned())),
        cluster: None,
    };
    let app = loop {
        match App::start(&config, mesh(), Sessions::new(100), limits.clone()).await {
            // A process that another test is just starting holds what was open here until it runs its own program.
            Err(Error::FolderInUse { .. }) => sleep(Duration::from_millis(10)).await,
            started => break started.unwrap(),
        }
    };
    ControlPlane { app, tables, state }
}

/// On a folder of manifests, as the program runs it.
pub(crate) async fn start_on_folder(manifests: &Path) -> ControlPlane {
    let state = Arc::new(Scratch::new());
    let (source, folder) = (format!("dir:{}", manifests.display()), state.path().to_string_lossy());
    let flags = ["leno-control-plane", "--source", &source, "--state", &folder];
    let config = Config::try_parse_from(flags.into_iter().chain(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]));
    let (config, sessions) = (config.unwrap(), Sessions::new(100));
    let mesh = app::mesh(&config, &sessions).unwrap();
    let app = App::start(&config, mesh, sessions, Limits::default()).await.unwrap();
    ControlPlane { app, tables: watch::Sender::new(None), state }
}

impl ControlPlane {
    pub(crate) fn publish(&self, table: &Table) {
        self.tables.send_replace(Some(Arc::new(table.clone())));
    }

    pub(crate) fn token(&self) -> String {
        self.token_for("cart-1", "uid-1")
    }

    pub(crate) fn token_for(&self, pod: &str, uid: &str) -> String {
        let key = FolderKey::open(&Folder::open(self.state.path()).unwrap()).unwrap();
        let [namespace, service_account, pod_name, pod_uid] = ["shop", "cart", pod, uid].map(str::to_owned);
        let subject = Subject { namespace, service_account, pod_name, pod_uid };
        key.mint(&subject, Duration::from_secs(600), SystemTime::now()).unwrap()
    }
}
