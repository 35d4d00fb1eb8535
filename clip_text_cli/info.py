"""What a model is, and how it computes here: ``clip-text info``."""

from dataclasses import replace
from typing import Annotated

import typer
from rich.markup import escape

from clip_text_cli.options import AsJson, Runtime, TrustRemoteCode
from clip_text_cli.output import out, print_json
from clip_text_cli.wiring import checked_runtime, kept_form


def info(
    model: Annotated[
        str,
        typer.Argument(envvar="CLIP_TEXT_MODEL", help="starter, a folder, a file, or a hub name."),
    ] = "starter",
    runtime: Runtime = None,
    trust_remote_code: TrustRemoteCode = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time it now; auto chooses anew.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a model is, which runtime computes it here, and how fast.

    Without --measure the times are those of the choice that auto remembers, if it has chosen. Of
    the starter it also says what search, serve, index and demo run in its place.

    Examples:
        clip-text info starter

        clip-text info ./my-model --measure
    """
    wanted = checked_runtime(runtime)
    from clip_text.model_info import describe_kept, describe_model

    told = describe_model(model, runtime, measure=measure, trust_remote_code=trust_remote_code)
    if family := kept_form(model, wanted, in_number=False):
        in_number = kept_form(model, wanted, in_number=True)
        commands = ["search", "serve", *(["index", "demo"] if in_number else [])]
        told = replace(told, kept=describe_kept(family, commands, measure=measure))
    if as_json:
        print_json(told.as_json())
        return
    for line in told.lines():
        out.print(escape(line), soft_wrap=True)
