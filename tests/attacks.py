"""Attacks on the service: what is sent, as bytes, and by what it may be answered.

``test_service_attacks.py`` sends them.
"""

import gzip
import json
import struct
import zlib
from dataclasses import dataclass
from urllib.parse import quote

CLOSED = 0  # without an answer, as what is no request at all may be


def request(target="/healthz", method="GET", headers="", body=b"", *, host="localhost"):
    """A request as bytes; the length of the body is said unless the headers say something."""
    if body and "Content-Length" not in headers and "Transfer-Encoding" not in headers:
        headers += f"Content-Length: {len(body)}\r\n"
    target = target if isinstance(target, bytes) else target.encode()
    head = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method.encode(), target, host.encode())
    return head + headers.encode("latin-1") + b"Connection: close\r\n\r\n" + body


def search(body, kind="application/json", headers=""):
    """A search, of any bytes or whatever JSON can say."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request("/v1/search", "POST", f"Content-Type: {kind}\r\n{headers}", body)


def fetch(url):
    return request(f"/v1/fetch?url={quote(url, safe='')}")


def upload(target, picture, part="image", name="a.png"):
    """A form with one file."""
    body = (
        f'--b\r\nContent-Disposition: form-data; name="{part}"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode() + picture
    headers = "Content-Type: multipart/form-data; boundary=b\r\n"
    return request(target, "POST", headers, body + b"\r\n--b--\r\n")


def png(width, height):
    """A picture that says to be so large; what it has is a few bytes that unfold to many."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1_000_000)))
        + chunk(b"IEND", b"")
    )


def nested(depth, inner='{"field": "n", "op": "exists"}'):
    where = '{"not": ' * depth + inner + "}" * depth
    return b'{"query": "x", "where": %b}' % where.encode()


@dataclass
class Attack:
    """An attack.

    Args:
        name: What it is.
        sent: The bytes, or pieces with seconds between.
        expected: Statuses that it may be answered by.
        route: Only where there is this one.
    """

    name: str
    sent: bytes | list
    expected: tuple
    route: str | None = None


TRAVERSAL = [
    Attack(f"traversal {target}", request(target), (404, 422))
    for target in (
        "/../../etc/passwd",
        "/page/../../../../etc/passwd",
        "/page/..%2f..%2f..%2fetc/passwd",
        "/page/%2e%2e/%2e%2e/etc/passwd",
        "/page/%252e%252e/settings.py",
        "/page/..%5c..%5capp.py",
        "/page//etc/passwd",
        "/page/%00",
        "/page/index.html%00.png",
        "/page/" + "a" * 5_000,
        "/static-offline-docs/..%2f..%2fapp.py",
        "/v1/images/..%2f..%2fetc%2fpasswd",
        "/v1/images/%2fetc%2fpasswd",
        "/v1/images/0/../../../etc/passwd",
        "/v1/images/0%00",
        "/v1/images/" + "9" * 4_000,
        "/v1/images/-1",
        "/v1/images/9223372036854775808",
        "/v1/images/0/thumbnail?size=99999999",
        "/v1/images/0/thumbnail?size=256&size=x",
        "/v1/images/%ff%fe",
        "/v1/images/%F0%9F%90%B6",
    )
]
FORGERY = [
    Attack(f"forgery {url}", fetch(url), (422,))
    for url in (
        "http://127.0.0.1/",
        "http://127.1/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://0.0.0.0/",
        "http://0/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.example/computeMetadata/v1/",
        "http://inside.example/",
        "http://both.example/",
        "http://mapped.example/",
        "http://nowhere.example/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://pictures.example:22/",
        "http://pictures.example:6379/",
        "http://pictures.example:99999/",
        "http://user:password@pictures.example/",
        "http://pictures.example@127.0.0.1/",
        "http://pictures.example\\@127.0.0.1/",
        "http://127.0.0.1#@pictures.example/",
        "http://pictures.example/\r\nX-Injected: 1",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "ftp://pictures.example/a.png",
        "data:image/png;base64,AAAA",
        "//127.0.0.1/",
        "http://",
        "http:///etc/passwd",
        "http://[::1",
        "http://狗.example/",
        # answered by the host on the internet
        "http://pictures.example/to-loopback",
        "http://pictures.example/to-metadata",
        "http://pictures.example/to-file",
        "http://pictures.example/to-port",
        "http://pictures.example/for-ever",
        "http://pictures.example/html",
        "http://pictures.example/missing",
        "http://pictures.example/packed",
        "http://pictures.example/slow",
        "http://pictures.example/empty",
        "http://pictures.example/no-http",
    )
] + [
    Attack(f"forgery {path}", fetch(f"http://pictures.example{path}"), (413,))
    for path in ("/large", "/endless")
]
SEARCHES = [
    Attack("huge JSON", search(b'{"query": "' + b"x" * 3_000_000 + b'"}'), (413,)),
    Attack("deep JSON", search(b"[" * 60_000), (400, 422)),
    Attack("deep JSON, objects", search(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), (400, 413, 422)),
    Attack("deep filter", search(nested(900)), (400,)),
    Attack("deeper filter", search(nested(6_000)), (400, 422)),
    Attack("filter of depth 100,000", search(nested(100_000)), (413,)),
    Attack(
        "deep filter as a text", search({"query": "x", "where": "not " * 4_000 + "n = 1"}), (400,)
    ),
    Attack("parentheses", search({"query": "x", "where": "(" * 9_000 + ")" * 9_000}), (400,)),
    Attack("long filter", search({"query": "x", "where": "n = 1 or " * 5_000 + "n = 1"}), (400,)),
    Attack(
        "wide filter",
        search({"query": "x", "where": {"field": "n", "op": "in", "value": list(range(12_000))}}),
        (400, 413),
    ),
    Attack("statement in a filter", search({"query": "x", "where": "n = 1; drop table x"}), (400,)),
    Attack(
        "statement in a field",
        search({"query": "x", "where": {"field": "n' or 1=1 --", "op": "=", "value": 1}}),
        (400,),
    ),
    Attack("no UTF-8", search(b'{"query": "\xff\xfe"}'), (400,)),
    Attack("cut UTF-8", search(b'{"query": "\xe7\x8b"}'), (400,)),
    Attack("lone surrogate", search(b'{"query": "\\ud800"}'), (422,)),
    Attack("lone surrogate in a name", search(b'{"\\udfff": 1}'), (422,)),
    Attack("long number", search(b'{"query": "x", "top_k": 1' + b"0" * 5_000 + b"}"), (400, 422)),
    Attack("large number", search(b'{"query": "x", "top_k": 1e400}'), (422,)),
    Attack("no number", search(b'{"query": "x", "fold": NaN}'), (400, 422)),
    Attack("large k", search({"query": "x", "top_k": 10**9}), (422,)),
    Attack("large offset", search({"query": "x", "offset": 10**12}), (422,)),
    Attack("long text", search({"query": "狗" * 1_001}), (413,)),
    Attack("many terms", search({"terms": [{"text": "x"}] * 2_000}), (422,)),
    Attack("many things that are no pictures", search({"like": [[]] * 15_000}), (422,)),
    Attack("many unknown keys", search({str(n): 0 for n in range(4_000)}), (422,)),
    Attack(
        "many texts to stay away from", search({"query": "x", "without": ["y"] * 9_000}), (422,)
    ),
    Attack("long id", search({"like": ["x" * 60_000]}), (400, 413, 422)),
    Attack("id of NULs", search({"like": ["\0" * 100]}), (400, 422)),
    Attack("path as id", search({"like": ["../../etc/passwd"]}), (400,)),
    Attack("row out of range", search({"like": [2**70]}), (400, 422)),
    Attack("forged page", search({"page": "../" * 40}), (410,)),
    Attack("unknown field", search({"query": "x", "__class__": "y"}), (422,)),
    Attack("not JSON", search(b"query=x", "application/x-www-form-urlencoded"), (422,)),
    Attack("XML", search(b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "text/xml"), (422,)),
    Attack("form in place of JSON", upload("/v1/search", b"x"), (422,)),
    Attack("GBK", search('{"query": "猫"}'.encode("gbk"), "application/json; charset=gbk"), (415,)),
    Attack(
        "packed bomb",
        search(gzip.compress(bytes(10_000_000)), headers="Content-Encoding: gzip\r\n"),
        (400, 422),
    ),
    Attack("NUL in the collection", request("/v1/search?collection=%00", "POST"), (404, 422)),
    Attack("long collection", request("/version?collection=" + "x" * 9_000), (413, 422)),
]
PICTURES = [
    Attack("picture bomb in the index", request("/v1/images/1/thumbnail"), (410,)),
    *(
        Attack(f"{what} to {route}", upload(route, picture, name=name), (400, 413, 415, 422), route)
        for route in ("/v1/search/upload", "/v1/items")
        for what, picture, name in (
            ("picture bomb", png(65_000, 65_000), "a.png"),
            ("wide picture bomb", png(2**31 - 1, 1), "a.png"),
            ("page as picture", b"<script>alert(1)</script>", "a.html"),
            ("no picture", bytes(100), "../../etc/passwd"),
        )
    ),
    Attack("form without an end", upload("/v1/search/upload", b"x")[:-8], (400, 408, 422)),
]
for attack in PICTURES[-1:]:
    attack.route = "/v1/search/upload"

CHUNKED = "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n"
SMUGGLING = [
    Attack(
        "length and chunks",
        request("/v1/search", "POST", f"Content-Length: 5\r\n{CHUNKED}", b"0\r\n\r\nGET /x"),
        (400,),
    ),
    Attack(
        "two lengths",
        request("/v1/search", "POST", "Content-Length: 5\r\nContent-Length: 50\r\n", b"hello"),
        (400,),
    ),
    Attack("list of lengths", request("/", "POST", "Content-Length: 5, 6\r\n", b"hello"), (400,)),
    Attack("negative length", request("/", "POST", "Content-Length: -1\r\n"), (400,)),
    Attack("length in hex", request("/", "POST", "Content-Length: 0x10\r\n"), (400,)),
    Attack("length beyond all", request("/", "POST", f"Content-Length: {'9' * 40}\r\n"), (400,)),
    Attack("folded header", request("/healthz", "GET", "X-A: 1\r\n X-B: 2\r\n"), (400,)),
    Attack("space before the colon", request("/", "GET", "Content-Length : 5\r\n"), (400,)),
    Attack("header without a name", request("/healthz", "GET", ": x\r\n"), (400,)),
    Attack("NUL in a header", request("/healthz", "GET", "X-A: a\0b\r\n"), (400,)),
    Attack(
        "bare CR in a header", request("/healthz", "GET", "X-A: a\rContent-Length: 1\r\n"), (400,)
    ),
    Attack("chunk of no size", request("/v1/search", "POST", CHUNKED, b"xyz\r\n\r\n"), (400,)),
    Attack(
        "chunk of a huge size",
        request("/v1/search", "POST", CHUNKED, b"ffffffffffffffffff\r\n"),
        (400,),
    ),
    Attack(
        "chunk that is too long",
        request("/v1/search", "POST", CHUNKED, b"1\r\nxyz\r\n0\r\n\r\n"),
        (400,),
    ),
    Attack(
        "unknown coding",
        request("/", "POST", "Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
        (400,),
    ),
    Attack(
        "chunked twice over",
        request("/", "POST", "Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
        (400,),
    ),
    Attack(
        "long chunk extensions",
        request("/v1/search", "POST", CHUNKED, b"1;" + b"a" * 300_000 + b"\r\nx\r\n"),
        (400, 431, CLOSED),
    ),
    Attack(
        "endless trailers",
        request("/v1/search", "POST", CHUNKED, b"0\r\n" + b"X-A: b\r\n" * 60_000),
        (400, 408, 422, 431, CLOSED),
    ),
    Attack(
        "chunks of a byte without end",
        request("/v1/search", "POST", CHUNKED, b"1\r\nx\r\n" * 80_000),
        (413,),
    ),
]
HEADS = [
    Attack("huge header", request("/healthz", "GET", f"X-A: {'a' * 200_000}\r\n"), (431,)),
    Attack("many headers", request("/healthz", "GET", "X-A: b\r\n" * 20_000), (431,)),
    Attack("header over the bound", request("/healthz", "GET", f"X-A: {'a' * 20_000}\r\n"), (431,)),
    Attack("endless header", b"GET / HTTP/1.1\r\nX-A: " + b"a" * 1_000_000, (431, CLOSED)),
    Attack("long address", request("/" + "a" * 60_000), (431,)),
    Attack("endless address", b"GET /" + b"a" * 1_000_000, (431, 400, CLOSED)),
    Attack("unknown Host", request(host="evil.example"), (400,)),
    Attack("rebound Host", request(host="localhost.evil.example:80"), (400,)),
    Attack("Host with another before", request(host="evil.example@localhost"), (400,)),
    Attack("Host of a path", request(host="localhost/../x"), (400,)),
    Attack("Host with a bad port", request(host="localhost:80evil"), (400,)),
    Attack("no Host", b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", (400,)),
    Attack("two Hosts", request("/healthz", "GET", "Host: evil.example\r\n"), (400,)),
    Attack(
        "absolute address, bad Host", request("http://localhost/x", host="evil.example"), (400,)
    ),
    Attack("absolute address", request("http://evil.example/nothing"), (400, 404)),
    Attack("authority as address", request("localhost:80"), (400,)),
    Attack("tunnel", request("localhost:80", "CONNECT"), (400, 404, 405, CLOSED)),
    Attack("star", request("*", "OPTIONS"), (400, 404, 405)),
    Attack("TRACE", request("/healthz", "TRACE"), (405,)),
    Attack("unknown method", request("/healthz", "HACK"), (400, 405)),
    Attack("method in small letters", request("/healthz", "get"), (400, 405)),
    Attack("WebDAV", request("/", "PROPFIND"), (405,)),
    Attack("delete", request("/v1/images/0", "DELETE"), (405,)),
    Attack("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), (400, CLOSED)),
    Attack("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(20), (400, 404, 405, CLOSED)),
    Attack("HTTP/9", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", (400,)),
    Attack("raw bytes in the address", request(b"/\xff\xfe"), (400,)),
    Attack("spaces in the address", request("/health z"), (400,)),
    Attack("NUL in the address", request(b"/healthz\0"), (400,)),
    Attack("line end in the address", request("/nothing%0d%0aSet-Cookie:%20a=b"), (404,)),
    Attack("upgrade", request("/nothing", "GET", "Upgrade: websocket\r\n"), (400, 404)),
]
SLOW = [
    Attack("headers that do not end", [b"GET / HTTP/1.1\r\nHost: localhost\r\n", 3.0], (408,)),
    Attack("headers, a byte at a time", [b"GET /", *[0.2, b"a"] * 12], (408,)),
    Attack("line ends alone", [b"\r\n", *[0.2, b"\r\n"] * 12], (408, 400)),
    Attack("nothing", [b"", 3.0], (CLOSED,)),
    Attack(
        "body that does not come",
        [request("/v1/search", "POST", "Content-Length: 30\r\n") + b'{"query"', 3.0],
        (408,),
    ),
    Attack(
        "body, a byte at a time",
        [request("/v1/search", "POST", "Content-Length: 60\r\n"), *[0.2, b"x"] * 12],
        (408,),
    ),
    Attack(
        "chunks, a byte at a time",
        [request("/v1/search", "POST", CHUNKED), *[0.2, b"1\r\nx\r\n"] * 12],
        (408,),
    ),
]
ATTACKS = [*TRAVERSAL, *FORGERY, *SEARCHES, *PICTURES, *SMUGGLING, *HEADS]

ON_THE_INTERNET = {
    "/to-loopback": b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
    "/to-metadata": b"HTTP/1.1 307 x\r\nLocation: http://metadata.example/\r\n"
    b"Content-Length: 0\r\n\r\n",
    "/to-file": b"HTTP/1.1 301 x\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "/to-port": b"HTTP/1.1 301 x\r\nLocation: //pictures.example:22/\r\nContent-Length: 0\r\n\r\n",
    "/for-ever": b"HTTP/1.1 302 x\r\nLocation: /for-ever\r\nContent-Length: 0\r\n\r\n",
    "/html": b"HTTP/1.1 200 x\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
    "/missing": b"HTTP/1.1 404 x\r\nContent-Type: image/png\r\nContent-Length: 0\r\n\r\n",
    "/packed": b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\nContent-Encoding: gzip\r\n\r\nx",
    "/empty": b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\nContent-Length: 0\r\n\r\n",
    "/no-http": b"220 mail ready\r\n",
    "/large": b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\nContent-Length: 99999999\r\n\r\nx",
    "/endless": b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\n\r\n" + bytes(100_000),
    "/slow": b"",
    "/good": b"HTTP/1.1 200 x\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\nPNG",
    "/round": b"HTTP/1.1 302 x\r\nLocation: /good\r\nContent-Length: 0\r\n\r\n",
}
