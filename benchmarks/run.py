"""``make bench``: every figure beside its baseline, as a table and as JSON with the machine's facts."""

from __future__ import annotations

import argparse
import time

import claim
import consume
import drain
import end_to_end
import orders
from parts import Figure, machine_facts, report, servers

BENCHES = {
    "claim": claim.run,
    "drain": drain.run,
    "consume": consume.run,
    "orders": orders.run,
    "end-to-end": end_to_end.run,
}


def main() -> None:
    """Run the named benchmarks (all by default) against servers of this run's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run; all by default")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows: a look, not a figure to quote")
    options = parser.parse_args()
    figures: list[Figure] = []
    with servers() as parts:
        facts = machine_facts(parts)
        try:
            for name in options.names or BENCHES:
                began = time.monotonic()
                print(f"{name} ...", flush=True)
                figures += BENCHES[name](parts, quick=options.quick)
                print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        finally:
            # What was measured before one of them failed is measured all the same.
            report(figures, facts)


if __name__ == "__main__":
    main()
