"""Flyte's plugins for BigQuery, Snowflake and Databricks, as they are on PyPI, hosted by us.

They call fakes of the services that they are for. Nothing in them is replaced: where the services are is a matter of
their own configuration (BIGQUERY_EMULATOR_HOST, a connection's `host`, a workspace's name and its certificate).
"""

from __future__ import annotations

import json

import grpc
import pytest
from flyteidl2.connector.connector_pb2 import ListConnectorsRequest
from flyteidl2.core.execution_pb2 import TaskExecution, TaskLog
from flyteidl2.core.interface_pb2 import TypedInterface, Variable, VariableEntry, VariableMap
from flyteidl2.core.literals_pb2 import Literal, LiteralCollection, Primitive, Scalar
from flyteidl2.core.security_pb2 import Connection
from flyteidl2.core.tasks_pb2 import Container, RuntimeMetadata, Sql, TaskMetadata, TaskTemplate
from flyteidl2.core.types_pb2 import LiteralType, SimpleType, StructuredDatasetType
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1.health_pb2 import HealthCheckRequest

from flyte_sdk.plugins.databricks import TOKEN

INTEGER = LiteralType(simple=SimpleType.INTEGER)
STRING = LiteralType(simple=SimpleType.STRING)
FRAME = LiteralType(structured_dataset_type=StructuredDatasetType())


def integer(value):
    return Literal(scalar=Scalar(primitive=Primitive(integer=value)))


def string(value):
    return Literal(scalar=Scalar(primitive=Primitive(string_value=value)))


def variables(types):
    return VariableMap(variables=[VariableEntry(key=key, value=Variable(type=each)) for key, each in types.items()])


def template(task_type, custom, *, inputs=None, outputs=None, **fields):
    struct = Struct()
    struct.update(custom)
    interface = TypedInterface(inputs=variables(inputs or {}), outputs=variables(outputs or {}))
    metadata = TaskMetadata(runtime=RuntimeMetadata(version="2.12.1"))
    return TaskTemplate(type=task_type, custom=struct, interface=interface, metadata=metadata, **fields)


def literals(**values):
    return Inputs(literals=[NamedLiteral(name=name, value=value) for name, value in values.items()])


class Task:
    """A task of one type, through the client."""

    def __init__(self, client, task_type, **secrets):
        self._client = client
        self._type = task_type
        self._connection = Connection(secrets=secrets)

    def create(self, custom, *, inputs=None, values=None, outputs=None, **fields):
        """The resource meta."""
        made = template(self._type, custom, inputs=inputs, outputs=outputs, **fields)
        response = self._client.call(
            "create", template=made, inputs=values, meta=b"s3://prefix", connection=self._connection
        )
        return response.resource_meta

    def start(self, operation, meta, **options):
        return self._client.start(operation, task_type=self._type, meta=meta, connection=self._connection, **options)

    def get(self, meta):
        return self.start("get", meta).result().resource

    def delete(self, meta):
        return self.start("delete", meta).result()


def fails(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def healthy(client):
    return client.health.Check(HealthCheckRequest(service=""), timeout=30)


def test_native_and_hosted_connectors_are_in_one_list(plugins):
    listed = plugins.client.connectors.ListConnectors(ListConnectorsRequest(), timeout=30).connectors
    found = {each.name: {(task.name, task.version) for task in each.supported_task_categories} for each in listed}
    assert found["Bigquery Connector"] == {("bigquery_query_job_task", 0)}
    assert found["Snowflake Connector"] == {("snowflake", 0)}
    assert found["Databricks Connector"] == {("databricks", 0)}
    assert found["Affinity"] == {("affinity", 0)}


def test_which_plugins_keep_what_belongs_to_an_event_loop(plugins):
    def state(package):
        meta = json.dumps({"name": package}).encode()
        return plugins.client.call("get", task_type="affinity", meta=meta).resource.message

    cache = "flyteplugins.snowflake.connector._get_snowflake_connection"
    assert state("flyteplugins.snowflake") == cache
    assert state("flyteplugins.bigquery") == ""
    assert state("flyteplugins.databricks") == ""


# BigQuery: its client blocks


QUERY = "SELECT COUNT(*) FROM `d.events` WHERE day = @day AND n > @n"


@pytest.fixture
def bigquery(plugins):
    """A task of BigQuery's."""
    return Task(plugins.client, "bigquery_query_job_task", google_application_credentials=plugins.credentials)


def create_query(task, **fields):
    custom = {"ProjectID": "a-project", "Location": "EU", "Domain": "development"}
    return task.create(custom, sql=Sql(statement=QUERY, dialect=Sql.ANSI), **fields)


def test_a_query_of_bigquery(plugins, bigquery):
    meta = create_query(
        bigquery, inputs={"day": STRING, "n": INTEGER}, values=literals(day=string("monday"), n=integer(7))
    )
    found = json.loads(meta)
    job = plugins.bigquery.jobs[found["job_id"]]
    assert found == {
        "job_id": job["jobReference"]["jobId"],
        "project": "a-project",
        "location": "EU",
        "user_agent": "Flyte/2.12.1 (GPN:Union;development)",
    }
    query = job["configuration"]["query"]
    assert query["query"] == QUERY
    parameters = {each["name"]: each for each in query["queryParameters"]}
    assert parameters["day"]["parameterValue"] == {"value": "monday"}
    assert (parameters["n"]["parameterType"], parameters["n"]["parameterValue"]) == ({"type": "INT64"}, {"value": "7"})

    running = bigquery.get(meta)
    assert (running.phase, running.message) == (TaskExecution.RUNNING, "RUNNING")
    (link,) = running.log_links
    assert (link.name, link.ready, link.link_type) == ("BigQuery Console", True, TaskLog.DASHBOARD)
    assert link.uri.endswith(f"?project=a-project&j=bq:EU:{found['job_id']}&page=queryresults")

    plugins.bigquery.finish(found["job_id"])
    done = bigquery.get(meta)
    assert (done.phase, done.message) == (TaskExecution.SUCCEEDED, "DONE")
    (output,) = done.outputs.literals
    assert output.name == "results"
    assert output.value.scalar.structured_dataset.uri == "bq://a-project:_results.anon1"


def test_a_query_of_bigquery_that_fails(plugins, bigquery):
    meta = create_query(bigquery)
    plugins.bigquery.finish(json.loads(meta)["job_id"], "Syntax error: nope")
    failed = bigquery.get(meta)
    assert failed.phase == TaskExecution.FAILED
    assert "Syntax error: nope" in failed.message


def test_a_query_of_bigquery_is_cancelled(plugins, bigquery):
    meta = create_query(bigquery)
    bigquery.delete(meta)
    assert plugins.bigquery.jobs[json.loads(meta)["job_id"]]["status"]["errorResult"]["reason"] == "stopped"
    assert bigquery.get(meta).phase == TaskExecution.SUCCEEDED, "as the plugin has it: DONE"


def test_a_job_that_bigquery_does_not_know(bigquery):
    meta = json.loads(create_query(bigquery)) | {"job_id": "no-such-job"}
    code, details = fails(lambda: bigquery.get(json.dumps(meta).encode()))
    assert code is grpc.StatusCode.INTERNAL
    assert details.startswith("failed to get bigquery_query_job_task task with error:\n 404 ")


def test_what_blocks_holds_up_nobody_else(plugins, bigquery, wait):
    """More of BigQuery's polls are under way at once than one loop could begin, and everybody else is answered."""
    gate, meta = plugins.bigquery.gate, create_query(bigquery)
    bigquery.get(meta)  # polls may leave the home loop once one has succeeded there
    gate.close()
    try:
        polls = [bigquery.start("get", meta) for _ in range(20)]
        wait(lambda: gate.inside == 1 + 10)  # its home loop, and as many more as the host has workers
        assert healthy(plugins.client)
        assert plugins.client.call("get", task_type="affinity", meta=b'{"name": ""}').resource.phase
        snowflake = Task(plugins.client, "snowflake", snowflake_private_key=plugins.private_key)
        assert snowflake.get(create_statement(plugins, snowflake)).phase == TaskExecution.RUNNING
    finally:
        gate.open()
    assert {poll.result().resource.phase for poll in polls} == {TaskExecution.RUNNING}


# Snowflake: its connection is in a cache that belongs to one event loop


STATEMENT = "SELECT COUNT(*) FROM events WHERE n > %(n)s"


@pytest.fixture
def snowflake(plugins):
    """A task of Snowflake's."""
    return Task(plugins.client, "snowflake", snowflake_private_key=plugins.private_key)


def create_statement(plugins, task, account="an-account", **fields):
    connection = {"host": "127.0.0.1", "port": str(plugins.snowflake.fake.port), "protocol": "http"}
    custom = {"account": account, "user": "FLYTE", "database": "DB", "warehouse": "WH", "connection_kwargs": connection}
    values = {"inputs": {"n": INTEGER}, "values": literals(n=integer(7)), **fields}
    return task.create(custom, sql=Sql(statement=values.pop("statement", STATEMENT)), **values)


def test_a_query_of_snowflake(plugins, snowflake):
    meta = create_statement(plugins, snowflake, outputs={"results": FRAME})
    found = json.loads(meta)
    query_id = found["query_id"]
    assert (found["account"], found["schema"], found["has_output"]) == ("an-account", "PUBLIC", True)
    assert plugins.snowflake.statements[query_id]["sqlText"] == "SELECT COUNT(*) FROM events WHERE n > 7"

    running = snowflake.get(meta)
    assert (running.phase, running.message) == (TaskExecution.RUNNING, "RUNNING")
    assert [link.name for link in running.log_links] == ["Snowflake Dashboard"]

    plugins.snowflake.finish(query_id)
    done = snowflake.get(meta)
    assert (done.phase, done.message) == (TaskExecution.SUCCEEDED, "SUCCESS")
    (output,) = done.outputs.literals
    assert output.value.scalar.structured_dataset.uri == f"snowflake://FLYTE/an-account/WH/DB/PUBLIC/{query_id}"


def test_a_query_of_snowflake_in_a_batch(plugins, snowflake):
    """Inputs that are lists."""
    types = {"a": LiteralType(collection_type=INTEGER), "b": LiteralType(collection_type=STRING)}
    values = literals(
        a=Literal(collection=LiteralCollection(literals=[integer(1), integer(2)])),
        b=Literal(collection=LiteralCollection(literals=[string("x"), string("y")])),
    )
    connection = {"host": "127.0.0.1", "port": str(plugins.snowflake.fake.port), "protocol": "http"}
    custom = {"account": "an-account", "user": "FLYTE", "database": "DB", "warehouse": "WH", "batch": True}
    meta = snowflake.create(
        {**custom, "connection_kwargs": connection},
        inputs=types,
        values=values,
        sql=Sql(statement="INSERT INTO t (a, b) VALUES (%(a)s, %(b)s)"),
    )
    statement = plugins.snowflake.statements[json.loads(meta)["query_id"]]["sqlText"]
    assert statement == "INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y')"


def test_a_query_of_snowflake_that_fails(plugins, snowflake):
    meta = create_statement(plugins, snowflake)
    plugins.snowflake.finish(json.loads(meta)["query_id"], "FAILED_WITH_ERROR")
    failed = snowflake.get(meta)
    assert failed.phase == TaskExecution.FAILED
    assert "invalid identifier 'NOPE'" in failed.message


def test_a_query_of_snowflake_is_cancelled(plugins, snowflake):
    """On a connection of its own, for the plugin closes it, and keeps it in its cache."""
    meta = create_statement(plugins, snowflake, account="to-be-closed")
    snowflake.delete(meta)
    assert plugins.snowflake.queries[json.loads(meta)["query_id"]] == "ABORTED"


def test_one_connection_serves_all_calls(plugins, snowflake):
    """Calls at once, and calls one after the other: the cache would forget it on any other loop than its first."""
    meta = create_statement(plugins, snowflake, account="used-much")
    before = len(plugins.snowflake.logins)
    for _ in range(3):
        polls = [snowflake.start("get", meta) for _ in range(20)]
        assert {poll.result().resource.phase for poll in polls} == {TaskExecution.RUNNING}
    assert len(plugins.snowflake.logins) == before


def test_calls_that_come_at_once_share_the_first_connection(plugins, snowflake):
    meta = json.loads(create_statement(plugins, snowflake)) | {"account": "asked-for-at-once"}
    before = len(plugins.snowflake.logins)
    polls = [snowflake.start("get", json.dumps(meta).encode()) for _ in range(20)]
    assert {poll.result().resource.phase for poll in polls} == {TaskExecution.RUNNING}
    assert len(plugins.snowflake.logins) == before + 1


def test_a_secret_of_snowflake_s_reaches_it_and_nobody_else(plugins, snowflake):
    create_statement(plugins, snowflake, account="with-a-key-pair")
    login = plugins.snowflake.logins[-1]
    assert (login["AUTHENTICATOR"], login["LOGIN_NAME"]) == ("SNOWFLAKE_JWT", "FLYTE")
    assert plugins.private_key.splitlines()[1] not in plugins.host.errors


# Databricks: asynchronous to the bone


@pytest.fixture
def databricks(plugins):
    """A task of Databricks'."""
    return Task(plugins.client, "databricks", databricks_token=TOKEN)


def create_run(plugins, task, **conf):
    custom = {
        "sparkConf": {"spark.executor.memory": "4g"},
        "databricksConf": {"run_name": "a run", "new_cluster": {"num_workers": 2}, **conf},
        "databricksInstance": f"127.0.0.1:{plugins.databricks.fake.port}",
    }
    container = Container(image="an/image:1", args=["a0", "--inputs", "s3://x"])
    container.env.add(key="STAGE", value="test")
    return task.create(custom, container=container)


def test_a_run_of_databricks(plugins, databricks):
    meta = create_run(plugins, databricks)
    run_id = json.loads(meta)["run_id"]
    submitted = plugins.databricks.submitted[run_id]
    assert submitted["new_cluster"] == {
        "num_workers": 2.0,
        "docker_image": {"url": "an/image:1"},
        "spark_conf": {"spark.executor.memory": "4g"},
        "spark_env_vars": {"STAGE": "test"},
    }
    assert submitted["spark_python_task"]["parameters"] == ["a0", "--inputs", "s3://x"]

    running = databricks.get(meta)
    assert (running.phase, running.message) == (TaskExecution.RUNNING, "In run")
    assert running.log_links[0].uri.endswith(f"/#job/17/run/{run_id}")

    plugins.databricks.finish(run_id)
    assert databricks.get(meta).phase == TaskExecution.SUCCEEDED


def test_a_run_of_databricks_that_fails(plugins, databricks):
    meta = create_run(plugins, databricks)
    plugins.databricks.finish(json.loads(meta)["run_id"], "FAILED", "a task has failed")
    failed = databricks.get(meta)
    assert (failed.phase, failed.message) == (TaskExecution.FAILED, "a task has failed")


def test_a_run_of_databricks_is_cancelled(plugins, databricks):
    meta = create_run(plugins, databricks)
    databricks.delete(meta)
    assert databricks.get(meta).phase == TaskExecution.FAILED


def test_a_token_that_databricks_does_not_accept(plugins, databricks):
    meta = create_run(plugins, databricks)
    stranger = Task(plugins.client, "databricks", databricks_token="of-somebody-else")
    code, details = fails(lambda: stranger.get(meta))
    assert code is grpc.StatusCode.INTERNAL
    assert "Forbidden" in details
    assert "of-somebody-else" not in plugins.host.errors


def test_a_task_that_databricks_cannot_run(plugins, databricks):
    code, details = fails(lambda: databricks.create({}))
    assert (code, details) == (
        grpc.StatusCode.INTERNAL,
        "failed to create databricks task with error:\n Missing Databricks job configuration in task template..",
    )


def test_a_poll_of_databricks_that_nobody_waits_for_is_cancelled(plugins, databricks, wait):
    gate, meta = plugins.databricks.gate, create_run(plugins, databricks)
    gate.close()
    try:
        poll = databricks.start("get", meta)
        wait(lambda: gate.inside == 1)
        poll.cancel()
        wait(lambda: any(line["event"] == "call cancelled" for line in plugins.host.log))
    finally:
        gate.open()
    assert databricks.get(meta).phase == TaskExecution.RUNNING
