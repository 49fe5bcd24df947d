"""What the real errors of vendors' clients say, raised by real faults on loopback where that matters.

`uv run just test-clients` has them all. The test of one that is not installed is skipped; `test_transient.py` has
stand-ins.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import threading
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from connector.vendor_server import FAULTS, LASTING, SECONDS, Fault, serving, vendor
from connectrio.connector.retry_after import retry_after
from connectrio.connector.transient import failure_kind, passes

# the clients warn of their own code, and leave connections to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore")

# seconds that a client waits for an answer; all come at once
PATIENCE = 60


def use(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module} is not installed: see uv run just test-clients")


def raised(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what the tests are about
        call()
    return caught.value


def by_aiohttp(url: str) -> None:
    client = use("aiohttp")

    async def poll() -> None:
        async with client.ClientSession() as session, session.get(url) as response:
            response.raise_for_status()
            await response.read()

    asyncio.run(poll())


def by_azure(url: str) -> None:
    core, rest = use("azure.core"), use("azure.core.rest")
    with core.PipelineClient(url, policies=[]) as client:
        response = client.send_request(rest.HttpRequest("GET", url), connection_timeout=PATIENCE, read_timeout=PATIENCE)
        response.raise_for_status()
        response.read()


def by_bigquery(url: str) -> None:
    client, credentials = use("google.cloud.bigquery"), use("google.auth.credentials").AnonymousCredentials()
    options = {"api_endpoint": url}
    with contextlib.closing(client.Client("p", credentials=credentials, client_options=options)) as each:
        each.get_job("j", retry=None, timeout=PATIENCE)


def by_botocore(url: str) -> None:
    session, config = use("botocore.session").get_session(), use("botocore.config").Config
    key = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    settings = config(retries={"total_max_attempts": 1}, connect_timeout=PATIENCE, read_timeout=PATIENCE)
    client = session.create_client("s3", "us-east-1", endpoint_url=url, config=settings, **key)
    with contextlib.closing(client):
        client.get_object(Bucket="bucket", Key="key")["Body"].read()


def by_databricks(url: str) -> None:
    sdk, core, clock = use("databricks.sdk"), use("databricks.sdk.core"), use("databricks.sdk.clock")
    passed = SimpleNamespace(seconds=0.0)

    def sleep(_: Any, seconds: float) -> None:
        passed.seconds += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock.RealClock, "sleep", sleep)
        patch.setattr(clock.RealClock, "time", lambda _: passed.seconds)
        config = core.Config(host=url, token="t", retry_timeout_seconds=1, http_timeout_seconds=PATIENCE)
        sdk.WorkspaceClient(config=config).jobs.get_run(1)


def by_google_auth(url: str) -> None:
    requests, oauth = use("google.auth.transport.requests"), use("google.oauth2.credentials")
    backoff = use("google.auth._exponential_backoff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backoff, "time", SimpleNamespace(sleep=lambda seconds: None))
        credentials = oauth.Credentials(None, refresh_token="r", token_uri=url, client_id="c", client_secret="s")
        credentials.refresh(requests.Request())


def by_http_client(url: str) -> None:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(parts.netloc, timeout=PATIENCE)) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()


def by_httpx(url: str) -> None:
    use("httpx").get(url, timeout=PATIENCE).raise_for_status()


def by_httpx2(url: str) -> None:
    use("httpx2").get(url, timeout=PATIENCE).raise_for_status()


def by_kubernetes(url: str) -> None:
    client = use("kubernetes.client")
    settings = client.Configuration()
    settings.host, settings.retries = url, False
    with client.ApiClient(settings) as each:
        client.BatchV1Api(each).read_namespaced_job("j", "n", _request_timeout=PATIENCE)


def by_kubernetes_asyncio(url: str) -> None:
    client = use("kubernetes_asyncio.client")
    settings = client.Configuration()
    settings.host = url

    async def poll() -> None:
        async with client.ApiClient(settings) as each:
            await client.BatchV1Api(each).read_namespaced_job("j", "n", _request_timeout=PATIENCE)

    asyncio.run(poll())


def by_openai(url: str) -> None:
    with use("openai").OpenAI(api_key="k", base_url=url, max_retries=0, timeout=PATIENCE) as client:
        client.batches.retrieve("b")


def by_requests(url: str) -> None:
    use("requests").get(url, timeout=PATIENCE).raise_for_status()


def by_requests_with_retries(url: str) -> None:
    client = use("requests")
    retries = use("urllib3").Retry(1, status_forcelist=[429, 500, 503], respect_retry_after_header=False)
    with client.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, client.adapters.HTTPAdapter(max_retries=retries))
        session.get(url, timeout=PATIENCE).raise_for_status()


def by_urllib(url: str) -> None:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        response.read()


def by_urllib3(url: str) -> None:
    with use("urllib3").PoolManager(timeout=PATIENCE, retries=False) as pool:
        pool.request("GET", url)


CLIENTS = {name.removeprefix("by_"): function for name, function in globals().items() if name.startswith("by_")}
# these return the answer, whatever its status
WITHOUT_STATUSES = {"http_client", "urllib3"}
# these know when to come again, but their errors do not say so
SILENT = {"google_auth", "requests_with_retries"}
CASES = [
    (client, fault) for client in CLIENTS for fault in FAULTS if not (fault.isdigit() and client in WITHOUT_STATUSES)
]


@pytest.mark.parametrize(("client", "fault"), CASES)
def test_a_fault(client, fault):
    with vendor(fault) as url:
        error = raised(lambda: CLIENTS[client](url))
    assert passes(error) is (fault not in LASTING)
    if fault in ("429", "503"):
        assert retry_after(error) == (None if client in SILENT else SECONDS)
    if fault == "429" and client != "google_auth":
        assert failure_kind(error) == "throttled"


def test_an_account_without_credit():
    """OpenAI's status for it is the one for throttling."""
    body = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    with serving(Fault(status=429, body=body)) as port:
        assert not passes(raised(lambda: by_openai(f"http://127.0.0.1:{port}")))


def test_too_many_requests_to_google_that_are_forbidden():
    body = b'{"error": {"code": 403, "message": "slow", "errors": [{"reason": "%s"}]}}'
    for reason, is_transient in ((b"rateLimitExceeded", True), (b"accessDenied", False)):
        with serving(Fault(status=403, body=body % reason)) as port:
            assert passes(raised(lambda port=port: by_bigquery(f"http://127.0.0.1:{port}"))) is is_transient


@pytest.mark.parametrize(
    ("code", "status", "is_transient"),
    [
        (b"Throttling", 400, True),
        (b"SlowDown", 503, True),
        (b"RequestTimeout", 400, True),
        (b"ExpiredToken", 400, False),
        (b"AccessDenied", 403, False),
    ],
)
def test_a_code_of_aws(code, status, is_transient):
    body = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>no</Message></Error>" % code
    with serving(Fault(status=status, body=body)) as port:
        error = raised(lambda: by_botocore(f"http://127.0.0.1:{port}"))
    assert passes(error) is is_transient
    assert not is_transient or failure_kind(error) in ("throttled", "timeout")


@pytest.mark.parametrize(
    ("code", "is_transient"),
    [("UNAVAILABLE", True), ("RESOURCE_EXHAUSTED", True), ("INTERNAL", False), ("NOT_FOUND", False)],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["grpc.aio", "google-api-core"])
def test_a_status_of_grpc(code, is_transient, wrapped):
    grpc = use("grpc")

    async def abort(_, context):
        await context.abort(grpc.StatusCode[code], "no", (("grpc-retry-pushback-ms", f"{SECONDS * 1000}"),))

    async def poll() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(abort)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("vendor.Jobs", {"Get": handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                method = channel.unary_unary("/vendor.Jobs/Get")
                if wrapped:
                    method = use("google.api_core.grpc_helpers_async").wrap_errors(method)
                await method(b"")
        finally:
            await server.stop(None)

    error = raised(lambda: asyncio.run(poll()))
    # Google's clients take INTERNAL for one that passes
    assert passes(error) is (is_transient or (wrapped and code == "INTERNAL"))
    assert retry_after(error) == SECONDS


def test_grpc_without_a_server():
    grpc = use("grpc")
    with vendor("refused") as url, grpc.insecure_channel(urlsplit(url).netloc) as channel:
        assert passes(raised(lambda: channel.unary_unary("/vendor.Jobs/Get")(b"")))


@contextlib.contextmanager
def ssh_server():
    """An SSH server whose commands drop the connection; yields its port."""
    asyncssh = use("asyncssh")

    class Server(asyncssh.SSHServer):
        def connection_made(self, connection) -> None:
            self.connection = connection

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return password == "right"

    def drop(process) -> None:
        process.get_extra_info("connection").abort()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        key = asyncssh.generate_private_key("ssh-ed25519")
        return await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=drop)

    async def stop() -> None:
        server.close()
        await server.wait_closed()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield server.get_port()
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def by_asyncssh(port: int, password: str = "right") -> None:
    asyncssh = use("asyncssh")
    address = {"host": "127.0.0.1", "port": port, "known_hosts": None, "client_keys": None}

    async def poll() -> None:
        async with asyncssh.connect(**address, username="u", password=password) as connection:
            while True:  # the first one may end without a status
                await connection.run("squeue")

    asyncio.run(poll())


def by_paramiko(port: int, password: str = "right") -> None:
    paramiko = use("paramiko")
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect("127.0.0.1", port, "u", password, look_for_keys=False, allow_agent=False)
        while True:
            client.exec_command("squeue")[1].read()


SSH = {"asyncssh": by_asyncssh, "paramiko": by_paramiko}


@pytest.mark.parametrize("client", SSH)
@pytest.mark.parametrize("fault", ["refused", "dropped", "reset"])
def test_ssh_that_has_no_connection(client, fault):
    with vendor(fault) as url:
        assert passes(raised(lambda: SSH[client](urlsplit(url).port)))


@pytest.mark.parametrize("client", SSH)
def test_ssh_that_loses_its_connection(client):
    use(client)
    with ssh_server() as port:
        assert passes(raised(lambda: SSH[client](port)))


@pytest.mark.parametrize("client", SSH)
def test_ssh_with_a_wrong_password(client):
    use(client)
    with ssh_server() as port:
        assert not passes(raised(lambda: SSH[client](port, "wrong")))


@pytest.mark.parametrize("fault", ["refused", "dropped"])
def test_postgresql_that_has_no_connection(fault):
    psycopg = use("psycopg")
    with vendor(fault) as url:
        assert passes(raised(lambda: psycopg.connect(f"host=127.0.0.1 port={urlsplit(url).port} sslmode=disable")))


@pytest.mark.parametrize(
    ("state", "is_transient"),
    [("57P01", True), ("53300", True), ("40P01", True), ("28P01", False), ("42601", False), ("53100", False)],
)
def test_a_state_of_postgresql(state, is_transient):
    assert passes(use("psycopg.errors").lookup(state)("no")) is is_transient


def test_snowflake_that_cannot_be_reached():
    snowflake = use("snowflake.connector")
    with vendor("refused") as url:
        parts = urlsplit(url)
        address = {"host": parts.hostname, "port": parts.port, "protocol": "http", "login_timeout": 1}
        assert passes(raised(lambda: snowflake.connect(user="u", password="p", account="a", **address)))


def test_snowflake_with_a_wrong_password():
    snowflake = use("snowflake.connector")
    body = b'{"data": null, "code": "390100", "message": "Incorrect username or password.", "success": false}'
    with serving(Fault(status=200, body=body)) as port:
        address = {"host": "127.0.0.1", "port": port, "protocol": "http"}
        assert not passes(raised(lambda: snowflake.connect(user="u", password="p", account="a", **address)))


@pytest.mark.parametrize(
    ("module", "name", "arguments", "is_transient"),
    [
        ("snowflake.connector.errors", "OperationalError", ("x",), True),
        ("snowflake.connector.errors", "ServiceUnavailableError", (), True),
        ("snowflake.connector.errors", "TooManyRequests", (), True),
        ("snowflake.connector.errors", "ProgrammingError", ("no such table",), False),
        ("snowflake.connector.errors", "ForbiddenError", (), False),
        (
            "snowflake.connector.errors",
            "RevocationCheckError",
            (),
            False,
        ),  # its arguments differ from release to release
        ("databricks.sdk.errors", "TooManyRequests", ("x",), True),
        ("databricks.sdk.errors", "RequestLimitExceeded", ("x",), True),
        ("databricks.sdk.errors", "TemporarilyUnavailable", ("x",), True),
        ("databricks.sdk.errors", "DeadlineExceeded", ("x",), True),
        ("databricks.sdk.errors", "InternalError", ("x",), True),
        ("databricks.sdk.errors", "DataLoss", ("x",), False),
        ("databricks.sdk.errors", "InvalidParameterValue", ("x",), False),
        ("databricks.sdk.errors", "ResourceConflict", ("x",), False),
        ("google.api_core.exceptions", "ResourceExhausted", ("x",), True),
        ("google.api_core.exceptions", "InternalServerError", ("x",), True),
        ("google.api_core.exceptions", "BadGateway", ("x",), True),
        ("google.api_core.exceptions", "DeadlineExceeded", ("x",), True),
        ("google.api_core.exceptions", "RetryError", ("x", ConnectionResetError()), True),
        ("google.api_core.exceptions", "Aborted", ("x",), False),
        ("google.api_core.exceptions", "DataLoss", ("x",), False),
        ("google.auth.exceptions", "DefaultCredentialsError", ("x",), False),
        ("aiohttp", "ServerTimeoutError", (), True),
        ("aiohttp", "ServerFingerprintMismatch", (b"", b"", "h", 1), False),
        ("azure.core.exceptions", "ServiceResponseTimeoutError", ("x",), True),
        ("azure.core.exceptions", "DecodeError", ("x",), False),
        ("httpx", "PoolTimeout", ("x",), True),
        ("httpx2", "PoolTimeout", ("x",), True),
        ("httpx2", "UnsupportedProtocol", ("x",), False),
        ("asyncssh", "ConnectionLost", ("x",), True),
        ("asyncssh", "ChannelOpenError", (1, "x"), True),
        ("asyncssh", "HostKeyNotVerifiable", ("x",), False),
        ("paramiko", "ChannelException", (2, "x"), True),
        ("paramiko.ssh_exception", "BadAuthenticationType", ("x", []), False),
    ],
)
def test_an_error_that_is_hard_to_provoke(module, name, arguments, is_transient):
    errors = use(module)
    if not hasattr(errors, name):
        pytest.skip(f"this version of {module} has no {name}")
    assert passes(getattr(errors, name)(*arguments)) is is_transient
