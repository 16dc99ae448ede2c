//! What the proxy logs about itself, which may change while it runs. It must never take a misspelt level for something else.

use std::io;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;

/// A handle on the filter of the running process.
#[derive(Clone)]
pub(super) struct Logs(Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl Logs {
    /// Once in a process.
    pub(super) fn start(filter: &str) -> anyhow::Result<Logs> {
        let filter = parse(filter).map_err(|why| anyhow::anyhow!("LENO_LOG (--log): {why}"))?;
        let lines = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(io::stderr);
        let lines = lines.with_filter_reloading();
        let handle = lines.reload_handle();
        lines.init();
        Ok(Logs(Arc::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))))
    }

    pub(super) fn set(&self, filter: &str) -> Result<(), String> {
        (self.0)(parse(filter)?)
    }
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A list of `LEVEL` and `TARGET=LEVEL`. To `EnvFilter` any word is the name of a target, and so `loud` would turn all logs off.
fn parse(text: &str) -> Result<EnvFilter, String> {
    let help = || format!("write {}, or a list such as info,leno_proxy::pool=debug", LEVELS.join(", "));
    for part in text.split(',') {
        let (target, level) = part.rsplit_once('=').unwrap_or(("", part));
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!("{text:?}: {level:?} is no level; {}", help()));
        }
        let module = target.split('[').next().unwrap_or_default();
        if !module.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:.".contains(&byte)) {
            return Err(format!("{text:?}: {module:?} is no module; {}", help()));
        }
    }
    EnvFilter::try_new(text).map_err(|error| format!("{text:?}: {error}; {}", help()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_what_is_none_is_refused_with_those_that_there_are() {
        for good in ["info", "WARN", "off", "info,leno_proxy::pool=debug", "info,leno_proxy[{a=1}]=debug"] {
            assert!(parse(good).is_ok(), "{good}: {:?}", parse(good).err());
        }
        for bad in ["loud%", "loud", "", "info,", "leno_proxy", "info,leno_proxy=loud", "le%no=info", "debug info"] {
            let why = parse(bad).err().unwrap_or_else(|| panic!("{bad} is taken"));
            assert!(why.contains("error, warn, info, debug, trace, off"), "{why}");
        }
        assert!(parse("loud%").unwrap_err().starts_with("\"loud%\": \"loud%\" is no level; write error, warn"));
    }
}
