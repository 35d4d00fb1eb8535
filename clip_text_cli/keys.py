"""The commands ``clip-text keys …``: who may use a service."""

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.options import AsJson
from clip_text_cli.output import err, out, print_json

if TYPE_CHECKING:
    from retrieval.service.key_file import Key, Scope
else:
    Scope = str

_SPANS = {"h": "hours", "d": "days", "w": "weeks"}

KeysFile = Annotated[
    Path, typer.Option("--file", envvar="CLIP_TEXT_SERVE_KEYS", help="Where the keys are kept.")
]
DEFAULT_FILE = Path("keys.toml")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Make and take away the keys of a search service.

    The file has no key, only what one is recognised by. A service that reads it follows what
    changes, without a restart.

    Examples:
        clip-text keys create page --scope search

        clip-text keys list
    """,
)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who or what it is for; stands in the log.")],
    scope: Annotated[
        Scope,
        typer.Option(
            metavar="search|write|admin",
            help="What it is good for: to search; to add, change and delete as well; all.",
        ),
    ] = "search",
    file: KeysFile = DEFAULT_FILE,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it ends: 12h, 90d, 8w; never if not given."),
    ] = None,
) -> None:
    """Make a key and print it: this once, for it is kept nowhere.

    Example:
        clip-text keys create importer --scope write --expires 90d
    """
    from retrieval.service.key_file import SCOPES, add_key

    if scope not in SCOPES:
        raise typer.BadParameter(f"expected one of {', '.join(SCOPES)} for --scope, got {scope!r}.")
    key, secret = add_key(file, name, scope, None if expires is None else _span(expires))
    out.print(secret, markup=False, soft_wrap=True)
    err.print(
        f"A key of the scope {key.scope} for {key.name}, {_ending(key)}. It is shown this once.",
        markup=False,
        soft_wrap=True,
    )


@app.command("list")
def list_keys(file: KeysFile = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """List the keys: their names and what they are good for.

    Example:
        clip-text keys list
    """
    from retrieval.service.key_file import read_keys

    keys = read_keys(file).keys
    if as_json:
        print_json([_as_json(key) for key in keys])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "scope", "made", "ends"):
        table.add_column(column)
    for key in keys:
        ends = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
        made = f"{key.created:%Y-%m-%d}"
        table.add_row(
            escape(key.name), key.scope, made, f"{ends} (over)" if key.is_over() else ends
        )
    out.print(table)


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Of the key.")], file: KeysFile = DEFAULT_FILE
) -> None:
    """Take a key away: a service refuses it from the next request on.

    Example:
        clip-text keys revoke importer
    """
    from retrieval.service.key_file import revoke_key

    gone = revoke_key(file, name)
    out.print(f"{gone.name} has no key any more.", markup=False, soft_wrap=True)


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", text)
    if found is None:
        raise typer.BadParameter(f"expected a time such as 12h, 90d or 8w, got {text!r}.")
    return timedelta(**{_SPANS[found[2]]: int(found[1])})


def _ending(key: "Key") -> str:
    return "for ever" if key.expires is None else f"until {key.expires:%Y-%m-%d %H:%M} UTC"


def _as_json(key: "Key") -> dict[str, Any]:
    return {
        "name": key.name,
        "scope": key.scope,
        "created": key.created.isoformat(),
        "expires": None if key.expires is None else key.expires.isoformat(),
        "is_over": key.is_over(),
    }
