"""Mask credentials in texts that the host did not write, such as the errors of libraries.

What a request's secrets are is known, and they are masked by value elsewhere. Here nothing is known but how credentials
usually look: a password in a URL, `password=…`, `token: …`, `Authorization: …`. In doubt too much is masked.
"""

from __future__ import annotations

import re

from connectrio.diagnostics import format_error, text_of, type_name

__all__ = ["describe_error", "format_traceback", "mask_credentials"]

MASK = "***"

# characters; the time is linear in it
_LONGEST = 64 * 1024
# a URL ends before a space; a password may hold an "@" and a "/", so all is masked up to the last "@"
_WORD = re.compile(r"\S+")
# a quoted value ends at the same quote or at the end of the text, any other at a space. The limits keep the time linear
_NAMED = re.compile(
    r"""(?P<name>(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|cookie|signature|[?&]sig|
            (?:api|access|private)[-_]?key)
            [\w-]{0,24}['"]?\s{0,3}[:=]\s{0,3})
        (?P<value>"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|\S+)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_AUTHORIZATION = re.compile(
    r"""(?P<name>authorization['"]?\s{0,3}[:=]\s{0,3})
        (?P<value>"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\r\n'"]+)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# shorter words are part of a sentence: "the bearer token has expired"
_BEARER = re.compile(r"(?P<name>\bbearer\s{1,3})(?P<value>[\w.~+/=-]{8,})", re.IGNORECASE)


def mask_credentials(text: str) -> str:
    """Return `text` with what looks like a credential replaced by `***`, cut after 64 Ki characters.

    Masked are the user and the password of URLs (`scheme://user:password@host`), the values of names such as password,
    token, secret and api_key (`name=value`, `name: value`, quoted or not), `Authorization` headers and bearer tokens.
    """
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… [cut: {len(text)} characters in all]"
    for pattern in (_AUTHORIZATION, _BEARER, _NAMED):
        text = pattern.sub(_mask_value, text)
    return _WORD.sub(_mask_user, text)


def _mask_value(found: re.Match[str]) -> str:
    quote = found["value"][0] if found["value"][0] in "'\"" else ""
    return f"{found['name']}{quote}{MASK}{quote}"


def _mask_user(word: re.Match[str]) -> str:
    before, separator, rest = word[0].partition("://")
    if not separator or "@" not in rest:
        return word[0]
    return f"{before}{separator}{MASK}@{rest.rpartition('@')[2]}"


def describe_error(error: BaseException) -> str:
    """Return the class and the text of `error`, masked."""
    name, text = type_name(error), text_of(error)
    return f"{name}: {mask_credentials(text)}" if text else name


def format_traceback(error: BaseException) -> str:
    """Return the traceback of `error`, masked, for the log."""
    return mask_credentials(format_error(error))
