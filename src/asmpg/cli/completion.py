"""What `asmpg completion` prints: a script that makes a shell complete commands, options and values."""

import sys
from collections.abc import Callable, Iterable

from ..core.user_code import installed
from ..models.files import FAMILIES
from ..tasks import TASKS
from ..training.choice import AUTO
from ..training.methods import MODELS
from .declare import Option, options_of
from .options import COMMANDS, Completion, description


def run_completion(options: Completion) -> int:
    """`asmpg completion`."""
    sys.stdout.write(_SCRIPTS[options.shell]())
    return 0


def values(option: Option) -> list[str]:
    """What a value or a positional argument may be completed to; nothing where it is a number or a path."""
    if option.choices:
        return option.choices
    return {"task": _tasks, "model": _models, "figure": _figures, "suite": _suites}.get(option.names, list)()


def _tasks() -> list[str]:
    return [*TASKS, *installed("asmpg.tasks")]


def _models() -> list[str]:
    added = installed("asmpg.backbones")
    return [*MODELS, AUTO, *(family + name for name in added for family in ("", *FAMILIES))]


def _figures() -> list[str]:
    from ..experiments import EXPERIMENTS

    return [*EXPERIMENTS]


def _suites() -> list[str]:
    from ..experiments import SUITES

    return [*SUITES]


def _is_path(option: Option) -> bool:
    return bool(option.names)


def _bash() -> str:
    """A function that looks at the word before the one that is typed, and at the command."""
    cases = []
    for name, command in COMMANDS.items():
        options = [option for option in options_of(command) if not option.positional]
        places = [option for option in options_of(command) if option.positional]
        flags = [*(option.flag for option in options), "--help"]
        lines = [f"    {name})", f'      flags="{" ".join(flags)}"', f"      values={_words(places)}"]
        lines += [
            f"      case $before in {option.flag}) values={_words([option])}; value=1;; esac"
            for option in options
            if not option.is_switch
        ]
        cases.append("\n".join([*lines, "      ;;"]))
    return _BASH.replace("COMMANDS", " ".join(COMMANDS)).replace("CASES", "\n".join(cases))


def _words(options: Iterable[Option]) -> str:
    return f'"{" ".join(word for option in options for word in values(option))}"'


_BASH = """\
# asmpg for bash: eval "$(asmpg completion bash)"
_asmpg() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" flags="" values="" value=""
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "COMMANDS --help --version" -- "$word"))
    return
  fi
  case "${COMP_WORDS[1]}" in
CASES
  esac
  if [[ $word == -* && -z $value ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  else
    COMPREPLY=($(compgen -W "$values" -- "$word"))
    [[ ${#COMPREPLY[@]} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$word"))
  fi
}
complete -o filenames -F _asmpg asmpg
"""


def _zsh() -> str:
    """Bash's script, which zsh can run."""
    lines = _bash().splitlines()[1:]
    head = '# asmpg for zsh: eval "$(asmpg completion zsh)"\nautoload -U +X compinit && compinit -u\n'
    return head + "autoload -U +X bashcompinit && bashcompinit\n" + "\n".join(lines) + "\n"


def _fish() -> str:
    """A line for every command and every option."""
    lines = ["# asmpg for fish: asmpg completion fish | source", "complete -c asmpg -f"]
    for name, command in COMMANDS.items():
        text = _quoted(description(command).partition("\n")[0])
        lines.append(f"complete -c asmpg -n __fish_use_subcommand -a {name} -d {text}")
        for option in options_of(command):
            seen = f"-n '__fish_seen_subcommand_from {name}'"
            words = f" -a {_quoted(' '.join(values(option)))}" if values(option) else ""
            path = " -F" if _is_path(option) else ""
            if option.positional:
                lines.append(f"complete -c asmpg {seen}{words}{path}")
                continue
            takes = "" if option.is_switch else " -r" + (path or " -f")
            lines.append(f"complete -c asmpg {seen} -l {option.flag[2:]}{takes}{words}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SCRIPTS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
