"""Functions killed at random while the demo runs. The supervisor starts them again."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from dataclasses import dataclass, field

from outhaul_local.home import Home
from outhaul_local.metrics_scrape import DUPLICATES, read_counter
from outhaul_local.state import FUNCTIONS, load

SHORTEST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 3.0


@dataclass(slots=True)
class Killer:
    """Kills one function after the other with SIGKILL. ``duplicates`` keeps what a killed consumer had counted."""

    home: Home
    dice: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    duplicates: float = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.dice.uniform(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS))
            await self._kill(self.dice.choice(FUNCTIONS))

    async def _kill(self, name: str) -> None:
        # Read anew each time: the supervisor writes down the process it started last.
        function = load(self.home).functions[name]
        if function.process is None or not function.process.alive():
            return
        if name == "waybill":
            self.duplicates += await asyncio.to_thread(read_counter, function.port, DUPLICATES)
        function.process.signal(signal.SIGKILL)
        self.kills[name] += 1
