"""A host in a process of its own, to be killed: runs one query that does not end.

Arguments: the backend, uvloop or not, the job store, the output prefix, the SQL. Prints the job's id once it runs and,
where the SQL has a result set, once the first of it is on disk.
"""

import sys
from pathlib import Path

import anyio
from connectors.duckdb_tasks import create, opened, until

from connectrio import Phase


async def main(home: Path, prefix: Path, sql: str) -> None:
    """Run until somebody ends the process."""
    async with opened(home) as connector:
        job = await create(connector, prefix, sql)
        await until(connector, job, Phase.RUNNING)
        while not list(prefix.glob(".*.tmp")):
            await anyio.sleep(0.01)
        print(job.job_id, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    backend, use_uvloop, home, prefix, sql = sys.argv[1:]
    options = {"use_uvloop": True} if use_uvloop == "True" else {}
    anyio.run(main, Path(home), Path(prefix), sql, backend=backend, backend_options=options)
