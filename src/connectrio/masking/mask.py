"""Replaces the values of secrets in texts: statuses, states of jobs, log lines, what a command prints.

1. A text is cut first. Then all places are found, then all are replaced: what stands in place of a secret is never
   searched. So the work grows with the text and with the secrets, not with what they have to do with each other.
2. A secret is found as it is without white space around it, and as base64, also behind a user's name. Of a secret with
   several lines, each line of eight characters or more is found by itself.
3. All of that is also found where it is escaped: for URLs (%20), JSON, Python and C (backslashes), HTML and XML
   (&amp;). Escapes are read, not guessed, so it does not matter which characters were escaped, and two layers may lie
   on each other.
4. Values of less than four characters are ordinary words: replacing them would garble texts and protect nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Iterator, Mapping

from connectrio.diagnostics import LONGEST_TEXT
from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse, GetTaskMetricsResponse, Resource
from connectrio.idl.google.protobuf import ListValue, Struct, Value
from connectrio.masking.escapes import readings

__all__ = ["SHORTEST_SECRET", "SecretMask"]

SHORTEST_SECRET = 4
"""Characters of the shortest value that is replaced."""

# characters
_SHORTEST_LINE = 8
_LONGEST_NAME = 64

# beyond these, texts are withheld: a request must not decide how long the host searches. The characters are those of
# all secrets together; a private key with its chain of certificates has about 150 forms
_MOST_CHARACTERS = 64 * 1024
_MOST_FORMS = 300
_MOST_PLACES = 500
_WITHHELD = "[text withheld: too many secrets, or escapes, to find all secrets in it]"

# characters on the far side of a cut that are searched too: a secret may lie across it
_MARGIN = 32 * 1024

# begin and end of a secret in a text → its name
Places = dict[tuple[int, int], str]

# what separates the lines of a secret; the last two as in a JSON document that holds a key
_LINE_END = re.compile(r"[\r\n]+|(?:\\[rn])+")


class SecretMask:
    """Finds the secrets of one request.

    Nothing is computed before the first text comes.

    :param secrets: name → value
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._forms: dict[bytes, str] | None = None
        self._is_too_much = False
        self._shown: dict[str, str] = {}

    def text(self, text: str, longest: int = LONGEST_TEXT) -> str:
        """Return `text` with "[secret NAME]" for each secret.

        :param longest: characters; a longer text loses its middle
        """
        if len(text) <= longest:
            data = _encoded(text)
            places = self._places(data)
            return text if places == {} else self._replaced(data, places, 0, len(data))
        half = longest // 2
        left_out = len(text) - 2 * half
        # what is searched: all, or the two parts that stay and what is next to them
        middle = text[half:-half]
        if left_out > 2 * _MARGIN:
            middle = f"{middle[:_MARGIN]}\n\n{middle[-_MARGIN:]}"
        head, tail = _encoded(text[:half]), _encoded(text[-half:])
        data = head + _encoded(middle) + tail
        places = self._places(data)
        begin = self._replaced(data, places, 0, len(head))
        return _joined(begin, left_out, self._replaced(data, places, len(data) - len(tail), len(data)))

    @property
    def size(self) -> int:
        """How many characters the secrets have."""
        return sum(map(len, self._secrets.values()))

    def found_in(self, data: bytes) -> list[str] | None:
        """Return "[secret NAME]" for each secret that is in `data`; None if there are too many, or escapes, to tell."""
        places = self._places(data)
        return None if places is None else sorted(set(map(self._mark, places.values())))

    def resource(self, resource: Resource) -> None:
        """Replace the secrets in the texts about a job. Its outputs are left as they are: they are the task's data."""
        resource.message = self.text(resource.message)
        resource.log_links = [
            dataclasses.replace(link, name=self.text(link.name), uri=self.text(link.uri)) for link in resource.log_links
        ]
        if resource.custom_info is not None:
            resource.custom_info = self.struct(resource.custom_info)

    def log_lines(self, response: GetTaskLogsResponse) -> GetTaskLogsResponse:
        """Return a response without secrets in its log lines."""
        body = response.body
        if body is None:
            return response
        lines = [dataclasses.replace(line, message=self.text(line.message)) for line in body.lines]
        results = [self.text(result) for result in body.results]
        return dataclasses.replace(response, body=dataclasses.replace(body, lines=lines, results=results))

    def metrics(self, response: GetTaskMetricsResponse) -> GetTaskMetricsResponse:
        """Return a response without secrets in its metrics."""
        results = [
            dataclasses.replace(
                result,
                metric=self.text(result.metric),
                data=None if result.data is None else self.struct(result.data),
            )
            for result in response.results
        ]
        return dataclasses.replace(response, results=results)

    def struct(self, struct: Struct) -> Struct:
        """Return a copy without secrets, neither in its texts nor in its keys."""
        return Struct(fields={self.text(key): self._value(value) for key, value in struct.fields.items()})

    def _value(self, value: Value) -> Value:
        if value.string_value:
            return Value(string_value=self.text(value.string_value))
        if value.struct_value is not None:
            return Value(struct_value=self.struct(value.struct_value))
        if value.list_value is not None:
            return Value(list_value=ListValue(values=[self._value(item) for item in value.list_value.values]))
        return value

    def _replaced(self, data: bytes, places: Places | None, begin: int, end: int) -> str:
        """Return `data` from `begin` to `end` with its secrets replaced, those across the two ends too."""
        if places is None:
            return _WITHHELD
        pieces: list[bytes] = []
        at, covered = begin, 0
        for (first, last), name in sorted(places.items(), key=lambda place: (place[0][0], -place[0][1])):
            if last <= at:
                continue
            if first >= end:
                break
            if first >= covered:  # else it overlaps the one before, and is hidden together with it
                pieces += [data[at : max(first, at)], self._mark(name).encode()]
            at = covered = last
        pieces.append(data[at:end])
        return b"".join(pieces).decode("utf-8", "replace")

    def _places(self, data: bytes) -> Places | None:
        """Return begin and end of each secret in `data`, and its name; None if there are too many."""
        forms = self._all_forms()
        if forms is None:
            return None
        places: Places = {}
        for reading in readings(data) if forms else ():
            if reading is None:
                return None
            for form, name in forms.items():
                at = reading.data.find(form)
                while at >= 0:
                    places.setdefault(reading.origin(at, at + len(form)), name)
                    if len(places) > _MOST_PLACES:
                        return None
                    at = reading.data.find(form, at + len(form))
        return places

    def _all_forms(self) -> dict[bytes, str] | None:
        """Return what to search for, and the name of the secret that it is; None if it is too much."""
        if self._forms is None and not self._is_too_much:
            self._forms = self._make_forms()
            self._is_too_much = self._forms is None
        return self._forms

    def _make_forms(self) -> dict[bytes, str] | None:
        if self.size > _MOST_CHARACTERS:
            return None
        found: dict[bytes, str] = {}
        for name, value in self._secrets.items():
            for form in _forms_of(value):
                found.setdefault(form, name)
                if len(found) > _MOST_FORMS:
                    return None
        return found

    def _mark(self, name: str) -> str:
        """Return what stands in place of a secret. Its name comes with the request, and may hold a secret itself."""
        mark = self._shown.get(name)
        if mark is None:
            is_harmless = len(name) <= _LONGEST_NAME and self._places(_encoded(name)) == {}
            mark = self._shown[name] = f"[secret {name}]" if is_harmless else "[secret]"
        return mark


def _joined(begin: str, left_out: int, end: str) -> str:
    return f"{begin} [… {left_out} characters …] {end}"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _forms_of(value: str) -> Iterator[bytes]:
    """Yield the bytes by which a secret is found in a text whose escapes are read."""
    whole = value.strip()
    if len(whole) < SHORTEST_SECRET:
        return
    lines = map(str.strip, _LINE_END.split(whole))
    for part in [whole, *(line for line in lines if len(line) >= _SHORTEST_LINE)]:
        yield _encoded(part)
        if " " in part:
            yield _encoded(part.replace(" ", "+"))  # in the query of a URL
        if not part.isascii():
            yield _encoded(_encoded(part).decode("latin-1"))  # as by a client that takes UTF-8 for Latin-1
    data = _encoded(whole)
    for offset in range(3):
        # bytes before the secret shift it, and share the first and the last character with it
        text = base64.b64encode(bytes(offset) + data)
        text = text[-(-8 * offset // 6) : 8 * (offset + len(data)) // 6]
        yield text
        yield text.translate(_URL_SAFE)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
