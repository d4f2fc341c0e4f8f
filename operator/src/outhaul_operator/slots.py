"""How many Jobs this operator has at work, over all its objects, so that the end of an outage is no stampede."""

from __future__ import annotations


class Slots:
    """At most ``most`` Jobs at once. For one asyncio loop: whoever asks reserves before awaiting anything."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: dict[str, int] = {}

    def free(self) -> int:
        """How many more may be started now."""
        return max(0, self._most - sum(self._taken.values()))

    def take(self, uid: str, jobs: int) -> None:
        """The object has so many at work, those decided just now included."""
        if jobs:
            self._taken[uid] = jobs
        else:
            self._taken.pop(uid, None)

    def at_least(self, uid: str, jobs: int) -> None:
        """So many of the object's Jobs were seen at work; more may be, that are decided and not seen yet."""
        if jobs > self._taken.get(uid, 0):
            self._taken[uid] = jobs
