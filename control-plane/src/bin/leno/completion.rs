//! Scripts that complete commands in bash, zsh and fish, made from the commands themselves. Written here because it is a page,
//! and a crate for it would be the fifth of its family.

use std::fmt::Write as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What may follow a path of commands, each with a line of help.
struct Level {
    /// Such as `leno proxy`.
    path: String,
    words: Vec<(String, String)>,
}

pub(crate) fn script(shell: Shell, command: &clap::Command) -> String {
    let mut levels = Vec::new();
    collect(command, "leno", &mut levels);
    match shell {
        Shell::Bash => bash(&levels),
        // zsh reads bash's own way of completing.
        Shell::Zsh => format!("autoload -U +X bashcompinit && bashcompinit\n{}", bash(&levels)),
        Shell::Fish => fish(&levels),
    }
}

fn collect(command: &clap::Command, path: &str, levels: &mut Vec<Level>) {
    let shown = || command.get_subcommands().filter(|one| !one.is_hide_set());
    let line = |text: Option<&clap::builder::StyledStr>| {
        text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
    };
    let mut words: Vec<(String, String)> =
        shown().map(|one| (one.get_name().to_owned(), line(one.get_about()))).collect();
    for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
        if let Some(long) = argument.get_long() {
            words.push((format!("--{long}"), line(argument.get_help())));
        } else if argument.is_positional() {
            let values = argument.get_possible_values();
            words.extend(values.iter().map(|value| (value.get_name().to_owned(), line(value.get_help()))));
        }
    }
    levels.push(Level { path: path.to_owned(), words });
    shown().for_each(|one| collect(one, &format!("{path} {}", one.get_name()), levels));
}

/// The longest path of commands so far decides; files complete where nothing else does.
fn bash(levels: &[Level]) -> String {
    let mut cases = String::new();
    for Level { path, words } in levels {
        let names: Vec<&str> = words.iter().map(|(name, _)| name.as_str()).collect();
        let _ = writeln!(cases, "    \"{path}\") words=\"{}\" ;;", names.join(" "));
    }
    format!(
        "_leno() {{\n  local path=leno words word current=\"${{COMP_WORDS[COMP_CWORD]}}\"\n  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n    case \" {} \" in *\" $path $word,\"*) path=\"$path $word\" ;; esac\n  done\n  case \"$path\" in\n{cases}  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n}}\ncomplete -o default -F _leno leno kubectl-leno\n",
        levels.iter().map(|level| format!(" {},", level.path)).collect::<String>(),
    )
}

fn fish(levels: &[Level]) -> String {
    let mut out = String::from("complete -c leno -e\n");
    for Level { path, words } in levels {
        let below: Vec<&str> = path.split(' ').skip(1).collect();
        let condition = match below.as_slice() {
            [] => "__fish_use_subcommand".to_owned(),
            names => names
                .iter()
                .map(|name| format!("__fish_seen_subcommand_from {name}"))
                .collect::<Vec<_>>()
                .join("; and "),
        };
        for (word, help) in words {
            let (word, help) = (word.as_str(), help.replace('\'', "\\'"));
            let what = word.strip_prefix("--").map_or(format!("-a '{word}'"), |long| format!("-l '{long}'"));
            let _ = writeln!(out, "complete -c leno -n '{condition}' {what} -d '{help}'");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_completed_in_every_shell() {
        let command = crate::command();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell, &command);
            for word in ["lint", "check", "pools", "rotate-root", "explain"] {
                assert!(script.contains(word), "{shell:?} does not know {word}");
            }
            assert!(!script.contains("guard"), "{shell:?} tells what is hidden");
        }
    }
}
