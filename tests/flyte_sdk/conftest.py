"""flyte-sdk, imported."""

import warnings

with warnings.catch_warnings():
    # pydantic's, of flyte-sdk's own classes; it is not ours to mend, and an error here for as long as warnings are
    warnings.simplefilter("ignore", DeprecationWarning)
    import flyte.io  # noqa: F401 - for tests, which find it imported
