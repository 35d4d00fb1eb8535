"""What one writes first: sentence-transformers behind FastAPI, each request by itself.

Started by serve_embeddings.py: ``python serve_plain.py FOLDER PORT``.
"""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Asked(BaseModel):
    """OpenAI's request, as far as it is used here."""

    input: list[str]
    model: str


def create(folder: str) -> FastAPI:
    """Make the application over a model's folder."""
    model = SentenceTransformer(folder, device="cpu")
    app = FastAPI()

    @app.post("/v1/embeddings")
    def embed(asked: Asked) -> dict[str, object]:
        rows = model.encode(asked.input, normalize_embeddings=True, show_progress_bar=False)
        data = [
            {"object": "embedding", "index": place, "embedding": row.tolist()}
            for place, row in enumerate(rows)
        ]
        return {"object": "list", "model": asked.model, "data": data}

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


if __name__ == "__main__":
    uvicorn.run(create(sys.argv[1]), port=int(sys.argv[2]), access_log=False, log_level="warning")
