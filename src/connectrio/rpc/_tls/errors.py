"""What went wrong with TLS, in words that say which side has to do something about it."""

from __future__ import annotations

import ssl

# X.509 verification codes, as OpenSSL numbers them: self-signed, or signed by nobody who is known
_UNTRUSTED = {18, 19, 20, 21}

_NO_TLS = "{peer} does not speak TLS"
_NO_COMMON_VERSION = "{peer} speaks no version of TLS that is allowed here"

_REASONS = {
    "BAD_RECORD_TYPE": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "NO_PROTOCOLS_AVAILABLE": _NO_COMMON_VERSION,
    "UNSUPPORTED_PROTOCOL": _NO_COMMON_VERSION,
    "NO_SHARED_CIPHER": "{peer} offers no cipher that is allowed here",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "{peer} showed no certificate, and one is required",
}

# RFC 8446 §6.2: what the other side may say before it gives up
_ALERTS = {
    "BAD_CERTIFICATE": "{peer} does not accept our certificate",
    "CERTIFICATE_EXPIRED": "{peer} does not accept our certificate: it has expired, or is not valid yet",
    "CERTIFICATE_REQUIRED": "{peer} requires a certificate of ours",
    "CERTIFICATE_REVOKED": "{peer} does not accept our certificate: it was revoked",
    "CERTIFICATE_UNKNOWN": "{peer} does not accept our certificate",
    "HANDSHAKE_FAILURE": "{peer} refused: there is no cipher in common, or it requires a certificate of ours",
    "NO_APPLICATION_PROTOCOL": "{peer} does not speak HTTP/2",
    "PROTOCOL_VERSION": _NO_COMMON_VERSION,
    "UNKNOWN_CA": "{peer} does not accept our certificate: it does not trust the authority that signed it",
    "UNSUPPORTED_CERTIFICATE": "{peer} does not accept our certificate: it may not be used for this",
}


class TLSHandshakeError(ConnectionError):
    """There is no TLS connection; the message says why."""


class HandshakeAbandonedError(TLSHandshakeError):
    """The peer closed the connection first, as probes do that only see whether there is anybody."""


class TLSFilesError(ValueError):
    """The files for TLS cannot be used; the message says which, why, and what to do."""


def explain(error: ssl.SSLError, peer: str) -> str:
    """What `error` means.

    :param peer: what the other side is: "the client" or "the server"
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if error.verify_code in _UNTRUSTED:
            reason = f"the authority that signed it is not trusted here ({reason})"
        return f"{peer}'s certificate is not accepted: {reason}"
    name = error.reason or ""
    text = _REASONS.get(name) or _ALERTS.get(name.partition("_ALERT_")[2])
    return f"TLS failed: {error}" if text is None else text.format(peer=peer)
