"""Classification over HTTP."""

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from retrieval.service.messages.asked import Asked
from retrieval.service.messages.embeddings import MAX_TEXT_CHARACTERS, check_length
from retrieval.service.messages.numbers import WholeNumber

__all__ = ["MAX_CLASSIFIED", "ClassifyRequest", "ClassifyResponse", "Label", "TextLabels"]

MAX_CLASSIFIED: Final = 256

_EXAMPLE: Final[dict[str, JsonValue]] = {"texts": ["这双鞋多少钱"], "top_k": 3}

_Text = Annotated[
    str,
    AfterValidator(check_length),
    Field(json_schema_extra={"maxLength": MAX_TEXT_CHARACTERS}),
]


class ClassifyRequest(Asked):
    """Texts whose labels are asked for."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    texts: list[_Text] = Field(
        min_length=1, max_length=MAX_CLASSIFIED, description="What to classify."
    )
    head: str | None = Field(
        default=None,
        description="Name of the model's classification head; null where it has one.",
        examples=[None],
    )
    top_k: WholeNumber = Field(
        default=1, ge=1, le=1_000, description="How many labels of each at most."
    )


class Label(BaseModel):
    """What a text may be."""

    label: str = Field(description="The head's name of it.", examples=["shopping"])
    probability: float = Field(description="Calibrated, in [0, 1].", examples=[0.93])


class TextLabels(BaseModel):
    """What one text is."""

    labels: list[Label] = Field(description="The likeliest first, top_k of them.")


class ClassifyResponse(BaseModel):
    """Labels, in the order of the texts."""

    results: list[TextLabels] = Field(description="One for each text.")
