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
    :ivar pause: between scaling in and out, and after a pod that was recreated
    :ivar around: for which clients call before the first pod is replaced, and after the last has ended
    :ivar slow: how long the calls of one task in ten take
    :ivar on_node: pods that a node drain evicts together
    :ivar sidecar: when the proxy beside a host ends, after the order to end; "last" is after the host
    :ivar loses: whether calls are lost
    :ivar remedy: the row that shows what helps
    :ivar asks: what it asks of the settings, for people
    """

    title: str
    behind: str = "service"
    client: str = "go"
    does: str = "rollout"
    replacements: int = 4
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
    asks: str = ""

    def __post_init__(self) -> None:
        if not self.grace_period:
            needed = self.pre_stop + self.drain_delay + self.grace + CLOSING
            object.__setattr__(self, "grace_period", needed)

    def but(self, title: str, **changes: object) -> Row:
        """Return this row with other settings; the grace period follows unless it is among them."""
        return replace(
            self, **{"title": title, "grace_period": 0.0, "loses": False, "remedy": "", "asks": "", **changes}
        )


_SERVICE = Row("a rollout, clients by the Service's address")
_HEADLESS = Row("a rollout, clients by a headless Service, which they resolve again every 30 s at most", behind="names")

ROWS: dict[str, Row] = {
    "service": _SERVICE.but(_SERVICE.title, asks="`drain_delay` longer than endpoints take to change"),
    "nginx": _SERVICE.but("the same behind nginx", behind="nginx", asks="[proxies.md](proxies.md)"),
    "envoy": _SERVICE.but("the same behind Envoy", behind="envoy", asks="[proxies.md](proxies.md)"),
    "no-delay": _SERVICE.but(
        "the Service's address, no `drain_delay`",
        drain_delay=0.0, loses=True, remedy="service", asks="new connections still go to the host that has gone",
    ),
    "no-delay-nginx": _SERVICE.but(
        "nginx, no `drain_delay`", behind="nginx", drain_delay=0.0, asks="nothing: nginx tries the next host"
    ),
    "no-delay-envoy": _SERVICE.but(
        "Envoy, no `drain_delay`",
        behind="envoy", drain_delay=0.0, asks="nothing: Envoy tries the next host, if `max_retries` allows it",
    ),
    "very-late": _SERVICE.but(
        "endpoints change 8 to 10 s late",
        late=(8.0, 10.0), loses=True, remedy="very-late-longer", asks="a longer `drain_delay`",
    ),
    "very-late-longer": _SERVICE.but("the same", late=(8.0, 10.0), drain_delay=12.0),
    "headless": _HEADLESS.but(
        _HEADLESS.title,
        loses=True, remedy="headless-longer",
        asks="else all addresses that the client knows are gone before it asks",
    ),
    "headless-longer": _HEADLESS.but(
        "the same", drain_delay=35.0, replacements=12, asks="`drain_delay` above 30 s, and a grace period to match"
    ),
    "headless-min-ready": _HEADLESS.but(
        "the same", min_ready=15.0, asks="or `minReadySeconds`; it helps in rollouts only, not when pods are evicted"
    ),
    "headless-channel": _HEADLESS.but(
        "the same with `connectrio.rpc.Channel`, round robin", client="channel", drain_delay=35.0, replacements=12
    ),
    "pre-stop": _SERVICE.but(
        "a `preStop` sleep in place of `drain_delay`",
        pre_stop=6.0, drain_delay=0.0, asks="one of the two. Both add up, and the grace period counts both",
    ),
    "pre-stop-short": _SERVICE.but(
        "the same, calls of 3 s, a grace period for the sleep alone",
        pre_stop=6.0, drain_delay=0.0, slow=3.0, grace_period=6.5, loses=True, remedy="pre-stop",
        asks="a grace period of preStop + `drain_delay` + `grace` + 13",
    ),
    "killed": _SERVICE.but(
        "calls of 3 s, and a KILL before the drain ends",
        slow=3.0, grace_period=6.5, loses=True, remedy="killed-later",
        asks="a grace period of `drain_delay` + `grace` + 13",
    ),
    "killed-later": _SERVICE.but("the same, killed later", slow=3.0),
    "long-calls": _SERVICE.but(
        "calls of 5 s, which `grace` does not allow",
        slow=5.0, grace=2.0, loses=True, remedy="long-calls-grace", asks="`grace` above the longest call",
    ),
    "long-calls-grace": _SERVICE.but("the same, allowed", slow=5.0),
    "sidecar-first": _SERVICE.but(
        "a service mesh whose sidecar ends 2 s after SIGTERM",
        sidecar=2.0, loses=True, remedy="sidecar-last", asks="the sidecar must end last, or drain for longer",
    ),
    "sidecar-longer": _SERVICE.but(
        "the same, 15 s after it", sidecar=15.0, asks="a drain of the sidecar above `drain_delay` + the longest call"
    ),
    "sidecar-last": _SERVICE.but(
        "a native sidecar, which ends after the host", sidecar="last",
        asks="`restartPolicy: Always`, in `initContainers`"
    ),
    "scale-in": _SERVICE.but(
        "an HPA takes two of four pods away at once, and gives them back", does="scale_in", replicas=4,
        asks="the same as a rollout",
    ),
    "node-drain": _SERVICE.but(
        "a node with two of three pods is drained, without a budget",
        does="drain_node", asks="the same as a rollout; the pod that stays takes all calls",
    ),
    "node-drain-all": _SERVICE.but(
        "a node with all pods is drained, without a budget; new pods take 10 s more",
        does="drain_node", on_node=3, start_delay=10.0, loses=True, remedy="node-drain-budget",
        asks="a PodDisruptionBudget, or pods on several nodes",
    ),
    "node-drain-budget": _SERVICE.but(
        "the same with a PodDisruptionBudget", does="drain_node_by_budget", start_delay=10.0, replacements=3
    ),
    "one-replica": _SERVICE.but("one replica, `maxSurge: 1`", replicas=1, asks="nothing more"),
    "recreate": _SERVICE.but(
        "one replica that ends before the next one starts: `Recreate`, a StatefulSet, a plain restart",
        replicas=1, does="recreate", replacements=3, pause=15.0, loses=True, remedy="one-replica",
        asks="two replicas, or a new one before the old one goes",
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
