"""The situations that are tried: each is a row of the table in docs/how-to/upgrade.md."""

from __future__ import annotations

from dataclasses import dataclass, replace

# seconds that a host may take after `drain_delay` and `grace`: for lifespans to close, and for its last connections
CLOSING = 13.0


@dataclass(frozen=True)
class Row:
    """What is done to the pods, and with which settings. Times are in seconds.

    :ivar title: what happens, for people
    :ivar behind: the way to the pods, of `WAYS`
    :ivar client: "go", "grpcio" or "channel"
    :ivar does: a method of `Deployment`
    :ivar replacements: pods that are replaced
    :ivar late: after how long clients learn of a change, from and to
    :ivar grace_period: until a pod that was told to end is killed; by default as long as it may need
    :ivar pre_stop: between the order to end and SIGTERM
    :ivar min_ready: for which a new pod must be ready before an old one goes
    :ivar start_delay: until a new pod's host starts: scheduling, an image that is pulled
    :ivar pause: between scaling in and out
    :ivar around: for which clients call before the first pod is replaced, and after the last has ended
    :ivar slow: how long the calls of one task in ten take
    :ivar on_node: pods that a node drain evicts together
    :ivar sidecar: when the proxy beside a host ends, after the order to end; "last" is after the host
    :ivar loses: whether calls are lost
    :ivar remedy: the row that shows what helps
    """

    title: str
    behind: str = "service"
    client: str = "go"
    does: str = "rollout"
    replacements: int = 6
    replicas: int = 3
    processes: int = 1
    drain_delay: float = 6.0
    grace: float = 25.0
    grace_period: float = 0.0
    late: tuple[float, float] = (1.0, 4.0)
    pre_stop: float = 0.0
    min_ready: float = 0.0
    start_delay: float = 0.0
    pause: float = 4.0
    around: float = 3.0
    slow: float = 0.5
    on_node: int = 2
    sidecar: float | str | None = None
    loses: bool = False
    remedy: str = ""

    def __post_init__(self) -> None:
        if not self.grace_period:
            needed = self.pre_stop + self.drain_delay + self.grace + CLOSING
            object.__setattr__(self, "grace_period", needed)

    def but(self, title: str, **changes: object) -> Row:
        """Return this row with other settings; the grace period follows unless it is among them."""
        return replace(self, **{"title": title, "grace_period": 0.0, "loses": False, "remedy": "", **changes})


_SERVICE = Row("a rollout, by a Service's address")
_HEADLESS = Row("a rollout, by a headless Service", behind="names")

ROWS: dict[str, Row] = {
    "service": _SERVICE,
    "nginx": _SERVICE.but("a rollout behind nginx", behind="nginx"),
    "envoy": _SERVICE.but("a rollout behind Envoy", behind="envoy"),
    "no-delay": _SERVICE.but("the same without drain_delay", drain_delay=0.0, loses=True, remedy="service"),
    "no-delay-nginx": _SERVICE.but("behind nginx without drain_delay", behind="nginx", drain_delay=0.0),
    "no-delay-envoy": _SERVICE.but("behind Envoy without drain_delay", behind="envoy", drain_delay=0.0),
    "very-late": _SERVICE.but(
        "endpoints removed 8 to 10 s late", late=(8.0, 10.0), loses=True, remedy="very-late-longer"
    ),
    "very-late-longer": _SERVICE.but("the same, drain_delay above that", late=(8.0, 10.0), drain_delay=12.0),
    "headless": _HEADLESS.but("a rollout, by a headless Service", loses=True, remedy="headless-longer"),
    "headless-longer": _HEADLESS.but("the same, drain_delay above 30 s", drain_delay=35.0, replacements=12),
    "headless-min-ready": _HEADLESS.but("the same, minReadySeconds", min_ready=15.0),
    "headless-channel": _HEADLESS.but("with our own channel", client="channel", drain_delay=35.0, replacements=12),
    "pre-stop": _SERVICE.but("a preStop sleep in place of drain_delay", pre_stop=6.0, drain_delay=0.0),
    "pre-stop-short": _SERVICE.but(
        "a preStop sleep that the grace period does not count",
        pre_stop=6.0, drain_delay=0.0, slow=3.0, grace_period=6.5, loses=True, remedy="pre-stop",
    ),
    "killed": _SERVICE.but(
        "a KILL before the drain ends", slow=3.0, grace_period=6.5, loses=True, remedy="killed-later"
    ),
    "killed-later": _SERVICE.but("the same, with a long grace period", slow=3.0),
    "long-calls": _SERVICE.but(
        "calls of 5 s, longer than grace", slow=5.0, grace=2.0, loses=True, remedy="long-calls-grace"
    ),
    "long-calls-grace": _SERVICE.but("the same, grace above that", slow=5.0),
    "sidecar-first": _SERVICE.but(
        "a sidecar that ends before the host", sidecar=2.0, loses=True, remedy="sidecar-last"
    ),
    "sidecar-longer": _SERVICE.but("a sidecar that drains for longer", sidecar=15.0),
    "sidecar-last": _SERVICE.but("a native sidecar, which ends last", sidecar="last"),
    "scale-in": _SERVICE.but("an HPA scales in by two pods, and out", does="scale_in", replicas=4),
    "node-drain": _SERVICE.but("a node with two of three pods is drained", does="drain_node"),
    "node-drain-all": _SERVICE.but(
        "a node with all pods is drained; new ones take 10 s",
        does="drain_node", on_node=3, start_delay=10.0, loses=True, remedy="node-drain-budget",
    ),
    "node-drain-budget": _SERVICE.but(
        "the same with a PodDisruptionBudget", does="drain_node_by_budget", start_delay=10.0, replacements=3
    ),
    "one-replica": _SERVICE.but("one replica, maxSurge 1", replicas=1),
    "recreate": _SERVICE.but(
        "one replica that ends before its successor starts",
        replicas=1, does="recreate", replacements=3, loses=True, remedy="one-replica",
    ),
}  # fmt: skip

# what each way and client must hold, with one process and with two
ROLLOUTS: dict[str, Row] = {
    f"{name}-{processes}": replace(row, replacements=20, processes=processes)
    for processes in (1, 2)
    for name, row in {
        "nginx": ROWS["nginx"],
        "envoy": ROWS["envoy"],
        "go": ROWS["headless-longer"],
        "channel": ROWS["headless-channel"],
    }.items()
}
