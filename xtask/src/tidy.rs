//! The house rules as a check: the import tables of ARCHITECTURE.md, module headers, generated files, format, clippy. It
//! must never change a file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::bail;

use crate::shell;

/// Crate directory and the name of its table in ARCHITECTURE.md.
const TABLES: [&str; 3] = ["proto", "proxy", "control-plane"];

pub(crate) fn run() -> anyhow::Result<()> {
    let mut problems = Vec::new();
    let architecture = fs::read_to_string("ARCHITECTURE.md").context("read ARCHITECTURE.md")?;
    for krate in TABLES {
        let table = parse_table(&architecture, krate)?;
        problems.extend(check_imports(krate, &table)?);
        problems.extend(cycles(krate, &table));
    }
    for file in sources(Path::new("."))? {
        problems.extend(check_file(&file, &fs::read_to_string(&file)?));
    }
    if !problems.is_empty() {
        bail!("tidy: {} problems\n  {}", problems.len(), problems.join("\n  "));
    }
    eprintln!("tidy: imports, headers and words are in order");
    crate::codegen::run(true)?;
    shell::run(&mut shell::cargo(&["fmt", "--all", "--check"]))?;
    shell::run(&mut shell::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

type Table = BTreeMap<String, BTreeSet<String>>;

/// Rows of the form "| `module` | what lives here | `may` `import` |" between `<!-- table:NAME -->` and its end mark.
fn parse_table(architecture: &str, name: &str) -> anyhow::Result<Table> {
    let start = format!("<!-- table:{name} -->");
    let body = architecture.split_once(&start).with_context(|| format!("ARCHITECTURE.md: no table {name}"))?.1;
    let body =
        body.split_once("<!-- /table -->").with_context(|| format!("ARCHITECTURE.md: table {name} has no end"))?.0;
    let mut table = Table::new();
    for row in body.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [module, _, imports] = cells[..] else { bail!("ARCHITECTURE.md: table {name}: not three cells: {row}") };
        let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let module = words(module).pop().context("a row without a module")?;
        table.insert(module, words(imports).into_iter().collect());
    }
    Ok(table)
}

fn check_imports(krate: &str, table: &Table) -> anyhow::Result<Vec<String>> {
    let src = PathBuf::from(krate).join("src");
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for file in sources(&src)? {
        let relative = file.strip_prefix(&src).expect("it was listed under src").to_path_buf();
        let first = relative.components().next().expect("a file has a name").as_os_str().to_string_lossy().into_owned();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "bin" || is_test(&file) {
            continue;
        }
        seen.insert(module.clone());
        let Some(allowed) = table.get(&module) else {
            problems.push(format!("{}: module `{module}` has no row in ARCHITECTURE.md", file.display()));
            continue;
        };
        let text = fs::read_to_string(&file)?;
        for (number, line) in text.lines().enumerate() {
            for import in crate_paths(line, krate) {
                if import != module && !allowed.contains(&import) {
                    let at = format!("{}:{}", file.display(), number + 1);
                    problems
                        .push(format!("{at}: `{module}` may not import `{import}` (ARCHITECTURE.md, table {krate})"));
                }
            }
        }
    }
    problems.extend(
        table.keys().filter(|m| !seen.contains(*m)).map(|m| format!("ARCHITECTURE.md: `{m}` is not in {krate}")),
    );
    problems.dedup();
    Ok(problems)
}

/// Every `crate::module` of a line of code; in a binary, `leno_name::module` is the same thing.
fn crate_paths(line: &str, krate: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let own = format!("leno_{}::", krate.replace('-', "_"));
    let mut found = Vec::new();
    for mark in ["crate::", own.as_str()] {
        for (at, _) in code.match_indices(mark) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let name: String =
                code[at + mark.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.starts_with(|c: char| c.is_lowercase()) {
                found.push(name);
            }
        }
    }
    found
}

/// Modules that reach themselves through the table.
fn cycles(krate: &str, table: &Table) -> Vec<String> {
    let reaches_itself = |start: &String| {
        let mut stack: Vec<&String> = table[start].iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(module) = stack.pop() {
            if module == start {
                return true;
            }
            if seen.insert(module) {
                stack.extend(table.get(module).into_iter().flatten());
            }
        }
        false
    };
    table
        .keys()
        .filter(|m| reaches_itself(m))
        .map(|m| format!("ARCHITECTURE.md: `{m}` in {krate} is part of a cycle"))
        .collect()
}

fn check_file(file: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = file.display();
    let generated = file.components().any(|c| c.as_os_str() == "wire");
    // A module's tests say enough by standing where they stand.
    if !generated && !is_test(file) && !text.starts_with("//!") {
        problems.push(format!("{name}: opens without a sentence that says what it is for (//!)"));
    }
    for (number, line) in text.lines().enumerate() {
        let at = format!("{name}:{}", number + 1);
        for word in ["FIXME", "XXX", "dbg!("] {
            // This file names them.
            if line.contains(word) && !file.ends_with("xtask/src/tidy.rs") {
                problems.push(format!("{at}: {word}"));
            }
        }
        if line.contains("tower::") && file.starts_with("./proxy/src") && !file.starts_with("./proxy/src/control") {
            problems.push(format!("{at}: the request path is plain functions; tower is for the control client"));
        }
    }
    problems
}

fn is_test(file: &Path) -> bool {
    file.components().any(|c| c.as_os_str() == "tests" || c.as_os_str() == "tests.rs")
}

fn sources(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && !name.starts_with("target") {
                stack.push(path);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
