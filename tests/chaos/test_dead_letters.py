"""Dead letters with nowhere to go, and messages that a broker takes back. Each run ends with the ledger's verdict."""

from __future__ import annotations

import pytest

from chaos.broker_faults import consumer_timeout, deleted, small
from chaos.database_faults import locked
from chaos.ledger import Told
from chaos.ledger_reading import queues
from chaos.servers import Servers, kill
from chaos.system import System, count, lasts
from outhaul.topology import DEAD_LETTER_EXCHANGE
from outhaul_waybill.topology import EXCHANGE, QUEUE, ROUTING_KEY
from support import poll
from support_amqp import Amqp

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

LETTERS = f"{QUEUE}.dlq"


def send_malformed(amqp: Amqp, told: Told, number: int) -> None:
    told.injected.add(f"malformed-{number}")
    amqp.publish(EXCHANGE, ROUTING_KEY, b"{", message_id=f"malformed-{number}")


def letters_held(system: System) -> int:
    """Those that the source queue keeps because there is nowhere to put them."""
    return int(queues(system.broker)[QUEUE].get("messages_dlx") or 0)


def test_a_full_dead_letter_queue_loses_no_letter_and_holds_up_no_order(system: System) -> None:
    system.start()
    letters = 12
    with Amqp(system.broker) as amqp, system.load() as load:
        load.more(10)
        with small(system.broker, LETTERS, 2):
            for number in range(letters):
                send_malformed(amqp, load.told, number)
            made = system.made()
            load.more(60)
            system.wait_made(made + 60)
            poll(lambda: letters_held(system) >= 1, seconds=90, what="letters that wait")
        system.settle(load.finish(), letters=letters, seconds=90)


def test_a_dead_letter_queue_that_is_missing_while_the_broker_restarts_loses_no_letter(
    system: System, servers: Servers
) -> None:
    system.start()
    with system.load() as load:
        load.more(10)
        with deleted(system.broker, "queues", LETTERS):
            with Amqp(system.broker) as amqp:
                for number in range(5):
                    send_malformed(amqp, load.told, number)
            load.more(30)
            poll(lambda: letters_held(system) == 5, seconds=90, what="letters that wait")
            kill(servers.broker)
            servers.broker.start()
            servers.hold()
        load.more(30)
        system.settle(load.finish(), letters=5, seconds=120)


def test_a_dead_letter_exchange_that_is_deleted_loses_no_letter(system: System) -> None:
    system.start()
    with Amqp(system.broker) as amqp, system.load() as load:
        load.more(10)
        with deleted(system.broker, "exchanges", DEAD_LETTER_EXCHANGE):
            for number in range(5):
                send_malformed(amqp, load.told, number)
            load.more(30)
            poll(lambda: letters_held(system) == 5, seconds=90, what="letters that wait")
        load.more(30)
        system.settle(load.finish(), letters=5, seconds=120)


@pytest.mark.chaos_quick
def test_a_message_held_past_the_brokers_consumer_timeout_takes_effect_once(system: System, servers: Servers) -> None:
    """What waits for a locked table is taken back: by the end of the channel (3.10) or of the consumer (4.3)."""
    with consumer_timeout(system.broker, servers.rabbitmqctl, QUEUE, 2000):
        system.start()
        with system.load() as load:
            load.more(30)
            with locked(system.waybill_dsn, "waybills"):
                lasts(8)
            load.more(30)
            system.settle(load.finish())
    said = "".join(each.log.read_text() for each in system.waybills)
    # 3.10 closes the channel with these words; 4.3 cancels the consumer.
    assert "delivery acknowledgement" in said or "cancel" in said, f"the broker took nothing back: {said[-2000:]}"
    assert count(system.waybill_dsn, "SELECT count(*) FROM deliveries") == 0
