"""A cluster of three nodes that loses some of them. Each run ends with the ledger's verdict."""

from __future__ import annotations

import pytest

from chaos.cluster import TICK_SECONDS, Cluster, Node
from chaos.system import System, lasts
from outhaul_waybill.topology import QUEUE
from support import poll

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def wait_one_of_three(cluster: Cluster, node: Node) -> None:
    poll(lambda: len(cluster.neighbours(node)) == 2, seconds=120, what=f"{node.node} connected with both others")


def test_the_queues_leader_killed_again_and_again_costs_no_order(clustered: System, cluster: Cluster) -> None:
    clustered.start()
    with clustered.load() as load:
        for _ in range(2):
            load.more(60)
            leader = cluster.leader(clustered.broker, QUEUE)
            cluster.kill(leader)
            clustered.wait_made(clustered.made() + 30)
            cluster.mend()
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


def test_without_a_quorum_orders_are_taken_and_sent_when_it_is_back(clustered: System, cluster: Cluster) -> None:
    clustered.start()
    with clustered.load() as load:
        load.more(60)
        leader = cluster.leader(clustered.broker, QUEUE)
        follower = cluster.others(leader)[0]
        cluster.kill(leader, follower)
        load.more(60)
        poll(lambda: clustered.pending() >= 50, seconds=30, what="orders that wait")
        cluster.mend()
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


def test_a_node_that_stands_still_for_a_moment_costs_no_order(clustered: System, cluster: Cluster) -> None:
    clustered.start()
    with clustered.load() as load:
        for _ in range(2):
            load.more(60)
            leader = cluster.leader(clustered.broker, QUEUE)
            cluster.freeze(leader)
            lasts(TICK_SECONDS / 4)  # nobody believes it dead
            cluster.thaw(leader)
            load.more(60)
            wait_one_of_three(cluster, leader)
        load.more(20)
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


def test_a_node_that_stands_still_and_is_replaced_costs_no_order(clustered: System, cluster: Cluster) -> None:
    """A node that was believed dead and goes on stays mute (seen on 3.10): its supervisor must start it again."""
    clustered.start()
    with clustered.load() as load:
        load.more(60)
        leader = cluster.leader(clustered.broker, QUEUE)
        cluster.freeze(leader)
        made = clustered.made()
        load.more(60)
        clustered.wait_made(made + 200)  # more than was on its way: the others go on
        lasts(2 * TICK_SECONDS)
        load.more(60)
        cluster.kill(leader)
        cluster.mend()
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


def test_the_whole_cluster_killed_and_started_costs_no_order(clustered: System, cluster: Cluster) -> None:
    clustered.start()
    with clustered.load() as load:
        load.more(60)
        cluster.kill(*cluster.nodes)
        load.more(60)
        cluster.mend()
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


def test_a_partition_that_cuts_off_the_queues_leader_costs_no_order(clustered: System, cluster: Cluster) -> None:
    clustered.start()
    with clustered.load() as load:
        load.more(60)
        leader = cluster.leader(clustered.broker, QUEUE)
        cluster.cut_off(leader)
        assert all(leader not in cluster.neighbours(other) for other in cluster.others(leader))
        clustered.wait_made(clustered.made() + 60)
        cluster.join_again()
        wait_one_of_three(cluster, leader)
        load.more(20)
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


def test_a_partition_that_leaves_no_majority_costs_no_order(clustered: System, cluster: Cluster) -> None:
    clustered.start()
    with clustered.load() as load:
        load.more(60)
        cluster.cut_off(*cluster.nodes)
        load.more(60)
        poll(lambda: clustered.pending() >= 50, seconds=30, what="orders that wait")
        cluster.join_again()
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


def test_a_partial_partition_costs_no_order(clustered: System, cluster: Cluster) -> None:
    """The queue's leader and a follower part; both still see the third. A broker may pause two of three (3.10)."""
    clustered.start()
    with clustered.load() as load:
        load.more(60)
        leader = cluster.leader(clustered.broker, QUEUE)
        follower, third = cluster.others(leader)
        cluster.cut_between(leader, follower)
        assert follower not in cluster.neighbours(leader)
        load.more(60)
        lasts(2 * TICK_SECONDS)
        load.more(60)
        cluster.join_again()
        for node in (leader, follower, third):
            wait_one_of_three(cluster, node)
        load.more(20)
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


def test_nodes_restarted_in_order_one_after_another_cost_no_order(clustered: System, cluster: Cluster) -> None:
    clustered.start()
    with clustered.load() as load:
        for node in cluster.nodes:
            load.more(40)
            cluster.restart(node)
        load.more(20)
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0


@pytest.mark.parametrize(
    ("alarm", "cure"),
    [
        (("set_vm_memory_high_watermark", "absolute", "1MB"), ("set_vm_memory_high_watermark", "0.4")),
        (("set_disk_free_limit", "999999999999999"), ("set_disk_free_limit", "50MB")),
    ],
    ids=["memory", "disk"],
)
def test_an_alarm_on_every_node_stops_nobody_from_ordering(
    alarm: tuple[str, ...], cure: tuple[str, ...], clustered: System, cluster: Cluster
) -> None:
    clustered.start()
    with clustered.load() as load:
        load.more(40)
        cluster.rabbitmqctl(*alarm)
        try:
            load.more(150)
            poll(lambda: clustered.pending() >= 100, what="rows that wait")
        finally:
            cluster.rabbitmqctl(*cure)
        clustered.settle(load.finish(), seconds=120)
    assert clustered.spent_attempts() == 0
