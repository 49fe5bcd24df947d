"""A host process to be killed: runs one query that does not end.

Arguments: the backend, uvloop or not, the job store, the output prefix, the SQL. Prints the job's id once it runs
and its result is being written.
"""

import sys
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from connectors.duckdb_tasks import create, eventually, opened, until
from connectrio import Phase


def writes(prefix: Path) -> bool:
    """Return whether a result is being written there."""
    return bool(list(prefix.glob(".*.tmp")))


async def main(home: Path, prefix: Path, sql: str) -> None:
    """Run until the process is killed."""
    async with opened(home) as connector:
        job = await create(connector, prefix, sql)
        await until(connector, job, Phase.RUNNING)
        await eventually(partial(to_thread.run_sync, writes, prefix))
        print(job.job_id, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    backend, use_uvloop, home, prefix, sql = sys.argv[1:]
    options = {"use_uvloop": True} if use_uvloop == "True" else {}
    anyio.run(main, Path(home), Path(prefix), sql, backend=backend, backend_options=options)
