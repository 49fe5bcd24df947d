"""Rules, and what was found to be against them."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["RULES", "Finding", "Report"]

RULES = {
    "names": "say what it is: `name` and a docstring of the class's own",
    "lifespan": "let the lifespan open and close without an error",
    "create": "make `create` start a job for a valid task, or raise PermanentFailure with a text for the user",
    "metadata": "let the resource meta be JSON that `decode` makes an equal object of",
    "poll": "make `get` answer for every job that `create` has made, with a phase, in whatever state the job is",
    "end": "map the other system's states so that every job comes to a final phase, and stays there",
    "garbage": "make `decode` raise for bytes that `encode` did not make",
    "delete": "make `delete` return without an error for a job that has ended, or is deleted already",
    "get-after-delete": "make `get` report a deleted job, as ABORTED say: the executor may poll once more",
    "logs": "make `get_logs` answer for every job, or do not override it",
    "metrics": "make `get_metrics` answer for every job, or do not override it",
    "secrets": "keep secrets out of the resource meta, the state and the logs: Flyte stores and shows them",
    "cancellation": "let cancellation through: clean up in `finally`, and catch Exception rather than BaseException",
    "blocking": "await something that does not block, use anyio.to_thread.run_sync, or make the method a plain `def`",
}
"""Rule name → what to do to keep to it."""


@dataclass(frozen=True)
class Finding:
    """Something that is against a rule.

    :ivar rule: its name
    :ivar where: the method, "Reports.delete"
    :ivar what: what has happened
    """

    rule: str
    where: str
    what: str

    @property
    def advice(self) -> str:
        """What to do."""
        return RULES[self.rule]


@dataclass
class Report:
    """What came out of checking one connector.

    :ivar kept: the rules that were tried, and kept to
    :ivar untried: rule → why it could not be tried
    """

    connector: str
    findings: list[Finding] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    untried: dict[str, str] = field(default_factory=dict)

    def found(self, rule: str, where: str, what: str) -> None:
        """Add a finding, once."""
        finding = Finding(rule, where, what)
        if finding not in self.findings:
            self.findings.append(finding)

    def skip(self, reason: str) -> None:
        """The rules that need a job could not be tried."""
        for rule in RULES.keys() - {"names", "lifespan"} - {finding.rule for finding in self.findings}:
            self.untried[rule] = reason

    def finish(self) -> None:
        """Sort the rules into those kept and those against which something was found."""
        broken = {finding.rule for finding in self.findings}
        self.kept = [rule for rule in RULES if rule not in broken and rule not in self.untried]
