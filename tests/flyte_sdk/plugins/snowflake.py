"""Snowflake, as far as its Python connector's own protocol goes for queries that run asynchronously."""

from __future__ import annotations

import re
import uuid
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from flyte_sdk.plugins.fakes import Answer, Fake, Request

_QUERY_IN_PROGRESS_ASYNC = "333334"


class Snowflake:
    """Queries that run until they are finished or cancelled.

    :ivar queries: statuses, by id
    :ivar statements: what was asked, by id
    """

    def __init__(self) -> None:
        self.queries: dict[str, str] = {}
        self.statements: dict[str, dict[str, Any]] = {}
        self.logins: list[dict[str, Any]] = []
        self.fake = Fake(self._answer)

    def private_key(self) -> str:
        """A key pair's private half, as a secret has it."""
        key = rsa.generate_private_key(65537, 2048)
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def finish(self, query_id: str, status: str = "SUCCESS") -> None:
        """Let a query end."""
        self.queries[query_id] = status

    def _answer(self, request: Request) -> Answer:
        path = request.path
        if path == "/session/v1/login-request":
            return self._log_in(request.json["data"])
        assert request.headers["authorization"] == 'Snowflake Token="a-session-token"'
        if path == "/queries/v1/query-request":
            return self._query(request.json)
        if path.startswith("/monitoring/queries/"):
            return self._monitor(path.rpartition("/")[2])
        assert path in ("/session", "/session/heartbeat", "/telemetry/send"), path
        return _ok(None)

    def _log_in(self, data: dict[str, Any]) -> Answer:
        self.logins.append(data)
        parameters = [{"name": "CLIENT_TELEMETRY_ENABLED", "value": False}, {"name": "TIMEZONE", "value": "UTC"}]
        names = {"databaseName": "DB", "schemaName": "PUBLIC", "warehouseName": "WH", "roleName": "PUBLIC"}
        return _ok(
            {
                "token": "a-session-token",
                "masterToken": "a-master-token",
                "validityInSeconds": 3600,
                "masterValidityInSeconds": 14400,
                "sessionId": len(self.logins),
                "parameters": parameters,
                "sessionInfo": names,
                "displayUserName": data["LOGIN_NAME"],
                "serverVersion": "9.0.0",
            }
        )

    def _query(self, query: dict[str, Any]) -> Answer:
        statement = query["sqlText"]
        cancel = re.fullmatch(r"SELECT SYSTEM\$CANCEL_QUERY\('([\w-]+)'\)", statement)
        if cancel is not None:
            self.queries[cancel[1]] = "ABORTED"
            return _rows(f"query [{cancel[1]}] terminated.")
        assert query["asyncExec"], f"not asynchronous: {statement}"
        query_id = str(uuid.uuid4())
        self.queries[query_id], self.statements[query_id] = "RUNNING", query
        in_progress = {"queryId": query_id, "getResultUrl": f"/queries/{query_id}/result", "queryAbortsAfterSecs": 300}
        return Answer({"data": in_progress, "code": _QUERY_IN_PROGRESS_ASYNC, "success": True, "message": None})

    def _monitor(self, query_id: str) -> Answer:
        status = self.queries.get(query_id)
        found = [] if status is None else [{"id": query_id, "status": status, "state": status, "errorCode": ""}]
        if status == "FAILED_WITH_ERROR":
            found[0] |= {"errorCode": "000904", "errorMessage": "SQL compilation error: invalid identifier 'NOPE'"}
        return _ok({"queries": found})


def _ok(data: Any) -> Answer:
    return Answer({"data": data, "code": None, "success": True, "message": None})


def _rows(*rows: str) -> Answer:
    column = {"name": "R", "type": "text", "nullable": True, "length": 16777216, "byteLength": 16777216}
    return _ok(
        {
            "rowtype": [column | {"precision": None, "scale": None, "database": "", "schema": "", "table": ""}],
            "rowset": [[row] for row in rows],
            "total": len(rows),
            "returned": len(rows),
            "queryId": str(uuid.uuid4()),
            "queryResultFormat": "json",
            "statementTypeId": 4096,
            "parameters": [],
            "finalDatabaseName": "DB",
            "finalSchemaName": "PUBLIC",
            "finalWarehouseName": "WH",
            "finalRoleName": "PUBLIC",
            "numberOfBinds": 0,
        }
    )
