//! Cases of explaining: folders of `in.yaml` (manifests, with `# explain: POD SERVICE METHOD PATH [HEADER=VALUE]` lines) and
//! `out.txt` (what a user reads). `UPDATE=1 cargo test -p leno-control-plane --test explain` rewrites the second; read the
//! difference before committing it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use leno_control_plane::explain::Question;
use leno_control_plane::explain::explain;
use leno_control_plane::index::World;
use leno_control_plane::source::Directory;

#[test]
fn every_case_is_explained_as_written_down() {
    let update = std::env::var_os("UPDATE").is_some();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain");
    let mut cases: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 4, "only {} cases", cases.len());
    for case in cases {
        let out = explained(&case);
        let path = case.join("out.txt");
        if update {
            fs::write(&path, &out).unwrap();
        } else {
            assert_eq!(fs::read_to_string(&path).unwrap_or_default(), out, "{}", case.display());
        }
    }
}

fn explained(case: &Path) -> String {
    let batch = Directory::open(case.to_owned(), None).unwrap().look(SystemTime::now()).unwrap();
    assert_eq!(*batch.refused, [], "{}", case.display());
    let mut world = World::default();
    world.apply(batch.events);
    let text = fs::read_to_string(case.join("in.yaml")).unwrap();
    let mut out = String::new();
    for asked in text.lines().filter_map(|line| line.strip_prefix("# explain: ")) {
        let words: Vec<&str> = asked.split(' ').collect();
        let [pod, service, method, path, headers @ ..] = words.as_slice() else { panic!("{asked}") };
        let headers = headers.iter().map(|pair| pair.split_once('=').unwrap());
        let question = Question {
            pod: pod.to_string(),
            service: service.to_string(),
            method: method.to_string(),
            path: path.to_string(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        };
        let answer = explain(&world, &question).map_or_else(|why| format!("{why}\n"), |answer| answer.text(false));
        out.push_str(&format!("# {asked}\n{answer}\n"));
    }
    out
}
