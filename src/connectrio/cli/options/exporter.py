"""Options of the commands that ask a host what it does, over HTTP at the exporter's port."""

from __future__ import annotations

import http.client
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import msgspec
from cyclopts import Parameter

from connectrio.cli.errors import CommandError, UsageError

__all__ = ["Exporter", "NotFoundError", "why_unreachable"]

_TOKEN = "CONNECTRIO_TOKEN"  # noqa: S105 - the name of a variable
# seconds to ask for what another answer, which was missing, could not tell
_BRIEFLY = 2.0
_WITH_TOKEN = f"pass a token of the host's --page-token-file with --token-file FILE or in {_TOKEN}"


class NotFoundError(CommandError):
    """The host does not know what was asked for."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Exporter:
    """Which host to ask, and how.

    :param url: of the host's metrics and status page, without a path
    :param token_file: file with a token of the host's --page-token-file in its first line; by default the token in the
        variable CONNECTRIO_TOKEN, if there is one
    :param tls_ca: PEM file with the certificate authorities to trust, for an https:// URL, instead of the system's
    :param timeout: seconds for the host to answer
    :param json: print JSON for machines
    """

    url: Annotated[str, Parameter(env_var="CONNECTRIO_URL")] = "http://127.0.0.1:9090"
    token_file: Path | None = None
    tls_ca: Path | None = None
    timeout: float = 10.0
    json: Annotated[bool, Parameter(negative=())] = False

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError(f"--timeout must be more than 0 seconds, got {self.timeout:g}")

    def get(self, *path: str, **parameters: object) -> dict[str, Any]:
        """Return a document of /api.

        :param path: its parts: "jobs" and "f7c1"
        :param parameters: of the query; those that are empty are left out
        :raises CommandError: the host does not answer, or refuses; the message says why, and the hint what to do
        :raises UsageError: an option is wrong
        """
        given = {name: str(value) for name, value in parameters.items() if value != ""}
        url = self._url()
        name = "/".join(quote(part, safe="", errors="replace") for part in path)
        target = f"{url.path.rstrip('/')}/api/{name}" + (f"?{urlencode(given, errors='replace')}" if given else "")
        connection = self._connection(url)
        try:
            connection.request("GET", target, headers={"Accept": "application/json", **self._authorization()})
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        except ssl.SSLCertVerificationError as error:
            raise CommandError(
                f"the certificate of {self.url} is not accepted: {error.verify_message}",
                hint="name the authority that signed it with --tls-ca FILE",
            ) from error
        except TimeoutError as error:
            raise CommandError(
                f"{self.url} did not answer within {self.timeout:g} s", hint="give it more time with --timeout SECONDS"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CommandError(
                f"no answer from {self.url}: {reason}",
                hint="is the host running, and is --url the address of its metrics (--prometheus-port), with https://"
                " if it has --prometheus-tls?",
            ) from error
        finally:
            connection.close()
        return self._document(status, body)

    def reasons(self) -> list[str] | None:
        """Return why the host is not ready, as /readyz tells everybody; None if nothing answers there."""
        try:
            url = self._url()
            connection = self._connection(url)
            try:
                connection.request("GET", f"{url.path.rstrip('/')}/readyz", headers={"Accept": "application/json"})
                document = msgspec.json.decode(connection.getresponse().read())
            finally:
                connection.close()
            return [str(reason) for reason in document["not_ready"]]
        except (UsageError, OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return None

    def _url(self) -> SplitResult:
        try:
            url = urlsplit(self.url)
            if url.scheme in ("http", "https") and url.hostname and url.port != 0:
                return url
        except ValueError:  # of the port
            pass
        raise UsageError(f"--url must be like http://127.0.0.1:9090, got {self.url!r}")

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        if url.scheme == "http":
            return http.client.HTTPConnection(url.hostname or "", url.port, timeout=self.timeout)
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"cannot use {self.tls_ca}: {error.strerror or error}") from error
        return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=self.timeout, context=context)

    def _authorization(self) -> dict[str, str]:
        token = os.environ.get(_TOKEN, "")
        if self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="utf-8").partition("\n")[0]
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"cannot read {self.token_file}: {getattr(error, 'strerror', error)}") from error
        token = token.strip()
        if not token.isprintable():
            raise UsageError("the token has characters that no header can have")
        return {"Authorization": f"Bearer {token}".encode().decode("latin-1")} if token else {}

    def _document(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            document = None
        if status == http.HTTPStatus.OK and isinstance(document, dict):
            return document
        if not isinstance(document, dict):
            first = body.decode("utf-8", "replace").strip().partition("\n")[0][:200]
            raise CommandError(
                f"{self.url} answered {status}: {first}" if first else f"{self.url} answered {status}",
                hint="is this the address of a host's metrics, and the host no older than this command?",
            )
        if document.get("state") == "blocked":
            raise CommandError(
                f"{document.get('method')} has blocked the host's event loop for {document.get('seconds')} s, at"
                f" {document.get('line')}",
                hint="make the method a plain `def`, or await; the host's log has the whole stack",
            )
        text = str(document.get("error", f"the host answered {status}"))
        if status == http.HTTPStatus.NOT_FOUND and "--no-page" not in text:
            raise NotFoundError(text)
        hints = {401: _WITH_TOKEN, 403: "", 404: "start the host without --no-page"}
        raise CommandError(text, hint=hints.get(status, "the host's log has the details"))


def why_unreachable(url: str, tls_ca: Path | None) -> str:
    """Return what /readyz says of a host whose gRPC port does not answer; "" if nothing answers there either."""
    reasons = Exporter(url=url, tls_ca=tls_ca, timeout=_BRIEFLY).reasons()
    if reasons is None:
        return ""
    if reasons:
        return f"{url}/readyz answers, not ready: {'; '.join(reasons)}"
    return f"{url}/readyz answers that its host is ready; is --target the address of the same host?"
