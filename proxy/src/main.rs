//! The binary `leno-proxy`: reads the command line and hands over. It must never hold logic of its own.

use std::process::ExitCode;

use leno_proxy::admin;
use leno_proxy::app;
use leno_proxy::config;
use leno_proxy::config::InitAction;
use leno_proxy::config::Invocation;
use leno_proxy::redirect;

// Many small, short-lived buffers on few threads: what mimalloc is made for. It needs a C compiler and nothing else. Without
// huge pages: one sidecar's heap would begin with eight of them, 16 MiB, of which it needs a quarter.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let invocation = match config::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(error) => match error.downcast_ref::<clap::Error>() {
            // Help and version are no errors; clap knows where each goes.
            Some(said) => said.exit(),
            None => return fail(&error),
        },
    };
    let done = match invocation {
        Invocation::Run(config) => app::run(*config),
        Invocation::Init { rules, action } => init(&rules, action),
        Invocation::Show { socket, what } => ask(&socket, http::Method::GET, &what),
        Invocation::Drain { socket } => ask(&socket, http::Method::POST, "drain"),
        Invocation::LogLevel { socket, filter } => ask(&socket, http::Method::POST, &admin::log_level(&filter)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("leno-proxy: {error:#}");
    ExitCode::FAILURE
}

fn init(rules: &redirect::Rules, action: InitAction) -> anyhow::Result<()> {
    match action {
        InitAction::Print => {
            print!("{}", rules.script());
            Ok(())
        }
        InitAction::Apply => redirect::apply(&rules.script()),
        InitAction::Undo => redirect::apply(&redirect::undo_script()),
    }
}

fn ask(socket: &std::path::Path, method: http::Method, what: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    print!("{}", runtime.block_on(admin::ask(socket, method, what))?);
    Ok(())
}
