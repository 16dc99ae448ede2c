use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;

use crate::kube::base64;
use crate::kube::client::Patch;
use crate::kube::fake::Fake;
use crate::kube::time;
use crate::kube::watch;
use crate::kube::watch::News;
use crate::kube::watch::Resource;
use crate::kube::watch::Sink;

const PODS: &str = "/api/v1/pods";

fn pod(name: &str) -> (String, Value) {
    (format!("/api/v1/namespaces/shop/pods/{name}"), json!({"metadata": {"name": name}}))
}

fn name(object: Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Listens to the pods of a server.
struct Ear(mpsc::Receiver<((), News<String>)>);

impl Ear {
    fn on(fake: &Fake) -> Ear {
        let (to, from) = mpsc::channel(64);
        let client = fake.client();
        fake.answer_with("/api/v2/pods", Value::Null);
        tokio::spawn(async move {
            let resource = Resource { paths: vec!["/api/v2/pods".to_owned(), PODS.to_owned()], only: None };
            watch::follow(&client, resource, name, Sink { tag: (), to }).await;
        });
        Ear(from)
    }

    /// The next that says something of objects.
    async fn hear(&mut self) -> String {
        loop {
            match self.0.recv().await.unwrap().1 {
                News::Listed(mut all) => {
                    all.sort();
                    return format!("listed {}", all.join(" "));
                }
                News::Applied(one) => return format!("applied {one}"),
                News::Deleted(one) => return format!("deleted {one}"),
                News::Current | News::Failing(_) => {}
            }
        }
    }
}

#[tokio::test]
async fn a_list_comes_whole_and_changes_follow_in_order() {
    let fake = Fake::start().await;
    for number in 0..600 {
        let (path, object) = pod(&format!("web-{number}"));
        fake.put(&path, object);
    }
    let mut ear = Ear::on(&fake);
    assert_eq!(ear.hear().await.split(' ').count(), 601, "all pages, and in the version that is served");
    let (path, object) = pod("late");
    fake.put(&path, object.clone());
    fake.put(&path, object);
    fake.delete(&path);
    assert_eq!(ear.hear().await, "applied late");
    assert_eq!(ear.hear().await, "applied late");
    assert_eq!(ear.hear().await, "deleted late");
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_from_its_version_and_one_too_old_lists_again() {
    let fake = Fake::start().await;
    let (path, object) = pod("a");
    fake.put(&path, object.clone());
    let mut ear = Ear::on(&fake);
    while ear.hear().await != "listed a" {}
    fake.set_down(true);
    fake.delete(&path);
    let (other, object) = pod("b");
    fake.put(&other, object);
    fake.set_down(false);
    assert_eq!(ear.hear().await, "deleted a", "the watch goes on where it broke");
    assert_eq!(ear.hear().await, "applied b");
    fake.delete(&other);
    assert_eq!(ear.hear().await, "deleted b");
    let (third, object) = pod("c");
    fake.set_down(true);
    fake.put(&third, object);
    fake.compact();
    fake.set_down(false);
    assert_eq!(ear.hear().await, "listed c", "history is gone, so the whole is asked for at once");
}

#[tokio::test]
async fn who_writes_over_another_is_told_so() {
    let fake = Fake::start().await;
    let client = fake.client();
    let path = "/api/v1/namespaces/leno-system/secrets";
    let one = format!("{path}/root");
    assert!(client.get(&one).await.unwrap_err().not_found());
    let made = client.create(path, &json!({"metadata": {"name": "root"}})).await.unwrap();
    assert!(client.create(path, &made).await.unwrap_err().conflicts());
    client.patch(&one, Patch::Merge, &json!({"data": {"a": "b"}})).await.unwrap();
    assert!(client.replace(&one, &made).await.unwrap_err().conflicts());
    assert_eq!(client.get(&one).await.unwrap()["data"], json!({"a": "b"}));
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_and_never_an_answer() {
    let fake = Fake::start().await;
    let client = fake.client();
    fake.set_down(true);
    let error = client.get(PODS).await.unwrap_err();
    assert_eq!(error.status(), None, "{error}");
    fake.set_down(false);
    client.get(PODS).await.unwrap();
}

#[test]
fn base64_is_what_everybody_writes() {
    let cases: BTreeMap<&str, &str> =
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")].into();
    for (plain, text) in cases {
        assert_eq!(base64::encode(plain.as_bytes()), text);
        assert_eq!(base64::decode(text).unwrap(), plain.as_bytes());
    }
    assert_eq!(base64::encode(&[0xfb, 0xff]), "+/8=");
    for wrong in ["Zg", "Zg=", "Z===", "Zg==Zg==", "Z!8="] {
        assert_eq!(base64::decode(wrong), None, "{wrong}");
    }
}

#[test]
fn times_are_written_as_kubernetes_does() {
    let cases = [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (4_102_444_800, "2100-01-01T00:00:00Z"),
    ];
    for (unix, text) in cases {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix);
        assert_eq!(time::seconds(at), text);
        let at = at + std::time::Duration::from_micros(42);
        assert_eq!(time::micros(at), text.replace('Z', ".000042Z"));
    }
}
