use std::time::Duration;
use std::time::SystemTime;

use serde_json::Value;
use serde_json::json;

use crate::kube::fake::Fake;
use crate::token::Caller;
use crate::token::Review;
use crate::token::TokenError;
use crate::token::base64url;
use crate::token::review::PATH;
use crate::token::unix;

fn token(exp: u64) -> String {
    format!("{}.{}.c2ln", base64url::encode(b"{}"), base64url::encode(json!({"exp": exp}).to_string().as_bytes()))
}

fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["leno"],
        "user": {
            "username": "system:serviceaccount:shop:web",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["web-0"],
                "authentication.kubernetes.io/pod-uid": ["uid-0"],
            },
        },
    })
}

async fn reviewed(status: Value) -> Result<Caller, TokenError> {
    let fake = Fake::start().await;
    fake.answer_with(PATH, json!({"status": status}));
    let now = SystemTime::now();
    Review::new(fake.client()).verify(&token(unix(now) + 600), now).await
}

#[tokio::test]
async fn the_api_server_says_who_calls() {
    let caller = reviewed(good()).await.unwrap();
    assert_eq!((&*caller.namespace, &*caller.service_account), ("shop", "web"));
    assert_eq!((&*caller.pod_name, &*caller.pod_uid), ("web-0", "uid-0"));
}

#[tokio::test]
async fn what_is_not_ours_is_refused() {
    let with = |path: &str, value: Value| {
        let mut status = good();
        *status.pointer_mut(path).unwrap() = value;
        status
    };
    let cases = [
        (
            with("/authenticated", json!(false)),
            TokenError::Unauthenticated("it is not one of this cluster's".to_owned()),
        ),
        // No fallback: an API server that does not speak of audiences has not checked ours.
        (with("/audiences", json!([])), TokenError::Audience),
        (with("/audiences", json!(["https://kubernetes.default.svc"])), TokenError::Audience),
        (with("/user/username", json!("admin")), TokenError::Malformed("it is not a service account's")),
        (
            with("/user/username", json!("system:serviceaccount:shop:a/b")),
            TokenError::Malformed("a name is not a Kubernetes name"),
        ),
        (with("/user/extra", json!({})), TokenError::NotBound),
    ];
    for (status, expected) in cases {
        assert_eq!(reviewed(status.clone()).await, Err(expected), "{status}");
    }
}

#[tokio::test]
async fn a_good_token_is_remembered_for_a_moment_and_an_absence_is_no_refusal() {
    let fake = Fake::start().await;
    fake.answer_with(PATH, json!({"status": good()}));
    let review = Review::new(fake.client());
    let now = SystemTime::now();
    let token = token(unix(now) + 600);
    for _ in 0..3 {
        review.verify(&token, now).await.unwrap();
    }
    assert_eq!(fake.calls().len(), 1);
    fake.set_down(true);
    review.verify(&token, now + Duration::from_secs(9)).await.unwrap();
    let late = review.verify(&token, now + Duration::from_secs(11)).await;
    assert!(matches!(late, Err(TokenError::Unavailable(_))), "{late:?}");
}

#[tokio::test]
async fn an_expired_token_costs_no_review() {
    let fake = Fake::start().await;
    let now = SystemTime::now();
    let refused = Review::new(fake.client()).verify(&token(unix(now) - 5), now).await;
    assert_eq!(refused, Err(TokenError::Expired(5)));
    assert!(fake.calls().is_empty());
}
