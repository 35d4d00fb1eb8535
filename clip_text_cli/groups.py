"""Groups of commands in which one may be left out."""

from typing import Any

from typer.core import TyperGroup

__all__ = ["with_default"]


def with_default(default: str) -> type[TyperGroup]:
    """Make a kind of group whose words may follow without the name of one of its commands.

    ``clip-text evaluate FILE`` is ``clip-text evaluate retrieval FILE`` then. What is called like
    a command is that command: a folder of such a name is ``./name``.

    Args:
        default: The command that is meant where none is named.

    Returns:
        What ``typer.Typer(cls=…)`` takes.
    """

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  (click's)
            """Put in the command that was left out."""
            if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
                args = [default, *args]
            return super().parse_args(ctx, args)

    return WithDefault
