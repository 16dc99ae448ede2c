//! `leno lint`: the compiler's own judgement of every object, on files before anything runs, on a cluster, or on files as they
//! would be there. It must never say anything that the conditions of the objects would not.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use leno_control_plane::compile::conditions;
use leno_control_plane::index::World;
use leno_control_plane::lint;
use leno_control_plane::lint::Finding;
use leno_control_plane::lint::codes;
use leno_control_plane::lint::codes::Level;
use leno_control_plane::object::INJECT;
use leno_control_plane::object::Object;
use leno_control_plane::source::Refused;
use leno_proto::fields;
use serde::Serialize;
use serde_json::json;

use crate::paint::Tone;
use crate::paint::count;
use crate::paint::paint;
use crate::reach::Reach;
use crate::reach::block;
use crate::world;
use crate::world::Declared;

/// Instead of a file: what the cluster holds.
const CLUSTER: &str = "cluster";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Files, folders, `-` for standard input, and the word `cluster` for what the cluster holds. With both, the files are judged
    /// as they would be on that cluster.
    #[arg(value_name = "FILE|cluster")]
    what: Vec<PathBuf>,
    /// Says what a code means, and what to do.
    #[arg(long, value_name = "CODE", conflicts_with = "what")]
    explain: Option<String>,
    /// Warnings fail too.
    #[arg(long)]
    strict: bool,
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// A finding about one object.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    level: &'static str,
    /// `Kind namespace/name`, or the file where that cannot be told.
    object: String,
    /// `file:line`; empty: the cluster.
    at: String,
    #[serde(flatten)]
    finding: Finding,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(name) = &options.explain {
        return explain(name);
    }
    if options.what.is_empty() {
        bail!("name files or folders, or say `leno lint cluster`");
    }
    let (cluster, files): (Vec<PathBuf>, Vec<PathBuf>) =
        options.what.iter().cloned().partition(|path| path.as_os_str() == CLUSTER && !path.exists());
    let declared = world::declared(&files)?;
    let told = match cluster.is_empty() {
        true => of_files(&declared, World::default()),
        false => {
            let (held, refused) = block(async { world::held(&options.reach.cluster()?).await })?;
            match files.is_empty() {
                true => of_cluster(&held, &refused, options.reach.namespace.as_deref()),
                false => of_files(&declared, held),
            }
        }
    };
    match options.output {
        Format::Json => println!("{:#}", json!(told)),
        Format::Text => told.iter().for_each(|one| println!("{one}")),
    }
    let errors = told.iter().filter(|one| one.level == Level::Error.as_str()).count();
    let warnings = told.len() - errors;
    eprintln!("{}, {}", count(errors, "error", "errors"), count(warnings, "warning", "warnings"));
    if options.output == Format::Text
        && let Some(first) = told.first()
    {
        eprintln!("`leno lint --explain {}` says more of a code", first.finding.code);
    }
    Ok(if errors > 0 || (options.strict && warnings > 0) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn explain(name: &str) -> anyhow::Result<ExitCode> {
    match codes::named(name) {
        Some(code) => {
            print!("{}", code.text());
            Ok(ExitCode::SUCCESS)
        }
        None => match fields::closest(&name.to_ascii_uppercase(), codes::all().map(|code| code.name)) {
            Some(close) => bail!("there is no code {name}; did you mean {close}?"),
            None => bail!("there is no code {name}; docs/codes/README.md lists them"),
        },
    }
}

fn of_files(declared: &Declared, mut world: World) -> Vec<Told> {
    let mut told: Vec<Told> = declared.refused.iter().map(refused).collect();
    let without = declared.without.iter().map(|one| {
        let finding = plain("INJECTION_REFUSED", &one.why, "");
        tell(one.object.clone(), one.place.clone(), finding)
    });
    told.extend(without);
    declared.apply(&mut world);
    for object in &declared.objects {
        let place = declared.places.get(&object.id()).cloned().unwrap_or_default();
        told.extend(
            of_object(&world, object).into_iter().map(|finding| tell(object.id().to_string(), place.clone(), finding)),
        );
    }
    told
}

pub(crate) fn of_cluster(world: &World, unread: &[Refused], namespace: Option<&str>) -> Vec<Told> {
    let here = |object: &Object| namespace.is_none_or(|namespace| object.meta().namespace == namespace);
    let found = world.objects().filter(|(_, object)| here(object)).flat_map(|(id, object)| {
        of_object(world, object).into_iter().map(|finding| tell(id.to_string(), String::new(), finding))
    });
    unread.iter().map(refused).chain(found).collect()
}

fn of_object(world: &World, object: &Object) -> Vec<Finding> {
    if let Object::Namespace(namespace) = object {
        let meta = &namespace.metadata;
        let only = meta.annotations.contains_key(INJECT) && !meta.labels.contains_key(INJECT);
        let remedy = format!("kubectl label namespace {} {INJECT}=enabled", meta.name);
        return only
            .then(|| plain("NAMESPACE_ANNOTATION", "it asks for sidecars by annotation, which nobody reads", &remedy))
            .into_iter()
            .collect();
    }
    if let Object::Service(service) = object {
        return lint::service(service);
    }
    conditions::judge(world, object).map(|judged| judged.findings()).unwrap_or_default()
}

fn refused(one: &Refused) -> Told {
    let at = match (one.file.as_str(), one.line) {
        (CLUSTER, _) => String::new(),
        (file, Some(line)) => format!("{file}:{line}"),
        (file, None) => file.to_owned(),
    };
    let mut finding = plain("INVALID", &one.message, &one.remedy);
    finding.field.clone_from(&one.field);
    tell(one.object.clone().unwrap_or_else(|| one.file.clone()), at, finding)
}

fn plain(code: &'static str, message: &str, remedy: &str) -> Finding {
    Finding { code, field: String::new(), message: message.to_owned(), remedy: remedy.to_owned(), place: String::new() }
}

fn tell(object: String, at: String, finding: Finding) -> Told {
    let level = codes::named(finding.code).map_or(Level::Error, |code| code.level);
    Told { level: level.as_str(), object, at, finding }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { level, object, at, finding } = self;
        let tone = if *level == Level::Error.as_str() { Tone::Bad } else { Tone::Doubt };
        write!(f, "{} {} {}", paint(tone, level), paint(Tone::Strong, finding.code), object)?;
        if !at.is_empty() {
            write!(f, " ({at})")?;
        }
        f.write_str("\n  ")?;
        if !finding.field.is_empty() {
            write!(f, "{}: ", finding.field)?;
        }
        f.write_str(&finding.message)?;
        if !finding.place.is_empty() {
            write!(f, ", on {}", finding.place)?;
        }
        // What is invalid or refused says itself what to write.
        let page = codes::named(finding.code).filter(|code| !["INVALID", "INJECTION_REFUSED"].contains(&code.name));
        let general = page.map(|code| code.remedy).unwrap_or_default();
        let remedy = if finding.remedy.is_empty() { general } else { &finding.remedy };
        if !remedy.is_empty() {
            write!(f, "\n  {} {remedy}", paint(Tone::Good, "remedy:"))?;
        }
        Ok(())
    }
}

/// One text for all pages; a line `=== NAME` begins each.
pub(crate) fn print_pages() {
    print!("=== README\n{}", codes::contents());
    for code in codes::all() {
        print!("=== {}\n{}", code.name, code.page());
    }
}
