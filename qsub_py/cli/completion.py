"""The lines that switch on completion of option names (click's own) in a shell."""

from __future__ import annotations

import click

from qsub_py.cli import common

_COMMANDS = ("qsub", "qstat", "qcancel", "qdel", "qhold", "qalter", "qrls", "qsuspend",
             "qresume", "qrerun", "qwait", "qlog", "qresult", "qfetch", "qacct", "qnode",
             "qsub-py")  # fmt: skip
_FILES = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/config.fish"}


@click.command("completion")
@click.argument("shell", type=click.Choice(tuple(_FILES)))
@common.options
def completion(shell: str) -> None:
    """Print the lines that complete our commands in SHELL.

    \b
    bash:  qsub-py completion bash >> ~/.bashrc
    zsh:   qsub-py completion zsh >> ~/.zshrc
    fish:  qsub-py completion fish >> ~/.config/fish/config.fish
    """
    for name in _COMMANDS:
        variable = "_" + name.upper().replace("-", "_") + "_COMPLETE"
        if shell == "fish":
            click.echo(f"command -q {name}; and env {variable}=fish_source {name} | source")
        else:
            click.echo(
                f'command -v {name} >/dev/null && eval "$({variable}={shell}_source {name})"'
            )
    common.hint(f"# append this to {_FILES[shell]}")
