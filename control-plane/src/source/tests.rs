use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use super::*;
use crate::object::Kind;

/// A folder with a clock of its own; gone with the test.
struct Folder {
    root: PathBuf,
    now: SystemTime,
}

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("leno-source-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("in")).unwrap();
        Folder { root, now: SystemTime::now() }
    }

    fn open(&self) -> Directory {
        Directory::open(self.root.join("in"), Some(self.root.join("state"))).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root.join("in").join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.root.join("in").join(name)).unwrap();
    }

    fn look(&mut self, directory: &mut Directory) -> Option<(Vec<String>, Vec<String>)> {
        self.now += POLL;
        directory.look(self.now).map(|batch| (batch.events.iter().map(told).collect(), refused(&batch)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn told(event: &Event) -> String {
    match event {
        Event::Applied(object) => format!("+{} g{}", object.id(), object.meta().generation),
        Event::Deleted(id) => format!("-{id}"),
    }
}

fn refused(batch: &Batch) -> Vec<String> {
    batch.refused.iter().map(ToString::to_string).collect()
}

fn policy(name: &str, request: &str) -> String {
    format!(
        "apiVersion: policy.leno.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: orders}}]\n  timeouts: {{request: {request}}}\n"
    )
}

#[test]
fn a_change_is_told_once_and_counts_as_a_generation() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("a", "1s"));
    let mut directory = folder.open();
    assert_eq!(folder.look(&mut directory).unwrap().0, ["+TrafficPolicy shop/a g1"]);
    assert!(folder.look(&mut directory).is_none());
    folder.write("a.yaml", &policy("a", "2s"));
    assert_eq!(folder.look(&mut directory).unwrap().0, ["+TrafficPolicy shop/a g2"]);
    assert!(folder.look(&mut directory).is_none());
}

#[test]
fn a_spoilt_document_leaves_its_last_admitted_version_and_its_neighbours() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", policy("a", "1s"), policy("b", "1s")));
    let mut directory = folder.open();
    folder.look(&mut directory);
    folder.write("a.yaml", &format!("{}---\n{}", policy("a", "5"), policy("b", "3s")));
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!(events, ["+TrafficPolicy shop/b g2"]);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].starts_with("a.yaml:1: TrafficPolicy shop/a: spec.timeouts.request: "), "{refused:?}");
    assert!(refused[0].ends_with("(the version admitted before stays in force)"), "{refused:?}");
    // Mended: the message goes.
    folder.write("a.yaml", &format!("{}---\n{}", policy("a", "1s"), policy("b", "3s")));
    assert_eq!(folder.look(&mut directory).unwrap(), (vec![], vec![]));
}

#[test]
fn text_that_is_no_yaml_takes_nothing_out_of_force() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("a", "1s"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    for spoilt in ["kind: [", "just text", "\u{1}", "kind: TrafficPolicy\n"] {
        folder.write("a.yaml", spoilt);
        let (events, refused) = folder.look(&mut directory).unwrap();
        assert_eq!((events.len(), refused.len()), (0, 1), "{spoilt}");
        assert!(folder.look(&mut directory).is_none(), "{spoilt}");
    }
    fs::write(folder.root.join("in/a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    assert_eq!(folder.look(&mut directory).unwrap().0, Vec::<String>::new());
}

#[test]
fn what_is_gone_is_deleted_at_the_second_look_so_that_a_replaced_file_is_no_deletion() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("a", "1s"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    folder.remove("a.yaml");
    assert!(folder.look(&mut directory).is_none());
    folder.write("a.yaml", &policy("a", "1s"));
    assert!(folder.look(&mut directory).is_none());
    assert!(folder.look(&mut directory).is_none());
    folder.remove("a.yaml");
    assert!(folder.look(&mut directory).is_none());
    assert_eq!(folder.look(&mut directory).unwrap().0, ["-TrafficPolicy shop/a"]);
}

#[test]
fn the_last_admitted_version_survives_a_restart_beside_a_spoilt_file() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &format!("---\n# a comment\n{}", policy("a", "1s")));
    folder.write("b.yaml", &policy("b", "1s"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    drop(directory);
    folder.write("a.yaml", &policy("a", "nonsense"));
    folder.remove("b.yaml");
    let mut directory = folder.open();
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!(events, ["+TrafficPolicy shop/a g1"]);
    assert_eq!(refused.len(), 1);
    folder.write("a.yaml", &policy("a", "1s"));
    folder.look(&mut directory);
    assert!(directory.admitted.values().all(|one| one.object.id().kind == Kind::TrafficPolicy));
}

#[test]
fn a_restart_without_changes_counts_no_generation() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &format!("---\n{}\n\n---\n{}", policy("a", "1s"), policy("b", "1s")));
    let mut directory = folder.open();
    folder.look(&mut directory);
    drop(directory);
    let mut directory = folder.open();
    assert_eq!(folder.look(&mut directory).unwrap().0, ["+TrafficPolicy shop/a g1", "+TrafficPolicy shop/b g1"]);
}

#[test]
fn a_folder_that_cannot_be_read_deletes_nothing() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("a", "1s"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    fs::rename(folder.root.join("in"), folder.root.join("away")).unwrap();
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!((events.len(), refused.len()), (0, 1));
    assert!(folder.look(&mut directory).is_none());
    fs::rename(folder.root.join("away"), folder.root.join("in")).unwrap();
    assert_eq!(folder.look(&mut directory).unwrap(), (vec![], vec![]));
}

#[test]
fn a_huge_file_is_refused_unread() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &" ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1));
    folder.write("b.yaml", &policy("b", "1s"));
    let mut directory = folder.open();
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!(events, ["+TrafficPolicy shop/b g1"]);
    assert!(refused[0].contains("larger than"), "{refused:?}");
}

#[test]
fn the_trust_domain_cannot_change() {
    let mesh = |domain: &str| {
        format!(
            "apiVersion: policy.leno.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {{trustDomain: {domain}}}\n"
        )
    };
    let mut folder = Folder::new();
    folder.write("mesh.yaml", &mesh("one.example"));
    let mut directory = folder.open();
    folder.look(&mut directory);
    folder.write("mesh.yaml", &mesh("two.example"));
    let (events, refused) = folder.look(&mut directory).unwrap();
    assert_eq!((events.len(), refused.len()), (0, 1));
    assert!(refused[0].contains("spec.trustDomain"), "{refused:?}");
}

#[test]
fn other_controllers_kinds_and_settled_files_are_passed_over() {
    let mut folder = Folder::new();
    folder.write("a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\n# nothing\n---\n");
    folder.write(".hidden.yaml", "kind: [");
    folder.write("notes.txt", "kind: [");
    let mut directory = folder.open();
    assert_eq!(folder.look(&mut directory).unwrap(), (vec![], vec![]));
    folder.now += Duration::from_secs(10);
    assert!(folder.look(&mut directory).is_none());
    assert!(directory.files.values().all(|file| file.settled));
}
