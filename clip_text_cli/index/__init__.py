"""The commands ``clip-text index …``: of what is indexed, and of the index's own life."""

import typer

from clip_text_cli.groups import with_default
from clip_text_cli.index import (
    duplicates,
    layout,
    making,
    migrate,
    planning,
    relevance,
    sealing,
    statistics,
    upkeep,
)

app = typer.Typer(
    cls=with_default("folder"),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Make pictures searchable, and look after what was made.

    `clip-text index SOURCE` is short for `clip-text index folder SOURCE`, whose --help has its
    options. A folder that is called like one of the commands is `./verify`.

    Examples:
        clip-text index ~/Pictures

        clip-text index val.jsonl

        clip-text index info
    """,
)
app.command("folder")(making.index)
app.command("compact")(sealing.compact)
app.command("build")(sealing.build)
app.command("advise")(sealing.advise)
app.command("plan")(planning.plan)
app.command("info")(upkeep.info)
app.command("verify")(upkeep.verify)
app.command("remove")(upkeep.remove)
app.command("migrate")(migrate.migrate)
app.command("copy")(upkeep.copy)
app.command("stats")(statistics.stats)
app.command("duplicates")(duplicates.duplicates)
app.command("map")(layout.draw)
app.command("calibrate")(relevance.calibrate)
app.command("text")(upkeep.text)
