"""Embeddings over HTTP, as clients of OpenAI, Jina and Infinity ask for them, and the models."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from retrieval.service.messages.asked import Asked
from retrieval.service.messages.numbers import WholeNumber

__all__ = [
    "MAX_INPUTS",
    "MAX_PICTURES",
    "MAX_TEXT_CHARACTERS",
    "Embedding",
    "EmbeddingsRequest",
    "EmbeddingsResponse",
    "ModelInfo",
    "ModelList",
    "PictureInput",
    "check_length",
]

MAX_INPUTS: Final = 2_048
MAX_PICTURES: Final = 256
MAX_TEXT_CHARACTERS: Final = 8_192

_EXAMPLE: Final[dict[str, JsonValue]] = {"model": "default", "input": ["一只狗", "雪山"]}


@dataclass(frozen=True, slots=True)
class PictureInput:
    """A picture to embed.

    Args:
        place: Where it stands among the inputs.
        said: Its base64, a ``data:`` address of it, or a web address; or what is in its file.
    """

    place: int
    said: str | bytes


def check_length(text: str) -> str:
    """Refuse a text that is longer than any model reads.

    Raises:
        PydanticCustomError: If it is.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        length = {"max_length": MAX_TEXT_CHARACTERS, "length": len(text)}
        raise PydanticCustomError("text_too_long", "Text should be shorter", length)
    return text


def _read_input(value: object) -> list[str | PictureInput]:
    """Read what is to be embedded; of its own, for unions would tell of every form at once."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        raise PydanticCustomError("input_form", "Input should be a text or a list of texts")
    if not 1 <= len(given) <= MAX_INPUTS:
        raise PydanticCustomError(
            "input_number",
            "Input should be from 1 to {most} texts and pictures in a list",
            {"most": MAX_INPUTS},
        )
    return [_read_one(place, one) for place, one in enumerate(given)]


def _read_one(place: int, one: object) -> str | PictureInput:
    if isinstance(one, str):
        return one
    if isinstance(one, int | list):  # other models' tokens mean nothing to this one
        raise PydanticCustomError(
            "input_tokens",
            "Input should be texts, not numbers of tokens "
            "(in LangChain: check_embedding_ctx_length=False)",
        )
    if isinstance(one, dict) and len(one) == 1:
        ((kind, said),) = one.items()
        if kind == "text" and isinstance(said, str):
            return said
        if kind == "image" and isinstance(said, str):
            return PictureInput(place, said)
    raise PydanticCustomError(
        "input_form", 'Input should be texts, {{"text": …}} and {{"image": …}}, each a string'
    )


_TEXT: Final[dict[str, Any]] = {"type": "string", "maxLength": MAX_TEXT_CHARACTERS}


def _piece(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {kind: schema},
        "required": [kind],
        "additionalProperties": False,
    }


_INPUT_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        _TEXT,
        {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_INPUTS,
            "items": {"anyOf": [_TEXT, _piece("text", _TEXT), _piece("image", {"type": "string"})]},
        },
    ],
    "description": 'A text, or a list of texts, of `{"text": …}` and of `{"image": …}`: a '
    "picture as base64, as a `data:` address, or, where the service may fetch pictures, a web "
    "address. Numbers of tokens are refused.",
    "examples": [["一只狗", "雪山"]],
}


class EmbeddingsRequest(Asked):
    """What to embed: the shapes that clients of OpenAI, of Jina and of Infinity send."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    # of Any, for what is read is none of the messages
    input: Annotated[list[Any], PlainValidator(_read_input), WithJsonSchema(_INPUT_SCHEMA)]
    model: str | None = Field(
        default=None,
        description="Name of a collection, or of its model, as GET /v1/models has it; the first "
        "one's where none is named.",
        examples=["default"],
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None,
        description="Numbers in JSON, which is so if not said, or float32, little-endian, in "
        "base64.",
        examples=["float"],
    )
    dimensions: WholeNumber | None = Field(
        default=None,
        ge=1,
        description="How many of the first dimensions to keep, made unit rows again; all if null.",
        examples=[None],
    )
    modality: Literal["text", "image"] = Field(
        default="text", description="Infinity's: what strings in the list are.", examples=["text"]
    )
    embedding_type: Literal["float", "base64"] | None = Field(
        default=None, description="Jina's name of encoding_format.", examples=[None]
    )
    normalized: Literal[True] | None = Field(
        default=None, description="Jina's: rows are unit rows, always.", examples=[None]
    )
    task: str | None = Field(
        default=None, description="Jina's: passed over; all texts are encoded alike."
    )
    user: str | None = Field(default=None, description="OpenAI's: passed over.")

    @property
    def pieces(self) -> list[str | PictureInput]:
        """What is to be embedded, in order."""
        return self.input

    @property
    def is_base64(self) -> bool:
        """True if rows are wanted as bytes."""
        return (self.encoding_format or self.embedding_type) == "base64"

    @model_validator(mode="after")
    def _settle(self) -> Self:
        """Have strings be what the modality says; there are not too many pictures then."""
        if self.modality == "image":
            self.input = [
                PictureInput(place, one) if isinstance(one, str) else one
                for place, one in enumerate(self.input)
            ]
        pictures = 0
        for one in self.input:
            if isinstance(one, str):
                check_length(one)
            else:
                pictures += 1
        if pictures > MAX_PICTURES:
            raise PydanticCustomError(
                "pictures_number",
                "Input should have at most {most} pictures",
                {"most": MAX_PICTURES},
            )
        return self


class Embedding(BaseModel):
    """One input's row."""

    object: Literal["embedding"] = Field(description="Always embedding.")
    index: int = Field(description="Place among the inputs.", examples=[0])
    embedding: list[float] | str = Field(
        description="A unit row of the space that texts and pictures share, or its base64.",
        examples=[[0.6, 0.8]],
    )


class Usage(BaseModel):
    """What was read."""

    prompt_tokens: int = Field(
        description="Tokens of the texts that the model read, special ones included; pictures "
        "have none.",
        examples=[10],
    )
    total_tokens: int = Field(description="The same.", examples=[10])


class EmbeddingsResponse(BaseModel):
    """Rows, in the order of the inputs."""

    object: Literal["list"] = Field(description="Always list.")
    data: list[Embedding] = Field(description="One for each input.")
    model: str = Field(description="As it was asked for, or the first one.", examples=["default"])
    usage: Usage | None = Field(description="Null where the service was given no tokeniser.")


class ModelInfo(BaseModel):
    """A model that embeds."""

    id: str = Field(description="What embeddings are asked by.", examples=["default"])
    object: Literal["model"] = Field(default="model", description="Always model.")
    created: int = Field(description="When the service began, in seconds since 1970.")
    owned_by: str = Field(default="clip-text", description="Always clip-text.")
    embed_dim: int = Field(description="Numbers in a row.", examples=[256])
    fingerprint: str = Field(
        description="Rows of models with equal ones can be compared.",
        examples=["9b07ff2a5d1f0c3e8a6d4b7c1e2f3a45"],
    )


class ModelList(BaseModel):
    """The models that embed."""

    object: Literal["list"] = Field(default="list", description="Always list.")
    data: list[ModelInfo] = Field(description="By name: collections, then their models.")
