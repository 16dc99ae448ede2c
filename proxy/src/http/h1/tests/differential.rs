//! The same bytes to hyper: wherever it is of another opinion, the table says why.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::http::h1::tests::cases::CASES;
use crate::http::h1::tests::outcome;
use crate::http::h1::tests::run;
use crate::http::h1::tests::speak;

/// What hyper's service saw, and whether the connection ended in a refusal.
async fn hypers(raw: &[u8]) -> String {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = {
        let seen = Rc::clone(&seen);
        service_fn(move |request| {
            let seen = Rc::clone(&seen);
            async move {
                let line = told(request).await;
                seen.borrow_mut().push(line);
                Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"ok"))))
            }
        })
    };
    let serving = Builder::new().half_close(true).serve_connection(TokioIo::new(ours), service);
    let pieces = [raw];
    let (served, _) = tokio::join!(serving, speak(theirs, &pieces));
    let mut told = std::mem::take(&mut *seen.borrow_mut());
    if served.is_err_and(|error| error.is_parse() || error.is_parse_too_large()) {
        told.push("refused".to_owned());
    }
    told.join(" | ")
}

async fn told(request: hyper::Request<Incoming>) -> String {
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let mut line = format!("{} {target}", request.method());
    let mut body = request.into_body();
    let (mut data, mut trailers, mut cut) = (Vec::new(), String::new(), "");
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            cut = "!";
            break;
        };
        match frame.into_data() {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => {
                for (name, value) in frame.trailers_ref().into_iter().flatten() {
                    trailers.push_str(&format!(" +{name}:{}", String::from_utf8_lossy(value.as_bytes())));
                }
            }
        }
    }
    if !data.is_empty() || !cut.is_empty() {
        line.push_str(&format!(" [{}{cut}]", String::from_utf8_lossy(&data)));
    }
    line + &trailers
}

/// Ours in hyper's words: without authorities, and a refusal is a refusal.
fn comparable(ours: &str) -> String {
    let parts = ours.split(" | ").filter(|part| !part.is_empty()).map(|part| {
        if part.len() == 3 && part.bytes().all(|b| b.is_ascii_digit()) {
            return "refused".to_owned();
        }
        let (method, rest) = part.split_once(' ').expect("a method");
        let (_, rest) = rest.split_once(' ').expect("an authority");
        let mut line = format!("{method} {rest}");
        for reason in ["!BadFraming", "!ClientGone"] {
            line = line.replace(reason, "!");
        }
        match line.split_once(" +") {
            Some((line, trailers)) => format!("{line} +{}", trailers.to_ascii_lowercase()),
            None => line,
        }
    });
    parts.collect::<Vec<_>>().join(" | ")
}

#[test]
fn every_disagreement_with_hyper_is_explained() {
    let mut wrong = String::new();
    run(async {
        for case in CASES {
            let (ours, _) = outcome(&[case.raw.as_bytes()]).await;
            let (ours, theirs) = (comparable(&ours), hypers(case.raw.as_bytes()).await);
            if (ours == theirs) != case.hyper.is_empty() {
                wrong.push_str(&format!("{}\t{ours:?}\t{theirs:?}\t{}\n", case.name, case.hyper));
            }
        }
    });
    assert!(wrong.is_empty(), "\n{wrong}");
}
