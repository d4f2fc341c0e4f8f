"""A soak: orders by the hundred thousand under random faults of all kinds, judged by the ledger round by round.

``make soak ORDERS=1000000 MINUTES=30 SEED=... STATE=... REPORT=...``. Databases, queues and functions live through all
rounds. Each round's faults come from the seed and the round's number, so ``ROUND=17`` makes those of one round again.
A run that was ended goes on where it was by the same STATE, on new servers. Ends with 1 when an invariant was breached.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import psycopg

from chaos.cluster import Cluster
from chaos.load import Load
from chaos.run_facts import ROOT, postgres_version, run_facts
from chaos.servers import new_database, start_postgres
from chaos.soak_faults import LETTERS, LONGEST_SECONDS, LOSES_LETTERS, Fault, Ground, leaves_letters_twice, menu
from chaos.soak_record import COUNTED, Record, Round, letters_again
from chaos.soak_verdict import compared, settle, shortcomings
from chaos.system import assembled, lasts
from outhaul.broker_admin.topology_apply import apply
from outhaul_local.failure import LocalFailure
from outhaul_local.identity import server_identity
from outhaul_local.rabbitmq import find_binary
from outhaul_local.tether import Tether
from outhaul_waybill.topology import TOPOLOGY
from support_amqp import Amqp

POISONED = "chaos.poisoned_waybill"
# Poison that raises is given up after one delay of 5 s, one that hangs is ended after 10 s.
BOUNDS = {"OUTHAUL_CONSUMER_MAX_ATTEMPTS": "2", "OUTHAUL_CONSUMER_HANDLER_TIMEOUT": "10s"}
OVERLAP = 0.3  # the chance that a second fault, of another place, is made beside the first
PROGRESS_SECONDS = 180.0
MEBIBYTE = 1024 * 1024


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--orders", type=int, default=1_000_000, help="to be acknowledged, over all rounds")
    parser.add_argument("--minutes", type=float, default=30.0, help="no new round after that long")
    parser.add_argument("--rate", type=float, default=300.0, help="orders a second at most")
    parser.add_argument("--round-orders", type=int, default=10_000, help="orders to a round; bounds the memory")
    parser.add_argument("--seed", default="", help="of the faults; printed; a resumed run keeps its own")
    parser.add_argument("--round", type=int, default=0, help="only this round of the seed's")
    parser.add_argument("--state", type=Path, default=ROOT / ".outhaul" / "soak-state.json")
    parser.add_argument("--report", type=Path, default=ROOT / ".outhaul" / "soak", help="without .md and .json")
    chosen = parser.parse_args(given)
    if chosen.orders < 1 or chosen.round_orders < 1 or chosen.minutes <= 0 or chosen.rate <= 0:
        parser.error("--orders, --round-orders, --minutes and --rate are all more than 0")
    return chosen


def main(given: list[str] | None = None) -> int:
    """Run it. The exit code: 0 when whole, 1 when breached, 2 when it could not run."""
    chosen = arguments(sys.argv[1:] if given is None else given)
    try:
        record = begin(chosen)
        say(f"seed {record.seed}, {record.acknowledged:,} of {record.orders:,} orders are done")
        with ground_for_it(rabbitmq_server()) as ground:
            record.facts |= facts(ground)
            rounds(ground, record, chosen)
            record.final.append(compared(ground.system))
            if not record.whole():
                keep_evidence(ground, record, chosen.state.with_name("soak-evidence"))
    except (LocalFailure, ValueError) as error:
        sys.stderr.write(f"soak: {error}\n")
        return 2
    record.facts["load at the end"] = " ".join(f"{each:.1f}" for each in os.getloadavg())
    record.save(chosen.state)
    report(record, chosen.report)
    say(f"{record.totals()} {record.breaches()}")
    if record.acknowledged >= record.orders:
        chosen.state.unlink()
    return 0 if record.whole() else 1


def say(text: str) -> None:
    """A line of progress, at once."""
    sys.stdout.write(f"soak: {text}\n")
    sys.stdout.flush()


def rabbitmq_server() -> Path:
    """The broker's program. Raises LocalFailure."""
    binary = find_binary(os.environ.get("OUTHAUL_RABBITMQ_SERVER"))
    if binary is None:
        raise LocalFailure("rabbitmq-server is missing", remedy="install it, or name it by OUTHAUL_RABBITMQ_SERVER")
    return binary


def begin(chosen: argparse.Namespace) -> Record:
    """The record to go on with, or a new one. Raises ValueError when the state is of another run."""
    if not chosen.state.exists():
        return Record(chosen.seed or secrets.token_hex(4), chosen.orders)
    record = Record.load(chosen.state)
    if chosen.seed and chosen.seed != record.seed:
        raise ValueError(f"{chosen.state} is of seed {record.seed}, not {chosen.seed}: remove it, or name another")
    record.orders = chosen.orders
    return record


@contextmanager
def ground_for_it(binary: Path) -> Iterator[Ground]:
    """Three nodes, two databases, two of each function under a supervisor. All is gone in the end."""
    folder = Path(tempfile.mkdtemp(prefix="outhaul-soak-"))
    server_identity().own(folder)
    with ExitStack() as stack:
        tether = stack.enter_context(Tether(folder))
        order, waybill = (start_postgres(folder, name) for name in ("order", "waybill"))
        for server in (order, waybill):
            stack.callback(server.stop)
            if server.process is not None:
                tether.hold(server.process)
        cluster = Cluster.form(binary, folder, tether)
        stack.callback(cluster.end)
        broker = stack.enter_context(cluster.virtual_host())
        apply(TOPOLOGY, broker.amqp_url, broker.management_url)
        dsns = new_database(order, "order"), new_database(waybill, "waybill")
        logs = folder / "logs"
        logs.mkdir()
        system = stack.enter_context(
            assembled(dsns, broker, logs, tether, random.Random(0), more_nodes=cluster.addresses()[1:])
        )
        system.start(orders=2, waybills=2, waybill_module=POISONED, waybill_settings=BOUNDS)
        for function in system.functions:
            stack.enter_context(function.supervised())
        ground = Ground(system, cluster, order, waybill, tether)
        yield ground
        ground.mend()


def rounds(ground: Ground, record: Record, chosen: argparse.Namespace) -> None:
    """One after another until the orders are there or the time is over, each on record once it is done."""
    ends_at = time.monotonic() + 60 * chosen.minutes
    number = chosen.round or len(record.rounds) + 1
    while record.acknowledged < record.orders and time.monotonic() < ends_at:
        wanted = min(chosen.round_orders, record.orders - record.acknowledged)
        done = one_round(ground, number, record.seed, wanted, chosen.rate, ends_at)
        record.rounds.append(done)
        record.save(chosen.state)
        say(
            f"round {number}: {done.seconds:.0f} s, {done.counts}, {len(done.faults)} faults, "
            f"breaches {done.breaches}, troubles {done.troubles}"
        )
        number += 1
        if chosen.round or any(done.breaches.values()):
            return  # what a breach left behind would be counted again in every round after it


def one_round(ground: Ground, number: int, seed: str, wanted: int, rate: float, ends_at: float) -> Round:
    """Orders and faults until ``wanted`` are acknowledged or the time is over, and the ledger's verdict."""
    done, began, rng = Round(number), time.monotonic(), random.Random(f"{seed} round {number}")
    ground.name, ground.poison = f"r{number}", set()
    urls = [function.url for function in ground.system.orders]
    faults = menu()
    with Load(urls, rate=rate, prefix=f"order-{ground.name}", clients=24) as load:
        ground.told = load.told
        try:
            while load.acknowledged < wanted and time.monotonic() < ends_at:
                done.faults += make_some(ground, rng, faults, done)
                load.more(rng.randrange(1, 400), seconds=PROGRESS_SECONDS)
        except AssertionError as error:
            done.breaches.setdefault("other", []).append(f"no progress after everything was mended: {error}")
        told = load.finish(seconds=90)
    settled_at = time.monotonic()
    done.letters_expected = len(told.injected) + len(ground.poison)
    verdict, left = settle(ground.system, told, keys=f"%-{ground.name}-%", letters=done.letters_expected)
    done.drain_seconds = round(time.monotonic() - settled_at, 1)
    done.counts = {name: getattr(verdict, name) for name in COUNTED}
    done.letters_again, verdict.duplicated = letters_again(verdict.duplicated)
    excused = done.letters_expected * sum(leaves_letters_twice(name) for name in done.faults)
    if done.letters_again > excused:
        verdict.duplicated.append(f"{done.letters_again} letters are there once more, and the faults explain {excused}")
    for kind in ("lost", "duplicated", "unexpected", "unreported"):
        if found := getattr(verdict, kind):
            done.breaches[kind] = found
    others = shortcomings(told, verdict, left, letters=done.letters_expected + done.letters_again)
    if others:
        done.breaches.setdefault("other", []).extend(others)
    done.memory_mib = memory(ground)
    clear(ground)
    done.seconds = round(time.monotonic() - began, 1)
    return done


def make_some(ground: Ground, rng: random.Random, faults: list[Fault], done: Round) -> list[str]:
    """One fault, or two of different places at once, for a while; everything is mended after it."""
    if ground.told.injected or ground.poison:
        faults = [each for each in faults if each.name != LOSES_LETTERS]
    chosen = [rng.choice(faults)]
    if rng.random() < OVERLAP:
        chosen.append(rng.choice([each for each in faults if each.place != chosen[0].place]))
    seconds = rng.uniform(0.2, LONGEST_SECONDS)
    names = [f"{each.place}: {each.name}" for each in chosen]
    try:
        with ExitStack() as stack:
            for fault in chosen:
                stack.enter_context(fault.make(ground, rng))
            lasts(seconds)
    except Exception as error:  # noqa: BLE001 - a second fault may get in the way of making or curing the first
        done.troubles.append(f"{' and '.join(names)}: {type(error).__name__}: {str(error)[:200]}")
        ground.mend()
        put_right(ground)
    ground.mend()
    return names


def put_right(ground: Ground) -> None:
    """What a cure that failed may have left: alarms, rights, cut links, policies, triggers."""
    cluster, system = ground.cluster, ground.system
    cluster.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    cluster.rabbitmqctl("set_disk_free_limit", "50MB")
    apply(TOPOLOGY, system.broker.amqp_url, system.broker.management_url)
    for dsn, table in ((system.order_dsn, "orders"), (system.waybill_dsn, "waybills")):
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"DROP TRIGGER IF EXISTS chaos_fail ON {table}".encode())


def clear(ground: Ground) -> None:
    """Letters that were judged, and what alerts said more than once."""
    with Amqp(ground.system.broker) as amqp:
        amqp.purge(LETTERS)
    told = ground.system.alerts.alerts
    told[:] = {alert["labels"]["alertname"]: alert for alert in told}.values()


def memory(ground: Ground) -> dict[str, float]:
    """Resident MiB of the harness and of each function."""
    found = {"harness": psutil.Process().memory_info().rss / MEBIBYTE}
    for kind, functions in (("order", ground.system.orders), ("waybill", ground.system.waybills)):
        for number, function in enumerate(functions, 1):
            found[f"{kind} {number}"] = function.memory_bytes() / MEBIBYTE
    return {name: round(value, 1) for name, value in found.items()}


def keep_evidence(ground: Ground, record: Record, folder: Path) -> None:
    """The functions' and the nodes' logs, and what the product itself noted of each order that a breach names."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ground.system.folder, folder)
    for node in ground.cluster.nodes:
        for log in (node.folder / "log").glob("*.log"):
            shutil.copy(log, folder)
    told = " ".join(text for each in record.rounds for found in each.breaches.values() for text in found)
    notes = []
    with psycopg.connect(ground.system.order_dsn) as one, psycopg.connect(ground.system.waybill_dsn) as other:
        for order_id in sorted(set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", told))):
            row = one.execute("SELECT message_id, created_at FROM orders WHERE order_id = %s", (order_id,)).fetchone()
            sent = one.execute("SELECT * FROM outbox_sent WHERE message_id = %s", row[:1]).fetchall() if row else []
            seen = other.execute("SELECT * FROM inbox WHERE message_id = %s", row[:1]).fetchall() if row else []
            notes.append(f"order {order_id}: {row}\n  sent: {sent}\n  inbox: {seen}")
    (folder / "orders.txt").write_text("\n".join(notes) + "\n", encoding="utf-8")
    say(f"evidence is kept in {folder}")


def facts(ground: Ground) -> dict[str, str]:
    """The machine, the versions and the moment."""
    broker = ".".join(str(each) for each in ground.system.broker.version)
    return {
        **run_facts(),
        "RabbitMQ": f"{broker}, {len(ground.cluster.nodes)} nodes",
        "PostgreSQL": postgres_version(ground.system.order_dsn),
        "load at the start": " ".join(f"{each:.1f}" for each in os.getloadavg()),
    }


def report(record: Record, path: Path) -> None:
    """Markdown for people, JSON for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(record.markdown(), encoding="utf-8")
    summary = {**asdict(record), "totals": record.totals(), "breaches": record.breaches(), "whole": record.whole()}
    path.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    say(f"written to {path.with_suffix('.md')} and .json")


if __name__ == "__main__":
    sys.exit(main())
