"""What the service counts and times of itself, for Prometheus."""

from collections.abc import Callable, Container
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from retrieval.search.query_rows import CacheInfo
from retrieval.service.batching import Load

__all__ = ["Measures"]

_SECONDS: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class Measures:
    """The figures of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "clip_text_requests",
            "Requests answered, by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "clip_text_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "clip_text_in_flight", "Requests being answered.", registry=self.registry
        )
        self._waited = Histogram(
            "clip_text_wait_seconds",
            "For how long a request waited for its turn.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._took = Histogram(
            "clip_text_batch_seconds",
            "For how long a batch was worked on.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._sizes = Histogram(
            "clip_text_batch_size",
            "Requests that were worked on together.",
            ("stage",),
            buckets=_SIZES,
            registry=self.registry,
        )
        self._watched = _Watched()
        self.registry.register(self._watched)

    def of_request(self, route: str, status: int, took_s: float) -> None:
        """Count a request that was answered, or whose caller left (status 0)."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(took_s)

    def of_batches(self, stage: str) -> Callable[[int, list[float], float], None]:
        """Give what a :class:`~retrieval.service.batching.Batcher` of a stage reports to."""
        waited, took = self._waited.labels(stage), self._took.labels(stage)
        sizes = self._sizes.labels(stage)

        def observe(size: int, waits: list[float], took_s: float) -> None:
            sizes.observe(size)
            took.observe(took_s)
            for wait in waits:
                waited.observe(wait)

        return observe

    def watch(
        self,
        stage: str,
        collection: str,
        load: Callable[[], Load],
        cache: Callable[[], CacheInfo] | None = None,
    ) -> None:
        """Read, whenever figures are asked for, how busy a batcher is, and how a cache serves."""
        self._watched.add(stage, collection, load, cache)

    def watch_only(self, collections: Container[str]) -> None:
        """Forget those that are watched of other collections, which are there no longer."""
        self._watched.keep(collections)

    def text(self) -> bytes:
        """Write all figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _Watched(Collector):
    """Figures that are read when they are asked for."""

    def __init__(self) -> None:
        self._loads: dict[tuple[str, str], Callable[[], Load]] = {}
        self._caches: dict[str, Callable[[], CacheInfo]] = {}

    def add(
        self,
        stage: str,
        collection: str,
        load: Callable[[], Load],
        cache: Callable[[], CacheInfo] | None,
    ) -> None:
        self._loads[stage, collection] = load
        if cache is not None:
            self._caches[collection] = cache

    def keep(self, collections: Container[str]) -> None:
        self._loads = {key: load for key, load in self._loads.items() if key[1] in collections}
        self._caches = {key: info for key, info in self._caches.items() if key in collections}

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        """Read the figures now."""
        waiting = GaugeMetricFamily(
            "clip_text_waiting", "Requests that wait.", labels=("stage", "collection")
        )
        for names, load in list(self._loads.items()):  # a reload adds some meanwhile
            waiting.add_metric(names, load().waiting)
        hits = CounterMetricFamily(
            "clip_text_query_cache_hits", "Queries whose row was kept.", labels=("collection",)
        )
        misses = CounterMetricFamily(
            "clip_text_query_cache_misses", "Queries that were encoded.", labels=("collection",)
        )
        for name, info in list(self._caches.items()):
            now = info()
            hits.add_metric([name], now.hits)
            misses.add_metric([name], now.misses)
        return [waiting, hits, misses]
