"""The walk to the nodes closest to a target (Kademlia's node look-up), with alpha questions on top.

Candidates stand in a list by distance. Up to ``alpha`` questions are under way; a slow one no longer counts,
so the dead cost nothing but the wait for the first. The walk is done when, seen from the target, the ``k``
nearest candidates that are neither slow nor failed have answered: slow ones do not block, their late answers
still count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from enum import Enum, auto
from itertools import islice
from math import inf

from kukuri_sidecar.proto.dht.distance import ID_BITS, key_of
from kukuri_sidecar.proto.dht.subnets import is_local, is_usable, network_of, region_of
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import DhtNodeId, Target

MAX_CANDIDATES = 200  # a look-up among ten million nodes meets about 150
MAX_QUESTIONS = 250  # whatever Sybils invent; with 60 % dead an honest look-up takes 90
MAX_NODES_PER_ANSWER = 20  # mainline's answers; others have 8
_UNKNOWN_DISTANCE = 1 << ID_BITS  # of a bootstrap node, whose id nobody has told


class State(Enum):
    """How far we are with a candidate."""

    FRESH = auto()
    ASKED = auto()
    SLOW = auto()
    ANSWERED = auto()
    FAILED = auto()


class Candidate:
    """A node on the way, and what it said."""

    __slots__ = (
        "addr", "asked_again", "depth", "distance", "info", "item_seq", "keeps_ours", "network", "state",
        "token",
    )  # fmt: skip

    def __init__(self, addr: SocketAddr, info: NodeInfo | None, distance: int, depth: int) -> None:
        self.addr = addr
        self.info = info
        """None for a bootstrap node that has not answered yet."""
        self.distance = distance
        self.depth = depth
        """How many answers led to it."""
        self.network: str | None = None
        """The public network whose one place it holds."""
        self.state = State.FRESH
        self.token: bytes | None = None
        self.item_seq: int | None = None
        """The seq of the item that it keeps at the target."""
        self.keeps_ours = False
        """It already stores exactly what we are about to write."""
        self.asked_again = False


class Goal:
    """When a walk has met enough."""

    __slots__ = ("beyond", "k", "max_k", "max_questions", "regions")

    def __init__(
        self,
        k: int,
        *,
        max_questions: int = MAX_QUESTIONS,
        max_k: int = 0,
        beyond: int = 0,
        regions: int = 0,
    ) -> None:
        self.k = k
        self.max_questions = max_questions
        """Stop asking after so many: few for walks that only want to meet somebody."""
        self.max_k = max(k, max_k)
        """Of at most so many are the next two demanded:"""
        self.beyond = beyond
        """Go on to this distance, where an honest network would have its k-th node,"""
        self.regions = regions
        """and until the answering nodes lie in so many /6 networks."""


class Lookup:
    """One walk. Call ``advance`` after every change, then ask for ``is_done`` and ``wake_at``."""

    __slots__ = (
        "_addrs", "_asked", "_distances", "_goal", "_networks", "_one_per_network", "_order", "_own_id",
        "_target_key", "answers", "is_done", "questions", "wake_at",
    )  # fmt: skip

    def __init__(self, target: Target, own_id: DhtNodeId, goal: Goal, *, one_per_network: bool) -> None:
        self._target_key = key_of(target)
        self._own_id = own_id
        self._goal = goal
        self._one_per_network = one_per_network
        self._order: list[Candidate] = []
        self._distances: list[int] = []  # of ``_order``, ascending
        self._addrs: dict[SocketAddr, None] = {}
        self._networks: dict[str, Candidate] = {}
        self._asked = 0  # neither slow nor answered
        self.questions = 0
        self.answers = 0
        self.is_done = False
        self.wake_at = inf
        """When a candidate that had to wait for a send limit may be asked."""

    def __len__(self) -> int:
        return len(self._order)

    @property
    def asked(self) -> int:
        """How many questions are under way and not slow."""
        return self._asked

    @property
    def is_exhaustive(self) -> bool:
        """It did not stop for having asked too many: its closest nodes are the network's."""
        return self.questions < self._goal.max_questions

    # --- whom to ask -----------------------------------------------------------------------------------

    def add(self, info: NodeInfo, depth: int = 0) -> None:
        """Take a node that we know, or were told of."""
        if info.node_id != self._own_id:
            self._add(Candidate(info.addr, info, key_of(info.node_id) ^ self._target_key, depth))

    def add_address(self, addr: SocketAddr) -> None:
        """Take a node whose id we do not know: it is asked when there is nobody better."""
        self._add(Candidate(addr, None, _UNKNOWN_DISTANCE, 0))

    def _add(self, candidate: Candidate) -> None:
        addr = candidate.addr
        if addr in self._addrs or not addr.port:
            return
        if self._one_per_network and not is_local(addr.host):
            candidate.network = network_of(addr.host)
            holder = self._networks.get(candidate.network)
            if holder is not None and holder.state is not State.FAILED:
                return
            self._networks[candidate.network] = candidate
        self._addrs[addr] = None
        self._insert(candidate)
        if len(self._order) > MAX_CANDIDATES:
            self._forget_farthest()

    def advance(self, alpha: int, query_at: Callable[[str], float], now: float) -> list[Candidate]:
        """Return whom to ask now, closest first; the caller sends at once."""
        chosen: list[Candidate] = []
        answered = 0
        regions: set[str] = set()
        blocked = False  # something nearer is still open
        self.wake_at = inf
        for candidate in self._order:
            state = candidate.state
            if state is State.ANSWERED:
                answered += 1
                if self._is_enough(candidate, answered, regions):
                    break
            elif state is State.ASKED:
                blocked = True
            elif state is State.FRESH:
                if self.questions >= self._goal.max_questions:
                    continue
                blocked = True
                if self._asked >= alpha:
                    break
                if (at := query_at(candidate.addr.host)) > now:
                    self.wake_at = min(self.wake_at, at)
                    continue
                self._settle(candidate, State.ASKED)
                self.questions += 1
                chosen.append(candidate)
        # Nobody left to ask, and not one answer: the slow ones are all we have.
        self.is_done = not blocked and (answered > 0 or not self._has_slow())
        return chosen

    # --- what became of a question ---------------------------------------------------------------------

    def answered(self, candidate: Candidate, info: NodeInfo, nodes: Iterable[NodeInfo]) -> None:
        """It answered, in time or late, as ``info``, and told of ``nodes``."""
        self._settle(candidate, State.ANSWERED)
        self.answers += not candidate.asked_again
        if info != candidate.info:  # a bootstrap node, or one that has changed its id
            at = self._order.index(candidate)
            del self._order[at], self._distances[at]
            candidate.info, candidate.distance = info, key_of(info.node_id) ^ self._target_key
            self._insert(candidate)
        depth, teller = candidate.depth + 1, candidate.addr
        teller_is_local = is_local(teller.host)
        for told in islice(nodes, MAX_NODES_PER_ANSWER):
            addr = told.addr
            if addr in self._addrs or addr.is_ipv6 is not teller.is_ipv6 or not is_usable(addr.host):
                continue
            # From the public network nobody sends us into our own.
            if teller_is_local or not is_local(addr.host):
                self.add(told, depth)

    def slowed(self, candidate: Candidate) -> None:
        """It has not answered in time; perhaps it will."""
        self._settle(candidate, State.ANSWERED if candidate.asked_again else State.SLOW)

    def failed(self, candidate: Candidate) -> None:
        """It refused, or it will not answer any more."""
        self._settle(candidate, State.ANSWERED if candidate.asked_again else State.FAILED)

    def reopen(self, candidate: Candidate) -> None:
        """It answered and is asked once more; whatever comes of that, it has answered."""
        self._settle(candidate, State.ASKED)
        candidate.asked_again = True
        self.questions += 1

    def closest(self, count: int) -> list[Candidate]:
        """Return up to ``count`` nodes that answered, closest first."""
        return [candidate for candidate in self._order if candidate.state is State.ANSWERED][:count]

    def chosen(self) -> list[Candidate]:
        """Return the nodes that answered, as far as the goal reaches, closest first."""
        found: list[Candidate] = []
        regions: set[str] = set()
        for candidate in self._order:
            if candidate.state is State.ANSWERED:
                found.append(candidate)
                if self._is_enough(candidate, len(found), regions):
                    break
        return found

    # --- inside ----------------------------------------------------------------------------------------

    def _is_enough(self, latest: Candidate, answered: int, regions: set[str]) -> bool:
        """Take the next nearest node that answered; say whether the goal is reached with it."""
        goal = self._goal
        if goal.regions:
            host = latest.addr.host
            regions.add(host if is_local(host) else region_of(host))
        return answered >= goal.k and (
            answered >= goal.max_k or (latest.distance >= goal.beyond and len(regions) >= goal.regions)
        )

    def _has_slow(self) -> bool:
        return any(candidate.state is State.SLOW for candidate in self._order)

    def _insert(self, candidate: Candidate) -> None:
        at = bisect_right(self._distances, candidate.distance)
        self._distances.insert(at, candidate.distance)
        self._order.insert(at, candidate)

    def _settle(self, candidate: Candidate, state: State) -> None:
        self._asked += (state is State.ASKED) - (candidate.state is State.ASKED)
        candidate.state = state

    def _forget_farthest(self) -> None:
        for at in range(len(self._order) - 1, -1, -1):
            candidate = self._order[at]
            if candidate.state in (State.FRESH, State.FAILED):
                del self._order[at], self._distances[at]
                if candidate.network is not None and self._networks.get(candidate.network) is candidate:
                    del self._networks[candidate.network]
                return
