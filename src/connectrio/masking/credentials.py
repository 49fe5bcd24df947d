"""Mask credentials in texts that the host did not write, such as the errors of libraries.

What a request's secrets are is known, and they are masked by value elsewhere. Here two things are known: the variables
of the environment whose names look like secrets, and how credentials usually look: a password in a URL, `password=…`,
`token: …`, `Authorization: …`, the tokens of well-known services. In doubt too much is masked.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from connectrio.diagnostics import format_error, text_of, type_name

__all__ = ["describe_error", "format_traceback", "mask_credentials"]

MASK = "***"

# characters; the time is linear in it
_LONGEST = 64 * 1024

# variables of the environment that hold secrets; not PWD, the working directory
_SECRET_VARIABLE = re.compile(
    r"PASSW(?:OR)?D|PASSPHRASE|PASS(?:_|$)|_PWD|SECRET|TOKEN|CREDENTIAL|DSN|KEY(?![A-Z])", re.IGNORECASE
)
# characters; a shorter value may be an ordinary word
_SHORTEST_VALUE = 8


def _pattern(name: str, value: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    """Return a pattern that masks `value` behind `name`. Limits on repetitions keep the time linear."""
    return re.compile(f"(?P<name>{name})(?P<value>{value})", flags | re.DOTALL)


# a quoted value ends at the same quote or at the end of the text
_QUOTED = r""""(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?"""
_SECRETS = r"passw(?:or)?d|passphrase|pwd|token|credential|(?:api|access|private|account|shared|auth|master)[-_ ]?key"
_NAME = rf"(?:{_SECRETS}|pass(?![\w-])|secret|cookie|signature|[?&]sig)[\w-]{{0,24}}"
# what follows an option in a sentence about it
_PROSE = r"(?:an?|and|are|cannot|for|has|is|must|needs?|not|of|or|requires?|the|to|was|with)\s"
_PATTERNS = [
    # errors of pydantic show any field's value two lines below its name
    _pattern(r"\binput_value=", r".{0,200}?(?=, input_type=|\Z)"),
    _pattern("-----BEGIN [A-Z ]{0,24}PRIVATE KEY-----", r"(?:[\w+/=\s\\:,]|-(?!-))*"),
    # hooks.slack.com, and the tokens of OpenAI, Stripe, GitHub, GitLab, Slack, AWS, Google, Hugging Face, Databricks
    _pattern(r"hooks\.slack\.com/services/", r"\S+"),
    _pattern(
        r"(?<![\w-])",
        r"[srp]k[-_](?=[A-Za-z_-]*[0-9])[\w-]{12,}|gh[oprsu]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
        r"|xox[a-z]-[\w-]{8,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|hf_\w{20,}|dapi[0-9a-f]{32}"
        r"|eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?",
        0,
    ),
    _pattern(r"authorization['\"]?\s{0,3}[:=]\s{0,3}", rf"{_QUOTED}|[^\r\n'\"]+"),
    # shorter words are part of a sentence: "the bearer token has expired". base64 has digits, or capitals inside
    _pattern(r"\bbearer\s{1,3}", r"[\w.~+/=-]{8,}"),
    _pattern(r"\b[Bb]asic\s{1,3}", r"(?=[A-Za-z+/]*(?:[0-9=]|[a-z][A-Z]))[\w+/=-]{8,}", 0),
    # a value that is not quoted ends at a space; in a list that is separated by ";", it may hold some
    _pattern(
        rf"{_NAME}['\"]?\s{{0,3}}[:=]\s{{0,3}}",
        rf"{_QUOTED}|\{{[^}}\r\n]{{0,200}}\}}|(?:[^\s;=]+\x20){{1,8}}[^\s;=]*(?=;)|\S+",
    ),
    _pattern(rf"(?:{_SECRETS})s?\s{{1,3}}", r"['\"][^\r\n'\"]{4,}['\"]?"),
    # --password hunter2, also in a list of arguments
    _pattern(
        rf"(?<![\w-])--?[\w-]{{0,24}}?(?:{_NAME})['\"]?,?\s{{1,3}}(?!{_PROSE})", rf"(?:{_QUOTED}|[^\s'\"-][^\s'\"]*)"
    ),
    # a password with spaces in a URL; not the port of one
    _pattern("://", r"[^\s:/@'\"]{0,64}:(?!\d{1,5}\b)[^\r\n'\"@]{0,64}(?=@)"),
    # user:password@host and user/password@host; neither digests nor versions
    _pattern(
        r"(?<![^\s'\"=(\[{<,;])",
        r"[\w.$#%+-]{1,64}(?::(?!//)[^\s'\"]{1,128}|/[^\s'\"/@:]{1,128})"
        r"(?=@(?!sha\d|v?\d+(?:\.\d+){0,2}(?![\w.:/])))",
    ),
]
# a URL ends before a space; a password may hold an "@" and a "/", so all is masked up to the last "@"
_WORD = re.compile(r"\S+")


def mask_credentials(text: str) -> str:
    """Return `text` with what looks like a credential replaced by `***`, cut after 64 Ki characters.

    Masked are the user and the password of URLs (`scheme://user:password@host`) and of other addresses
    (`user:password@host`, `user/password@host`), the values of names such as password, token, secret and api_key
    (`name=value`, `name: value`, `--name value`, quoted or not), `Authorization` headers, bearer and basic credentials,
    private keys, the tokens of well-known services, and the values that pydantic shows in its errors. The value of a
    variable of the environment whose name looks like a secret is replaced by `${NAME}`.
    """
    text = _mask_variables(text)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… [cut: {len(text)} characters in all]"
    for pattern in _PATTERNS:
        text = pattern.sub(_mask_value, text)
    return _WORD.sub(_mask_user, text)


def _mask_variables(text: str) -> str:
    """Return `text` without the values of secrets in the environment, also escaped as in a URL or in a `repr`."""
    forms = {
        form: name
        for name, value in os.environ.items()
        if len(value.strip()) >= _SHORTEST_VALUE and _SECRET_VARIABLE.search(name)
        for form in (value.strip(), quote(value.strip(), ""), repr(value.strip())[1:-1])
    }
    for form in sorted(forms, key=len, reverse=True):  # one may hold another
        text = text.replace(form, f"${{{forms[form]}}}")
    return text


def _mask_value(found: re.Match[str]) -> str:
    quote = found["value"][0] if found["value"][:1] in ("'", '"') else ""
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
