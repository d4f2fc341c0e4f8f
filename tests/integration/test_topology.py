"""The topology on a real broker: applied, compared, and doing what it says to real messages."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pika
import pytest
from pika import exceptions

from outhaul.broker_admin.management import Management
from outhaul.broker_admin.topology_apply import Applied, apply, check_passive, diff, read_snapshot
from outhaul.errors import BrokerUnreachable, TopologyError
from outhaul.topology import Binding, Queue, Topology, consumer_topology
from support import BrokerUnderTest, poll

QUEUE = "shop.waybill"
DLQ = "shop.waybill.dlq"
TIER = "shop.waybill.retry.500ms"
TOPOLOGY = consumer_topology(QUEUE, [("shop.events", "order.created")], retry_delays_seconds=(0.5, 300))


@pytest.fixture
def api(broker: BrokerUnderTest) -> Iterator[httpx.Client]:
    """The management API as an administrator, for what a test sets up by hand."""
    with httpx.Client(base_url=broker.management_url + "/api", timeout=30, trust_env=False) as client:
        client.event_hooks["response"] = [lambda response: response.raise_for_status()]
        yield client


@pytest.fixture
def channel(broker: BrokerUnderTest) -> Iterator[Any]:
    """A channel in confirm mode."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.amqp_url))
    opened = connection.channel()
    opened.confirm_delivery()
    yield opened
    with suppress(exceptions.AMQPError):
        connection.close()


@pytest.fixture
def make_user(broker: BrokerUnderTest, api: httpx.Client) -> Iterator[Callable[..., str]]:
    """Makes a user with tags and permissions in the test's virtual host; returns the management URL as that user."""
    made: list[str] = []

    def make(tags: str, *, permissions: str | None = ".*") -> str:
        name = f"{broker.vhost}-{len(made)}"
        api.put(f"/users/{name}", json={"password": "s3cret/%", "tags": tags})
        made.append(name)
        if permissions is not None:
            rights = {"configure": permissions, "write": permissions, "read": permissions}
            api.put(f"/permissions/{broker.vhost}/{name}", json=rights)
        host = urlsplit(broker.management_url).netloc.rpartition("@")[2]
        return f"http://{name}:{quote('s3cret/%', safe='')}@{host}"

    yield make
    for name in made:
        api.delete(f"/users/{name}")


def applied(broker: BrokerUnderTest, topology: Topology = TOPOLOGY) -> Applied:
    return apply(topology, broker.amqp_url, broker.management_url)


def differences(broker: BrokerUnderTest, topology: Topology = TOPOLOGY) -> list[tuple[str, str]]:
    return [(found.kind, found.name) for found in diff(topology, broker.amqp_url, broker.management_url)]


def taken(channel: Any, queue: str, *, seconds: float = 10) -> tuple[Any, Any, bytes]:
    """The next message of that queue, not yet acknowledged."""

    def get() -> tuple[Any, Any, bytes] | None:
        method, properties, body = channel.basic_get(queue)
        return None if method is None else (method, properties, body)

    found = poll(get, seconds=seconds, what=f"a message in {queue}")
    assert found is not None
    return found


def put(api: httpx.Client, broker: BrokerUnderTest, path: str, body: dict[str, Any]) -> None:
    kind, _, rest = path.partition("/")
    api.put(f"/{kind}/{broker.vhost}/{rest}", json=body)


def test_applying_again_changes_nothing(broker: BrokerUnderTest) -> None:
    assert check_passive(TOPOLOGY, broker.amqp_url) != []
    first = applied(broker)
    again = applied(broker)

    assert {change.kind for change in first.changes} == {
        "missing-exchange",
        "missing-queue",
        "missing-binding",
        "missing-policy",
    }
    assert again == Applied((), ())
    assert differences(broker) == []
    assert check_passive(TOPOLOGY, broker.amqp_url) == []


def test_every_queue_is_a_quorum_queue_with_its_type_as_its_only_argument(
    broker: BrokerUnderTest, api: httpx.Client
) -> None:
    applied(broker)
    queues = {queue["name"]: queue for queue in api.get(f"/queues/{broker.vhost}").json()}

    assert set(queues) == {QUEUE, DLQ, TIER, "shop.waybill.retry.5m"}
    assert {queue["type"] for queue in queues.values()} == {"quorum"}
    assert all(queue["arguments"] == {"x-queue-type": "quorum"} for queue in queues.values())


def test_the_broker_says_that_each_queue_obeys_its_own_policy(broker: BrokerUnderTest, api: httpx.Client) -> None:
    applied(broker)

    def obeyed() -> dict[str, Any]:
        queues = api.get(f"/queues/{broker.vhost}").json()
        return {queue["name"]: queue.get("effective_policy_definition") for queue in queues if queue.get("policy")}

    # 3.10 tells it from statistics that lag by seconds.
    poll(lambda: len(obeyed()) == 4, seconds=20, what="policies of all four queues")
    assert obeyed() == {policy.queue: policy.definition_for(broker.version) for policy in TOPOLOGY.policies}
    assert obeyed()[QUEUE]["dead-letter-strategy"] == "at-least-once"


def test_a_rejected_message_moves_to_the_dead_letter_queue(broker: BrokerUnderTest, channel: Any) -> None:
    applied(broker)
    channel.basic_publish("shop.events", "order.created", b"poison", mandatory=True)
    method, _, _ = taken(channel, QUEUE)
    channel.basic_reject(method.delivery_tag, requeue=False)

    method, properties, body = taken(channel, DLQ)
    assert body == b"poison"
    assert method.routing_key == QUEUE
    assert properties.headers["x-death"][0]["reason"] == "rejected"
    assert properties.headers["x-death"][0]["routing-keys"] == ["order.created"]
    poll(lambda: channel.queue_declare(QUEUE, passive=True).method.message_count == 0, what="an empty queue")


def test_a_delay_tier_gives_its_message_back_after_its_time(broker: BrokerUnderTest, channel: Any) -> None:
    applied(broker)
    began = time.monotonic()
    channel.basic_publish("outhaul.retry", TIER, b"again", pika.BasicProperties(message_id="1"), mandatory=True)
    method, properties, body = taken(channel, QUEUE)

    assert time.monotonic() - began >= 0.45
    assert (body, properties.message_id, method.redelivered) == (b"again", "1", False)
    assert (method.exchange, method.routing_key) == ("outhaul.retry", QUEUE)


def test_a_message_that_failed_after_a_delay_still_finds_the_dead_letter_queue(
    broker: BrokerUnderTest, channel: Any
) -> None:
    applied(broker)
    channel.basic_publish("outhaul.retry", TIER, b"again", mandatory=True)
    method, _, _ = taken(channel, QUEUE)
    channel.basic_reject(method.delivery_tag, requeue=False)

    method, properties, body = taken(channel, DLQ)
    assert (body, method.routing_key) == (b"again", QUEUE)
    assert [death["reason"] for death in properties.headers["x-death"]] == ["rejected", "expired"]


def test_a_full_queue_refuses_and_loses_nothing(broker: BrokerUnderTest, channel: Any) -> None:
    applied(broker, consumer_topology(QUEUE, [("shop.events", "order.created")], max_length=2))
    confirmed, nacked = 0, 0
    for _ in range(20):
        try:
            channel.basic_publish("shop.events", "order.created", b"x", mandatory=True)
        except exceptions.NackError:
            nacked += 1
        else:
            confirmed += 1
    assert nacked > 0
    for _ in range(confirmed):
        taken(channel, QUEUE)
    assert channel.basic_get(QUEUE)[0] is None


def test_reading_the_dead_letters_again_and_again_loses_none(broker: BrokerUnderTest, channel: Any) -> None:
    applied(broker)
    channel.basic_publish("outhaul.dlx", QUEUE, b"dead", mandatory=True)
    for _ in range(50):
        method, _, body = taken(channel, DLQ)
        assert body == b"dead"
        channel.basic_reject(method.delivery_tag, requeue=True)
    assert taken(channel, DLQ)[2] == b"dead"


def test_what_somebody_changed_by_hand_is_found_and_put_back(broker: BrokerUnderTest, api: httpx.Client) -> None:
    applied(broker)
    put(api, broker, f"policies/{QUEUE}", {"pattern": ".*", "definition": {"max-length": 5}, "apply-to": "queues"})
    api.delete(f"/policies/{broker.vhost}/{DLQ}")
    api.delete(f"/bindings/{broker.vhost}/e/shop.events/q/{QUEUE}/order.created")

    # What our policy shadows while its pattern is wrong depends on its priority, which was lost as well.
    found = differences(broker)
    assert found == [("missing-binding", QUEUE), ("different-policy", QUEUE), ("missing-policy", DLQ)]
    assert len(applied(broker).changes) == 3
    assert differences(broker) == []


def test_a_queue_that_was_deleted_is_missed_and_made_again(
    broker: BrokerUnderTest, channel: Any, api: httpx.Client
) -> None:
    applied(broker)
    channel.queue_delete(DLQ)

    assert differences(broker) == [("missing-queue", DLQ), ("missing-binding", DLQ)]
    assert [(found.kind, found.name) for found in check_passive(TOPOLOGY, broker.amqp_url)] == [("missing-queue", DLQ)]
    applied(broker)
    assert differences(broker) == []


def test_limits_change_under_a_living_queue(broker: BrokerUnderTest, channel: Any) -> None:
    applied(broker)
    channel.basic_publish("shop.events", "order.created", b"kept", mandatory=True)
    changed = applied(broker, consumer_topology(QUEUE, [("shop.events", "order.created")], max_length=7))

    assert ("different-policy", QUEUE) in [(change.kind, change.name) for change in changed.changes]
    assert taken(channel, QUEUE)[2] == b"kept"


def test_a_foreign_policy_that_shadows_ours_is_named(broker: BrokerUnderTest, api: httpx.Client) -> None:
    applied(broker)
    foreign = {"pattern": "^shop", "definition": {"message-ttl": 1}, "apply-to": "queues", "priority": 99}
    put(api, broker, "policies/cleanup", foreign)

    with pytest.raises(TopologyError, match=r"policy cleanup \(pattern \^shop, priority 99\) takes the place"):
        applied(broker)
    put(api, broker, "policies/cleanup", {**foreign, "priority": 49})
    assert applied(broker) == Applied((), ())


def test_an_operator_policy_that_overrides_ours_is_told(broker: BrokerUnderTest, api: httpx.Client) -> None:
    applied(broker)
    stricter = {"pattern": QUEUE, "definition": {"max-length": 10, "delivery-limit": 2000}, "apply-to": "queues"}
    put(api, broker, "operator-policies/guard", stricter)

    [first, *_] = diff(TOPOLOGY, broker.amqp_url, broker.management_url)
    assert (first.kind, first.harmless) == ("operator-policy", True)
    assert "{'max-length': 10}" in first.text
    put(api, broker, "operator-policies/guard", {**stricter, "definition": {"expires": 1000000}})
    with pytest.raises(TopologyError, match="operator policy guard overrides"):
        applied(broker)


def test_a_queue_of_another_kind_is_left_alone_and_told(broker: BrokerUnderTest, channel: Any) -> None:
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "classic", "x-max-length": 5})
    with pytest.raises(TopologyError, match=r"queue shop.waybill is a classic queue.*empty and delete it"):
        applied(broker)
    assert channel.queue_declare(DLQ, passive=True), "the rest is applied all the same"


def test_an_exchange_of_another_kind_is_left_alone_and_told(broker: BrokerUnderTest, channel: Any) -> None:
    channel.exchange_declare("shop.events", "fanout", durable=False)
    with pytest.raises(TopologyError, match=r"exchange shop.events is fanout, not durable"):
        applied(broker)


def test_unroutable_messages_that_would_be_swallowed_are_warned_about(broker: BrokerUnderTest, channel: Any) -> None:
    channel.exchange_declare("shop.events", "topic", durable=True, arguments={"alternate-exchange": "amq.fanout"})
    remaining = applied(broker).remaining
    assert [(left.kind, left.harmless) for left in remaining] == [("alternate-exchange", True)]


def test_an_extra_binding_is_told_and_kept(broker: BrokerUnderTest, channel: Any) -> None:
    applied(broker)
    channel.queue_bind(QUEUE, "shop.events", "order.#")
    assert differences(broker) == [("extra-binding", QUEUE)]
    assert applied(broker).changes == ()


def test_a_queue_name_of_special_characters_has_a_policy_that_matches_it_alone(
    broker: BrokerUnderTest, api: httpx.Client
) -> None:
    odd = "a.b+c (d) [e]$/f%2F é"
    applied(broker, consumer_topology(odd, [("shop.events", "#")]))
    assert differences(broker, consumer_topology(odd, [("shop.events", "#")])) == []
    matching = poll(lambda: api.get(f"/queues/{broker.vhost}/{quote(odd, safe='')}").json().get("policy"), seconds=20)
    assert matching == odd


def test_a_policymaker_may_apply(broker: BrokerUnderTest, make_user: Callable[..., str]) -> None:
    url = make_user("policymaker")
    assert apply(TOPOLOGY, broker.amqp_url, url).changes
    assert diff(TOPOLOGY, broker.amqp_url, url) == []


@pytest.mark.parametrize(
    ("tags", "permissions", "error", "way_out"),
    [
        ("", ".*", BrokerUnreachable, "lacks the management tag; rabbitmqctl set_user_tags"),
        ("management", ".*", TopologyError, "policies take the tag policymaker"),
        ("policymaker", None, TopologyError, "set_permissions -p"),
        ("policymaker", "^$", TopologyError, "permission to configure, write and read"),
    ],
)
def test_a_user_without_the_rights_is_told_which(
    tags: str,
    permissions: str | None,
    error: type[Exception],
    way_out: str,
    broker: BrokerUnderTest,
    make_user: Callable[..., str],
) -> None:
    with pytest.raises(error, match=way_out) as caught:
        apply(TOPOLOGY, broker.amqp_url, make_user(tags, permissions=permissions))
    assert "s3cret" not in str(caught.value)


def test_nodes_that_never_come_are_told(broker: BrokerUnderTest, make_user: Callable[..., str]) -> None:
    with pytest.raises(TopologyError, match="1 of 2 nodes run after"):
        apply(TOPOLOGY, broker.amqp_url, broker.management_url, nodes=2, timeout_seconds=0.1)
    with pytest.raises(TopologyError, match="policymaker monitoring"):
        apply(TOPOLOGY, broker.amqp_url, make_user("policymaker"), nodes=2, timeout_seconds=0.1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"password": "wrong"}, "login refused"),
        ({"port": 1}, "connection refused"),
        ({"host": "no-such-host.invalid"}, "host name is unknown"),
        ({"scheme": "https"}, "TLS failed|speaks TLS"),
    ],
)
def test_an_api_that_cannot_be_asked_is_told_with_the_way_out(
    change: dict[str, Any], why: str, broker: BrokerUnderTest
) -> None:
    parts = urlsplit(broker.management_url)
    given = {"scheme": parts.scheme, "password": parts.password, "host": parts.hostname, "port": parts.port, **change}
    url = f"{given['scheme']}://{parts.username}:{given['password']}@{given['host']}:{given['port']}"
    with pytest.raises(BrokerUnreachable, match=why) as caught:
        diff(TOPOLOGY, broker.amqp_url, url)
    assert str(given["password"]) not in str(caught.value).replace("guest is let in", "")


def test_a_port_that_is_not_the_api_is_told(broker: BrokerUnderTest) -> None:
    amqp = urlsplit(broker.amqp_url)
    with pytest.raises(BrokerUnreachable, match="management API"):
        diff(TOPOLOGY, broker.amqp_url, f"http://{amqp.hostname}:{amqp.port}")


def test_a_virtual_host_that_is_missing_is_told_with_the_way_out(broker: BrokerUnderTest) -> None:
    url = broker.amqp_url + "-none"
    with pytest.raises(TopologyError, match="rabbitmqctl add_vhost"):
        apply(TOPOLOGY, url, broker.management_url)
    with pytest.raises(BrokerUnreachable, match="create the virtual host"):
        check_passive(TOPOLOGY, url)


def test_a_snapshot_holds_what_the_topology_names(broker: BrokerUnderTest) -> None:
    applied(broker)
    api = Management(broker.management_url, virtual_host=broker.vhost)
    snapshot = read_snapshot(replace(TOPOLOGY, exchanges=frozenset(), bindings=frozenset()), api)

    assert snapshot.version == broker.version
    assert snapshot.nodes == 1
    assert set(snapshot.queues) == {queue.name for queue in TOPOLOGY.queues}
    assert Binding("outhaul.dlx", DLQ, QUEUE) in snapshot.bindings
    assert Queue(DLQ) in TOPOLOGY.queues
