"""``kubefunc completion``: the script by which a shell completes commands, options and ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and the ids of calls in your shell.

    \b
    bash:  echo 'eval "$(kubefunc completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(kubefunc completion zsh)"' >> ~/.zshrc
    fish:  kubefunc completion fish > ~/.config/fish/completions/kubefunc.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"click knows no completion for {shell}.")
    group = click.get_current_context().find_root().command
    click.echo(kind(group, {}, "kubefunc", "_KUBEFUNC_COMPLETE").source())
