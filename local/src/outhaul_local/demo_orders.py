"""The orders a demo sends: made up, or read as JSON Lines from a file or standard input, one at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from outhaul.errors import ConfigurationError
from outhaul_local.sample_orders import sample_order

LONGEST_LINE_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Job:
    """One order to place. ``label`` is what to call it when it is refused (``line 3``)."""

    key: str
    body: bytes
    label: str


@dataclass(slots=True)
class Skipped:
    """Lines that are no order: counted all, told one by one up to ``told_at_most``."""

    tell: Callable[[str], None]
    count: int = 0
    told_at_most: int = field(default=20)

    def add(self, label: str, why: str) -> None:
        """One more."""
        self.count += 1
        if self.count <= self.told_at_most:
            self.tell(f"{label} skipped: {why}")
        elif self.count == self.told_at_most + 1:
            self.tell("more lines are skipped; they are counted in the table")


def made_up(run: str, number: int, *, seed: int) -> Iterator[Job]:
    """``number`` orders; the same seed makes the same ones."""
    for index in range(number):
        body = json.dumps(sample_order(index, seed=seed)).encode()
        yield Job(f"{run}-{index}", body, f"order {index + 1}")


def from_lines(run: str, lines: IO[bytes], skipped: Skipped, *, at_most: int | None) -> Iterator[Job]:
    """One order a line. Empty lines are passed over; what is no JSON object is skipped and told."""
    given = 0
    number = 0
    while at_most is None or given < at_most:
        line = lines.readline(LONGEST_LINE_BYTES + 1)
        if not line:
            return
        number += 1
        label = f"line {number}"
        if len(line) > LONGEST_LINE_BYTES and not line.endswith(b"\n"):
            skipped.add(label, f"longer than {LONGEST_LINE_BYTES} bytes")
            _pass_over(lines)
            continue
        if not line.strip():
            continue
        why = _trouble(line)
        if why:
            skipped.add(label, why)
            continue
        given += 1
        yield Job(f"{run}-{number}", line.strip(), label)


def _pass_over(lines: IO[bytes]) -> None:
    """Read to the end of an overlong line, a piece at a time."""
    while True:
        piece = lines.readline(LONGEST_LINE_BYTES)
        if not piece or piece.endswith(b"\n"):
            return


def _trouble(line: bytes) -> str:
    # What is in the object is for the order function to judge: it is the one that says what an order is.
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start + 1})"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        return "not JSON: nested too deeply"
    except ValueError as error:  # an integer of thousands of digits
        return f"not JSON: {error}"
    return "" if isinstance(value, dict) else f"a JSON object is wanted, not {type(value).__name__}"


@contextmanager
def opened(file: str) -> Iterator[IO[bytes]]:
    """The lines' source; ``-`` is standard input. Raises ConfigurationError when it cannot be read."""
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        lines = Path(file).open("rb")  # noqa: SIM115 - closed below; opening apart keeps its errors apart
    except OSError as error:
        raise ConfigurationError("FILE", file, f"cannot be read: {error.strerror}") from error
    with lines:
        if Path(file).is_dir():
            raise ConfigurationError("FILE", file, "is a folder; name a file of JSON Lines")
        yield lines
