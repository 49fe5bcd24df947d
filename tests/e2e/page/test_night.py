"""The connectors of the bad night do what the drill with a browser needs."""

from __future__ import annotations

import grpc
import pytest

from e2e.client import fetch
from e2e.page.night_calls import NIGHT, begin, block, create, line_of
from e2e.programs import HostProgram


def test_the_night_is_as_bad_as_it_says_and_ends(tmp_path):
    ends = tmp_path / "morning"
    environment = {"CONNECTRIO_NIGHT_ENDS": str(ends)}
    with HostProgram("asyncio", modules=[str(NIGHT)], env=environment) as host, host.ready().client() as client:
        begun = begin(client, jobs=12)
        meta = create(client, "spark_on_k8s", "night-well").resource_meta
        assert client.call("get", task_type="spark_on_k8s", meta=meta).resource.message == "well on its way"
        _, metrics = fetch(f"{host.url}/metrics")
        assert 'connectrio_absorbed_polls_total{task_type="warehouse_query"} 2.0' in metrics
        block(client, begun)
        hung, blocked = begun.calls
        with pytest.raises(grpc.FutureTimeoutError):
            blocked.result(timeout=0.5)
        assert not hung.done()
        ends.touch()
        assert hung.result(30).resource.phase
        assert blocked.result(30).resource_meta


def test_the_lines_are_where_the_comments_are():
    assert line_of("the vendor is down").endswith(" in get")
    assert line_of("the thread hangs").endswith(" in get")
    assert line_of("the event loop is blocked").endswith(" in create")
    assert line_of("the thread hangs").startswith("night.py:")
