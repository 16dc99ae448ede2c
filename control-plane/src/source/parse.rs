//! Manifest text into documents, each judged alone: syntax, schema, bounds. It never lets one document's fault reach another's.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

use crate::object::Kind;
use crate::object::Name;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::check;
use crate::object::check::Flaw;
use crate::source::OBJECTS_MAX;
use crate::source::Refused;
use crate::source::locate;

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// Where `text` starts, from 1.
    pub(super) line: u64,
    /// `None`: it cannot be told which object is meant.
    pub(super) id: Option<ObjectId>,
    pub(super) text: Arc<str>,
    pub(super) outcome: Result<Arc<Object>, Box<Refused>>,
    file: Arc<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: HeaderMeta,
}

#[derive(Debug, Default, Deserialize)]
struct HeaderMeta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Spanned<serde_json::Value>>,
}

/// The documents of a file that are ours to read; other controllers' kinds are passed over.
pub(super) fn documents(file: &str, text: &str) -> Vec<Document> {
    let file: Arc<str> = file.into();
    let mut found = Vec::new();
    for (line, part) in split(text) {
        let blank = bare(part)
            .lines()
            .all(|l| l.trim().is_empty() || l.trim_start().starts_with(['#', '%']) || l.trim() == "...");
        if !blank {
            document(&file, line, part, &mut found);
        }
    }
    found
}

/// `---` at the start of a line always separates documents (YAML 1.2, section 9.1.2), even inside a broken one.
fn split(text: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            parts.push((start_line, &text[start..at]));
            start = at;
            start_line = index as u64 + 1;
        }
        at += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts
}

/// A document as it is kept: without its separator, so that it compares equal wherever it stands.
fn bare(text: &str) -> &str {
    let text = text.strip_prefix("---").unwrap_or(text).trim_end();
    // A first line that only held the separator and a comment goes; indentation stays.
    match text.split_once('\n') {
        Some((first, rest)) if first.trim().is_empty() || first.trim().starts_with('#') => rest,
        Some(_) | None => text,
    }
}

fn document(file: &Arc<str>, line: u64, text: &str, found: &mut Vec<Document>) {
    let place = Place { file, line, text };
    let header: Header = match serde_saphyr::from_str(text) {
        Ok(header) => header,
        Err(error) => return found.push(place.unnamed(text, place.decode_error(&error))),
    };
    if header.kind == "List" && header.api_version == "v1" {
        return list(place, text, found);
    }
    if header.kind.is_empty() || header.api_version.is_empty() {
        let refusal = place.refused(
            "kind",
            "the document names no kind or no apiVersion",
            "begin it with `apiVersion:` and `kind:`",
        );
        return found.push(place.unnamed(text, refusal));
    }
    let Some(kind) = Kind::named(&header.api_version, &header.kind) else {
        if header.api_version.starts_with("policy.leno.dev/") {
            let known: Vec<&str> =
                Kind::ALL.iter().filter(|k| k.group() == "policy.leno.dev").map(|k| k.as_str()).collect();
            let message = format!("there is no kind {} in policy.leno.dev", header.kind);
            let refusal = place.refused("kind", &message, &format!("use one of {}", known.join(", ")));
            found.push(place.unnamed(text, refusal));
        }
        return;
    };
    if header.metadata.name.is_empty() {
        let mut refusal = place.refused("metadata.name", "the object has no name", "name it");
        refusal.object = Some(kind.to_string());
        return found.push(place.unnamed(text, refusal));
    }
    let namespace = match header.metadata.namespace.as_deref() {
        _ if !kind.namespaced() => "",
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    let id = ObjectId { kind, name: Name::new(namespace, &header.metadata.name) };
    let outcome = match &header.api_version {
        version if kind.group() == "policy.leno.dev" && version != crate::object::POLICY_VERSION => Err(place.refused(
            "apiVersion",
            &format!("{version} is not served"),
            &format!("use {}", crate::object::POLICY_VERSION),
        )),
        _ => admit(place, kind, namespace, text),
    };
    let outcome = outcome.map_err(|mut refusal| {
        refusal.object = Some(id.to_string());
        refusal
    });
    let bare = bare(text);
    // What was cut from its beginning is the separator's line, if that.
    let cut = text[..bare.as_ptr() as usize - text.as_ptr() as usize].matches('\n').count() as u64;
    found.push(Document { line: line + cut, id: Some(id), text: bare.into(), outcome, file: Arc::clone(file) });
}

/// `kubectl get -o yaml` writes these.
fn list(place: Place<'_>, text: &str, found: &mut Vec<Document>) {
    match serde_saphyr::from_str::<List>(text) {
        Ok(list) => {
            for item in list.items.iter().take(OBJECTS_MAX) {
                // JSON is YAML, so that one path decodes both. It is one line: where the item begins.
                let line = place.line + item.defined.line().saturating_sub(1);
                document(place.file, line, &item.value.to_string(), found);
            }
        }
        Err(error) => found.push(place.unnamed(text, place.decode_error(&error))),
    }
}

fn admit(place: Place<'_>, kind: Kind, namespace: &str, text: &str) -> Result<Arc<Object>, Box<Refused>> {
    let mut object = decode(kind, text).map_err(|error| place.decode_error(&error))?;
    let meta = object.meta_mut();
    namespace.clone_into(&mut meta.namespace);
    if meta.uid.is_empty() {
        meta.uid = uid(kind, namespace, &meta.name);
    }
    let flaws = check::check(&object);
    if let Some(first) = flaws.first() {
        return Err(place.flawed(first, &flaws[1..]));
    }
    Ok(Arc::new(object))
}

/// Decodes one object of a known kind.
pub(super) fn decode(kind: Kind, text: &str) -> Result<Object, serde_saphyr::Error> {
    fn one<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
        serde_saphyr::from_str(text)
    }
    Ok(match kind {
        Kind::Namespace => Object::Namespace(one(text)?),
        Kind::ServiceAccount => Object::ServiceAccount(one(text)?),
        Kind::Pod => Object::Pod(one(text)?),
        Kind::Service => Object::Service(one(text)?),
        Kind::EndpointSlice => Object::EndpointSlice(one(text)?),
        Kind::HttpRoute => Object::HttpRoute(one(text)?),
        Kind::GrpcRoute => Object::GrpcRoute(one(text)?),
        Kind::TcpRoute => Object::TcpRoute(one(text)?),
        Kind::ReferenceGrant => Object::ReferenceGrant(one(text)?),
        Kind::TrafficPolicy => Object::TrafficPolicy(one(text)?),
        Kind::InboundPolicy => Object::InboundPolicy(one(text)?),
        Kind::AccessPolicy => Object::AccessPolicy(one(text)?),
        Kind::EgressHost => Object::EgressHost(one(text)?),
        Kind::Mesh => Object::Mesh(one(text)?),
    })
}

/// A manifest seldom says its uid; the API server would make one. Here it is the same on every machine and after a restart.
fn uid(kind: Kind, namespace: &str, name: &str) -> String {
    let text = format!("{}/{namespace}/{name}", kind.as_str());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

impl Document {
    /// What only the two versions together can show.
    pub(super) fn check_update(&self, old: &Object, new: Arc<Object>) -> Result<Arc<Object>, Box<Refused>> {
        match check::check_update(old, &new) {
            Some(flaw) => {
                let mut refusal = self.place().flawed(&flaw, &[]);
                refusal.object = Some(new.id().to_string());
                Err(refusal)
            }
            None => Ok(new),
        }
    }

    pub(super) fn duplicate(&self, id: &ObjectId, first: &str) -> Box<Refused> {
        let message = format!("the object is already declared in {first}");
        let mut refusal = self.place().refused("metadata.name", &message, "keep one of the two; the first one counts");
        refusal.object = Some(id.to_string());
        refusal
    }

    pub(super) fn over_limit(&self, id: &ObjectId) -> Box<Refused> {
        let mut refusal =
            self.place().refused("", &format!("the folder holds more than {OBJECTS_MAX} objects"), "remove some");
        refusal.object = Some(id.to_string());
        refusal
    }

    fn place(&self) -> Place<'_> {
        Place { file: &self.file, line: self.line, text: &self.text }
    }
}

#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    file: &'a Arc<str>,
    line: u64,
    text: &'a str,
}

impl Place<'_> {
    /// The field's line in the file, or the document's first where it cannot be told.
    fn line_of(&self, field: &str) -> u64 {
        let within = if field.is_empty() { None } else { locate::line_of(self.text, field) };
        self.line + within.map_or(0, |line| line.saturating_sub(1))
    }

    fn refused(&self, field: &str, message: &str, remedy: &str) -> Box<Refused> {
        Box::new(Refused {
            file: self.file.to_string(),
            line: Some(self.line_of(field)),
            object: None,
            field: field.to_owned(),
            message: message.to_owned(),
            remedy: remedy.to_owned(),
            earlier_in_force: false,
        })
    }

    fn unnamed(&self, text: &str, refusal: Box<Refused>) -> Document {
        Document { line: self.line, id: None, text: text.into(), outcome: Err(refusal), file: Arc::clone(self.file) }
    }

    fn flawed(&self, first: &Flaw, more: &[Flaw]) -> Box<Refused> {
        let mut message = first.message.clone();
        for flaw in more.iter().take(9) {
            message.push_str(&format!("; also {}: {}", flaw.field, flaw.message));
        }
        self.refused(&first.field, &message, &first.remedy)
    }

    /// The decoder's words, with the line counted from the start of the file and the field told apart.
    fn decode_error(&self, error: &serde_saphyr::Error) -> Box<Refused> {
        let text = error.without_snippet().to_string();
        let mut message = text.lines().next().unwrap_or_default().to_owned();
        if let Some(at) = message.find(" at line ") {
            message.truncate(at);
        }
        let quoted = |prefix: &str| {
            message.split_once(prefix).and_then(|(_, rest)| rest.split(['`', '\'']).next()).map(str::to_owned)
        };
        let (field, remedy) = if let Some(field) = quoted("unknown field `") {
            (field, "remove it or correct its spelling")
        } else if let Some(field) = quoted("missing field `") {
            (field, "add it")
        } else if let Some(value) = quoted("unknown variant `") {
            (value, "use one of the listed values")
        } else {
            (String::new(), "correct the value at this line")
        };
        // Parts that are read in a second step name their field and no place.
        if let Some((path, said)) = message.split_once(": ")
            && path.starts_with("spec.")
            && !path.contains(' ')
        {
            let said = said.to_owned();
            let path = path.to_owned();
            return self.refused(&path, &said, remedy);
        }
        let mut refusal = self.refused(&field, &message, remedy);
        refusal.line = Some(error.location().map_or(self.line, |at| self.line + at.line().saturating_sub(1)));
        refusal
    }
}
