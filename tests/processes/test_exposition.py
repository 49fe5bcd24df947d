"""The merged metrics of several processes."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from connectrio.processes.exposition import Family, Merged, snapshot


class Source:
    """Return the metrics of a process."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.calls = Counter("calls_total", "Calls", ["kind"], registry=self.registry)
        self.seconds = Summary("seconds", "How long", registry=self.registry)
        self.sizes = Histogram("sizes", "How large", buckets=(1, 10), registry=self.registry)
        self.active = Gauge("active", "Now", registry=self.registry)
        self.start = Gauge("process_start_time_seconds", "Start", registry=self.registry)
        Info("build", "Which", registry=self.registry).info({"version": "1"})

    def snapshot(self):
        return snapshot(self.registry)


def samples(merged):
    """Return the text that a scraper reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(merged)
    text = generate_latest(registry).decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def two_sources():
    one, other = Source(), Source()
    one.calls.labels("get").inc(3)
    other.calls.labels("get").inc(4)
    other.calls.labels("create").inc()
    for source, seconds in ((one, 1.5), (other, 2.5)):
        source.seconds.observe(seconds)
        source.sizes.observe(5)
        source.active.set(seconds)
        source.start.set(1000 * seconds)
    return one, other


def test_what_processes_count_adds_up():
    merged = Merged()
    for number, source in enumerate(two_sources()):
        merged.update(number, source.snapshot())
    found = samples(merged)
    assert found["calls_total", "get"] == 7
    assert found["calls_total", "create"] == 1
    assert (found["seconds_count",], found["seconds_sum",]) == (2, 4)
    assert (found["sizes_bucket", "1.0"], found["sizes_bucket", "10.0"], found["sizes_bucket", "+Inf"]) == (0, 2, 2)
    assert found["active",] == 4
    assert found["process_start_time_seconds",] == 1500
    assert found["build_info", "1"] == 1


def test_what_an_ended_process_has_counted_stays_counted():
    one, other = two_sources()
    merged = Merged()
    merged.update(0, one.snapshot())
    merged.update(1, other.snapshot())
    merged.ended(0)
    found = samples(merged)
    assert found["calls_total", "get"] == 7
    assert found["active",] == 2.5
    fresh = Source()
    fresh.calls.labels("get").inc()
    merged.update(0, fresh.snapshot())
    assert samples(merged)["calls_total", "get"] == 8
    merged.ended(0)
    merged.ended(1)
    assert samples(merged)["calls_total", "get"] == 8
    assert ("active",) not in samples(merged)


def test_a_process_that_does_not_answer_has_no_gauges():
    one, other = two_sources()
    merged = Merged()
    merged.update(0, one.snapshot())
    merged.update(1, other.snapshot())
    before = samples(merged)
    merged.silent(0)
    merged.silent("never heard of")
    found = samples(merged)
    assert found["calls_total", "get"] == before["calls_total", "get"]
    assert found["active",] == 2.5
    merged.update(0, one.snapshot())
    assert samples(merged) == before


def test_values_of_which_the_sum_has_no_meaning():
    """Of the certificate the first end counts, of how late event loops are the worst."""
    merged = Merged()
    for number, (expiry, lag, failures) in enumerate([(2e9, 0.5, 1), (1e9, 0.1, 1)]):
        registry = CollectorRegistry()
        Gauge("connectrio_certificate_expiry_timestamp_seconds", "End", ["file"], registry=registry).labels("a").set(
            expiry
        )
        Gauge("connectrio_event_loop_lag_seconds", "Late", registry=registry).set(lag)
        Gauge("connectrio_load_failures", "Failures", registry=registry).set(failures)
        state = Gauge("connectrio_state", "State", ["state"], registry=registry)
        state.labels("serving").set(1 - number)
        state.labels("draining").set(number)
        merged.update(number, snapshot(registry))
    found = samples(merged)
    assert found["connectrio_certificate_expiry_timestamp_seconds", "a"] == 1e9
    assert found["connectrio_event_loop_lag_seconds",] == 0.5
    assert found["connectrio_load_failures",] == 1
    assert (found["connectrio_state", "serving"], found["connectrio_state", "draining"]) == (1, 1)


def test_the_last_exemplar_survives():
    """As does one of a process that has ended, and the way through the socket."""
    merged, sources = Merged(), [Source(), Source(), Source()]
    for number, name in enumerate(["first", "last"]):
        sources[number].sizes.observe(number + 2, exemplar={"trace_id": name})
    sources[2].sizes.observe(5)
    for number, source in enumerate(sources):
        report = msgspec.msgpack.decode(msgspec.msgpack.encode(source.snapshot()), type=list[Family])
        merged.update(number, report)
    merged.ended(1)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(merged)
    text = generate_openmetrics(registry).decode()
    found = [
        (sample.labels["le"], sample.value, sample.exemplar.labels, sample.exemplar.value)
        for family in openmetrics(text)
        for sample in family.samples
        if sample.exemplar
    ]
    assert found == [("10.0", 3, {"trace_id": "last"}, 3)]


def test_a_process_that_ended_before_it_reported():
    merged = Merged()
    merged.ended(0)
    assert samples(merged) == {}


def test_names_and_help_are_those_of_one_process():
    source = two_sources()[0]
    merged = Merged()
    merged.update(0, source.snapshot())
    registry = CollectorRegistry(auto_describe=False)
    registry.register(merged)
    of_one, of_all = (generate_latest(each).decode().splitlines() for each in (source.registry, registry))
    assert sorted(of_one) == sorted(of_all)
