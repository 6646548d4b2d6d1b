"""Scripts that complete the command `csn_jax` in bash, zsh and fish.

A script holds all words itself, so that a press of the tab key starts no Python.
"""

import shlex
from collections.abc import Mapping, Sequence

from csn_jax.cli.flags import Flag, texts_of
from csn_jax.cli.presets import preset_words
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

SHELLS = ("bash", "zsh", "fish")
OPTIONS = ("--help", "--version", "--completion=")

# In both: $flags and $values are the words of the command before the cursor; a value stands as --flag=value.
BASH = r"""
_csn_jax() {
    local line=${COMP_LINE:0:COMP_POINT} current previous prefix="" mark word key flags values IFS=$' \t\n'
    local -a words
    read -ra words <<<"$line"
    current=${line##*[[:space:]]}
    if [[ $current ]]; then words=("${words[@]:0:${#words[@]}-1}"); fi
    previous=${words[${#words[@]}-1]}
    _csn_jax_words "${words[1]-}" "${words[2]-}"
    COMPREPLY=()
    if [[ $current == *=* ]]; then
        flags=$values
    elif [[ " $values" == *" $previous="* ]]; then
        flags=
        for word in $values; do [[ $word == "$previous="* ]] && flags+=" ${word#"$previous="}"; done
    fi
    for mark in = :; do # readline completes the part behind the last of these
        if [[ $COMP_WORDBREAKS == *$mark* && $current == *$mark* ]]; then prefix=${current%$mark*}$mark; fi
    done
    for word in $flags; do [[ $word == "$current"* ]] && COMPREPLY+=("${word#"$prefix"}"); done
    if [[ ${COMPREPLY[0]-} == *= ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}
complete -o default -F _csn_jax csn_jax
"""

ZSH = r"""
_csn_jax() {
    local current=$words[CURRENT] previous=$words[CURRENT-1] flags values
    _csn_jax_words "${words[2,CURRENT-1][1]}" "${words[3,CURRENT-1][1]}"
    local -a found=(${(M)${=values}:#$current*}) open
    if [[ $current == *=* ]]; then
        if (( $#found )); then compadd -- $found; else compset -P '*='; _files; fi
        return
    fi
    found=(${(M)${=values}:#$previous=*})
    if (( $#found )); then compadd -- ${found#$previous=}; return; fi
    found=(${(M)${=flags}:#$current*})
    open=(${(M)found:#*=})
    compadd -S '' -- $open
    compadd -- ${found:#*=} || (( $#found )) || _files
}
if (( ! $+functions[compdef] )); then autoload -Uz compinit; compinit -u; fi
compdef _csn_jax csn_jax
"""


def completion(shell: str, commands: Mapping[str, tuple[str, Mapping[str, Sequence[Flag]]]]) -> str:
    """The script for a shell.

    Args:
        shell: bash, zsh or fish.
        commands: for each command what it does, and its flags by action; a command without actions has the action "".

    Raises:
        UserError: when the shell is another one.
    """
    if shell not in SHELLS:
        near = did_you_mean(shell, SHELLS)
        raise UserError(f"--completion={shell}: unknown shell{near}; choose one of {', '.join(SHELLS)}.")
    use = "csn_jax --completion fish | source" if shell == "fish" else f'eval "$(csn_jax --completion {shell})"'
    head = f"# Completion of csn_jax. Use: {use}\n"
    if shell == "fish":
        return head + "\n".join(_fish(commands)) + "\n"
    cases = [("*", [*commands, *OPTIONS], [f"--completion={name}" for name in SHELLS])]
    for command, (_, actions) in commands.items():
        for action, flags in actions.items():
            cases.insert(-1, (f"{command}\\ {action or '*'}", *_words(flags)))
        if "" not in actions:
            cases.insert(-1, (f"{command}\\ *", [*actions, "--help"], []))
    lines = [
        f"    {key}) flags={shlex.quote(' '.join(flags))} values={shlex.quote(' '.join(values))} ;;"
        for key, flags, values in cases
    ]
    words = "\n".join(["_csn_jax_words() {", '    case "$1 $2" in', *lines, "    esac", "}"])
    return head + words + {"bash": BASH, "zsh": ZSH}[shell]


def _words(flags: Sequence[Flag]) -> tuple[list[str], list[str]]:
    """(flags, with = where a value follows; values as --flag=value)."""
    names, values = ["--help"], []
    if any(flag.name.startswith("config.") for flag in flags):
        names += ["--help-all", "--config="]
        values += [f"--config={word}" for word in preset_words()]
    for flag in flags:
        names.append(f"--{flag.name}" + ("" if flag.kind is bool or flag.many else "="))
        values += [f"--{flag.name}={choice}" for choice in flag.choices if choice]
    return names, values


def _fish(commands: Mapping[str, tuple[str, Mapping[str, Sequence[Flag]]]]) -> list[str]:
    start, lines = "complete -c csn_jax", []
    for name in OPTIONS:
        values = " -x -a " + shlex.quote(" ".join(SHELLS)) if name.endswith("=") else ""
        lines.append(f"{start} -n __fish_use_subcommand -l {name.strip('-=')}{values}")
    for command, (text, actions) in commands.items():
        lines.append(f"{start} -n __fish_use_subcommand -f -a {command} -d {shlex.quote(text)}")
        within = f"__fish_seen_subcommand_from {command}"
        for action, flags in actions.items():
            where = f"{within}; and __fish_seen_subcommand_from {action}" if action else within
            if action:
                unseen = f"{within}; and not __fish_seen_subcommand_from {' '.join(actions)}"
                lines.append(f"{start} -n {shlex.quote(unseen)} -f -a {action}")
            names, values = _words(flags)
            texts = {flag.name: texts_of(flag.owner).get(flag.name.rpartition(".")[2], "") for flag in flags}
            for name in (name.strip("-=") for name in names):
                choices = [word.partition("=")[2] for word in values if word.startswith(f"--{name}=")]
                more = f" -a {shlex.quote(' '.join(choices))}" if choices else ""
                more += (" -x" if choices and name != "config" else " -r") if f"--{name}=" in names else ""
                summary = texts.get(name, "").partition(". ")[0].rstrip(".")[:70]
                more += f" -d {shlex.quote(summary)}" if summary else ""
                lines.append(f"{start} -n {shlex.quote(where)} -l {name}{more}")
    return lines
