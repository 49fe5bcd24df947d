"""SQL on the host itself: tasks of type `duckdb`, each run by DuckDB in a process of its own (extra `duckdb`).

A task has its SQL in `sql.statement`, and in `custom`:

| key | meaning | default |
|---|---|---|
| `database` | a database file (a path or a `file://` URL), or `:memory:` | `:memory:` |
| `timeout` | the most seconds that it may run | what the host allows |

**Parameters.** `$name` in the statement is the task's input of that name; other inputs are not used. A `File` or a
`Dir` is bound as its path and a `DataFrame` as its URI, a `file://` URL as its path, so that
`FROM read_parquet($frame)` works.

**Several statements**, separated by `;`, run in order, and the last one's result is the result. Each commits by itself
unless the SQL says `BEGIN`, which it should in a task on a database file that may be retried.

**Result.** It is written to `<output_prefix>/<output>.parquet` (`result.parquet` if the task declares no output), where
it appears only when it is complete, and returned as a `DataFrame` for the declared output; a second output is refused.
`output_prefix` is a path or a `file://` URL of an allowed directory. A statement without a result set (`CREATE TABLE`,
`INSERT`, …) writes no file, unless an output is declared: then DuckDB's own answer, the count of changed rows, is
written.

**Confinement.** SQL reaches the files in the data directory and in the directories of `CONNECTRIO_DUCKDB_ALLOW`, no
other files, machines or extensions; `output_prefix` and `database` must be there as well. `--unsafe-sql` lifts this.

**Storage.** Each job has a JSON record and a log in a directory, so that finished jobs survive a restart. Several hosts
may share it, and each answers for all jobs. Settings are environment variables, see `DuckDBSettings`.

**How a job ends:**

| what happened | phase |
|---|---|
| the query ran | SUCCEEDED |
| bad SQL, bad data, a parameter without input, no such file, no permission, a constraint | FAILED |
| SQL that goes beyond what it may reach | FAILED |
| it ran longer than it may | FAILED |
| the process of the query died: a crash of DuckDB, memory | RETRYABLE_FAILED |
| out of memory, a conflicting transaction | RETRYABLE_FAILED: other queries may have gone by then |
| any other I/O error: a locked database file, a full disk, a network | RETRYABLE_FAILED |
| an error inside DuckDB or this connector | RETRYABLE_FAILED |
| the host was stopped, or died | RETRYABLE_FAILED |
| deleted | ABORTED |
"""

from __future__ import annotations

from importlib.util import find_spec

from connectrio.connector.registry import ConnectorRegistry
from connectrio.connectors.duckdb._connector import DuckDBConnector, DuckDBJob
from connectrio.connectors.duckdb._settings import DuckDBSettings
from connectrio.connectors.duckdb._task import QueueFullError, TaskError

__all__ = ["DuckDBConnector", "DuckDBJob", "DuckDBSettings", "QueueFullError", "TaskError"]

# not imported: DuckDB takes half a second and 20 MB, and a host may never run a query
if find_spec("duckdb") is None:
    raise ImportError('the DuckDB connector needs DuckDB: pip install "connectrio[duckdb]"', name="duckdb")

ConnectorRegistry.register(DuckDBConnector())
