"""A service on a real socket, in a thread of the tests' process."""

import contextlib
import threading
import time

import uvicorn

from retrieval.service.listening import address_of, listen


@contextlib.contextmanager
def listening(app):
    """Serve an application at a free port of this machine; gives its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, ws="none", log_level="warning", timeout_graceful_shutdown=5)
    )
    sockets = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended before it was ready"
            time.sleep(0.01)
        yield address_of(sockets[0], "127.0.0.1").removesuffix("/")
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
