"""What Kubernetes does to pods: start them, probe them, tell clients of them (late), and end them.

When a pod is deleted, two things begin at once: it is told to end, and the endpoints lose it. The second takes its
time. A pod that ends does not keep the next step of a rollout from beginning.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from drills.cluster.pod import Pod
from drills.cluster.rows import Row
from drills.cluster.ways import Way


class Endpoints:
    """The addresses that clients are told of, each change some seconds after it was made.

    What clients learn is the state after a change: it includes all changes before that one.

    :param late: between these, in seconds
    """

    def __init__(self, late: tuple[float, float], addresses: list[str]) -> None:
        self._late = late
        self._states = [addresses]
        self._told = 0
        self._lock = threading.Lock()
        self._random = random.Random(13)
        self._timers: list[threading.Timer] = []
        self.way: Way | None = None

    @property
    def addresses(self) -> list[str]:
        """What clients are told now."""
        return self._states[self._told]

    def add(self, address: str) -> None:
        """A pod is ready."""
        with self._lock:
            self._tell_later([*self._states[-1], address])

    def remove(self, address: str) -> None:
        """A pod is being deleted."""
        with self._lock:
            self._tell_later([each for each in self._states[-1] if each != address])

    def _tell_later(self, state: list[str]) -> None:
        number = len(self._states)
        self._states.append(state)
        timer = threading.Timer(self._random.uniform(*self._late), self._tell, [number])
        self._timers.append(timer)
        timer.start()

    def _tell(self, number: int) -> None:
        with self._lock:
            if number > self._told:
                self._told = number
                self.way.update(self.addresses)

    def settle(self) -> None:
        """Wait until all is told."""
        for timer in self._timers:
            timer.join()


class Deployment:
    """The pods of one Deployment.

    :param start: starts the pod of that number

    :ivar ended: pods that were deleted
    """

    def __init__(self, row: Row, start: Callable[[int], Pod], stack: ExitStack) -> None:
        self._row = row
        self._start = start
        self._stack = stack
        self._started = 0
        self.ended: list[Pod] = []
        with ThreadPoolExecutor(row.replicas) as pool:
            self.pods = list(pool.map(lambda _: self._ready_pod(), range(row.replicas)))
        self.endpoints = Endpoints(row.late, [pod.address for pod in self.pods])

    def _ready_pod(self, delay: float = 0.0) -> Pod:
        self._started += 1
        number = self._started
        time.sleep(delay)
        pod = self._stack.enter_context(self._start(number))
        pod.wait_until_ready()
        return pod

    def _add(self) -> None:
        pod = self._ready_pod(self._row.start_delay)
        self.endpoints.add(pod.address)
        self.pods.append(pod)
        time.sleep(self._row.min_ready)

    def _add_at_once(self, count: int) -> None:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda _: self._add(), range(count)))

    def _delete(self) -> None:
        pod = self.pods.pop(0)
        self.ended.append(pod)
        self.endpoints.remove(pod.address)
        pod.delete(self._row.grace_period, self._row.pre_stop)

    def rollout(self, count: int) -> None:
        """maxSurge 1, maxUnavailable 0: a new pod, and when it is ready, an old one goes; and again."""
        for _ in range(count):
            self._add()
            self._delete()

    def scale_in(self, count: int) -> None:
        """As an HPA does it: two pods go at once, two come when the load is back."""
        for _ in range(count // 2):
            self._delete()
            self._delete()
            time.sleep(self._row.pause)
            self._add_at_once(2)

    def drain_node(self, count: int) -> None:
        """`on_node` pods are on a node: all are evicted at once, and replaced on another node."""
        together = self._row.on_node
        for _ in range(count // together):
            for _ in range(together):
                self._delete()
            self._add_at_once(together)

    def recreate(self, count: int) -> None:
        """Each pod ends before its successor starts: `Recreate`, a StatefulSet, `systemctl restart`."""
        for _ in range(count):
            self._delete()
            self.ended[-1].wait()
            self._add()
            time.sleep(self._row.pause)

    def drain_node_by_budget(self, count: int) -> None:
        """The same with a PodDisruptionBudget: a pod is evicted when the one before is replaced."""
        for _ in range(count):
            self._delete()
            self._add()

    def settle(self) -> None:
        """Wait until the deleted pods have ended, and clients know."""
        for pod in self.ended:
            pod.wait()
        self.endpoints.settle()
