"""The search service: ``clip-text serve``."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_text_cli import wiring
from clip_text_cli.hits import tell_notes
from clip_text_cli.options import Runtime, TrustRemoteCode
from clip_text_cli.output import err, out
from clip_text_cli.process import set_up_process

if TYPE_CHECKING:
    from clip_text_cli.serve_config import ServeConfig
    from retrieval.service.app import Served
    from retrieval.service.worker import Opened

# What is not given has to be told from what is: the defaults are ServeConfig's.
_THIS_MACHINE = "127.0.0.1 by default"


def serve(
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="[NAME=]FOLDER",
            help="Folder of an index; several, each with a name, are collections.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="starter, a folder, a file, or a hub name."),
    ] = None,
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    head: Annotated[
        str | None,
        typer.Option(help="Classification head that names each query's category; the only one."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help=f"Address to listen on; {_THIS_MACHINE}.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port, 8000 by default; 0 takes a free one."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that answer; 1 by default.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="File of the keys that callers need.")] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="Name the service is called by; * for any."),
    ] = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option("--root", help="Folder whose files may be added by their paths."),
    ] = None,
    log: Annotated[str | None, typer.Option(help="How the log is written: text or json.")] = None,
    root_path: Annotated[
        str | None, typer.Option(help="Path under which a proxy has the service: /pictures.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Anything that --show-config lists."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="CLIP_TEXT_SERVE_CONFIG", help="File in TOML with what no option says."
        ),
    ] = None,
    show_config: Annotated[
        bool,
        typer.Option("--show-config", help="Print what holds, and where it is from; then exit."),
    ] = False,
) -> None:
    """Open the search page and the HTTP API (page /, API page /docs).

    Options count before variables of the environment (CLIP_TEXT_SERVE_PORT and the like), and
    these before the file. SIGHUP opens indexes and models anew, as the file names them then,
    without a request that fails; SIGTERM and Ctrl-C end the service.

    A model with a classification head says of what category a query is, by the same pass.

    Examples:
        clip-text serve --port 8000

        clip-text serve --index photos=photos.index --index cards=cards.index --workers 4

        clip-text serve --config serve.toml --set waiting=64

        clip-text serve --config serve.toml --show-config
    """
    from clip_text_cli.serve_config import read_config

    named: dict[str, object] = {
        "index": index,
        "model": model,
        "runtime": runtime,
        "trust_remote_code": trust_remote_code or None,
        "head": head,
        "host": host,
        "port": port,
        "workers": workers,
        "keys": keys,
        "allowed_hosts": allowed_hosts,
        "roots": roots,
        "log": log,
        "root_path": root_path,
    }
    options = _set(settings) | {key: value for key, value in named.items() if value is not None}
    sourced = read_config(options, config)
    if show_config:
        for line in sourced.lines():
            out.print(line, markup=False, soft_wrap=True)
        return
    _run(sourced.config, Opener(options, config))


@dataclass(frozen=True)
class Opener:
    """Opens the indexes that the configuration names, each time as it is then.

    Args:
        options: What was given on the command line.
        file: The file beside it.
    """

    options: Mapping[str, object]
    file: Path | None

    def __call__(self) -> "Sequence[Served]":
        """Open them, with their models; the service owns them.

        Raises:
            RetrievalError: If one cannot be opened, or its model not be loaded.
        """
        from clip_text.errors import ClipTextError
        from clip_text_cli.serve_config import read_config
        from retrieval.errors import RetrievalError

        set_up_process()  # a process of its own, where there are several workers
        try:
            return _open_all(read_config(self.options, self.file).config)
        except ClipTextError as error:
            raise RetrievalError(str(error)) from error


def _run(config: "ServeConfig", opener: Opener) -> None:
    from retrieval.service.serving import Behind, serve_opened

    def tell(address: str, opened: "list[Opened]") -> None:
        total = sum(each.total for each in opened)
        told = f"{total:,} pictures. Page: {address}/   API: {address}/docs"
        err.print(told, markup=False, soft_wrap=True)
        for runtime in dict.fromkeys(each.runtime for each in opened if each.runtime):
            err.print(f"Queries are computed by {runtime}.", soft_wrap=True)
        tell_notes(list(dict.fromkeys(note for each in opened for note in each.notes)))

    serve_opened(
        opener,
        settings=config.settings(),
        host=config.host,
        port=config.port,
        workers=config.workers,
        behind=Behind(config.root_path, config.proxies),
        on_listening=tell,
    )


def _open_all(config: "ServeConfig") -> "list[Served]":
    """Open every index; a model that several have is loaded once."""
    from retrieval.search import Searcher
    from retrieval.service.app import Served

    loaded = {
        model: wiring.load_encoder(
            model,
            runtime=config.runtime,
            queries_only=True,
            trust_remote_code=config.trust_remote_code,
        )
        for model in dict.fromkeys(map(config.model_of, config.index))
    }
    opened: list[Served] = []
    with ExitStack() as undoing:
        for name, folder in config.index.items():
            encoder = wiring.as_indexed(loaded[config.model_of(name)], folder)
            classify = wiring.query_classifier(encoder, config.head)
            searcher = undoing.enter_context(
                Searcher.open(folder, encoder, classify, cached_queries=config.cached_queries)
            )
            encoder.encode_text(["图"])  # the first pass takes longest: nobody's who waits
            runtime = wiring.query_runtime(encoder, config.head)
            served = Served(
                searcher,
                name,
                encoder=encoder,
                index_dir=folder,
                runtime=runtime,
                model=wiring.model_name(config.model_of(name)),
                count_tokens=wiring.token_counter(encoder),
                classify=wiring.text_classifier(encoder),
                owned=True,
            )
            opened.append(served)
        undoing.pop_all()  # all are open: the service closes them
    return opened


def _set(settings: list[str] | None) -> dict[str, object]:
    """Read options like ``--set waiting=64``."""
    said: dict[str, object] = {}
    for each in settings or []:
        name, equals, value = each.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected NAME=VALUE, got {each!r}. Write it so.")
        said[name.strip().replace("-", "_")] = value
    return said
