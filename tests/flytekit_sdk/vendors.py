"""What plugins of flytekit call, as far as create, get and delete go."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trustme

from flyte_sdk.plugins.bigquery import BigQuery
from flyte_sdk.plugins.databricks import TOKEN, Databricks
from flyte_sdk.plugins.fakes import Answer, Fake, Request

# MMCloud's command; its state is a file, for it is another process each time
FLOAT = """#!/bin/sh
echo "$@" | sed 's/--job .*tmp[^ ]*/--job FILE/' >> "$FLOAT_STATE.calls"
case "$1" in
    login) ;;
    submit) echo Executing > "$FLOAT_STATE"; echo '{"id": "mmc-1"}' ;;
    show) echo "{\\"status\\": \\"$(cat "$FLOAT_STATE")\\"}" ;;
    cancel) echo Cancelled > "$FLOAT_STATE" ;;
esac
"""

PLACES = re.compile(r"/bigquery/v2/projects/a-project/(?P<what>jobs)(/(?P<job>[\w-]+)(?P<cancel>/cancel)?)?")


class _Places:
    """BigQuery's methods by their paths. `flyte_sdk/plugins` checks its requests against the API's description."""

    def find(self, request: Request) -> tuple[str, dict[str, str]]:
        found = PLACES.fullmatch(request.path)
        assert found is not None, request.path
        parameters = {"projectId": "a-project", "jobId": found["job"] or ""}
        if request.method == "GET":
            return "bigquery.jobs.get", parameters
        return "bigquery.jobs.cancel" if found["cancel"] else "bigquery.jobs.insert", parameters

    def check_answer(self, name: str, body: Any) -> None:
        pass


class OpenAI:
    """Batches, and chats that repeat what is said."""

    def __init__(self) -> None:
        self.batches: dict[str, dict[str, Any]] = {}
        self.fake = Fake(self._answer)

    def finish(self, batch_id: str) -> None:
        self.batches[batch_id]["status"] = "completed"

    def _answer(self, request: Request) -> Answer:
        assert request.headers["authorization"] == "Bearer an-openai-key"
        assert request.headers["openai-organization"] == "an-org"
        match request.path.removeprefix("/v1/").split("/"):
            case ["batches"]:
                batch = {
                    "id": f"batch_{len(self.batches) + 1}", "object": "batch", "status": "in_progress",
                    "created_at": 1, "errors": None, **request.json,
                }  # fmt: skip
                self.batches[batch["id"]] = batch
                return Answer(batch)
            case ["batches", batch_id]:
                return Answer(self.batches[batch_id])
            case ["batches", batch_id, "cancel"]:
                self.batches[batch_id]["status"] = "cancelled"
                return Answer(self.batches[batch_id])
            case ["chat", "completions"]:
                said = request.json["messages"][0]["content"]
                message = {"role": "assistant", "content": f"you said {said}"}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                chat = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                return Answer(chat)
        raise AssertionError(f"there is no {request.path}")


class SageMaker:
    """Endpoints and models."""

    def __init__(self) -> None:
        self.endpoints: dict[str, str] = {}
        self.fake = Fake(self._answer)

    def finish(self, name: str) -> None:
        self.endpoints[name] = "InService"

    def _answer(self, request: Request) -> Answer:
        asked = request.json
        match request.headers["x-amz-target"].removeprefix("SageMaker."):
            case "CreateModel":
                return Answer({"ModelArn": f"arn:aws:sagemaker:eu-west-1:1:model/{asked['ModelName']}"})
            case "CreateEndpoint":
                self.endpoints[asked["EndpointName"]] = "Creating"
                return Answer({"EndpointArn": "arn:e"})
            case "DescribeEndpoint":
                status = self.endpoints[asked["EndpointName"]]
                why = {"FailureReason": "it was deleted"} if status == "Failed" else {}
                times = {"CreationTime": 1, "LastModifiedTime": 1}
                return Answer({**asked, "EndpointArn": "arn:e", "EndpointStatus": status, **times, **why})
            case "DeleteEndpoint":
                self.endpoints[asked["EndpointName"]] = "Failed"
                return Answer({})
        raise AssertionError(f"there is no {request.headers['x-amz-target']}")


class Vendors:
    """All of them.

    :ivar env: the variables that lead plugins to them
    """

    def __init__(self, directory: Path) -> None:
        self.bigquery = BigQuery(_Places())  # type: ignore[arg-type]  # as much of it as is used
        self.databricks = Databricks()
        self.openai = OpenAI()
        self.sagemaker = SageMaker()
        self.state = directory / "float-state"
        self._directory = directory
        self.env: dict[str, str] = {}

    @contextmanager
    def serving(self, path: str) -> Iterator[Vendors]:
        """Serve all.

        :param path: the PATH, which MMCloud's command precedes
        """
        ca = trustme.CA()
        ca.cert_pem.write_to_path(self._directory / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(tls)
        command = self._directory / "float"
        command.write_text(FLOAT)
        command.chmod(0o755)
        with ExitStack() as stack:
            for fake, context in (
                (self.bigquery.fake, None), (self.databricks.fake, tls), (self.openai.fake, None),
                (self.sagemaker.fake, None),
            ):  # fmt: skip
                stack.enter_context(fake.serving(context))
            credentials = self._directory / "google.json"
            credentials.write_text(self.bigquery.credentials())
            self.env = {
                "BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{self.bigquery.fake.port}",
                "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
                "SSL_CERT_FILE": str(self._directory / "ca.pem"),
                "_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN": TOKEN,
                "OPENAI_BASE_URL": f"http://127.0.0.1:{self.openai.fake.port}/v1",
                "_FSEC_FLYTE_OPENAI_API_KEY": "an-openai-key",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.sagemaker.fake.port}",
                "AWS_ACCESS_KEY_ID": "id",
                "AWS_SECRET_ACCESS_KEY": "key",
                "FLOAT_STATE": str(self.state),
                "PATH": f"{self._directory}:{path}",
                "NO_PROXY": "127.0.0.1",
            }
            yield self

    def forget(self) -> None:
        """Forget all jobs and requests, so that the next host finds what the last one found."""
        for known in (self.bigquery.jobs, self.databricks.runs, self.openai.batches, self.sagemaker.endpoints):
            known.clear()
        for vendor in (self.bigquery, self.databricks, self.openai, self.sagemaker):
            vendor.fake.requests.clear()
        self.state.with_suffix(".calls").write_text("")

    def asked(self) -> list[str]:
        """Return what plugins have asked since then. The names of BigQuery's jobs are its client's choice."""
        found = [
            f"{request.method} {request.path} {json.dumps(request.json, sort_keys=True)}"
            for vendor in (self.bigquery, self.databricks, self.openai, self.sagemaker)
            for request in vendor.fake.requests
            if request.path != "/token"
        ]
        calls = self.state.with_suffix(".calls")
        return [without_uuids(text) for text in [*found, *calls.read_text().splitlines()]]


def without_uuids(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", text)
