"""Figures of the gateway in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.gateway.gateway import Gateway


class GatewayCollector(Collector):
    """Reads the figures when they are asked for."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("acestage_gateway_jobs", "Jobs that the gateway knows.", labels=["state"])
        for state, count in self._gateway.book.counts().items():
            jobs.add_metric([state.value], count)
        yield jobs
        streams = GaugeMetricFamily(
            "acestage_gateway_streams",
            "Answers that go on: audio during its decode, events.",
            labels=["kind"],
        )
        streams.add_metric(["audio"], self._gateway.live_streams.taken_count)
        streams.add_metric(["events"], self._gateway.event_streams.taken_count)
        yield streams
        faults = GaugeMetricFamily(
            "acestage_gateway_format_usable", "1 where the audio format can be written.", labels=["format"]
        )
        for name, fault in self._gateway.formats.items():
            faults.add_metric([name.value], 0.0 if fault else 1.0)
        yield faults
