"""The rules for connectors, and the report on one connector."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["RULES", "Finding", "Report"]

RULES = {
    "names": "give the class a `name` and a docstring of its own",
    "lifespan": "let the lifespan open and close without an error",
    "create": "make `create` start a job for a valid task, or raise PermanentFailure with a text for the user",
    "concurrency": "let calls that come at once not meet in the same state: a session that is opened twice, a counter",
    "idempotence": "return the same meta for the same `current_call().key`, or do not say create_is_idempotent",
    "metadata": "let `encode` write JSON from which `decode` makes an equal object",
    "poll": "make `get` report a phase for every job that `create` has made, in every state of the job",
    "end": "map the other system's states so that every job reaches a final phase and stays there",
    "garbage": "make `decode` raise for bytes that `encode` has not made",
    "delete": "make `delete` return without an error for a job that has ended or was deleted before",
    "get-after-delete": "make `get` report a deleted job, for example as ABORTED: the executor may poll once more",
    "logs": "make `get_logs` answer for every job, or do not override it",
    "metrics": "make `get_metrics` answer for every job, or do not override it",
    "late-logs": "begin a page where its token says, each time; an empty token says that no line will come any more",
    "get-many": "return an item for each job in the order of the metas: what `get` would report, or None",
    "retry-after": "raise the error `from` the vendor's, or TransientError(retry_after=…): the host reads it there",
    "secrets": "keep secrets out of the resource meta, the state and the logs: Flyte stores and shows them",
    "cancellation": "let cancellation through: clean up in `finally`, and catch Exception rather than BaseException",
    "blocking": "await something that does not block, use anyio.to_thread.run_sync, or make the method a plain `def`",
}
"""Rule name → what the author has to do to keep it."""


@dataclass(frozen=True)
class Finding:
    """A broken rule.

    :ivar rule: the rule's name
    :ivar where: the method that breaks it, such as "Reports.delete"
    :ivar what: what happened
    """

    rule: str
    where: str
    what: str

    @property
    def advice(self) -> str:
        """What the author has to do."""
        return RULES[self.rule]


@dataclass
class Report:
    """The result of checking one connector.

    :ivar kept: the rules that were tried and kept
    :ivar untried: rule → why it could not be tried
    """

    connector: str
    findings: list[Finding] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    untried: dict[str, str] = field(default_factory=dict)

    def found(self, rule: str, where: str, what: str) -> None:
        """Add a finding, unless it is there already."""
        finding = Finding(rule, where, what)
        if finding not in self.findings:
            self.findings.append(finding)

    def skip(self, reason: str) -> None:
        """Record that the rules which need a job could not be tried."""
        for rule in RULES.keys() - {"names", "lifespan", "retry-after"} - {finding.rule for finding in self.findings}:
            self.untried[rule] = reason

    def finish(self) -> None:
        """Fill in the rules that were kept."""
        broken = {finding.rule for finding in self.findings}
        self.kept = [rule for rule in RULES if rule not in broken and rule not in self.untried]
