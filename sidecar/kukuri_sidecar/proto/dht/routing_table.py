"""Contacts by shared prefix with our id (BEP 5 "Routing Table"): 8 per bucket, more in the far ones.

Only who has answered us is a contact. The far buckets hold 128, 64, 32 and 16, as libtorrent's, because
every look-up starts there. Long-lived contacts stay; a full bucket lets in who replaces a failing one,
complies with BEP 42 where another does not, or is much faster. Others wait as spares until there is room.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from kukuri_sidecar.proto.dht.distance import ID_BITS, key_of, shared_bits
from kukuri_sidecar.proto.dht.secure_id import is_secure
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import DhtNodeId

BUCKET_SIZES = (128, 64, 32, 16)  # libtorrent's extended routing table
BUCKET_SIZE = 8  # BEP 5: K
MAX_SPARES = 8  # per bucket
FRESH_S = 900.0  # BEP 5: a node is good for 15 minutes after its last answer
RECHECK_S = 60.0  # pause before a contact that we asked in vain is asked again
MAX_FAILURES = 3  # unanswered in a row; then it goes, with a spare at hand after the first
SLOW_S = 0.3  # a contact may lose its place to one that is twice as fast, if it is slower than this


class Contact:
    """A node that has answered us."""

    __slots__ = ("check_at", "failures", "host", "info", "is_secure", "rtt_s")

    def __init__(self, info: NodeInfo, now: float, rtt_s: float) -> None:
        self.info = info
        self.host = info.addr.host
        self.is_secure = is_secure(info.node_id, info.addr.host)
        self.rtt_s = rtt_s
        self.failures = 0
        self.check_at = now + FRESH_S
        """When it stops being good; asked then."""

    def is_good(self, now: float) -> bool:
        """Say whether it answered in the last 15 minutes and every time since."""
        return not self.failures and now < self.check_at


class _Bucket:
    __slots__ = ("contacts", "spares")

    def __init__(self) -> None:
        self.contacts: list[Contact] = []
        self.spares: tuple[NodeInfo, ...] = ()  # latest last


class RoutingTable:
    """The contacts around one id. Bounded by 160 buckets: 240 contacts in the first four, 8 in each other."""

    __slots__ = ("_buckets", "_contacts_per_host", "_own_key", "own_id")

    def __init__(self, own_id: DhtNodeId, contacts_per_host: int) -> None:
        self.own_id = own_id
        self._own_key = key_of(own_id)
        self._contacts_per_host = contacts_per_host
        self._buckets: list[_Bucket] = []

    def __len__(self) -> int:
        return sum(len(bucket.contacts) for bucket in self._buckets)

    def __iter__(self) -> Iterator[Contact]:
        return chain.from_iterable(bucket.contacts for bucket in self._buckets)

    def find(self, info: NodeInfo) -> Contact | None:
        """Return the contact with this id at this address."""
        index = self._index(info.node_id)
        if index < len(self._buckets):
            for contact in self._buckets[index].contacts:
                if contact.info == info:
                    return contact
        return None

    # --- what happens to nodes -------------------------------------------------------------------------

    def confirm(self, info: NodeInfo, now: float, rtt_s: float) -> None:
        """``info`` answered us: it is a contact, if there is room for it."""
        index = self._index(info.node_id)
        if index == ID_BITS:
            return
        bucket = self._bucket(index)
        for contact in bucket.contacts:
            if contact.info.node_id == info.node_id:
                if contact.info.addr == info.addr:
                    contact.rtt_s += (rtt_s - contact.rtt_s) / 4
                    contact.failures = 0
                    contact.check_at = now + FRESH_S
                    return
                if contact.is_good(now):
                    return  # somebody else claims the id
                bucket.contacts.remove(contact)
                break
        newcomer = Contact(info, now, rtt_s)
        if not self._host_has_room(newcomer):
            return
        if len(bucket.contacts) >= _size(index):
            loser = _loser(bucket.contacts, newcomer)
            if loser is None:
                _add_spare(bucket, info)
                return
            bucket.contacts.remove(loser)
        bucket.contacts.append(newcomer)
        _drop_spare(bucket, info)

    def hear(self, info: NodeInfo) -> bool:
        """Keep ``info``, of whom we were told or who asked us, as a spare; say whether a ping is worth it."""
        index = self._index(info.node_id)
        if index == ID_BITS:
            return False
        bucket = self._bucket(index)
        if any(contact.info.node_id == info.node_id for contact in bucket.contacts):
            return False
        _add_spare(bucket, info)
        return len(bucket.contacts) < BUCKET_SIZE or any(contact.failures for contact in bucket.contacts)

    def fail(self, info: NodeInfo, now: float) -> None:
        """``info`` did not answer. With a spare at hand its place is free at once, else after three times."""
        contact = self.find(info)
        if contact is None:
            index = self._index(info.node_id)
            if index < len(self._buckets):
                _drop_spare(self._buckets[index], info)
            return
        contact.failures += 1
        contact.check_at = now + RECHECK_S
        bucket = self._buckets[self._index(info.node_id)]
        if contact.failures >= (1 if bucket.spares else MAX_FAILURES):
            bucket.contacts.remove(contact)

    def move(self, own_id: DhtNodeId, now: float) -> None:
        """We have another id: sort the contacts around it; whoever finds no room is forgotten."""
        contacts = [contact for contact in self if not contact.failures]
        self.own_id, self._own_key = own_id, key_of(own_id)
        self._buckets = []
        for contact in contacts:
            self.confirm(contact.info, now, contact.rtt_s)

    # --- what is asked of the table --------------------------------------------------------------------

    def closest(self, key: int, count: int) -> list[Contact]:
        """Return up to ``count`` contacts, closest to ``key`` first; failing ones only if others are few."""
        found: list[Contact] = []
        for dubious in (False, True):
            for group in self._groups(key):
                chosen = [contact for contact in group if bool(contact.failures) is dubious]
                chosen.sort(key=lambda contact: key_of(contact.info.node_id) ^ key)
                found += chosen[: count - len(found)]
                if len(found) == count:
                    return found
        return found

    def stalest(self) -> Contact | None:
        """Return the contact whose check is due first."""
        return min(self, key=lambda contact: contact.check_at, default=None)

    def take_spare(self) -> NodeInfo | None:
        """Take a spare out of a bucket with room, the latest of the farthest such bucket."""
        for bucket in self._buckets:
            if bucket.spares and len(bucket.contacts) < BUCKET_SIZE:
                spare = bucket.spares[-1]
                bucket.spares = bucket.spares[:-1]
                return spare
        return None

    def sparse_prefix(self) -> int | None:
        """Return the farthest bucket that is not half full, if nearer ones have contacts: refresh it."""
        for index, bucket in enumerate(self._buckets[:-1]):
            if 2 * len(bucket.contacts) < BUCKET_SIZE:
                return index
        return None

    # --- inside ----------------------------------------------------------------------------------------

    def _index(self, node_id: DhtNodeId) -> int:
        return shared_bits(self._own_key, key_of(node_id))

    def _bucket(self, index: int) -> _Bucket:
        while len(self._buckets) <= index:
            self._buckets.append(_Bucket())
        return self._buckets[index]

    def _groups(self, key: int) -> Iterator[list[Contact]]:
        """Yield all contacts in groups, each wholly closer to ``key`` than the next.

        Who shares more bits with the target than we do; then everybody nearer to us than that, all of whom
        share exactly as many as we do; then the buckets that share ever fewer.
        """
        index = shared_bits(self._own_key, key)
        if index < len(self._buckets):
            yield self._buckets[index].contacts
            yield [contact for bucket in self._buckets[index + 1 :] for contact in bucket.contacts]
        for bucket in reversed(self._buckets[:index]):
            yield bucket.contacts

    def _host_has_room(self, newcomer: Contact) -> bool:
        """Say whether there is room for one more of this IP address: eight that comply, else one."""
        host, count = newcomer.host, 0
        for bucket in self._buckets:
            for contact in bucket.contacts:
                count += contact.host == host
        return count < (self._contacts_per_host if newcomer.is_secure else 1)


def _size(index: int) -> int:
    return BUCKET_SIZES[index] if index < len(BUCKET_SIZES) else BUCKET_SIZE


def _add_spare(bucket: _Bucket, info: NodeInfo) -> None:
    _drop_spare(bucket, info)
    bucket.spares = (*bucket.spares, info)[-MAX_SPARES:]


def _drop_spare(bucket: _Bucket, info: NodeInfo) -> None:
    if info in bucket.spares:
        bucket.spares = tuple(spare for spare in bucket.spares if spare != info)


def _loser(contacts: list[Contact], newcomer: Contact) -> Contact | None:
    """Return who must make room: the most failing one, else an insecure one, else a slow one."""
    worst = max(contacts, key=lambda contact: contact.failures)
    if worst.failures:
        return worst
    slowest = max(contacts, key=lambda contact: (not contact.is_secure, contact.rtt_s))
    if newcomer.is_secure and not slowest.is_secure:
        return slowest
    if newcomer.is_secure == slowest.is_secure and slowest.rtt_s > max(SLOW_S, 2 * newcomer.rtt_s):
        return slowest
    return None
