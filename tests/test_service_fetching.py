"""Pictures by their address: which addresses are asked, and which never are.

Nothing here leaves this machine: names are looked up in a table, and what would be connected to on
the internet is a socket of this process. tests/test_service_attacks.py attacks it over HTTP.
"""

import asyncio
import contextlib
import ssl

import httpcore
import pytest

from retrieval.service import fetching
from retrieval.service.fetching import fetch_image, is_public
from retrieval.service.problems import ProblemError
from retrieval.service.settings import Settings

PUBLIC, OTHER = "93.184.215.14", "2606:2800:21f:cb07::1"
ON = Settings(fetch_images=True, fetch_s=2.0, fetch_bytes=2_048)
PNG = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\nPNG"


class Network:
    """Names, what was looked up and connected to, and what came to the host on the internet."""

    def __init__(self, monkeypatch, names):
        self.names, self.looked_up, self.dialled, self.heard = names, [], [], []
        self.down: set[str] = set()
        self.answers = [PNG]
        monkeypatch.setattr(fetching, "_resolve", self.resolve)
        monkeypatch.setattr(fetching, "_dial", self.dial)

    async def resolve(self, host, port):
        self.looked_up.append((host, port))
        found = self.names[host]
        return found.pop(0) if found and isinstance(found[0], list) else found

    async def dial(self, address, port, **options):
        self.dialled.append((address, port))
        if address in self.down:
            raise httpcore.ConnectError
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.port, **options)

    async def answer(self, reader, writer):
        self.heard.append(await reader.read(4_096))
        writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        await writer.drain()

    async def serve(self, reader, writer):
        self.serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await self.answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def fetch(self, url, settings=ON):
        async def run():
            self.serving = set()
            server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            async with server:
                try:
                    return await fetch_image(url, settings)
                finally:  # the other side hears that it is over, and closes what it has
                    await asyncio.wait_for(asyncio.gather(*self.serving), 20)

        return asyncio.run(run())


@pytest.fixture
def network(monkeypatch):
    return Network(monkeypatch, {"pictures.example": [PUBLIC]})


def refused(network, url, settings=ON):
    with pytest.raises(ProblemError) as caught:
        network.fetch(url, settings)
    return caught.value.status, caught.value.kind


def test_it_is_off_unless_it_is_asked_for(network):
    assert refused(network, "http://pictures.example/", Settings()) == (403, "fetching_is_off")
    assert (network.looked_up, network.dialled) == ([], [])


@pytest.mark.parametrize(
    ("url", "port", "asked", "host"),
    [
        ("http://pictures.example/a.png", 80, b"/a.png", b"pictures.example"),
        ("http://pictures.example", 80, b"/", b"pictures.example"),
        ("http://pictures.example:443/?a=1&b=%20#part", 443, b"/?a=1&b=%20", None),
        ("HTTP://PICTURES.example/x", 80, b"/x", b"pictures.example"),
    ],
)
def test_a_picture_is_fetched_by_its_name(network, url, port, asked, host):
    assert network.fetch(url) == b"PNG"
    assert network.dialled == [(PUBLIC, port)]
    assert len(network.looked_up) == 1
    (heard,) = network.heard
    assert heard.startswith(b"GET %b HTTP/1.1\r\n" % asked)
    if host is not None:
        assert b"\r\nhost: " + host + b"\r\n" in heard.lower()
    assert b"cookie" not in heard.lower()
    assert b"authorization" not in heard.lower()


def test_tls_is_by_the_name_though_the_connection_is_by_the_address(network):
    # The other side speaks no TLS, but hears who is wanted.
    assert refused(network, "https://pictures.example/") == (422, "image_not_fetched")
    assert network.dialled == [(PUBLIC, 443)]
    assert network.heard[0][0] == 0x16
    assert b"pictures.example" in network.heard[0]
    context = fetching._trust()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_what_was_looked_at_is_what_is_connected_to(network):
    # A name that leads to the internet at first, and to this machine when it is asked again.
    network.names["rebound.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert network.fetch("http://rebound.example/") == b"PNG"
    assert network.dialled == [(PUBLIC, 80)]
    network.answers = [b"HTTP/1.1 302 x\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n", PNG]
    network.names["rebound.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert refused(network, "http://rebound.example/") == (422, "url_refused")
    assert network.dialled == [(PUBLIC, 80)] * 2


@pytest.mark.parametrize("within", [["10.0.0.1"], [PUBLIC, "127.0.0.1"], ["::1", PUBLIC], []])
def test_a_name_that_leads_inside_is_refused_as_one_that_leads_nowhere(network, within):
    network.names["inside.example"] = within
    with pytest.raises(ProblemError) as caught:
        network.fetch("http://inside.example/")
    assert (caught.value.status, caught.value.kind) == (422, "url_refused")
    assert "inside.example, which is no public host" in str(caught.value)
    assert network.dialled == []


def test_the_next_address_is_tried_where_one_cannot_be_reached(network):
    network.names["pictures.example"] = [OTHER, PUBLIC]
    network.down = {OTHER}
    assert network.fetch("http://pictures.example/") == b"PNG"
    assert network.dialled == [(OTHER, 80), (PUBLIC, 80)]
    network.down.add(PUBLIC)
    assert refused(network, "http://pictures.example/") == (422, "image_not_fetched")


@pytest.mark.parametrize("redirects", [1, 3, 4])
def test_redirects_are_followed_three_times(network, redirects):
    step = b"HTTP/1.1 302 x\r\nLocation: http://pictures.example/b\r\nContent-Length: 0\r\n\r\n"
    network.answers = [step] * redirects + [PNG]
    if redirects > 3:
        assert refused(network, "http://pictures.example/a") == (422, "image_not_fetched")
    else:
        assert network.fetch("http://pictures.example/a") == b"PNG"
    assert len(network.dialled) == min(redirects, 3) + 1  # each by a connection of its own


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 x\r\nContent-Type: text/html\r\n\r\nx", (422, "image_not_fetched")),
        (b"HTTP/1.1 200 x\r\n\r\nx", (422, "image_not_fetched")),
        (b"HTTP/1.1 204 x\r\nContent-Type: image/png\r\n\r\n", (422, "image_not_fetched")),
        (b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\n\r\n", (422, "image_not_fetched")),
        (b"HTTP/1.1 302 x\r\n\r\n", (422, "image_not_fetched")),
        (b"HTTP/1.1 302 x\r\nLocation: http://[\r\n\r\n", (422, "url_refused")),
        (b"HTTP/1.1 302 x\r\nLocation: \xff\r\n\r\n", (422, "url_refused")),
        (b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx", (422,)),
        (b"HTTP/1.1 200 x\r\n" + b"X-A: b\r\n" * 100_000, (422,)),
        (b"", (422,)),
        (b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\nContent-Length: 2049\r\n\r\n", (413,)),
        (b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\n\r\n" + bytes(2_049), (413,)),
    ],
)
def test_what_is_no_picture_is_refused(network, answer, expected):
    network.answers = [answer]
    got = refused(network, "http://pictures.example/")
    assert got[: len(expected)] == expected


def test_a_picture_may_be_as_large_as_is_said(network):
    network.answers = [b"HTTP/1.1 200 x\r\nContent-Type: IMAGE/png; a=b\r\n\r\n" + bytes(2_048)]
    assert network.fetch("http://pictures.example/") == bytes(2_048)


def test_a_host_that_takes_its_time_is_given_up(network):
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    network.answer = answer
    slow = ON.model_copy(update={"fetch_s": 0.3})
    with pytest.raises(ProblemError, match=r"none within 0\.3 seconds"):
        network.fetch("http://pictures.example/", slow)


def test_proxies_of_the_environment_are_passed_over(network, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert network.fetch("http://pictures.example/") == b"PNG"
    assert network.looked_up == [("pictures.example", 80)]


@pytest.mark.parametrize(
    "address",
    [
        *("93.184.215.14", "1.1.1.1", "2606:4700:4700::1111"),
        *("2002:5db8:d70e::1", "64:ff9b::5db8:d70e"),  # 93.184.215.14 within
    ],
)
def test_addresses_of_the_internet(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.0.1"),
        *("169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
        *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::7f00:1", "::808:808"),
        *("fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1"),
        *("2001:db8::1", "2001::1", "2001:0:7f00:1::", "100::1", "64:ff9b:1::7f00:1"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
        *("2002:a9fe:a9fe::1", "2002:c0a8:1::", "3fff::1", "4000::1"),
        *("localhost", "", "1.1.1", "0x7f000001", "2130706433"),
    ],
)
def test_addresses_that_are_not(address):
    assert not is_public(address)


def test_ways_of_writing_this_machine_lead_to_it():
    """What the system makes of them is judged, not how they look; none needs a network."""
    for host in ("127.1", "2130706433", "0x7f000001", "0177.0.0.1", "::1", "0", "localhost"):
        found = asyncio.run(fetching._resolve(host, 80))
        assert found, host
        assert not any(map(is_public, found)), (host, found)
