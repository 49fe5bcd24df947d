"""Which database a URL names, and the URL without its password."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["check_url", "passwords_in", "shown_url"]

_FORMS = (
    "sqlite:///var/lib/connectrio/jobs.db (a file of this machine, for several processes), or"
    " postgresql://host/database (for replicas; libpq's variables, password file and service file work too)"
)
# of a user, up to the last "@", so that no part of a password that is not escaped is shown
_USER = re.compile(r"(?<=://)([^:/?@]*):(.*)(?=@)", re.DOTALL)
_PARAMETER = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)


def check_url(url: str) -> None:
    """Check that a URL names a database that can be used. No error shows the URL, which may have a password.

    :raises ValueError: it does not
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("sqlite", "postgresql", "postgres"):
        raise ValueError(f"job_store must be a URL such as {_FORMS}")
    if scheme == "sqlite" and (not rest.startswith("/") or not rest.strip("/")):
        raise ValueError(f"job_store needs the absolute path of the file behind sqlite://, as in {_FORMS}")


def shown_url(url: str) -> str:
    """Return `url` with its password replaced by `***`, for people and for logs."""
    return _PARAMETER.sub(r"\1***", _USER.sub(r"\1:***", url))


def passwords_in(url: str) -> set[str]:
    """Return the password in `url`, in each form in which an error may show it; empty if it has none."""
    match = _USER.search(url)
    # one that is not escaped ends at its first "@" for the client, which takes the rest for the host's name
    found = {match[2], *match[2].split("@")} if match else set()
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        found |= {parts.password or "", *query.get("password", ()), *query.get("sslpassword", ())}
    except ValueError:  # it is no URL, which the database's own client says
        pass
    return {form for each in found for form in (each, unquote(each)) if form}
