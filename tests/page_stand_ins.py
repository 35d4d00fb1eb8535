"""What stands in for routes that the page uses and the service has not got yet.

Each keeps to the form that its route will have, and gives way to it as soon as it is there.
"""

import json

from fastapi import Request, Response

from retrieval.filters.language import read_where
from retrieval.search import LikeTerm, PictureTerm, Query, Searcher, TextTerm

AWAY = -0.4


def add(app, searchers, there):
    """Add the routes that are missing to an application.

    Args:
        app: The application.
        searchers: What it answers from, by name; the first is the default.
        there: Paths of the routes that it has.
    """
    default = next(iter(searchers))

    def of(request):
        return searchers[request.query_params.get("collection") or default]

    rankings = {}
    if "/v1/collections" not in there:

        @app.get("/v1/collections")
        def collections():
            return {"collections": [_described(*each) for each in searchers.items()]}

        # The counts of values come with the collections' fields.
        app.add_middleware(Facets, of=of, rankings=rankings)

    if "/v1/suggest" not in there:

        @app.get("/v1/suggest")
        def suggest(request: Request, q: str, limit: int = 8):
            searcher = of(request)
            facets = searcher.facets("tags", limit=100) if isinstance(searcher, Searcher) else []
            found = [each for each in facets if q in each.value]
            return {
                "suggestions": [
                    {"text": each.value, "kind": "tag", "count": each.count}
                    for each in found[:limit]
                ]
            }

    if "/v1/search/upload" not in there:

        @app.post("/v1/search/upload")
        async def upload(request: Request):
            searcher = of(request)
            async with request.form() as form:
                asked = json.loads(form.get("request") or "{}")
                pictures = [
                    PictureTerm(await part.read(), weight)
                    for kind, weight in (("image", 1.0), ("without_image", AWAY))
                    for part in form.getlist(kind)
                ]
            page = f"upload-{len(rankings)}"
            rankings[page] = searcher.rank(_query(asked, pictures))
            return _given(searcher, rankings[page].page(0, asked["top_k"]), page)


def _query(asked, pictures):
    words = [TextTerm(asked["query"])] if "query" in asked else []
    away = [TextTerm(text, AWAY) for text in asked.get("without", ())]
    where = read_where(asked["where"]) if "where" in asked else None
    return Query((*words, *map(LikeTerm, asked.get("like", ())), *away, *pictures), where)


def _given(searcher, hits, page):
    return {
        "took_ms": 1.0,
        "total": len(searcher),
        "category": None,
        "page": page,
        "nothing_matches": False,
        "hits": [
            {
                "rank": hit.rank,
                "score": hit.score,
                "image_id": hit.image_id,
                "row": hit.row,
                "caption": hit.caption,
                "metadata": hit.metadata,
                "image_url": f"/v1/images/{hit.row}",
                "thumbnail_url": f"/v1/images/{hit.row}/thumbnail",
            }
            for hit in hits
        ],
    }


def _described(name, searcher):
    is_real = isinstance(searcher, Searcher)
    fields = searcher._state.catalogue.filters.fields() if is_real else []
    return {
        "name": name,
        "total": len(searcher),
        "fields": [
            {"name": each.name, "kind": each.kinds[0], "count": each.pictures} for each in fields
        ],
    }


class Facets:
    """Counts values, and gives further pages of the answers to pictures."""

    def __init__(self, app, of, rankings):
        self._app, self._of, self._rankings = app, of, rankings

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"] != "/v1/search":
            await self._app(scope, receive, send)
            return
        message = await receive()
        assert not message["more_body"]
        asked = json.loads(message["body"])
        searcher = self._of(Request(scope))
        own = None
        if "facets" in asked:
            where = read_where(asked["where"]) if "where" in asked else None
            own = {"hits": [], "facets": {n: _counted(searcher, n, where) for n in asked["facets"]}}
        elif asked.get("page") in self._rankings:
            hits = self._rankings[asked["page"]].page(asked["offset"], asked["top_k"])
            own = _given(searcher, hits, asked["page"])
        if own is not None:
            answer = Response(json.dumps(own), media_type="application/json")
            await answer(scope, receive, send)
            return
        given = iter([message])

        async def replay():
            return next(given, None) or await receive()

        await self._app(scope, replay, send)


def _counted(searcher, field, where):
    return [{"value": each.value, "count": each.count} for each in searcher.facets(field, where)]
