"""Certificates and keys: files that cannot be used, and files that are replaced while a server runs."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from anyio.streams.tls import TLSAttribute
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from connectrio.rpc import GRPCError
from connectrio.rpc._certificates import expiry as expiry_of
from connectrio.rpc.tls import ChannelTLS, ServerTLS, TLSFilesError
from rpc.kit.certificates import Certificate, Pki, issue
from rpc.kit.script import Note
from rpc.kit.serving import captured_logs
from rpc.kit.tls_serving import Served, answers, calling, eventually, serving

UNUSABLE = "the files for TLS have changed and cannot be used; the ones before still are: %(error)s"
READ_AGAIN = "the files for TLS have changed and were read again: %(files)s"

# files that cannot be used


@pytest.mark.parametrize(
    "use",
    [
        lambda pki, nowhere: ServerTLS(nowhere, pki.server.key),
        lambda pki, nowhere: ServerTLS(pki.server.cert, nowhere),
        lambda pki, nowhere: ServerTLS(pki.server.cert, pki.server.key, client_ca=nowhere),
        lambda pki, nowhere: ChannelTLS(nowhere),
        lambda pki, nowhere: ChannelTLS(pki.ca, nowhere),
        lambda pki, nowhere: ChannelTLS(pki.ca, pki.client.cert, nowhere),
    ],
)
def test_a_file_that_is_not_there_is_named(pki: Pki, use: Callable[[Pki, Path], object]):
    with pytest.raises(TLSFilesError, match=r"^cannot read .*/nowhere\.pem: No such file or directory$"):
        use(pki, pki.directory / "nowhere.pem")


def test_a_directory_is_named(pki: Pki):
    with pytest.raises(TLSFilesError, match=r"^cannot read .*: Is a directory$"):
        ServerTLS(pki.directory, pki.server.key)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff" * 100], ids=["empty", "text", "binary"])
def test_a_file_without_pem(pki: Pki, content: bytes):
    empty = pki.directory / "empty.pem"
    empty.write_bytes(content)
    cases = [
        ("certificate", "CERTIFICATE", lambda: ServerTLS(empty, pki.server.key)),
        ("private key", "PRIVATE KEY", lambda: ServerTLS(pki.server.cert, empty)),
        ("certificate of an authority", "CERTIFICATE", lambda: ChannelTLS(empty)),
        (
            "certificate of an authority",
            "CERTIFICATE",
            lambda: ServerTLS(pki.server.cert, pki.server.key, client_ca=empty),
        ),
    ]
    for meaning, label, use in cases:
        with pytest.raises(TLSFilesError) as raised:
            use()
        assert (
            str(raised.value) == f"there is no {meaning} in {empty}; expected PEM, with a line -----BEGIN {label}-----"
        )


def test_a_certificate_and_a_key_that_were_swapped(pki: Pki):
    with pytest.raises(TLSFilesError, match=r"^there is no certificate in .*server\.key; it holds: .*PRIVATE KEY$"):
        ServerTLS(pki.server.key, pki.server.cert)
    with pytest.raises(TLSFilesError, match=r"^there is no private key in .*server\.pem; it holds: CERTIFICATE"):
        ServerTLS(pki.server.cert)


def test_which_part_is_damaged(pki: Pki):
    def damaged(path: Path) -> bytes:
        lines = path.read_bytes().splitlines(keepends=True)
        return b"".join([lines[0], *lines[2:]])

    certificate, key, authority = pki.server.cert.read_bytes(), pki.server.key.read_bytes(), pki.ca.read_bytes()
    with pytest.raises(TLSFilesError, match=r"^a certificate in the bytes given as certificate is damaged"):
        ServerTLS(damaged(pki.server.cert), key)
    with pytest.raises(TLSFilesError, match=r"^the private key in the bytes given as private key is damaged"):
        ServerTLS(certificate, damaged(pki.server.key))
    with pytest.raises(TLSFilesError, match=r"^a certificate in the bytes given as certificate of an aut"):
        ChannelTLS(damaged(pki.ca))
    replace(pki.server.cert, damaged(pki.server.cert))
    with pytest.raises(TLSFilesError, match=r"^a certificate in .*server\.pem is damaged or cut short \("):
        ServerTLS(pki.server.cert, pki.server.key, client_ca=authority)


def test_a_key_of_another_certificate(pki: Pki):
    with pytest.raises(
        TLSFilesError, match=r"private key in .*client\.key is not that of the certificate in .*server\."
    ):
        ServerTLS(pki.server.cert, pki.client.key)


def test_a_key_that_is_encrypted_is_no_reason_to_ask_on_the_terminal(pki: Pki):
    key = load_pem_private_key(pki.server.key.read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    pki.server.key.write_bytes(encrypted)
    with pytest.raises(TLSFilesError, match=r"the private key in .*server\.key is encrypted: decrypt it \(openssl"):
        ServerTLS(pki.server.cert, pki.server.key)


def test_a_key_without_a_certificate(pki: Pki):
    with pytest.raises(ValueError, match="give certfile as well"):
        ChannelTLS(keyfile=pki.client.key)


async def test_certificate_and_key_may_be_in_one_file(pki: Pki):
    both = pki.directory / "both.pem"
    both.write_bytes(pki.server.key.read_bytes() + pki.server.cert.read_bytes())
    async with serving(ServerTLS(str(both))) as served:
        assert await answers(served.target, ChannelTLS(str(pki.ca)))


# files that are replaced


async def shown(served: Served, pki: Pki) -> bytes:
    """The certificate that a new connection is shown."""
    transport = await anyio.connect_tcp("127.0.0.1", served.port)
    stream = await ChannelTLS(pki.ca).secure(transport, served.target)
    certificate = stream.extra(TLSAttribute.peer_certificate_binary)
    await stream.aclose()
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


def of(certificate: Certificate) -> bytes:
    return certificate.cert.read_bytes()


def events(served: Served) -> list[str]:
    return [entry["event"] for entry in served.log if "files for TLS" in entry["event"]]


def replace(path: Path, content: bytes) -> None:
    """As certbot and similar programs do it."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


@pytest.fixture
def renewed(pki):
    return issue(pki.directory, "renewed", "localhost", "127.0.0.1")


async def test_new_connections_are_shown_the_new_certificate_and_old_ones_go_on(pki: Pki, renewed: Certificate):
    old = of(pki.server)
    async with (
        serving(ServerTLS(pki.server.cert, pki.server.key)) as served,
        calling(served.target, ChannelTLS(pki.ca)) as stub,
    ):
        assert await stub.unary(Note("before")) == Note("before")
        assert await shown(served, pki) == old
        replace(pki.server.cert, of(renewed))
        replace(pki.server.key, renewed.key.read_bytes())
        assert await shown(served, pki) == of(renewed)
        assert await stub.unary(Note("after")) == Note("after")
        await eventually(lambda: len(served.server._connections) == 1)  # the one that was there from the start
        assert events(served) == [READ_AGAIN]


async def test_a_pair_of_which_one_half_is_new_waits_for_the_other(pki: Pki, renewed: Certificate):
    old = of(pki.server)
    async with serving(ServerTLS(pki.server.cert, pki.server.key)) as served:
        replace(pki.server.cert, of(renewed))
        assert [await shown(served, pki) for _ in range(3)] == [old] * 3
        assert events(served) == [UNUSABLE]  # said once
        replace(pki.server.key, renewed.key.read_bytes())
        assert await shown(served, pki) == of(renewed)
        assert events(served) == [UNUSABLE, READ_AGAIN]
        [warning] = [entry for entry in served.log if entry["event"] == UNUSABLE]
        assert warning["log_level"] == "warning"
        assert "is not that of the certificate" in str(warning["error"])


async def test_files_that_are_half_written(pki: Pki, renewed: Certificate):
    old, new = of(pki.server), of(renewed)
    async with serving(ServerTLS(pki.server.cert, pki.server.key)) as served:
        for size in (0, 1, 100, len(new) // 2):
            pki.server.cert.write_bytes(new[:size])
            assert await shown(served, pki) == old
        pki.server.cert.write_bytes(new)
        pki.server.key.write_bytes(b"")
        assert await shown(served, pki) == old
        pki.server.key.write_bytes(renewed.key.read_bytes())
        assert await shown(served, pki) == new


async def test_files_that_are_gone_for_a_moment(pki: Pki):
    old, key = of(pki.server), pki.server.key.read_bytes()
    async with serving(ServerTLS(pki.server.cert, pki.server.key)) as served:
        pki.server.cert.unlink()
        pki.server.key.unlink()
        assert await shown(served, pki) == old
        pki.server.cert.write_bytes(old)
        pki.server.key.write_bytes(key)
        assert await shown(served, pki) == old
        assert events(served) == [UNUSABLE, READ_AGAIN]


async def test_secrets_as_kubernetes_mounts_them(pki: Pki, renewed: Certificate):
    """The files are links into a directory that is a link, which is replaced."""
    mount = pki.directory / "mount"
    for name, certificate in (("1", pki.server), ("2", renewed)):
        (mount / name).mkdir(parents=True)
        (mount / name / "tls.crt").write_bytes(of(certificate))
        (mount / name / "tls.key").write_bytes(certificate.key.read_bytes())
    (mount / "..data").symlink_to("1")
    for name in ("tls.crt", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    async with serving(ServerTLS(mount / "tls.crt", mount / "tls.key")) as served:
        assert await shown(served, pki) == of(pki.server)
        (mount / "..new").symlink_to("2")
        os.replace(mount / "..new", mount / "..data")  # noqa: PTH105 - Path.replace follows the link
        assert await shown(served, pki) == of(renewed)


async def test_the_clients_authorities_are_read_again(pki: Pki):
    known = ChannelTLS(pki.ca, pki.client.cert, pki.client.key)
    stranger = ChannelTLS(pki.ca, pki.stranger.cert, pki.stranger.key)
    async with serving(ServerTLS(pki.server.cert, pki.server.key, client_ca=pki.ca)) as served:
        assert await answers(served.target, known)
        own = pki.ca.read_bytes()
        replace(pki.ca, own + pki.strangers.read_bytes())
        assert await answers(served.target, stranger)
        assert await answers(served.target, known)


async def test_a_channels_own_certificate_is_read_again(pki: Pki):
    seen = []
    tls = ServerTLS(pki.server.cert, pki.server.key, client_ca=pki.ca)
    renewed = issue(pki.directory, "renewed", "me@example.com")
    channel_tls = ChannelTLS(pki.ca, pki.client.cert, pki.client.key)
    [listener] = tls.listen(await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def serve() -> None:
        for _ in range(2):
            stream = await listener.accept()
            await stream.handshake()
            seen.append(ssl.DER_cert_to_PEM_cert(stream.extra(TLSAttribute.peer_certificate_binary)).encode())
            await stream.aclose()

    first = of(pki.client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        for certificate in (None, renewed):
            if certificate is not None:
                replace(pki.client.cert, of(certificate))
                replace(pki.client.key, certificate.key.read_bytes())
            with captured_logs():
                stream = await channel_tls.secure(await anyio.connect_tcp("127.0.0.1", port), "localhost")
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.aclose()
    await listener.aclose()
    assert seen == [first, of(renewed)]


async def test_files_that_do_not_change_are_not_read_again(pki: Pki):
    async with serving(ServerTLS(pki.server.cert, pki.server.key)) as served:
        for _ in range(3):
            assert await answers(served.target, ChannelTLS(pki.ca))
        assert events(served) == []


# when certificates expire


def expiry(file: Path) -> float:
    """Return what another implementation reads."""
    return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()


@pytest.mark.parametrize("year", [2031, 2049, 2050, 3000])
def test_when_the_certificate_expires_is_known(pki: Pki, year: int):
    """From the year 2050 on, the time has another form."""
    end = datetime(year, 3, 4, 5, 6, 7, tzinfo=UTC)
    issued = issue(pki.directory, "ends", "localhost", not_after=end)
    tls = ServerTLS(issued.cert, issued.key)
    assert tls.expires_at == end.timestamp() == expiry(issued.cert)


def test_it_is_that_of_the_files_in_use(pki: Pki):
    issued = issue(pki.directory, "ends", "localhost", not_after=datetime(2031, 1, 1, tzinfo=UTC))
    tls = ServerTLS(issued.cert, issued.key)
    issue(pki.directory, "ends", "localhost", not_after=datetime(2032, 1, 1, tzinfo=UTC))
    assert tls.expires_at == datetime(2031, 1, 1, tzinfo=UTC).timestamp()
    tls.refresh()
    assert tls.expires_at == datetime(2032, 1, 1, tzinfo=UTC).timestamp()
    issued.key.write_text("no key")
    tls.refresh()
    assert tls.expires_at == datetime(2032, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("length", [0, 1, 20, 40])
def test_a_certificate_that_cannot_be_decoded_has_no_time(pki: Pki, length: int):
    der = ssl.PEM_cert_to_DER_cert(pki.server.cert.read_text().partition(ssl.PEM_FOOTER)[0] + ssl.PEM_FOOTER)
    assert expiry_of(ssl.DER_cert_to_PEM_cert(der[:length]).encode()) is None
    assert expiry_of(b"nothing") is None


# bytes


async def refuses(served: Served, tls: ChannelTLS) -> None:
    with pytest.raises(GRPCError, match="certificate"):
        await answers(served.target, tls)


@pytest.fixture(params=["memfd", "temporary file"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where Python's ssl reads bytes from: on Linux, and on other systems."""
    if request.param == "temporary file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("memfd_create is Linux's")
    return request.param


async def test_everything_may_be_bytes(pki: Pki, storage: str):
    tls = ServerTLS(of(pki.server), pki.server.key.read_bytes(), client_ca=pki.ca.read_bytes())
    known = ChannelTLS(pki.ca.read_bytes(), of(pki.client), pki.client.key.read_bytes())
    stranger = ChannelTLS(pki.ca.read_bytes(), of(pki.stranger), pki.stranger.key.read_bytes())
    assert tls.expires_at == expiry(pki.server.cert)
    assert tls.certfile == "the bytes given as certificate"
    async with serving(tls) as served:
        assert await answers(served.target, known)
        await refuses(served, stranger)


async def test_certificate_and_key_may_be_in_the_same_bytes(pki: Pki, storage: str):
    async with serving(ServerTLS(pki.server.key.read_bytes() + of(pki.server))) as served:
        assert await answers(served.target, ChannelTLS(pki.ca))


def test_bytes_leave_no_file_behind(pki: Pki, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not even while they are read."""
    seen = []
    load = ssl.SSLContext.load_cert_chain

    def look(context, certfile, keyfile, password) -> None:
        seen.append(list(directory.iterdir()))
        load(context, certfile, keyfile, password)

    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)
    ServerTLS(of(pki.server), pki.server.key.read_bytes())
    assert seen == [[]]
    assert list(directory.iterdir()) == []


def test_pem_as_text_is_no_path(pki: Pki):
    with pytest.raises(
        TLSFilesError, match=r"^a certificate is a path, or PEM as bytes; this one is PEM as str: \.enc"
    ):
        ServerTLS(pki.server.cert.read_text(), pki.server.key)


async def test_bytes_are_replaced(pki: Pki, renewed: Certificate, storage: str):
    tls = ServerTLS(of(pki.server), pki.server.key.read_bytes(), client_ca=pki.ca.read_bytes())
    channel_tls = ChannelTLS(pki.ca.read_bytes(), of(pki.stranger), pki.stranger.key.read_bytes())
    async with serving(tls) as served:
        channel_tls.replace(of(pki.client), pki.client.key.read_bytes())
        async with calling(served.target, channel_tls) as stub:
            assert await stub.unary(Note("before")) == Note("before")
            with pytest.raises(TLSFilesError, match="is not that of the certificate in the bytes given as cert"):
                tls.replace(of(renewed), pki.server.key.read_bytes())
            assert tls.expires_at == expiry(pki.server.cert)
            tls.replace(of(renewed), renewed.key.read_bytes())
            assert tls.expires_at == expiry(renewed.cert)
            assert await stub.unary(Note("after")) == Note("after")
        # clients are asked for certificates as before
        assert await answers(served.target, channel_tls)
        await refuses(served, ChannelTLS(pki.ca))
        tls.replace(of(renewed), renewed.key.read_bytes(), client_ca=pki.strangers.read_bytes())
        await refuses(served, channel_tls)
        with pytest.raises(ValueError, match="give certfile as well"):
            channel_tls.replace(keyfile=pki.client.key)
        channel_tls.replace(ca=pki.strangers.read_bytes())
        channel_tls.replace(pki.stranger.cert, pki.stranger.key, ca=pki.ca)
        assert await answers(served.target, channel_tls)


def test_a_file_is_replaced_by_another(pki: Pki, renewed: Certificate):
    """And is watched no more."""
    tls = ServerTLS(pki.server.cert, pki.server.key)
    tls.replace(renewed.cert, renewed.key)
    context = tls.context()
    pki.server.cert.unlink()
    assert tls.context() is context
    assert tls.certfile == renewed.cert
