"""BigQuery, as far as jobs go, and Google's token service."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from flyte_sdk.plugins.discovery import Discovery
from flyte_sdk.plugins.fakes import Answer, Fake, Gate, Request

TOKEN = "an-access-token"


class BigQuery:
    """Jobs that run until they are finished or cancelled. Requests and answers fit the API's description.

    :ivar gate: what `jobs.get` passes through
    :ivar jobs: by id, as the API shows them
    """

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self.gate = Gate()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.fake = Fake(self._answer)

    def credentials(self) -> str:
        """Those of a service account, as Google gives them out; a key of its own signs for it."""
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": "a-project",
                "private_key_id": "1",
                "private_key": pem.decode(),
                "client_email": "flyte@a-project.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": f"http://127.0.0.1:{self.fake.port}/token",
            }
        )

    def finish(self, job_id: str, *errors: str) -> None:
        """Let a job end, with these errors."""
        job = self.jobs[job_id]
        job["status"] = {"state": "DONE"}
        if errors:
            found = [{"reason": "invalidQuery", "location": "query", "message": error} for error in errors]
            job["status"] |= {"errorResult": found[0], "errors": found}

    def _answer(self, request: Request) -> Answer:
        if request.path == "/token":
            return Answer({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600})
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        name, parameters = self._discovery.find(request)
        if name == "bigquery.jobs.insert":
            return self._checked(name, self._insert(request.json, parameters))
        job = self.jobs.get(parameters.get("jobId", ""))
        if job is None:
            return Answer({"error": {"code": 404, "message": f"Not found: Job {parameters}", "errors": []}}, 404)
        if name == "bigquery.jobs.get":
            self.gate.pass_through()
            return self._checked(name, job)
        assert name == "bigquery.jobs.cancel"
        job["status"] = {"state": "DONE", "errorResult": {"reason": "stopped", "message": "it was cancelled"}}
        return self._checked(name, {"kind": "bigquery#jobCancelResponse", "job": job})

    def _checked(self, name: str, body: dict[str, Any]) -> Answer:
        self._discovery.check_answer(name, body)
        return Answer(body)

    def _insert(self, job: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
        reference = {"location": "EU", **job["jobReference"], "projectId": parameters["projectId"]}
        table = {"projectId": "a-project", "datasetId": "_results", "tableId": "anon1"}
        configuration = job["configuration"] | {"jobType": "QUERY"}
        configuration["query"] = {"destinationTable": table, **configuration["query"]}
        made = {
            "kind": "bigquery#job",
            "id": f"{reference['projectId']}:{reference['location']}.{reference['jobId']}",
            "jobReference": reference,
            "configuration": configuration,
            "status": {"state": "RUNNING"},
            "statistics": {"creationTime": "1700000000000"},
        }
        self.jobs[reference["jobId"]] = made
        return made
