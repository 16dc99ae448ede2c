//! Follows all objects of one resource: a list in pages, then a watch from where the list ended, and again when either ends.
//! What is deleted while nobody watched is found by comparing whole lists; a list that is not whole says nothing.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::kube::Error;
use crate::kube::client::Client;
use crate::kube::client::ended;

/// Objects of one page: a few megabytes at a time.
const PAGE: usize = 250;
/// The API server ends a watch after this; the next goes on from the same version.
const WATCH_SECONDS: u64 = 290;
/// Bookmarks come once a minute. Silence beyond this is a connection that nobody closed.
const SILENCE_MAX: Duration = Duration::from_secs(150);
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// How often a resource that is not there is asked for.
const ABSENT: Duration = Duration::from_secs(10);
/// How often it must be absent in a row before what was there counts as gone.
const ABSENCES: u32 = 3;

/// What is heard of a resource.
#[derive(Debug)]
pub enum News<T> {
    /// All that there is: what was known and is not here, is gone.
    Listed(Vec<T>),
    Applied(T),
    Deleted(T),
    /// Nothing changed, and we know it.
    Current,
    /// We may be behind, and go on trying. What is known stays.
    Failing(Error),
}

/// Who listens, and as what the resource is known there.
pub struct Sink<T, Tag> {
    pub tag: Tag,
    pub to: mpsc::Sender<(Tag, News<T>)>,
}

/// Nobody listens.
struct Deaf;

impl<T, Tag: Copy> Sink<T, Tag> {
    async fn tell(&self, news: News<T>) -> Result<(), Deaf> {
        self.to.send((self.tag, news)).await.map_err(|_| Deaf)
    }
}

/// One resource in the versions that may be served, the preferred first: `/apis/GROUP/VERSION/PLURAL`.
pub struct Resource {
    pub paths: Vec<String>,
    /// Of all objects only the one of this name.
    pub only: Option<&'static str>,
}

impl Resource {
    fn selected(&self, path: &str) -> String {
        match self.only {
            None => path.to_owned(),
            Some(name) => format!("{path}?fieldSelector=metadata.name%3D{name}"),
        }
    }
}

/// What stands between a path, which may have a query, and more of a query.
fn more_after(path: &str) -> char {
    if path.contains('?') { '&' } else { '?' }
}

/// For ever, or until nobody listens. `read` trims an object as soon as it is parsed.
pub async fn follow<T, Tag: Copy>(client: &Client, resource: Resource, read: impl Fn(Value) -> T, sink: Sink<T, Tag>) {
    // An error here is that nobody listens any more, which is how this ends.
    let _ = try_follow(client, &resource, &read, &sink).await;
}

async fn try_follow<T, Tag: Copy>(
    client: &Client,
    resource: &Resource,
    read: &impl Fn(Value) -> T,
    sink: &Sink<T, Tag>,
) -> Result<(), Deaf> {
    let mut dice: StdRng = rand::make_rng();
    let (mut failures, mut absences, mut chosen) = (0, 0, 0);
    let mut known = false;
    loop {
        let path = &resource.selected(&resource.paths[chosen % resource.paths.len()]);
        let failed = match list(client, path, read).await {
            Ok((all, version)) => {
                sink.tell(News::Listed(all)).await?;
                (failures, absences, known) = (0, 0, true);
                watch(client, path, version, read, sink, &mut dice).await?
            }
            Err(error) if error.not_found() => {
                // The definition is not installed, or not in this version. An API server that starts may say so too: what we
                // have listed once is gone only when it says so for a while.
                chosen += 1;
                if chosen.is_multiple_of(resource.paths.len()) {
                    absences += 1;
                    if !known || absences >= ABSENCES {
                        known = false;
                        sink.tell(News::Listed(Vec::new())).await?;
                    }
                    sleep(ABSENT).await;
                }
                continue;
            }
            Err(error) => error,
        };
        // An expired version is in the order of things; whatever else ends a watch is worth a word.
        if !failed.gone() {
            sink.tell(News::Failing(failed)).await?;
        }
        failures += 1;
        sleep(pause(failures, &mut dice)).await;
    }
}

/// Full jitter, so that replicas do not come back in step.
fn pause(failures: u32, dice: &mut StdRng) -> Duration {
    let longest = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
    longest.mul_f64(dice.random_range(0.1..1.0))
}

/// All pages, or an error. `path` may have a query already. The version is that of the first page, which the others repeat.
pub async fn list<T>(client: &Client, path: &str, read: &impl Fn(Value) -> T) -> Result<(Vec<T>, String), Error> {
    let mut all = Vec::new();
    let mut more = String::new();
    loop {
        let mut page = client.get(&format!("{path}{}limit={PAGE}{more}", more_after(path))).await?;
        let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) else {
            return Err(Error::Malformed(format!("{path} is no list")));
        };
        all.extend(items.into_iter().map(read));
        let meta = &page["metadata"];
        match meta["continue"].as_str() {
            Some(token) if !token.is_empty() => more = format!("&continue={}", escape(token)),
            Some(_) | None => return Ok((all, meta["resourceVersion"].as_str().unwrap_or_default().to_owned())),
        }
    }
}

/// From a version on, through as many connections as it takes. Returns when only a new list helps.
async fn watch<T, Tag: Copy>(
    client: &Client,
    path: &str,
    mut version: String,
    read: &impl Fn(Value) -> T,
    sink: &Sink<T, Tag>,
    dice: &mut StdRng,
) -> Result<Error, Deaf> {
    let mut failures = 0;
    loop {
        let seconds = WATCH_SECONDS + dice.random_range(0..60);
        let and = more_after(path);
        let from = format!(
            "{path}{and}watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}"
        );
        let failed = match client.lines(&from).await {
            Err(error) => error,
            Ok(mut lines) => loop {
                match timeout(SILENCE_MAX, lines.next()).await {
                    Err(_) => break Error::Unreachable(format!("silence for {} s", SILENCE_MAX.as_secs())),
                    Ok(Err(error)) => break error,
                    // The order of things: its time was over.
                    Ok(Ok(None)) => break Error::Unreachable(String::new()),
                    Ok(Ok(Some(mut event))) => {
                        let object = event["object"].take();
                        if event["type"] == "ERROR" {
                            return Ok(ended(&object));
                        }
                        failures = 0;
                        if let Some(newer) = object["metadata"]["resourceVersion"].as_str() {
                            newer.clone_into(&mut version);
                        }
                        sink.tell(match event["type"].as_str() {
                            Some("ADDED" | "MODIFIED") => News::Applied(read(object)),
                            Some("DELETED") => News::Deleted(read(object)),
                            _ => News::Current,
                        })
                        .await?;
                    }
                }
            },
        };
        match failed {
            Error::Unreachable(why) if why.is_empty() => sink.tell(News::Current).await?,
            Error::Refused { .. } | Error::Malformed(_) => return Ok(failed),
            Error::Access(_) | Error::Unreachable(_) => sink.tell(News::Failing(failed)).await?,
        }
        failures += 1;
        sleep(pause(failures, dice)).await;
    }
}

/// For a query: everything but what RFC 3986 section 2.3 leaves alone.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
