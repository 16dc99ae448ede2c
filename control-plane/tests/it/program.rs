//! The binaries, as a person starts and stops them.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use crate::mesh::Scratch;

struct Program {
    child: Child,
    out: BufReader<ChildStdout>,
    addresses: serde_json::Value,
}

fn control_plane(scratch: &Scratch) -> Command {
    let manifests = scratch.path().join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_leno-control-plane"));
    command.arg("--source").arg(format!("dir:{}", manifests.display())).arg("--state").arg(state(scratch));
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--leaf-ttl", "10s"]);
    command
}

fn state(scratch: &Scratch) -> std::path::PathBuf {
    scratch.path().join("state")
}

fn start(scratch: &Scratch) -> Program {
    let mut child = control_plane(scratch).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    Program { child, out, addresses: serde_json::from_str(&line).unwrap() }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn leno(arguments: &[&str], state: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leno")).args(arguments).arg("--state").arg(state).output().unwrap()
}

#[test]
fn it_says_where_it_is_and_a_termination_is_no_failure() {
    let scratch = Scratch::new();
    let mut program = start(&scratch);
    let written = std::fs::read_to_string(state(&scratch).join("addresses.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), program.addresses);
    assert!(program.addresses["session"].is_string() && program.addresses["admin"].is_string());

    let second = control_plane(&scratch).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("used by another control plane"));

    let id = program.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(program.child.wait().unwrap().success());
    let mut rest = String::new();
    program.out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "one line and no more");
}

#[test]
fn a_lost_root_stops_the_start_with_a_remedy() {
    let scratch = Scratch::new();
    drop(start(&scratch));
    std::fs::remove_file(state(&scratch).join("ca.json")).unwrap();
    let refused = control_plane(&scratch).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("ca.json is missing") && said.contains("Restore"), "{said}");
}

#[test]
fn tokens_anchors_and_rotations_are_made_by_command() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let state = state(&scratch);
    let file = scratch.path().join("token").display().to_string();
    let token =
        ["dev", "token", "--namespace", "shop", "--service-account", "cart", "--pod", "cart-1", "--pod-uid", "u"];
    assert!(
        leno(&[&token[..], &["-o", &file]].concat(), &state).status.success(),
        "before the control plane's first start"
    );
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&file).unwrap().split('.').count(), 3);
    assert!(!leno(&["dev", "anchor"], &state).status.success());

    let _program = start(&scratch);
    let one = leno(&["dev", "anchor"], &state).stdout;
    let rotated = leno(&["dev", "rotate-root"], &state);
    assert!(rotated.status.success(), "{rotated:?}");
    let other = leno(&["dev", "anchor"], &state).stdout;
    let certificates = |pem: &[u8]| String::from_utf8_lossy(pem).matches("BEGIN CERTIFICATE").count();
    assert_eq!((certificates(&one), certificates(&other)), (1, 2));
    assert!(!leno(&["dev", "rotate-root"], &state).status.success(), "one rotation at a time");
}

#[test]
fn a_status_of_nobody_is_an_error_that_names_the_address() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_leno")).args(["status", "--admin", "http://127.0.0.1:1"]).output().unwrap();
    // 1 is for what was asked and found wrong.
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"));
}
