"""Shards embedded by a pool of Ray's actors, on as many machines as its cluster has.

Each actor holds a model and is given one shard after the other. Where one dies, or its node, its
shard goes to another, and a new actor waits for room; nobody waits for it. Ray Data's pools of
actors would do as much, but try a task without end that kills its worker each time, and have
nothing to stream here: workers write their shards themselves.
"""

import logging
import os
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from clip_text.embedding.manifest import Done, Facts
from clip_text.embedding.shards import Shard
from clip_text.embedding.work import Job, Load, Worker
from clip_text.errors import ClipTextError, needs

__all__ = ["RayActors"]

_log = logging.getLogger(__name__)

_MOST_DEATHS = 3
"""Of workers over one shard, or in a row before any has done one."""
_PATIENCE = 60.0  # seconds without news before it is told that workers are waited for
_LOOPBACK = "127.0.0.2"
"""What a Ray of our own listens on: it takes 127.0.0.1 for no address, and asks the network's."""


def _ray() -> ModuleType:
    with needs("clip-text[ray]", "--engine ray", "ray"):
        import ray  # noqa: PLC0415  (optional)
    module: ModuleType = ray
    return module


def _check_listening(address: str) -> None:
    """Refuse at once an address where nothing listens: Ray tries for minutes, and ends the process.

    Raises:
        ClipTextError: If nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):  # "auto", say
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE / 10).close()
    except OSError as error:
        raise ClipTextError(
            f"expected a Ray cluster at {address}, got: {error.strerror or error}. Start one: "
            "ray start --head; or name another address."
        ) from error


class _Actor:
    """A worker in a process of Ray's; its first call loads the model, and raises what is wrong."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def describe(self, load: Load, runtime: str | None, threads: int) -> Facts:
        self._worker = Worker(load, runtime, threads)
        return self._worker.facts

    def embed(self, job: Job, shard: Shard) -> Done:
        assert self._worker is not None
        return self._worker.embed(job, shard)


class RayActors:
    """Workers of a Ray cluster; a :class:`~clip_text.embedding.run.Runner`.

    Args:
        workers: How many; one per GPU of the cluster, or as many as its CPUs allow, if None.
        address: Of the cluster, as Ray has it (``auto``, ``10.0.0.1:6379``), or what
            ``RAY_ADDRESS`` says; a Ray of our own on this machine, if there is neither.

    Raises:
        MissingPackageError: If Ray is not installed.
        ClipTextError: If there is no cluster at that address.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self.ray = _ray()
        self.spare: list[Any] = []
        self._asked = workers
        address = address or os.environ.get("RAY_ADDRESS")
        if address:
            _check_listening(address)
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            if address:
                self.ray.init(address=address, **quiet)
            else:
                own = {"_node_ip_address": _LOOPBACK} if sys.platform == "linux" else {}
                self.ray.init(num_cpus=workers, include_dashboard=False, **quiet, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise ClipTextError(
                f"expected a Ray cluster at {address or 'this machine'}, got: {reason}. "
                "Start one: ray start --head; or name another address."
            ) from error

    def close(self) -> None:
        """Leave the cluster; a Ray of our own ends."""
        self.ray.shutdown()

    def describe(self, load: Load, runtime: str | None, threads: int) -> Facts:
        """Load the model in a first actor; see :class:`~clip_text.embedding.run.Runner`."""
        for actor in self.spare:
            self.ray.kill(actor)
        for left in range(_MOST_DEATHS - 1, -1, -1):
            actor = self.start(threads)
            try:
                facts: Facts = self.get(actor.describe.remote(load, runtime, threads))
            except self.ray.exceptions.RayActorError as error:
                if not left:
                    raise _told(error) from error
                continue
            self.spare = [actor]
            return facts
        raise AssertionError("the last death is raised")

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[Done]:
        """Embed shards; each is given when it is done.

        Raises:
            ClipTextError: If workers die over one shard again and again, or have another model.
        """
        pool = _Pool(self, job, shards)
        try:
            while self.spare and pool.waiting:
                pool.go_on(self.spare.pop())
            for _ in range(min(self._number(job.manifest.threads), len(shards)) - len(pool.calls)):
                pool.begin()
            while pool.left:
                yield from pool.take()
        finally:
            pool.end()

    def _number(self, threads: int) -> int:
        there = self.ray.cluster_resources()
        usual = int(there.get("GPU", 0)) or int(there.get("CPU", 1)) // threads
        return max(1, self._asked or usual)

    def start(self, threads: int) -> Any:  # noqa: ANN401
        """Ask for a worker: on a GPU, where the cluster has any."""
        on_gpu = self.ray.cluster_resources().get("GPU", 0) >= 1
        needed = {"num_cpus": 1, "num_gpus": 1} if on_gpu else {"num_cpus": threads}
        return self.ray.remote(_Actor).options(scheduling_strategy="SPREAD", **needed).remote()

    def get(self, call: Any) -> Any:  # noqa: ANN401
        """Take a result; an error that was raised in a worker is raised here as it was there."""
        try:
            return self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise


class _Pool:
    """The calls under way, and the shards that wait for a worker."""

    def __init__(self, cluster: RayActors, job: Job, shards: Sequence[Shard]) -> None:
        self._cluster, self._ray, self._job = cluster, cluster.ray, job
        self._sent = self._ray.put(job)  # once for all
        self.waiting, self.left = deque(shards), len(shards)
        # of each call: its actor, and its shard; None where it loads the model
        self.calls: dict[Any, tuple[Any, Shard | None]] = {}
        self._deaths, self._deaths_early = Counter[int](), 0

    def begin(self) -> None:
        """Start a worker, as soon as there is room for it."""
        job = self._job
        actor = self._cluster.start(job.manifest.threads)
        call = actor.describe.remote(job.load, job.runtime, job.manifest.threads)
        self.calls[call] = (actor, None)

    def go_on(self, actor: Any) -> None:  # noqa: ANN401
        """Give a worker the next shard, or let it go."""
        if not self.waiting:
            self._ray.kill(actor)
            return
        shard = self.waiting.popleft()
        self.calls[actor.embed.remote(self._sent, shard)] = (actor, shard)

    def take(self) -> Iterator[Done]:
        """Wait for a call to end, and go on from there."""
        ready, _ = self._ray.wait(list(self.calls), timeout=_PATIENCE)
        if not ready:
            self._tell_waiting()
        for call in ready:
            actor, shard = self.calls.pop(call)
            try:
                result = self._cluster.get(call)
            except self._ray.exceptions.RayActorError as error:
                self._bury(shard, error)
                continue
            if shard is not None:
                self.left, self._deaths_early = self.left - 1, 0
                yield result
            self.go_on(actor)

    def _bury(self, shard: Shard | None, error: Exception) -> None:
        """Start another worker for one that died; its shard is the next one's."""
        if shard is None:
            self._deaths_early += 1
            hopeless = self._deaths_early >= _MOST_DEATHS * (len(self.calls) + 1)
        else:
            self._deaths[shard.number] += 1
            self.waiting.appendleft(shard)
            hopeless = self._deaths[shard.number] >= _MOST_DEATHS
        if hopeless:
            raise _told(error, shard) from error
        self.begin()

    def _tell_waiting(self) -> None:
        if any(shard for _, shard in self.calls.values()):
            return
        free = self._ray.available_resources()
        _log.warning(
            "%d workers wait for room in the Ray cluster: %d CPUs and %d GPUs are free",
            *(len(self.calls), int(free.get("CPU", 0)), int(free.get("GPU", 0))),
        )

    def end(self) -> None:
        """Let all workers go."""
        for actor, _ in self.calls.values():
            self._ray.kill(actor)


def _told(error: Exception, shard: Shard | None = None) -> ClipTextError:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    where = f"over {shard.name}" if shard else "before they had loaded the model"
    return ClipTextError(
        f"expected Ray's workers to live, got {_MOST_DEATHS} or more that died {where}: {reason}. "
        "The memory may be too small for as many: --workers. The same command goes on."
    )
