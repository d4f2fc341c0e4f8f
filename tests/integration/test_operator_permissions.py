"""The operator and its Jobs with exactly the rights that docs/reference/operator-permissions.md names, and one less.

What lies one beyond them is refused; see also the grants' own tests.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import pika
import psycopg
import pytest
from pika.exceptions import ChannelClosedByBroker

from conftest import MakeDatabase
from job_support import Job
from letter_support import DLQ, QUEUE, TYPE, connected
from outbox_support import query
from outhaul.broker_admin import topology_apply
from outhaul.database import schema_grant
from outhaul.errors import OuthaulError
from outhaul.resend import ResendRequest, resend_once
from outhaul.sending.sender_settings import SenderSettings
from outhaul.settings import BrokerSettings
from outhaul.tools.dlq import DeadLetterQueue
from outhaul.tools.findings import Finding, Level
from outhaul.tools.redrive import Moved, Order
from outhaul.tools.redrive import discard as discard_letters
from outhaul.tools.redrive import redrive as redrive_letters
from outhaul.topology import consumer_topology
from outhaul_operator import outcomes
from outhaul_operator.adapters.postgres import PostgresDatabases
from outhaul_operator.adapters.rabbitmq import RabbitBrokers
from outhaul_operator.plan import Tend
from outhaul_operator.ports import BrokerUrls
from outhaul_operator.requests import RedriveRun, ResendRun
from outhaul_operator.snapshot import BrokerView, InboxDatabase, OutboxDatabase, WaitingRoute
from support import BrokerUnderTest, apoll, poll
from support_amqp import management
from support_outbox import message, record

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "operator-permissions.md"
EXCHANGE = "outhaul.events"
TOPOLOGY = consumer_topology(QUEUE, [(EXCHANGE, "order.created")], retry_delays_seconds=(5,))
RIGHTS = {
    "configure": "^$",
    "write": r"^(outhaul\.events|outhaul\.retry)$",
    "read": r"^shop\.waybill\.dlq$",
}
PASSWORD = "operator"
QUICK = SenderSettings(poll_seconds=0.1, drain_seconds=0.5)


@dataclass(frozen=True)
class House:
    """Two databases and a broker, as their owner sees them, and as the operator does."""

    owner_outbox: str
    owner_inbox: str
    outbox: str
    inbox: str
    broker: BrokerUnderTest
    urls: BrokerUrls
    role: str
    user: str
    folder: Path


def as_user(url: str, name: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}:{PASSWORD}@{parts.hostname}:{parts.port}"))


def permit(broker: BrokerUnderTest, user: str, **rights: str) -> None:
    with management(broker) as api:
        where = f"/api/permissions/{quote(broker.vhost, safe='')}/{user}"
        api.put(where, json=RIGHTS | rights).raise_for_status()


@pytest.fixture
def house(make_database: MakeDatabase, broker: BrokerUnderTest, tmp_path: Path) -> Iterator[House]:
    outbox, inbox = make_database(("outbox",)), make_database(("inbox",))
    name = f"operator_{secrets.token_hex(6)}"
    query(outbox, f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_read_all_stats")
    for component, url in (("outbox", outbox), ("inbox", inbox)):
        with psycopg.connect(url, autocommit=True) as conn:
            schema_grant.grant(conn, component, role=name, purpose="operator")
    topology_apply.apply(TOPOLOGY, broker.amqp_url, broker.management_url)
    with management(broker) as api:
        api.put(f"/api/users/{name}", json={"password": PASSWORD, "tags": "monitoring"}).raise_for_status()
        permit(broker, name)
        urls = BrokerUrls(amqp=as_user(broker.amqp_url, name), management=as_user(broker.management_url, name))
        yield House(outbox, inbox, as_user(outbox, name), as_user(inbox, name), broker, urls, name, name, tmp_path)
        api.delete(f"/api/users/{name}").raise_for_status()
    for url in (outbox, inbox):
        query(url, f"DROP OWNED BY {name}")
    query(outbox, f"DROP ROLE {name}")


def look(house: House) -> tuple[Any, Any, Any, Any]:
    """Both databases, the history tended, the broker until it tells why letters died."""

    async def run() -> tuple[Any, Any, Any, Any]:
        databases = PostgresDatabases(timeout_seconds=10)
        brokers = RabbitBrokers(timeout_seconds=10, keep_seconds=0)
        try:
            outbox = await databases.look_at_outbox(house.outbox, stuck_after_seconds=60, run_ids=("r",))
            inbox = await databases.look_at_inbox(house.inbox, consumer="waybill", run_ids=("r",))
            tended = await databases.tend_history(house.outbox, Tend(component="outbox", keep_days=30))
            routes = [WaitingRoute(EXCHANGE, "order.created", 1, 1)]

            async def told() -> BrokerView | None:
                seen = await brokers.look(house.urls, routes=routes, queue=QUEUE, topology=TOPOLOGY)
                assert isinstance(seen, BrokerView), seen
                return seen if seen.dead_reasons else None

            view = await apoll(told, seconds=30, what="why the letter died")
            return outbox, inbox, tended, view
        finally:
            await databases.close()
            await brokers.close()

    return asyncio.run(run())


def resend(house: House) -> tuple[int, str]:
    record(house.owner_outbox, message(1, type=TYPE, routing_key="order.created"), exchange=EXCHANGE)
    job = Job(ResendRun(), house.outbox, house.urls.amqp, house.folder, run_id=f"resend-{secrets.token_hex(4)}")
    code, report, _ = job.run()
    return code, report.reason


def redrive(house: House, **changes: Any) -> tuple[int, str]:
    with connected(house.broker) as shop:
        shop.letter()
        poll(lambda: shop.depth() > 0, what="the letter")
    request = replace(RedriveRun(queue=QUEUE, consumer="waybill"), **changes)
    job = Job(request, house.inbox, house.urls.amqp, house.folder, run_id=f"redrive-{secrets.token_hex(4)}")
    code, report, _ = job.run()
    return code, report.reason


def test_with_these_rights_everything_is_seen_and_done(house: House) -> None:
    with connected(house.broker) as shop:
        shop.letter(reason="exhausted")
        query(house.owner_outbox, "INSERT INTO runs (run_id, kind, actor, request) VALUES ('r', 'resend', 'a', '{}')")
        outbox, inbox, tended, view = look(house)
        assert isinstance(outbox, OutboxDatabase), outbox
        assert isinstance(inbox, InboxDatabase), inbox
        assert (tended, list(outbox.runs), view.unseen) == (None, ["r"], None)
        for finding in (*outbox.findings, *inbox.findings):
            assert finding.level is not Level.PROBLEM
            assert "hidden" not in finding.text
            assert "permission" not in finding.text
        assert {finding.check.rsplit(" ", 1)[-1] for finding in outbox.findings} >= {"schema", "vacuum", "partitions"}
        assert [each.reason for each in view.dead_reasons] == ["exhausted"]
        assert isinstance(view.differences, tuple)
        assert [each for each in view.differences if not each.harmless] == []
        assert (view.unrouted, view.missing_exchanges) == (frozenset(), frozenset())
    assert resend(house) == (outcomes.DONE, "")
    assert redrive(house) == (outcomes.DONE, "")
    assert redrive(house, discard_reason="worthless") == (outcomes.DONE, "")
    assert redrive(house, dry_run=True) == (outcomes.DONE, "")


def works(component: str, house: House) -> bool:
    """Whether the operator sees this side's database as it is, and does there what it is for."""
    look = _works_on_outbox(house) if component == "outbox" else _works_on_inbox(house)
    try:
        return asyncio.run(look)
    except (OuthaulError, psycopg.Error):
        return False


async def _works_on_outbox(house: House) -> bool:
    record(house.owner_outbox, message(1, routing_key="order.created"), exchange=EXCHANGE)
    databases = PostgresDatabases(timeout_seconds=10)
    try:
        seen = await databases.look_at_outbox(house.outbox, stuck_after_seconds=60, run_ids=("r",))
        tended = await databases.tend_history(house.outbox, Tend(component="outbox", keep_days=30))
    finally:
        await databases.close()
    if not isinstance(seen, OutboxDatabase) or tended is not None or not _is_fine(seen.findings):
        return False
    sent = await resend_once(
        ResendRequest(), dsn=house.outbox, amqp_url=house.urls.amqp, patience_seconds=0.5, settings=QUICK
    )
    recorded = query(house.owner_outbox, "SELECT state FROM runs WHERE run_id = %s", sent.run_id)
    return sent.is_clean and sent.progress.sent > 0 and recorded == [("done",)]


async def _works_on_inbox(house: House) -> bool:
    databases = PostgresDatabases(timeout_seconds=10)
    try:
        seen = await databases.look_at_inbox(house.inbox, consumer="waybill", run_ids=("r",))
    finally:
        await databases.close()
    if not isinstance(seen, InboxDatabase) or not _is_fine(seen.findings):
        return False
    return await asyncio.to_thread(_moves, house, redrive_letters) and await asyncio.to_thread(
        _moves, house, discard_letters
    )


def _is_fine(findings: tuple[Finding, ...]) -> bool:
    told = {finding.check.rsplit(" ", 1)[-1] for finding in findings}
    return {"schema", "vacuum", "partitions"} <= told and not [f for f in findings if f.level is Level.PROBLEM]


def _moves(house: House, move: Callable[..., Moved]) -> bool:
    with connected(house.broker) as shop:
        shop.letter()
        poll(lambda: shop.depth() > 0, what="the letter")
        with (
            psycopg.connect(house.inbox, autocommit=True) as inbox,
            DeadLetterQueue(BrokerSettings.parse(house.urls.amqp), DLQ) as letters,
        ):
            return move(letters, inbox, Order(queue=QUEUE, limit=1, reason="worthless")).counts["moved"] == 1


PRIVILEGES = [
    (component, grant.on, privilege)
    for component in ("outbox", "inbox")
    for grant in schema_grant.grants(component, "operator")
    for privilege in grant.privileges.split(", ")
]


@pytest.mark.parametrize("component", ["outbox", "inbox"])
def test_no_grant_is_there_for_nothing(component: str, house: House) -> None:
    owner = house.owner_outbox if component == "outbox" else house.owner_inbox
    for on, privilege in [(on, privilege) for of, on, privilege in PRIVILEGES if of == component]:
        query(owner, f"REVOKE {privilege} ON {on} FROM {house.role}")
        assert not works(component, house), f"{privilege} ON {on}"
        query(owner, f"GRANT {privilege} ON {on} TO {house.role}")
    assert works(component, house)


def forbidden(house: House, do: Callable[[Any], Any]) -> bool:
    """Whether the broker refuses it to the operator's user."""
    connection = pika.BlockingConnection(pika.URLParameters(house.urls.amqp))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        do(channel)
    except ChannelClosedByBroker as error:
        return bool(error.reply_code == 403)
    finally:
        connection.close()
    return False


@pytest.mark.parametrize(
    "do",
    [
        lambda channel: channel.queue_declare("mine"),
        lambda channel: channel.exchange_declare("mine"),
        lambda channel: channel.queue_delete(QUEUE),
        lambda channel: channel.queue_purge(QUEUE),
        lambda channel: channel.queue_bind(QUEUE, EXCHANGE, "x"),
        lambda channel: channel.basic_get(QUEUE),
        lambda channel: channel.basic_publish("outhaul.dlx", QUEUE, b""),
        lambda channel: channel.basic_publish("", QUEUE, b""),
    ],
    ids=["declare", "exchange", "delete", "purge", "bind", "read the queue", "dead-letter", "default exchange"],
)
def test_what_lies_beyond_is_refused_by_the_broker(do: Callable[[Any], Any], house: House) -> None:
    assert forbidden(house, do)


def test_without_the_right_to_write_a_resend_says_so(house: House) -> None:
    permit(house.broker, house.user, write=r"^outhaul\.retry$")
    code, reason = resend(house)
    assert (code, reason) == (outcomes.NOT_TAKEN, "NotRoutable")


@contextmanager
def without(house: House, **rights: str) -> Iterator[None]:
    permit(house.broker, house.user, **rights)
    yield
    permit(house.broker, house.user)


def test_without_the_rights_on_dead_letters_a_redrive_says_so(house: House) -> None:
    with without(house, read="^$"):
        assert redrive(house) == (outcomes.REFUSED, "PermissionDenied")
    with without(house, write=r"^outhaul\.events$"):
        assert redrive(house) == (outcomes.REFUSED, "PermissionDenied")


def test_the_page_names_these_rights() -> None:
    text = PAGE.read_text()
    for pattern in ("pg_read_all_stats", "monitoring", "`^$`"):
        assert pattern in text
    for _, on, privilege in PRIVILEGES:
        assert on.removeprefix("FUNCTION ").partition("(")[0] in text
        assert privilege in text
