"""What the errors of vendors' clients say, for connectors that handle them themselves.

    except Exception as error:
        if not passes(error):
            raise PermanentFailure("…") from error
        await anyio.sleep(retry_after(error) or 1)

`connectrio.connector.transient` has the rules; docs/explanation/failure-model.md has them as a table.
"""

from connectrio.connector.retry_after import retry_after
from connectrio.connector.transient import FailureKind, failure_kind, passes

__all__ = ["FailureKind", "failure_kind", "passes", "retry_after"]
