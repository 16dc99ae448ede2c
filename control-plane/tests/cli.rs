//! The command line as a person meets it without a cluster: what it prints, and how it ends. `UPDATE=1 cargo test -p
//! leno-control-plane --test cli` rewrites what is written down; read the difference before committing it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

fn leno(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leno"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli")).env_clear();
    command.args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complained(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn lint_says_of_files_what_is_written_down() {
    let linted = leno(&["lint", "broken.yaml"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/broken.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, said(&linted)).unwrap();
    }
    assert_eq!(said(&linted), fs::read_to_string(&path).unwrap_or_default());
    assert_eq!(linted.status.code(), Some(1), "there are errors");
    let json: serde_json::Value = serde_json::from_str(&said(&leno(&["lint", "broken.yaml", "-o", "json"]))).unwrap();
    let codes: Vec<&str> = json.as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap()).collect();
    for code in ["INVALID", "INJECTION_REFUSED", "RETRIES_CUT_SHORT", "SERVER_CLOSES_FIRST", "GRACE_BELOW_REQUEST"] {
        assert!(codes.contains(&code), "{code} is not among {codes:?}");
    }
}

#[test]
fn warnings_fail_only_where_they_are_asked_to() {
    let folder = std::env::temp_dir().join(format!("leno-cli-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("warns.yaml");
    let namespace =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {leno.dev/inject: enabled}}\n";
    fs::write(&file, namespace).unwrap();
    let file = file.to_string_lossy();
    assert_eq!(leno(&["lint", &file]).status.code(), Some(0));
    assert_eq!(leno(&["lint", "--strict", &file]).status.code(), Some(1));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_code_is_explained_and_a_misspelt_one_is_guessed() {
    let page = leno(&["lint", "--explain", "server_closes_first"]);
    assert!(page.status.success() && said(&page).contains("Remedy:"), "{page:?}");
    let wrong = leno(&["lint", "--explain", "SERVER_CLOSE_FIRST"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(complained(&wrong).contains("did you mean SERVER_CLOSES_FIRST?"), "{wrong:?}");
}

#[test]
fn without_a_cluster_it_says_what_to_set() {
    for command in [&["check"][..], &["status"], &["lint", "cluster"], &["wait", "tpol/a"], &["proxy", "pools", "a"]] {
        let output = leno(command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(complained(&output).contains("set KUBECONFIG"), "{command:?}: {output:?}");
    }
}

#[test]
fn a_completion_script_is_one_that_bash_can_read() {
    let script = leno(&["completion", "bash"]);
    let mut bash = Command::new("bash");
    let read = bash.args([
        "-c",
        &format!("{}\nCOMP_WORDS=(leno proxy po); COMP_CWORD=2; _leno; echo \"${{COMPREPLY[@]}}\"", said(&script)),
    ]);
    assert_eq!(said(&read.output().unwrap()).trim(), "pools");
}
