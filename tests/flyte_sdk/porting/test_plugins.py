"""Flyte's plugins with their imports changed, as connectors for connectrio: from create to the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flyteidl2.connector.connector_pb2 import TaskExecutionMetadata
from flyteidl2.core.execution_pb2 import TaskExecution, TaskLog
from flyteidl2.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)

from flyte_sdk.plugins.databricks import TOKEN
from flyte_sdk.plugins.test_plugins import (
    FRAME,
    INTEGER,
    STRING,
    Task,
    create_query,
    create_run,
    create_statement,
    integer,
    literals,
    string,
    template,
)
from flyte_sdk.porting.imports import imported

# the clients of the others need asyncio
everywhere = pytest.mark.parametrize("plugins", ["asyncio", "uvloop", "trio"], indirect=True)
on_asyncio = pytest.mark.parametrize("plugins", ["asyncio", "uvloop"], indirect=True)


def test_what_they_still_import_of_flyte_sdk(ported):
    for directory in ported.values():
        found = {each.name: imported(each) for each in directory.iterdir()}
        assert found == {
            "ported_bigquery": {"flyte.types.TypeEngine"},
            "ported_databricks": set(),
            "ported_slurm": {"flyte.storage"},
            "ported_snowflake": set(),
        }


@everywhere
def test_bigquery(plugins):
    bigquery = Task(plugins.client, "bigquery_query_job_task", google_application_credentials=plugins.credentials)
    meta = create_query(
        bigquery, inputs={"day": STRING, "n": INTEGER}, values=literals(day=string("monday"), n=integer(7))
    )
    found = json.loads(meta)
    assert found["user_agent"] == "Flyte/2.12.1 (GPN:Union;development)"
    query = plugins.bigquery.jobs[found["job_id"]]["configuration"]["query"]
    assert {each["name"]: each["parameterType"]["type"] for each in query["queryParameters"]} == {
        "day": "STRING",
        "n": "INT64",
    }
    running = bigquery.get(meta)
    (link,) = running.log_links
    assert (running.phase, link.name, link.link_type) == (
        TaskExecution.RUNNING, "BigQuery Console", TaskLog.DASHBOARD
    )  # fmt: skip
    plugins.bigquery.finish(found["job_id"])
    done = bigquery.get(meta)
    assert done.phase == TaskExecution.SUCCEEDED
    (output,) = done.outputs.literals
    assert (output.name, output.value.scalar.structured_dataset.uri) == ("results", "bq://a-project:_results.anon1")

    failed = create_query(bigquery)
    plugins.bigquery.finish(json.loads(failed)["job_id"], "Syntax error: nope")
    assert "Syntax error: nope" in bigquery.get(failed).message
    cancelled = create_query(bigquery)
    bigquery.delete(cancelled)
    assert plugins.bigquery.jobs[json.loads(cancelled)["job_id"]]["status"]["errorResult"]["reason"] == "stopped"


@on_asyncio
def test_snowflake(plugins):
    snowflake = Task(plugins.client, "snowflake", snowflake_private_key=plugins.private_key)
    meta = create_statement(plugins, snowflake, outputs={"results": FRAME})
    query_id = json.loads(meta)["query_id"]
    assert plugins.snowflake.statements[query_id]["sqlText"] == "SELECT COUNT(*) FROM events WHERE n > 7"
    polls = [snowflake.start("get", meta) for _ in range(8)]
    assert {poll.result().resource.phase for poll in polls} == {TaskExecution.RUNNING}
    plugins.snowflake.finish(query_id)
    done = snowflake.get(meta)
    assert (done.phase, [link.name for link in done.log_links]) == (TaskExecution.SUCCEEDED, ["Snowflake Dashboard"])
    (output,) = done.outputs.literals
    assert output.value.scalar.structured_dataset.uri == f"snowflake://FLYTE/an-account/WH/DB/PUBLIC/{query_id}"

    cancelled = create_statement(plugins, snowflake, account="to-be-closed")
    snowflake.delete(cancelled)
    assert plugins.snowflake.queries[json.loads(cancelled)["query_id"]] == "ABORTED"


@on_asyncio
def test_databricks(plugins):
    databricks = Task(plugins.client, "databricks", databricks_token=TOKEN)
    meta = create_run(plugins, databricks)
    run_id = json.loads(meta)["run_id"]
    assert plugins.databricks.submitted[run_id]["new_cluster"] == {
        "num_workers": 2.0,
        "docker_image": {"url": "an/image:1"},
        "spark_conf": {"spark.executor.memory": "4g"},
        "spark_env_vars": {"STAGE": "test"},
    }
    assert databricks.get(meta).phase == TaskExecution.RUNNING
    plugins.databricks.finish(run_id)
    done = databricks.get(meta)
    assert (done.phase, done.log_links[0].uri.endswith(f"/#job/17/run/{run_id}")) == (TaskExecution.SUCCEEDED, True)

    cancelled = create_run(plugins, databricks)
    databricks.delete(cancelled)
    assert databricks.get(cancelled).phase == TaskExecution.FAILED


def create_script(plugins, prefix="s3://prefix", **custom):
    connection = {"host": "127.0.0.1", "username": "flyte", "port": plugins.slurm.port}
    execution = WorkflowExecutionIdentifier(project="a-project", domain="d", name="run")
    metadata = TaskExecutionMetadata(
        task_execution_id=TaskExecutionIdentifier(
            node_execution_id=NodeExecutionIdentifier(execution_id=execution), retry_attempt=2
        ),
        environment_variables={"RUN_NAME": "r1"},
    )
    custom = {"connection": connection, "script": "echo hello", **custom}
    response = plugins.client.call(
        "create",
        template=template("slurm_script", custom, inputs={"n": INTEGER}),
        inputs=literals(n=integer(7)),
        meta=str(prefix).encode(),
        task_execution_metadata=metadata,
    )
    return response.resource_meta


@on_asyncio
def test_slurm(plugins):
    slurm = Task(plugins.client, "slurm_script")
    meta = create_script(plugins, sbatch={"nodes": 2})
    found = json.loads(meta)
    script = plugins.slurm.scripts[found["job_id"]]
    for line in ["echo hello", "FLYTE_INPUT_N=7", "FLYTE_INTERNAL_EXECUTION_PROJECT=a-project", "RUN_NAME=r1"]:
        assert line in script
    assert "#SBATCH --nodes=2" in script
    assert "FLYTE_ATTEMPT_NUMBER=2" in script
    assert slurm.get(meta).phase == TaskExecution.RUNNING

    Path(found["stdout_path"]).write_text("one\ntwo\n")
    responses = plugins.client.start("get_logs", task_type="slurm_script", meta=meta)
    lines = [line for response in responses for line in response.body.lines]
    assert [line.message for line in lines[1:]] == ["one", "two"]
    assert lines[1].timestamp.seconds
    plugins.slurm.finish(found["job_id"])
    assert slurm.get(meta).phase == TaskExecution.SUCCEEDED

    cancelled = create_script(plugins)
    slurm.delete(cancelled)
    assert slurm.get(cancelled).phase == TaskExecution.ABORTED


@on_asyncio
def test_a_file_that_a_script_of_slurm_makes(plugins, tmp_path, wait):
    """The plugin moves it with flyte-sdk's storage, and names it with a class of ours."""
    slurm = Task(plugins.client, "slurm_script")
    meta = create_script(plugins, tmp_path, outputs={"table": "file"})
    found = json.loads(meta)
    made = Path(found["declared_outputs"]["table"]["written_to"])
    made.parent.mkdir(parents=True)
    made.write_text("a,b")
    plugins.slurm.finish(found["job_id"])
    wait(lambda: slurm.get(meta).phase == TaskExecution.SUCCEEDED)
    (output,) = slurm.get(meta).outputs.literals
    assert (output.name, output.value.scalar.blob.uri) == ("table", f"{tmp_path}/table")
    assert (tmp_path / "table").read_text() == "a,b"
