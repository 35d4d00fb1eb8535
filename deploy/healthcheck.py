"""Exit with 0 if the service in this container answers searches, with 1 if not.

An answer like 400 or 401 is one, too: the service is up, and may be called by other names, or need
a key for this.
"""

import http.client
import os
import sys


def status() -> int:
    """Ask whether it is ready; gives the status of the answer."""
    port = int(os.environ.get("CLIP_TEXT_SERVE_PORT") or 8000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    connection.request("GET", "/readyz")
    return connection.getresponse().status


if __name__ == "__main__":
    try:
        ready = status() < 500
    except OSError:
        ready = False
    sys.exit(not ready)
