use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use super::archive::Image;
use super::library;

fn sample() -> Image {
    Image {
        name: "docker.io/leno/sample:1".to_owned(),
        architecture: "amd64",
        files: BTreeMap::from([
            ("sample".to_owned(), (0o755, b"#!/bin/true\n".to_vec())),
            ("etc/nsswitch.conf".to_owned(), (0o644, vec![b'x'; 513])),
        ]),
        entrypoint: vec!["/sample".to_owned()],
        user: "1:1".to_owned(),
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    assert_eq!(sample().archive(), sample().archive());
}

#[test]
fn a_foreign_tar_reads_the_archive_and_its_layer() {
    let folder = std::env::temp_dir().join(format!("leno-image-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("image.tar"), sample().archive()).unwrap();
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").arg("-C").arg(&folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    tar(&["-xf", folder.join("image.tar").to_str().unwrap()]);
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/leno/sample:1");
    let docker: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let layer = folder.join(docker[0]["Layers"][0].as_str().unwrap());
    let listing = tar(&["-tvf", layer.to_str().unwrap(), "--numeric-owner", "--utc"]);
    let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["drwxr-xr-x", "0/0", "0", "1970-01-01", "00:00", "etc/"]);
    assert_eq!(lines[1], ["-rw-r--r--", "0/0", "513", "1970-01-01", "00:00", "etc/nsswitch.conf"]);
    assert_eq!(lines[2], ["-rwxr-xr-x", "0/0", "12", "1970-01-01", "00:00", "sample"]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn libraries_are_read_from_what_ldd_says() {
    let cases = [
        ("\tlinux-vdso.so.1 (0x00007ffd)", None),
        ("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)", Some("/lib/x86_64-linux-gnu/libc.so.6")),
        ("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)", Some("/lib64/ld-linux-x86-64.so.2")),
        ("\tstatically linked", None),
    ];
    for (line, path) in cases {
        assert_eq!(library(line), path.map(PathBuf::from), "{line}");
    }
}
