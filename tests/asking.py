"""Either client on a service, called alike."""

import asyncio
import contextlib
import inspect

import httpx

from clip_text_client import AsyncClient, Client


@contextlib.contextmanager
def asking(address, way):
    """Give what calls a method of a client; it gives what that gives, as a list if it iterates.

    Args:
        address: The service's.
        way: ``at once`` or ``awaited``.
    """
    # nothing of this machine's, such as a proxy, has business between the two
    if way == "at once":
        with Client(address, transport=httpx.HTTPTransport()) as client:

            def call(name, *args, **options):
                given = getattr(client, name)(*args, **options)
                return list(given) if inspect.isgenerator(given) else given

            yield call
        return

    def call_async(name, *args, **options):
        async def work():
            async with AsyncClient(address, transport=httpx.AsyncHTTPTransport()) as client:
                given = getattr(client, name)(*args, **options)
                if inspect.isasyncgen(given):
                    return [one async for one in given]
                return await given

        return asyncio.run(work())

    yield call_async
