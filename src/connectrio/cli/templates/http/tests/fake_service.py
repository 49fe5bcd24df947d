"""The API that the connector calls, in memory: for the tests, and to try the connector by hand."""

import json
from typing import Any

import httpx
from connectrio import ConnectorRegistry

from my_connector import MyConnector

STATES = ("queued", "running", "done")


class FakeService:
    """Each look at a job takes it one state further.

    :ivar jobs: by Idempotency-Key
    :ivar busy: how many of the next requests are answered with 429
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.busy = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        if self.busy:
            self.busy -= 1
            return httpx.Response(429, headers={"Retry-After": "0"})
        if request.headers.get("Authorization") == "Bearer ":
            return httpx.Response(401, text="a token is needed")
        if request.method == "POST":
            return self._create(request.headers["Idempotency-Key"], json.loads(request.content))
        _, _, name, *rest = request.url.path.split("/")
        job = next((job for job in self.jobs.values() if job["id"] == name), None)
        if job is None:
            return httpx.Response(404, text="there is no such job")
        if rest:
            return httpx.Response(200, json={"lines": [f"making {job['report']}"], "next": ""})
        if request.method == "DELETE":
            job["state"] = "cancelled" if job["state"] != "done" else "done"
        elif job["state"] in STATES[:-1]:
            job["state"] = STATES[STATES.index(job["state"]) + 1]
        outputs = {"url": f"https://api.example/{job['report']}.pdf"} if job["state"] == "done" else None
        return httpx.Response(200, json={**job, "outputs": outputs})

    def _create(self, key: str, body: dict[str, Any]) -> httpx.Response:
        if not body["report"]:
            return httpx.Response(422, text="which report?")
        name = f"job-{len(self.jobs)}"
        new = {"id": name, "state": "queued", "report": body["report"], "page": f"https://api.example/{name}"}
        return httpx.Response(201, json=self.jobs.setdefault(key, new))


ConnectorRegistry.register(MyConnector(httpx.MockTransport(FakeService())), override=True)
