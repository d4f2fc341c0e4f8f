"""What a soak keeps: one record a round, in a state file that is whole after each, and the report made from them.

The memory of a run is bounded by a round: what clients were told in it is judged at its end and forgotten.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

LISTED = 20
LETTER_AGAIN = re.compile(r"order \S+ \(\S+\) has (\d+) dead letter|message \S+, made to be a dead letter, is (\d+)")
MISSING = (
    "full disks, a queue deleted with what is in it, the broker's consumer timeout, partial partitions, missing "
    "partitions of the inbox, clocks that are wrong; `make chaos` makes them one by one"
)
COUNTED = ("attempted", "acknowledged", "unknown", "committed", "waybills", "recovered", "parked", "dead_lettered")
BREACHES = ("lost", "duplicated", "unexpected", "unreported", "other")


def letters_again(duplicated: list[str]) -> tuple[int, list[str]]:
    """How many letters are there once more than they should be, and what is left of these breaches without them.

    A letter is sent at least once: a consumer killed between its confirm and the message's ack leaves two of one id,
    which is one message to redrive. A soak kills consumers all the time, so it counts these and goes on.
    """
    again, others = 0, []
    for text in duplicated:
        found = LETTER_AGAIN.fullmatch(text)
        if found:
            again += int(found[1] or found[2]) - 1
        else:
            others.append(text)
    return again, others


@dataclass(slots=True)
class Round:
    """One round. ``counts`` and ``breaches`` add up over rounds; ``memory_mib`` is each process's at the end."""

    number: int
    seconds: float = 0.0
    drain_seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    letters_expected: int = 0
    letters_again: int = 0
    faults: list[str] = field(default_factory=list)
    breaches: dict[str, list[str]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Record:
    """A whole run, over restarts of the harness. ``final`` is the comparison of both databases at each one's end."""

    seed: str
    orders: int
    rounds: list[Round] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    final: list[dict[str, int]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Self:
        """As :meth:`save` wrote it. Raises ValueError when it is not such a file."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            rounds = [Round(**each) for each in data.pop("rounds")]
            return cls(**data, rounds=rounds)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no soak's state ({error}): remove it, or name another by STATE=") from error

    def save(self, path: Path) -> None:
        """Replaced in one piece: an end in the middle leaves the last round's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)

    @property
    def acknowledged(self) -> int:
        """Orders so far."""
        return sum(each.counts.get("acknowledged", 0) for each in self.rounds)

    def totals(self) -> dict[str, int]:
        """The counts of all rounds."""
        return {name: sum(each.counts.get(name, 0) for each in self.rounds) for name in COUNTED}

    def breaches(self) -> dict[str, int]:
        """How many of each kind; all zero when every invariant held."""
        found = {name: sum(len(each.breaches.get(name, [])) for each in self.rounds) for name in BREACHES}
        found["databases"] = sum(each["missing"] + each["orphans"] for each in self.final)
        return found

    def faults(self) -> Counter[str]:
        """How often each fault was made."""
        return Counter(name for each in self.rounds for name in each.faults)

    def whole(self) -> bool:
        """Whether nothing was breached."""
        return not any(self.breaches().values())

    def markdown(self) -> str:
        """The report."""
        totals, seconds = self.totals(), sum(each.seconds for each in self.rounds)
        slowest = max((each.drain_seconds for each in self.rounds), default=0)
        verdict = "Every invariant held." if self.whole() else "**Invariants were breached; see below.**"
        lines = [
            f"# Soak of {totals['acknowledged']:,} orders",
            "",
            verdict,
            f"{totals['acknowledged']:,} of {self.orders:,} orders wanted, in {len(self.rounds)} rounds and",
            f"{seconds / 60:.1f} minutes, under {self.faults().total()} faults. Seed `{self.seed}`.",
            "",
            "| fact | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in self.facts.items()),
            "",
            "## The ledger",
            "",
            "| figure | over all rounds |",
            "|---|---|",
            *(f"| {name.replace('_', ' ')} | {value:,} |" for name, value in totals.items()),
            f"| dead letters that the faults made | {sum(each.letters_expected for each in self.rounds):,} |",
            f"| letters that are there once more | {sum(r.letters_again for r in self.rounds)} |",
            f"| longest time to drain after a round | {slowest} s |",
            *(f"| breaches: {name} | {value} |" for name, value in self.breaches().items()),
            "",
            "At the end both databases were read side by side, order by order:",
            "",
            *(
                f"- {each['orders']:,} orders, {each['waybills']:,} waybills, {each['letters']:,} poison orders with "
                f"none; {each['missing']} missing, {each['orphans']} waybills without an order"
                for each in self.final
            ),
            "",
            *self._breach_list(),
            "## Faults",
            "",
            "| fault | times |",
            "|---|---|",
            *(f"| {name} | {count} |" for name, count in sorted(self.faults().items())),
            "",
            f"Faults that a soak does not make: {MISSING}.",
            "",
            "## Rounds",
            "",
            "| round | seconds | acknowledged | recovered | dead letters | faults | drain s | memory, MiB |",
            "|---|---|---|---|---|---|---|---|",
            *(self._row(each) for each in self.rounds),
            "",
        ]
        return "\n".join(lines)

    @staticmethod
    def _row(each: Round) -> str:
        memory = ", ".join(f"{name} {value:.0f}" for name, value in each.memory_mib.items())
        cells = (
            each.number,
            f"{each.seconds:.0f}",
            each.counts.get("acknowledged", 0),
            each.counts.get("recovered", 0),
            each.counts.get("dead_lettered", 0),
            len(each.faults),
            each.drain_seconds,
            memory,
        )
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    def _breach_list(self) -> list[str]:
        listed = [f"- round {r.number}: {text}" for r in self.rounds for kind in r.breaches.values() for text in kind]
        troubles = [f"- round {r.number}: {text}" for r in self.rounds for text in r.troubles]
        lines = []
        if listed:
            lines += ["## Breaches", "", *listed[:LISTED], ""]
        if troubles:
            lines += ["## What the harness itself stumbled over", "", *troubles[:LISTED], ""]
        return lines
