//! What was admitted last, kept in the state folder so that a document spoilt while the control plane was down spoils nothing.
//! It never trusts what it reads: each document is judged again by the present build.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::object::ObjectId;
use crate::source::Admitted;
use crate::source::parse;

const FILE: &str = "admitted.yaml";
const NOTE: &str = "# leno: generation ";
/// As much as the folder could have held: a larger file is not one that we wrote.
const BYTES_MAX: u64 = 256 << 20;

pub(super) fn load(folder: &Path) -> io::Result<BTreeMap<ObjectId, Admitted>> {
    let path = folder.join(FILE);
    let text = match fs::metadata(&path) {
        Ok(meta) if meta.len() > BYTES_MAX => {
            return Err(io::Error::other(format!("{} is larger than {BYTES_MAX} bytes", path.display())));
        }
        Ok(_) => fs::read_to_string(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut admitted = BTreeMap::new();
    // Each entry: a note line, then the document as it was written, without the separator that stood before it.
    for entry in text.split("\n---\n") {
        let Some((note, document)) = entry.trim_start().strip_prefix(NOTE).and_then(|rest| rest.split_once('\n'))
        else {
            continue;
        };
        let Some((generation, file)) = note.split_once(" of ") else { continue };
        for found in parse::documents(file, document) {
            let (Some(id), Ok(mut object)) = (found.id, found.outcome) else { continue };
            let generation = generation.parse().unwrap_or(1);
            if object.meta().generation == 0 {
                Arc::make_mut(&mut object).meta_mut().generation = generation;
            }
            admitted.insert(id, Admitted { object, text: found.text, file: file.to_owned(), generation });
        }
    }
    Ok(admitted)
}

/// Written aside and renamed, so that a crash leaves the old or the new.
pub(super) fn save(folder: &Path, admitted: &BTreeMap<ObjectId, Admitted>) -> io::Result<()> {
    let mut text = String::new();
    for one in admitted.values() {
        let file = one.file.replace(['\n', '\r'], "?");
        let _ = write!(text, "{NOTE}{} of {file}\n{}\n---\n", one.generation, one.text);
    }
    fs::create_dir_all(folder)?;
    let aside = folder.join(format!(".{FILE}.new"));
    let mut out = fs::File::create(&aside)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&aside, folder.join(FILE))
}
