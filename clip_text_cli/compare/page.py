"""Hits of several models side by side, as one HTML page that opens without a network.

It has no script and asks for nothing: each picture is in it once, small, as a background that every
place shows it by; its policy forbids all else. What people wrote is escaped.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING

from clip_text.progress import Progress, counted, silent
from retrieval.records import breaks_text

if TYPE_CHECKING:
    from clip_text.images import ImageSource

__all__ = ["PAGE_SUFFIXES", "Hit", "Page", "Row", "render", "thumbnails"]

PAGE_SUFFIXES = (".html", ".htm")

_SIDE = 192  # pixels of a thumbnail: twice as large as it is shown
_QUALITY = 78
_MOST_TOLD = 200  # pictures that cannot be read

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture that a model found.

    Args:
        picture: Position among the pictures.
        score: Cosine in [-1, 1]; those of two models cannot be compared.
        is_right: Whether it is known to answer the query.
        is_alone: Whether no other model found it, of at least two.
    """

    picture: int
    score: float
    is_right: bool = False
    is_alone: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A query.

    Args:
        query: What was asked.
        notes: What is said of it, a line each.
        answers: Positions of the pictures that are right, as far as they are known and shown.
        hits: By a model's name, what it found, best first.
    """

    query: str
    notes: Sequence[str]
    answers: Sequence[int]
    hits: Mapping[str, Sequence[Hit]]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page says.

    Args:
        title: Above everything.
        lead: What was compared and how, a paragraph each.
        facts: Tables, each a heading, the heads of its columns, and its rows.
        image_ids: Of all pictures, in their order.
        rows: The queries.
        models: Names of the models, in the order of their columns.
        unreadable: Pictures that were left out, and why.
    """

    title: str
    lead: Sequence[str]
    facts: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]
    image_ids: Sequence[str]
    rows: Sequence[Row]
    models: Sequence[str]
    unreadable: Sequence[tuple[str, str]]

    def pictures(self) -> list[int]:
        """Positions of the pictures that it shows, each once, ascending."""
        shown = {hit.picture for row in self.rows for found in row.hits.values() for hit in found}
        return sorted(shown.union(*(row.answers for row in self.rows)))


def thumbnails(
    images: "Sequence[ImageSource]", places: Sequence[int], progress: Progress = silent
) -> dict[int, bytes]:
    """Draw pictures small: upright, over white, without what else their files say.

    Args:
        images: All pictures.
        places: Positions of those to draw.
        progress: Is told how many ``thumbnails`` are done.

    Returns:
        By position, a WebP file; none of a picture that cannot be read any more.
    """
    from clip_text.features import ahead
    from clip_text.runtimes.processor import available_cores

    def draw(place: int) -> bytes | None:
        from clip_text.images import load_image

        try:
            picture = load_image(images[place], min_size=_SIDE)
        except (OSError, ValueError):
            return None
        picture.thumbnail((_SIDE, _SIDE))
        webp = BytesIO()
        picture.save(webp, "WEBP", quality=_QUALITY)
        return webp.getvalue()

    advance = counted("thumbnails", len(places), progress)
    drawn: dict[int, bytes] = {}
    for place, webp in zip(places, ahead(draw, places, available_cores(), 64), strict=True):
        if webp is not None:
            drawn[place] = webp
        advance(1)
    return drawn


def render(page: Page, drawn: Mapping[int, bytes]) -> str:
    """Write the page.

    Args:
        page: What it says.
        drawn: By position, a WebP file of each picture; the id stands for one that is missing.
    """
    style = (files("clip_text_cli.compare") / "page.css").read_text(encoding="utf-8")
    pictures = "\n".join(
        f".p{place}{{background-image:url(data:image/webp;base64,{_base64(webp)})}}"
        for place, webp in sorted(drawn.items())
    )
    heads = "".join(f'<th scope="col" dir="auto">{_text(name)}</th>' for name in page.models)
    rows = "\n".join(_row(row, page, drawn) for row in page.rows)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(page.title)}</title>
<style>
{style}
{pictures}
</style>
</head>
<body>
<main>
<h1>{_text(page.title)}</h1>
{"".join(f"<p>{_text(line)}</p>" for line in page.lead)}
{_legend(page)}
{"".join(_facts(*table) for table in page.facts)}
<h2>Queries</h2>
<table class="queries">
<thead><tr><th scope="col">query</th>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
{_unreadable(page.unreadable)}
</main>
</body>
</html>
"""


def _row(row: Row, page: Page, drawn: Mapping[int, bytes]) -> str:
    notes = "".join(f'<p dir="auto">{_text(note)}</p>' for note in row.notes)
    answers = "".join(
        _tile(place, f"right answer: {page.image_ids[place]}", "right", page, drawn)
        for place in row.answers
    )
    if answers:
        answers = f'<ol class="answers">{answers}</ol>'
    cells = "".join(
        f'<td data-model="{_text(name)}"><ol>{_hits(row.hits[name], page, drawn)}</ol></td>'
        for name in page.models
    )
    query = f'<p class="query" dir="auto">{_text(row.query)}</p>'
    return f'<tr><th scope="row">{query}{notes}{answers}</th>{cells}</tr>'


def _hits(hits: Sequence[Hit], page: Page, drawn: Mapping[int, bytes]) -> str:
    out = []
    for rank, hit in enumerate(hits, 1):
        said = f"{rank}. {page.image_ids[hit.picture]}, cosine {hit.score:.3f}"
        said += ", a right answer" * hit.is_right + ", found by this model alone" * hit.is_alone
        kind = "right" if hit.is_right else "alone" if hit.is_alone else ""
        out.append(_tile(hit.picture, said, kind, page, drawn))
    return "".join(out)


def _tile(place: int, said: str, kind: str, page: Page, drawn: Mapping[int, bytes]) -> str:
    shown = f" p{place}" if place in drawn else ""
    instead = "" if place in drawn else _text(page.image_ids[place])
    label = _text(said)
    return (
        f'<li{f" class={kind}" if kind else ""}><span class="picture{shown}" role="img" '
        f'aria-label="{label}" title="{label}">{instead}</span></li>'
    )


def _legend(page: Page) -> str:
    hits = [hit for row in page.rows for found in row.hits.values() for hit in found]
    keys = []
    if any(hit.is_right for hit in hits):
        keys.append('<span class="key right"></span> a right answer')
    if any(hit.is_alone for hit in hits):
        keys.append('<span class="key alone"></span> found by no other model')
    return f'<p class="soft">{" &nbsp; ".join(keys)}</p>' if keys else ""


def _facts(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in heads)
    body = "".join(
        "<tr>" + "".join(f'<td dir="auto">{_text(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<h2>{_text(title)}</h2><div class="wide" tabindex="0"><table class="facts">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _unreadable(told: Sequence[tuple[str, str]]) -> str:
    if not told:
        return ""
    shown = [f"<li>{_text(image_id)}: {_text(why)}</li>" for image_id, why in told[:_MOST_TOLD]]
    more = f"<p>and {len(told) - _MOST_TOLD:,} more</p>" if len(told) > _MOST_TOLD else ""
    summary = f"pictures that not every model can read: {len(told):,}"
    return (
        f"<h2>Left out</h2><details><summary>{summary}</summary>"
        f'<ul class="soft">{"".join(shown)}</ul>{more}</details>'
    )


def _text(text: str) -> str:
    """Escape what somebody wrote, for a place between tags or in quotes."""
    shown = (char.encode("unicode_escape").decode() if breaks_text(char) else char for char in text)
    return escape("".join(shown), quote=True)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
