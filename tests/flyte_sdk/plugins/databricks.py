"""Databricks' jobs API 2.1, as far as one-time runs go."""

from __future__ import annotations

from typing import Any

from flyte_sdk.plugins.fakes import Answer, Fake, Gate, Request

TOKEN = "a-databricks-token"
API = "/api/2.1/jobs/runs/"


class Databricks:
    """Runs that go on until they are finished or cancelled.

    :ivar gate: what `runs/get` passes through
    :ivar runs: by id, as the API shows them
    :ivar submitted: what runs were submitted with, by id
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.runs: dict[str, dict[str, Any]] = {}
        self.submitted: dict[str, dict[str, Any]] = {}
        self.fake = Fake(self._answer)

    def finish(self, run_id: str, result: str = "SUCCESS", message: str = "") -> None:
        """Let a run end."""
        self.runs[run_id]["state"] = {
            "life_cycle_state": "TERMINATED",
            "result_state": result,
            "state_message": message,
        }

    def _answer(self, request: Request) -> Answer:
        if request.headers["authorization"] != f"Bearer {TOKEN}":
            return Answer({"error_code": "PERMISSION_DENIED", "message": "Invalid access token."}, 403)
        match request.method, request.path.removeprefix(API):
            case "POST", "submit":
                return self._submit(request.json)
            case "GET", "get":
                self.gate.pass_through()
                return self._found(request.query["run_id"], lambda run: run)
            case "POST", "cancel":
                return self._found(str(request.json["run_id"]), self._cancel)
        raise AssertionError(f"there is no {request.method} {request.path}")

    def _submit(self, spec: dict[str, Any]) -> Answer:
        assert "existing_cluster_id" in spec or "new_cluster" in spec
        run_id = len(self.runs) + 1001
        self.submitted[str(run_id)] = spec
        self.runs[str(run_id)] = {
            "job_id": 17,
            "run_id": run_id,
            "run_name": spec.get("run_name", "Untitled"),
            "state": {"life_cycle_state": "RUNNING", "state_message": "In run"},
        }
        return Answer({"run_id": run_id})

    def _found(self, run_id: str, then: Any) -> Answer:
        run = self.runs.get(run_id)
        if run is None:
            return Answer({"error_code": "INVALID_PARAMETER_VALUE", "message": f"Run {run_id} does not exist."}, 400)
        return Answer(then(run))

    def _cancel(self, run: dict[str, Any]) -> dict[str, Any]:
        self.finish(str(run["run_id"]), "CANCELED", "Run cancelled.")
        return {}
