"""A service to attack, as a process: ``python attacked_service.py INDEX PORT``.

It has one route more, ``/v1/fetch?url=…``, which fetches a picture. Names lead where the table
says; nothing is connected to but the public address of the table, in whose place PORT of this
machine answers. ``/v1/dialled`` tells what was, or would have been, connected to.
"""

import sys
from pathlib import Path

import httpcore
import uvicorn
from fakes import FakeEncoder

from retrieval.search import Searcher
from retrieval.service import fetching
from retrieval.service.app import Served, create_app
from retrieval.service.hosts import for_host
from retrieval.service.listening import listen
from retrieval.service.protocol import server_options
from retrieval.service.settings import Settings

PUBLIC = "93.184.215.14"
NAMES = {
    "pictures.example": [PUBLIC],
    "metadata.example": ["169.254.169.254"],
    "inside.example": ["10.0.0.7"],
    "both.example": [PUBLIC, "127.0.0.1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nowhere.example": [],
}
SETTINGS = Settings(
    head_s=1.0,
    body_s=1.0,
    send_s=1.0,
    head_bytes=16_384,
    fetch_images=True,
    fetch_s=2.0,
    fetch_bytes=65_536,
)


def main(index_dir: str, port: int) -> None:
    looked_up, dialled = fetching._resolve, []
    connect = fetching._dial

    async def resolve(host, port):
        if host.endswith(".example"):
            return NAMES[host]
        return await looked_up(host, port)  # an address in whatever form, or localhost: no network

    async def dial(address, to, **options):
        dialled.append(address)
        if address != PUBLIC:
            raise httpcore.ConnectError
        return await connect("127.0.0.1", port, **options)

    fetching._resolve, fetching._dial = resolve, dial
    with Searcher.open(Path(index_dir), FakeEncoder()) as searcher:
        settings = for_host(SETTINGS, "127.0.0.1")
        served = Served(searcher, encoder=FakeEncoder(), index_dir=Path(index_dir))
        app = create_app(served, settings=settings)

        @app.get("/v1/fetch")
        async def fetch(url: str):
            return {"bytes": len(await fetching.fetch_image(url, settings))}

        @app.get("/v1/dialled")
        async def tell():
            return dialled

        sockets = listen("127.0.0.1", 0)
        sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, **server_options(settings))).run(sockets)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
