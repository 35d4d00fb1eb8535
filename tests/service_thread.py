"""A service that writes to an index, on a real socket, in a thread of this process."""

import ssl
import threading

import httpx
import uvicorn
from fakes import FakeEncoder
from item_operations import png

from retrieval.ingest import IndexWriter
from retrieval.search import Searcher
from retrieval.service.app import Served, create_app
from retrieval.service.listening import address_of, listen
from retrieval.service.settings import Settings
from retrieval.service.uploads import UPLOADS_NAME

ENCODER = FakeEncoder()


class Running:
    """An application at work; gives a client of it."""

    def __init__(self, app):
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=5)
        self._server = uvicorn.Server(config)
        self._sockets = listen("127.0.0.1", 0)
        self.thread = threading.Thread(target=self._server.run, args=[self._sockets])

    def __enter__(self):
        self.thread.start()
        # reading certificates that nobody asks for takes longer than most tests
        transport = httpx.HTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        address = address_of(self._sockets[0], "127.0.0.1")
        self._client = httpx.Client(base_url=address, transport=transport, timeout=60)
        return self._client

    def __exit__(self, *_):
        self._client.close()
        self._server.should_exit = True
        self.thread.join()


class Service:
    """A service of an index, which is made if there is none."""

    def __init__(self, index_dir, encoder=ENCODER, **settings):
        self.index_dir, self._encoder = index_dir, encoder
        self._settings = Settings(lock_rest_s=0.05, **settings)

    def __enter__(self):
        if not self.index_dir.exists():
            IndexWriter.open(self.index_dir, self._encoder).close()
        self.searcher = Searcher.open(self.index_dir, self._encoder)
        served = Served(
            self.searcher, encoder=self._encoder, index_dir=self.index_dir, runtime="fake"
        )
        self.app = create_app(served, settings=self._settings)
        self._running = Running(self.app)
        self.client = self._running.__enter__()
        self.thread = self._running.thread
        return self

    def __exit__(self, *_):
        self._running.__exit__()
        self.searcher.close()

    def add(self, image_id="a", picture=None, **said):
        """Send a picture under an id."""
        files = {"image": ("picture.png", png(1) if picture is None else picture)}
        return self.client.post("/v1/items", data={"id": image_id, **said}, files=files)

    def search(self, query="猫", **body):
        """Give what a search is answered."""
        asked = {} if query is None else {"query": query}
        return self.client.post("/v1/search", json=asked | body).json()

    def ids(self):
        """Give the ids of all that is found."""
        return sorted(hit["image_id"] for hit in self.search(top_k=200)["hits"])

    @property
    def files(self):
        """Give the names of the files that are kept of what was sent."""
        kept = (self.index_dir / UPLOADS_NAME).rglob("*")
        return sorted(path.name for path in kept if path.is_file())
