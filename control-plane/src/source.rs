//! A folder of manifests as the world: read, judged as an API server would, and turned into events within a second of a change.
//! It must never let a bad document, or a file caught halfway through a write, disturb what is in force.

mod endpoints;
mod locate;
mod parse;
mod state;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::object::Event;
use crate::object::Object;
use crate::object::ObjectId;
use crate::source::parse::Document;

/// A file larger than this is not read: no hand writes it, and one file must not hold the control plane's memory.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// In all files together.
pub const OBJECTS_MAX: usize = 20_000;
/// Files looked at, in the folder and its subfolders.
pub const FILES_MAX: usize = 4096;
/// How deep subfolders are read.
pub const DEPTH_MAX: usize = 8;
/// How often the folder is looked at.
pub const POLL: Duration = Duration::from_millis(250);
/// A file touched this recently is read again even if its time and size are the same: clocks of file systems are coarse.
const UNSETTLED: Duration = Duration::from_secs(2);

/// A document, file or folder that was not admitted, in the words that the user sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Refused {
    pub file: String,
    pub line: Option<u64>,
    /// `Kind namespace/name` where it could be read.
    pub object: Option<String>,
    /// Path of the field, or empty.
    pub field: String,
    pub message: String,
    pub remedy: String,
    /// An earlier version of the object stays in force.
    pub earlier_in_force: bool,
}

/// What one look at the folder brought.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub events: Vec<Event>,
    /// All that is refused now, not only what is new.
    pub refused: Arc<[Refused]>,
}

/// The folder and what was admitted from it.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    state: Option<PathBuf>,
    files: BTreeMap<String, File>,
    admitted: BTreeMap<ObjectId, Admitted>,
    /// EndpointSlices made here for Services that select Pods and have none written by hand.
    derived: BTreeMap<ObjectId, Arc<Object>>,
    /// Absent in the last look: deleted if absent in this one too. Editors replace files in two steps.
    missing: BTreeSet<ObjectId>,
    refused: Arc<[Refused]>,
    looked: bool,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    settled: bool,
    text: String,
    documents: Vec<Document>,
    /// The file as a whole could not be read; what it held stays.
    unreadable: Option<Refused>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
}

/// An object in force.
#[derive(Debug, Clone)]
struct Admitted {
    object: Arc<Object>,
    /// The document as written, so that the state folder can give it back.
    text: Arc<str>,
    file: String,
    generation: i64,
}

impl Directory {
    /// With a state folder, what was admitted last survives a restart.
    pub fn open(root: PathBuf, state: Option<PathBuf>) -> io::Result<Directory> {
        let admitted = match &state {
            Some(folder) => state::load(folder)?,
            None => BTreeMap::new(),
        };
        Ok(Directory {
            root,
            state,
            files: BTreeMap::new(),
            admitted,
            derived: BTreeMap::new(),
            missing: BTreeSet::new(),
            refused: Arc::from([]),
            looked: false,
        })
    }

    /// Looks once. `None`: nothing changed.
    pub fn look(&mut self, now: SystemTime) -> Option<Batch> {
        let (changed, mut refused) = self.read_files(now);
        if self.looked && !changed && self.missing.is_empty() && self.refused_folder() == refused_folder(&refused) {
            return None;
        }
        let folder_failed = !refused.is_empty();
        let before = std::mem::take(&mut self.admitted);
        let admitted = self.admit(&before, folder_failed, &mut refused);
        let mut events = if self.looked { difference(&before, &admitted) } else { everything(&admitted) };
        let stored = self.looked && events.is_empty();
        self.admitted = admitted;
        events.extend(self.derive_endpoints());
        if !stored
            && let Some(folder) = &self.state
            && let Err(error) = state::save(folder, &self.admitted)
        {
            refused.push(Refused::file(
                &folder.display().to_string(),
                &format!("write the admitted objects: {error}"),
                "free space, or make the state folder writable",
            ));
        }
        refused.sort();
        let news = !self.looked || !events.is_empty() || *self.refused != *refused;
        self.refused = refused.into();
        self.looked = true;
        news.then(|| Batch { events, refused: Arc::clone(&self.refused) })
    }

    /// Reads what changed. The refusals are of the folder itself.
    fn read_files(&mut self, now: SystemTime) -> (bool, Vec<Refused>) {
        let mut refused = Vec::new();
        let mut found = BTreeMap::new();
        if let Err(error) = list(&self.root, &self.root, DEPTH_MAX, &mut found) {
            let name = self.root.display().to_string();
            refused.push(Refused::file(
                &name,
                &format!("read the folder: {error}"),
                "restore the folder; all that was admitted stays in force",
            ));
            return (false, refused);
        }
        let mut changed = false;
        for (name, (path, stamp)) in &found {
            if self.files.get(name).is_some_and(|f| f.settled && f.stamp == *stamp) {
                continue;
            }
            let settled = stamp.modified.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > UNSETTLED));
            changed |= self.read_file(name, path, stamp, settled);
        }
        let count = self.files.len();
        self.files.retain(|name, _| found.contains_key(name));
        (changed || self.files.len() != count, refused)
    }

    /// True where the content is new.
    fn read_file(&mut self, name: &str, path: &Path, stamp: &Stamp, settled: bool) -> bool {
        match read_bounded(path) {
            Ok(text) => {
                if let Some(file) = self.files.get_mut(name)
                    && file.unreadable.is_none()
                    && file.text == text
                {
                    file.stamp = stamp.clone();
                    file.settled = settled;
                    return false;
                }
                let documents = parse::documents(name, &text);
                self.files
                    .insert(name.to_owned(), File { stamp: stamp.clone(), settled, text, documents, unreadable: None });
                true
            }
            Err(message) => {
                let refusal = Refused::file(
                    name,
                    &message,
                    "make it a readable UTF-8 text of at most 4 MiB; what it held stays in force",
                );
                let known = self.files.get(name).is_some_and(|f| f.unreadable.as_ref() == Some(&refusal));
                self.files.insert(
                    name.to_owned(),
                    File {
                        stamp: stamp.clone(),
                        settled,
                        text: String::new(),
                        documents: Vec::new(),
                        unreadable: Some(refusal),
                    },
                );
                !known
            }
        }
    }

    fn admit(
        &mut self,
        before: &BTreeMap<ObjectId, Admitted>,
        folder_failed: bool,
        refused: &mut Vec<Refused>,
    ) -> BTreeMap<ObjectId, Admitted> {
        if folder_failed {
            return before.clone();
        }
        let mut seen: BTreeMap<&ObjectId, &str> = BTreeMap::new();
        let mut admitted = BTreeMap::new();
        // Files with a document whose object cannot be told: what else they held before may be that one.
        let mut opaque = BTreeSet::new();
        for (name, file) in &self.files {
            if let Some(refusal) = &file.unreadable {
                refused.push(refusal.clone());
                opaque.insert(name.as_str());
            }
            for document in &file.documents {
                let Some(id) = &document.id else {
                    refused.extend(document.outcome.as_ref().err().map(|refusal| Refused::clone(refusal)));
                    opaque.insert(name.as_str());
                    continue;
                };
                if let Some(first) = seen.get(id) {
                    refused.push(*document.duplicate(id, first));
                    continue;
                }
                seen.insert(id, name);
                judge(document, id, name, before, &mut admitted, refused);
            }
        }
        let mut missing = BTreeSet::new();
        for (id, old) in before {
            if seen.contains_key(id) {
                continue;
            }
            if opaque.contains(old.file.as_str()) {
                admitted.insert(id.clone(), old.clone());
            } else if self.looked && !self.missing.contains(id) {
                missing.insert(id.clone());
                admitted.insert(id.clone(), old.clone());
            }
        }
        self.missing = missing;
        admitted
    }

    fn derive_endpoints(&mut self) -> Vec<Event> {
        let derived = endpoints::derive(self.admitted.values().map(|a| &a.object));
        let mut events = Vec::new();
        for id in self.derived.keys() {
            if !derived.contains_key(id) {
                events.push(Event::Deleted(id.clone()));
            }
        }
        for (id, object) in &derived {
            if self.derived.get(id) != Some(object) {
                events.push(Event::Applied(Arc::clone(object)));
            }
        }
        self.derived = derived;
        events
    }

    fn refused_folder(&self) -> bool {
        refused_folder(&self.refused)
    }
}

/// One document of a text, for tools that judge manifests without serving them.
#[derive(Debug)]
pub struct Manifest {
    /// `None`: it cannot be told which object is meant.
    pub id: Option<ObjectId>,
    /// From 1.
    pub line: u64,
    pub outcome: Result<Arc<Object>, Box<Refused>>,
}

/// The documents of a text that are ours to read, each judged as an API server would.
pub fn manifests(file: &str, text: &str) -> Vec<Manifest> {
    let documents = parse::documents(file, text).into_iter();
    documents.map(|one| Manifest { id: one.id, line: one.line, outcome: one.outcome }).collect()
}

/// The EndpointSlices of Services that select Pods and have none written by hand.
pub fn endpoint_slices<'a>(objects: impl Iterator<Item = &'a Arc<Object>>) -> Vec<Arc<Object>> {
    endpoints::derive(objects).into_values().collect()
}

/// Every manifest below a folder, by its path.
///
/// # Errors
/// The folder cannot be read, or holds too much.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    list(folder, folder, DEPTH_MAX, &mut found)?;
    Ok(found.into_values().map(|(path, _)| path).collect())
}

/// A text of bounded size.
///
/// # Errors
/// In words: it cannot be read, is too large, or is no UTF-8.
pub fn read(path: &Path) -> Result<String, String> {
    read_bounded(path)
}

/// Looks for ever, in a thread that may block; ends when nobody listens.
pub async fn run(mut directory: Directory, batches: mpsc::Sender<Batch>) {
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let looked = tokio::task::spawn_blocking(move || {
            let batch = directory.look(SystemTime::now());
            (directory, batch)
        });
        // A panic in there is a bug that must be seen; the last published world stays in force.
        let Ok((back, batch)) = looked.await else { return };
        directory = back;
        if let Some(batch) = batch
            && batches.send(batch).await.is_err()
        {
            return;
        }
    }
}

impl Refused {
    fn file(file: &str, message: &str, remedy: &str) -> Refused {
        Refused {
            file: file.to_owned(),
            line: None,
            object: None,
            field: String::new(),
            message: message.to_owned(),
            remedy: remedy.to_owned(),
            earlier_in_force: false,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        if self.earlier_in_force {
            f.write_str(" (the version admitted before stays in force)")?;
        }
        Ok(())
    }
}

/// One identified document: admitted, or refused with its earlier version in force.
fn judge(
    document: &Document,
    id: &ObjectId,
    file: &str,
    before: &BTreeMap<ObjectId, Admitted>,
    admitted: &mut BTreeMap<ObjectId, Admitted>,
    refused: &mut Vec<Refused>,
) {
    let old = before.get(id);
    let outcome = document.outcome.clone().and_then(|object| match old {
        Some(old) => document.check_update(&old.object, object),
        None if admitted.len() >= OBJECTS_MAX => Err(document.over_limit(id)),
        None => Ok(object),
    });
    match outcome {
        Ok(object) => {
            let generation = match old {
                Some(old) if old.text == document.text => old.generation,
                Some(old) => old.generation + 1,
                None => 1,
            };
            let object = match old {
                Some(old) if old.text == document.text && old.generation == generation => Arc::clone(&old.object),
                Some(_) | None => with_generation(object, generation),
            };
            let generation = object.meta().generation;
            let text = Arc::clone(&document.text);
            admitted.insert(id.clone(), Admitted { object, text, file: file.to_owned(), generation });
        }
        Err(mut refusal) => {
            if let Some(old) = old {
                refusal.earlier_in_force = true;
                admitted.insert(id.clone(), Admitted { file: file.to_owned(), ..old.clone() });
            }
            refused.push(*refusal);
        }
    }
}

/// A manifest seldom says its generation; the API server would count the changes.
fn with_generation(object: Arc<Object>, generation: i64) -> Arc<Object> {
    if object.meta().generation > 0 {
        return object;
    }
    let mut object = Arc::unwrap_or_clone(object);
    object.meta_mut().generation = generation;
    Arc::new(object)
}

fn difference(before: &BTreeMap<ObjectId, Admitted>, after: &BTreeMap<ObjectId, Admitted>) -> Vec<Event> {
    let mut events: Vec<Event> =
        before.keys().filter(|id| !after.contains_key(id)).cloned().map(Event::Deleted).collect();
    for (id, now) in after {
        let same = before.get(id).is_some_and(|old| Arc::ptr_eq(&old.object, &now.object) || old.object == now.object);
        if !same {
            events.push(Event::Applied(Arc::clone(&now.object)));
        }
    }
    events
}

fn everything(admitted: &BTreeMap<ObjectId, Admitted>) -> Vec<Event> {
    admitted.values().map(|a| Event::Applied(Arc::clone(&a.object))).collect()
}

fn refused_folder(refused: &[Refused]) -> bool {
    refused.iter().any(|r| r.message.starts_with("read the folder"))
}

/// Manifests below `folder` by their path relative to `root`. Names that begin with a dot are not ours (editors, mounts).
fn list(root: &Path, folder: &Path, depth: usize, found: &mut BTreeMap<String, (PathBuf, Stamp)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        // Follows symbolic links, as mounted ConfigMaps need; gone since the listing is as good as never there.
        let Ok(meta) = fs::metadata(&path) else { continue };
        if meta.is_dir() && depth > 0 {
            list(root, &path, depth - 1, found)?;
        }
        let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if !meta.is_file() || !manifest {
            continue;
        }
        if found.len() >= FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} manifests")));
        }
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        found.insert(relative, (path, Stamp { modified: meta.modified().ok(), size: meta.len() }));
    }
    Ok(())
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| format!("read the file: {error}"))?;
    let mut bytes = Vec::new();
    // One byte more than allowed shows a file that grew since it was listed.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("read the file: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("the file is larger than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("the file is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests;
