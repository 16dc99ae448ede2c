//! The state of the authority in its Secret, as several replicas and people see it.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::ca;
use crate::ca::Ca;
use crate::cluster::root;
use crate::cluster::root::Mover;
use crate::cluster::root::Place;
use crate::cluster::root::Wishes;
use crate::error::Error;
use crate::folder::Folder;
use crate::kube::base64;
use crate::kube::client::Client;
use crate::kube::fake::Fake;
use crate::testing::Scratch;

const SECRET: &str = "/api/v1/namespaces/leno-system/secrets/leno-root";
const ISSUER: &str = "/api/v1/namespaces/leno-system/secrets/corporate";

fn place(issuer: Option<&str>) -> Place {
    Place {
        namespace: "leno-system".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        leaf_ttl: Duration::from_secs(3600),
        issuer: issuer.map(str::to_owned),
    }
}

/// A replica as far as trust is concerned.
struct Replica {
    ca: Arc<Ca>,
    client: Arc<Client>,
    place: Place,
    wishes: watch::Receiver<Wishes>,
    mover: Mover,
    _scratch: Scratch,
}

impl Replica {
    async fn start(fake: &Fake, place: Place) -> Replica {
        let (scratch, client) = (Scratch::new(), fake.client());
        let folder = Folder::open(scratch.path()).unwrap();
        root::fetch(&client, &folder, &place).await.unwrap();
        let (trust_domain, leaf_ttl) = (place.trust_domain.clone(), place.leaf_ttl);
        let settings = ca::Settings { trust_domain, leaf_ttl, publish: Vec::new(), shared: true };
        let ca = Arc::new(Ca::open(folder, settings, SystemTime::now()).unwrap());
        let (wishes_in, wishes) = watch::channel(Wishes::default());
        tokio::spawn(root::follow(client.clone(), place.clone(), ca.clone(), wishes_in));
        Replica { ca, client, place, wishes, mover: Mover::default(), _scratch: scratch }
    }

    async fn lead(&mut self) -> Result<bool, Error> {
        let wishes = *self.wishes.borrow();
        self.mover.turn(&self.client, &self.place, &self.ca, wishes, true).await
    }

    /// Until this many anchors are trusted here.
    async fn trusts(&self, anchors: usize) {
        let mut trust = self.ca.trust();
        let reached = timeout(Duration::from_secs(60), trust.wait_for(|trust| trust.anchors.len() == anchors)).await;
        reached.expect("never heard of").unwrap();
    }

    async fn wishes(&mut self, wanted: Wishes) {
        timeout(Duration::from_secs(60), self.wishes.wait_for(|wishes| *wishes == wanted)).await.unwrap().unwrap();
    }
}

fn annotate(fake: &Fake) {
    let mut secret = fake.object(SECRET).unwrap();
    secret["metadata"]["annotations"] = json!({"leno.dev/rotate": "now"});
    fake.put(SECRET, secret);
}

#[tokio::test]
async fn replicas_that_start_at_once_make_one_root() {
    let fake = Fake::start().await;
    let starting = (0..4).map(|_| {
        let client = fake.client();
        tokio::spawn(async move {
            let scratch = Scratch::new();
            let folder = Folder::open(scratch.path()).unwrap();
            root::fetch(&client, &folder, &place(None)).await.unwrap();
            folder.read(ca::ROOTS_FILE).unwrap().unwrap()
        })
    });
    let mut states = Vec::new();
    for one in starting.collect::<Vec<_>>() {
        states.push(one.await.unwrap());
    }
    states.dedup();
    assert_eq!(states.len(), 1);
}

#[tokio::test]
async fn a_second_root_is_refused_while_a_namespace_trusts_the_first() {
    let fake = Fake::start().await;
    fake.put("/api/v1/namespaces/shop/configmaps/leno-trust", json!({"metadata": {"name": "leno-trust"}}));
    let scratch = Scratch::new();
    let folder = Folder::open(scratch.path()).unwrap();
    let refused = root::fetch(&fake.client(), &folder, &place(None)).await.unwrap_err();
    assert!(matches!(&refused, Error::RootSecretLost { trusting, .. } if trusting == "shop"), "{refused}");
    assert!(fake.object(SECRET).is_none());
}

#[tokio::test]
async fn a_rotation_asked_for_by_annotation_reaches_every_replica() {
    let fake = Fake::start().await;
    let (mut leader, other) = (Replica::start(&fake, place(None)).await, Replica::start(&fake, place(None)).await);
    annotate(&fake);
    leader.wishes(Wishes { rotate: true, missing: false }).await;
    leader.lead().await.unwrap();
    leader.trusts(2).await;
    other.trusts(2).await;
    assert_eq!(leader.ca.encoded(), other.ca.encoded());
    let annotations = fake.object(SECRET).unwrap()["metadata"]["annotations"].clone();
    assert_eq!(annotations, json!({}), "it is asked once");
}

#[tokio::test]
async fn who_writes_over_what_it_has_not_read_writes_nothing() {
    let fake = Fake::start().await;
    let (mut one, mut two) = (Replica::start(&fake, place(None)).await, Replica::start(&fake, place(None)).await);
    annotate(&fake);
    let asked = Wishes { rotate: true, missing: false };
    one.wishes(asked).await;
    two.wishes(asked).await;
    // Both believe that they lead.
    one.lead().await.unwrap();
    two.lead().await.unwrap();
    one.trusts(2).await;
    two.trusts(2).await;
    assert_eq!(one.ca.encoded(), two.ca.encoded(), "one rotation, not two");
}

#[tokio::test]
async fn a_deleted_secret_is_written_back_as_it_was() {
    let fake = Fake::start().await;
    let mut leader = Replica::start(&fake, place(None)).await;
    let before = fake.object(SECRET).unwrap()["data"].clone();
    fake.delete(SECRET);
    leader.wishes(Wishes { rotate: false, missing: true }).await;
    leader.lead().await.unwrap();
    assert_eq!(fake.object(SECRET).unwrap()["data"], before);
}

#[tokio::test]
async fn a_secret_that_turns_bad_changes_nothing() {
    let fake = Fake::start().await;
    let replica = Replica::start(&fake, place(None)).await;
    let (state, good) = (replica.ca.encoded(), fake.object(SECRET).unwrap());
    for bad in [json!({}), json!({"ca.json": base64::encode(b"{}")}), json!({"ca.json": "%"})] {
        fake.put(SECRET, json!({"metadata": {"name": "leno-root"}, "data": bad}));
    }
    // When the change after the bad ones has been heard of, they have been.
    let mut rotated = good.clone();
    let mut roots: Value = serde_json::from_slice(&state).unwrap();
    roots["generation"] = json!(7);
    rotated["data"]["ca.json"] = base64::encode(roots.to_string().as_bytes()).into();
    fake.put(SECRET, rotated);
    let mut trust = replica.ca.trust();
    let seen = timeout(Duration::from_secs(60), trust.wait_for(|trust| trust.generation != 1)).await.unwrap();
    assert_eq!(seen.unwrap().generation, 7);
}

fn authority() -> Value {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "corporate");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = base64::encode(params.self_signed(&key).unwrap().pem().as_bytes());
    let key = base64::encode(key.serialize_pem().as_bytes());
    json!({"metadata": {"name": "corporate"}, "data": {"tls.crt": pem, "tls.key": key, "ca.crt": pem}})
}

#[tokio::test]
async fn an_issuers_secret_is_waited_for_and_then_signs() {
    let fake = Fake::start().await;
    let scratch = Scratch::new();
    let folder = Folder::open(scratch.path()).unwrap();
    let wanted = place(Some("corporate"));
    let missing = root::fetch(&fake.client(), &folder, &wanted).await.unwrap_err();
    assert!(missing.to_string().starts_with("Secret leno-system/corporate does not exist"), "{missing}");
    let mut bad = authority();
    bad["data"]["tls.key"] = Value::Null;
    fake.put(ISSUER, bad);
    let said = root::fetch(&fake.client(), &folder, &wanted).await.unwrap_err().to_string();
    assert!(said.starts_with("Secret leno-system/corporate, field tls.key: it is missing"), "{said}");
    assert!(fake.object(SECRET).is_none(), "nothing is made in its stead");
    fake.put(ISSUER, authority());
    let replica = Replica::start(&fake, wanted).await;
    assert_eq!(replica.ca.trust().borrow().anchors.len(), 1);
}

#[tokio::test]
async fn an_issuer_takes_over_from_our_own_root_and_what_is_bad_does_not() {
    let fake = Fake::start().await;
    drop(Replica::start(&fake, place(None)).await);
    let mut leader = Replica::start(&fake, place(Some("corporate"))).await;
    assert!(!leader.lead().await.unwrap(), "there is no such Secret, and it says so");
    assert_eq!(leader.ca.rotation(), None, "who signs goes on");
    fake.put(ISSUER, authority());
    leader.mover = Mover::default();
    assert!(leader.lead().await.unwrap());
    leader.trusts(2).await;
}
