"""A search over HTTP, and its answer."""

import json
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from retrieval.search.query import MAX_TERMS
from retrieval.service.messages.asked import Asked
from retrieval.service.messages.numbers import WholeNumber

MAX_QUERY_CHARACTERS: Final = 1_000
MAX_TOP_K: Final = 200
MAX_OFFSET: Final = 10_000
MAX_FACETS: Final = 10

_EXAMPLE: Final[dict[str, JsonValue]] = {"query": "红色的心", "top_k": 10}
SEND_EXAMPLE: Final = f"Send {json.dumps(_EXAMPLE, ensure_ascii=False)} as application/json"


class SearchTerm(Asked):
    """One of the things that a query looks for, with a weight of its own."""

    text: str | None = Field(
        default=None, max_length=MAX_QUERY_CHARACTERS, description="Words.", examples=["狗"]
    )
    like: str | WholeNumber | None = Field(
        default=None,
        description="Or a picture of the index: its image_id, or its row.",
        examples=[None],
    )
    weight: float = Field(
        default=1.0, description="Not 0; below 0 to stay away from it.", examples=[2.0]
    )


class SearchRequest(Asked):
    """What to look for."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    query: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_QUERY_CHARACTERS,
        description="The text to search with: Chinese, or any language the model has learned. "
        "Null where like or terms say what to look for.",
        examples=["红色的心", "一只狗在雪地里", "a birthday party"],
    )
    top_k: WholeNumber = Field(
        default=10,
        ge=1,
        le=MAX_TOP_K,
        description="How many hits at most. More than are indexed gives all of them.",
        examples=[10],
    )
    where: dict[str, Any] | str | None = Field(
        default=None,
        description=(
            "What must hold of a picture to be considered at all. A condition is "
            '`{"field": …, "op": …, "value": …}` with the op `=`, `!=`, `<`, `<=`, `>`, `>=`, `in` '
            "(a list), `startswith` or `exists` (no value); conditions are joined by "
            '`{"and": […]}`, `{"or": […]}` and `{"not": …}`. Or a text as on the command line: '
            '`year >= 2020 and tags = "海边"`.'
        ),
        examples=[{"field": "tags", "op": "in", "value": ["海边", "雪"]}],
    )
    like: list[str | WholeNumber] = Field(
        default=[],
        max_length=MAX_TERMS,
        description="Pictures of the index to find more like, by image_id or row; they are no "
        "hits themselves.",
        examples=[[]],
    )
    without: list[Annotated[str, Field(max_length=MAX_QUERY_CHARACTERS)]] = Field(
        default=[],
        max_length=MAX_TERMS,
        description="Words to stay away from.",
        examples=[["雪"]],
    )
    terms: list[SearchTerm] = Field(
        default=[],
        max_length=MAX_TERMS,
        description="More to look for, each with a weight: query and like have weight 1, "
        "without -0.4.",
        examples=[[]],
    )
    offset: WholeNumber = Field(
        default=0, ge=0, le=MAX_OFFSET, description="How many of the best to pass over."
    )
    fold: float | None = Field(
        default=None,
        description="Cosine from which a picture is folded into a better hit; 0.9 folds "
        "near-duplicates.",
        examples=[None],
    )
    diversity: float | None = Field(
        default=None,
        description="How much likeness to the hits before it counts against a hit: from 0 to below "
        "1; 0.1 or 0.2, say.",
        examples=[None],
    )
    hybrid: bool = Field(
        default=False,
        description=(
            "Search the words that are said of pictures as well: captions, names, metadata, text "
            "that was read in them. Scores stay cosines, so they need not fall from hit to hit."
        ),
    )
    facets: list[Annotated[str, Field(max_length=MAX_QUERY_CHARACTERS)]] = Field(
        default=[],
        max_length=MAX_FACETS,
        description="Fields whose values are counted over all pictures that `where` holds of: keys "
        "of the metadata, or fields that every picture has, such as `folder` and `date`.",
        examples=[["tags"]],
    )
    min_probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Leaves out hits that are less probable. Those of which nobody can say it are "
        "in: without a calibration, and where the query is more than one text.",
        examples=[None],
    )
    paged: bool = Field(
        default=False,
        description="Keep the order of the answer for a while, so that its pages have each hit "
        "once, whatever is indexed meanwhile: the answer has a page then.",
    )
    page: str | None = Field(
        default=None,
        description="That of an answer: goes on with it. Only offset and top_k may stand beside.",
        examples=[None],
    )


class FoldedPicture(BaseModel):
    """A near-duplicate of a hit."""

    score: float = Field(description="Cosine of query and picture in [-1, 1].", examples=[0.3051])
    image_id: str = Field(description="The picture's own name.", examples=["hearts/red-2.png"])
    row: int = Field(description="The picture's number in the index.", examples=[43])


class FoundPicture(BaseModel):
    """One picture found for a query."""

    rank: int = Field(description="Place in the result; 1 is best.", examples=[1])
    score: float = Field(
        description="Cosine of query and picture in [-1, 1]; higher is better.", examples=[0.3172]
    )
    probability: float | None = Field(
        default=None,
        description="That the picture is a right one, in [0, 1]; null without a calibration.",
        examples=[0.31],
    )
    image_id: str = Field(
        description="The picture's own name: its path below the indexed folder.",
        examples=["hearts/red.png"],
    )
    row: int = Field(
        description="The picture's number in the index; never given to another picture.",
        examples=[42],
    )
    caption: str | None = Field(
        description="Its caption from metadata.jsonl; null without one.", examples=["红心"]
    )
    metadata: dict[str, Any] = Field(
        description="Everything else metadata.jsonl says about it.",
        examples=[{"tags": ["爱", "心"], "author": "…", "licence": "Apache-2.0"}],
    )
    recognised: str | None = Field(
        description="The text that was read in it (index --ocr); null without any.",
        examples=["小心地滑"],
    )
    word_score: float | None = Field(
        description="BM25 of the query's words; null unless the picture was found by them.",
        examples=[7.41],
    )
    image_url: str = Field(description="The original picture.", examples=["/v1/images/42"])
    thumbnail_url: str = Field(
        description="A small WebP; add ?size= for another longest side, in pixels.",
        examples=["/v1/images/42/thumbnail"],
    )
    missing: bool = Field(
        description="True if the file is gone: moved or deleted since it was indexed.",
        examples=[False],
    )
    folded: list[FoldedPicture] = Field(
        description="Near-duplicates found with it; empty unless the query folds.", examples=[[]]
    )


class QueryCategory(BaseModel):
    """What kind of query it is, by the model's classification head."""

    label: str = Field(description="The likeliest category.", examples=["shopping"])
    probability: float = Field(description="Calibrated, in [0, 1].", examples=[0.93])


class FacetValue(BaseModel):
    """A value of a field."""

    value: str | float | int | bool | None = Field(description="The value.", examples=["狗"])
    count: int = Field(description="How many pictures have it.", examples=[12])


class SearchResponse(BaseModel):
    """The pictures nearest to a query, best first."""

    query: str | None = Field(description="The query as received.", examples=["红色的心"])
    took_ms: float = Field(
        description="Milliseconds for encoding and search, without the network.", examples=[12.3]
    )
    total: int = Field(description="How many pictures are indexed.", examples=[1_200])
    hits: list[FoundPicture] = Field(description="At most top_k pictures, best first.")
    category: QueryCategory | None = Field(
        description="Of the query; null unless the model has a classification head."
    )
    page: str | None = Field(
        description="Send it back to go on with this order; null unless the search was paged.",
        examples=[None],
    )
    facets: dict[str, list[FacetValue]] = Field(
        default={},
        description="Of each field that was asked for, its commonest values, 20 at most.",
        examples=[{"tags": [{"value": "狗", "count": 12}]}],
    )
    probability: float | None = Field(
        default=None,
        description="That a right picture is among those searched; null without a calibration.",
        examples=[0.72],
    )
    nothing_matches: bool = Field(
        default=False,
        description="True if there are no hits, or a match is too improbable: the hits are then "
        "merely the nearest.",
        examples=[False],
    )
