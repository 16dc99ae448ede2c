//! curl to Python's `http.server`.

use std::io::Write;

use crate::pair::Pair;
use crate::pair::script;

async fn pair() -> Pair {
    Pair::start(Some("http"), |_| script("python3", "server.py")).await
}

#[tokio::test]
async fn curl_reaches_python_and_both_see_what_the_other_sent() {
    let pair = pair().await;
    let said: serde_json::Value = serde_json::from_str(&pair.curl(&["-H", "X-Custom: a b"], "/a/b?c=d")).unwrap();
    assert_eq!((said["method"].as_str(), said["path"].as_str()), (Some("GET"), Some("/a/b?c=d")));
    assert!(said["headers"].to_string().contains(r#"["X-Custom","a b"]"#), "{said}");
    let head = pair.curl(&["-i"], "/");
    assert!(head.starts_with("HTTP/1.1 200 As You Like\r\n") && head.contains("X-MiXed-CaSe: kept\r\n"), "{head}");
    let head = pair.curl(&["-I"], "/bytes/1000");
    assert!(head.to_ascii_lowercase().contains("content-length: 1000"), "{head}");
}

#[tokio::test]
async fn bodies_of_every_framing_pass_whole() {
    let pair = pair().await;
    let path = pair.mesh.folder.join("upload");
    let mut file = std::fs::File::create(&path).unwrap();
    let block = vec![7u8; 1 << 20];
    for _ in 0..64 {
        file.write_all(&block).unwrap();
    }
    let path = format!("@{}", path.display());
    for more in [&["-H", "Transfer-Encoding: chunked"][..], &["-H", "Expect: 100-continue"], &["-H", "Expect:"]] {
        let arguments: Vec<&str> = ["-X", "POST", "--data-binary", &path].iter().chain(more).copied().collect();
        let said: serde_json::Value = serde_json::from_str(&pair.curl(&arguments, "/upload")).unwrap();
        assert_eq!(said["length"], 64 << 20, "{more:?}");
    }
    assert_eq!(pair.curl(&[], "/bytes/67108864").len(), 64 << 20);
    assert_eq!(pair.curl(&[], "/chunked").len(), 500);
    assert_eq!(pair.curl(&[], "/close"), "until the end");
}
