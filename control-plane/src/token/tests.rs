use proptest::prelude::*;

use super::*;
use crate::folder::Folder;
use crate::testing::Scratch;

const NOW: SystemTime = UNIX_EPOCH;

fn at(seconds: u64) -> SystemTime {
    NOW + Duration::from_secs(1_800_000_000 + seconds)
}

fn subject() -> Subject {
    let [namespace, service_account, pod_name, pod_uid] = ["shop", "cart", "cart-1", "uid-1"].map(str::to_owned);
    Subject { namespace, service_account, pod_name, pod_uid }
}

fn key(scratch: &Scratch) -> FolderKey {
    FolderKey::open(&Folder::open(scratch.path()).unwrap()).unwrap()
}

#[test]
fn a_minted_token_names_its_pod() {
    let scratch = Scratch::new();
    let token = key(&scratch).mint(&subject(), Duration::from_secs(600), at(0)).unwrap();
    let caller = key(&scratch).verify(&token, at(599)).unwrap();
    assert_eq!(
        (&*caller.namespace, &*caller.service_account, &*caller.pod_name, &*caller.pod_uid, caller.expires),
        ("shop", "cart", "cart-1", "uid-1", at(600))
    );
}

#[test]
fn the_second_of_expiry_is_too_late() {
    let scratch = Scratch::new();
    let token = key(&scratch).mint(&subject(), Duration::from_secs(600), at(0)).unwrap();
    assert_eq!(key(&scratch).verify(&token, at(600)), Err(TokenError::Expired(0)));
    assert_eq!(key(&scratch).verify(&token, at(700)), Err(TokenError::Expired(100)));
}

#[test]
fn every_wrong_token_is_refused_for_its_own_reason() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    let key = key(&scratch);
    let kid = key.id.as_str();
    let header = format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#);
    let good = r#"{"aud":["leno"],"exp":1800000600,"iat":1800000000,"nbf":1800000000,"iss":"leno","sub":"system:serviceaccount:shop:cart","kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"cart","uid":""},"pod":{"name":"cart-1","uid":"uid-1"}}}"#;
    assert!(key.verify(&key.sign(header.as_bytes(), good.as_bytes()), at(0)).is_ok(), "the table's base is good");
    let claims = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        key.sign(header.as_bytes(), good.replace(from, to).as_bytes())
    };
    let malformed = TokenError::Malformed;
    let table = [
        ("other audience", claims(r#"["leno"]"#, r#"["api"]"#), TokenError::Audience),
        ("no audience", claims(r#"["leno"]"#, "[]"), TokenError::Audience),
        ("a second audience", claims(r#"["leno"]"#, r#"["leno","api"]"#), TokenError::Audience),
        ("other issuer", claims(r#""iss":"leno""#, r#""iss":"me""#), TokenError::Issuer),
        ("expired", claims("1800000600", "1799999990"), TokenError::Expired(10)),
        ("from the future", claims(r#""nbf":1800000000"#, r#""nbf":1800000300"#), TokenError::NotYet(300)),
        ("no pod", claims(r#","pod":{"name":"cart-1","uid":"uid-1"}"#, ""), TokenError::NotBound),
        ("empty pod uid", claims(r#""uid":"uid-1""#, r#""uid":"""#), TokenError::NotBound),
        (
            "sub of another account",
            claims(r#"account:shop:cart""#, r#"account:shop:admin""#),
            malformed("sub and kubernetes.io disagree"),
        ),
        (
            "a namespace that leaves its place",
            claims(r#""namespace":"shop""#, r#""namespace":"shop/sa/admin""#),
            malformed("a name is not a Kubernetes name"),
        ),
        ("claims are no object", key.sign(header.as_bytes(), b"[]"), malformed("claims are not what we know")),
        ("alg none", key.sign(header.replace("ES256", "none").as_bytes(), good.as_bytes()), TokenError::Algorithm),
        ("alg HS256", key.sign(header.replace("ES256", "HS256").as_bytes(), good.as_bytes()), TokenError::Algorithm),
        ("no alg", key.sign(b"{}", good.as_bytes()), malformed("header is not what we know")),
        ("key of another folder", self::key(&other).mint(&subject(), TTL_MIN, at(0)).unwrap(), TokenError::OtherKey),
        (
            "key of another folder that claims to be ours",
            self::key(&other).sign(header.as_bytes(), good.as_bytes()),
            TokenError::Signature,
        ),
        ("empty", String::new(), malformed("not three parts")),
        ("two parts", "a.b".to_owned(), malformed("not three parts")),
        ("four parts", format!("a.{}", key.sign(b"{}", b"{}")), malformed("not base64url")),
        ("padding", format!("{}=", key.sign(header.as_bytes(), good.as_bytes())), malformed("not base64url")),
        ("8 KiB and one byte", "a".repeat(TOKEN_MAX + 1), TokenError::TooLarge),
    ];
    for (name, token, expected) in table {
        assert_eq!(key.verify(&token, at(0)), Err(expected), "{name}");
    }
}

#[test]
fn names_that_would_leave_their_place_are_not_minted() {
    let scratch = Scratch::new();
    for bad in ["", "a/b", "A", "-a", "a-", "a:b", "ä"] {
        let subject = Subject { namespace: bad.to_owned(), ..subject() };
        assert!(key(&scratch).mint(&subject, Duration::from_secs(1), at(0)).is_err(), "{bad}");
    }
}

#[test]
fn the_key_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    key(&scratch);
    let mode = std::fs::metadata(scratch.path().join(KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

proptest! {
    #[test]
    fn base64url_round_trips_and_accepts_one_spelling(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let text = base64url::encode(&bytes);
        prop_assert_eq!(base64url::decode(&text), Some(bytes));
    }

    #[test]
    fn what_decodes_is_what_encodes(text in "[A-Za-z0-9_=.-]{0,24}") {
        if let Some(bytes) = base64url::decode(&text) {
            prop_assert_eq!(base64url::encode(&bytes), text);
        }
    }

    #[test]
    fn a_flipped_character_is_never_accepted(position in 0usize..400, to in "[A-Za-z0-9_-]") {
        let scratch = Scratch::new();
        let key = key(&scratch);
        let mut token = key.mint(&subject(), Duration::from_secs(60), at(0)).unwrap();
        let position = position % token.len();
        if token[position..=position] != to {
            token.replace_range(position..=position, &to);
            prop_assert!(key.verify(&token, at(0)).is_err());
        }
    }
}
