"""A topology by name: from an import path, an entry point or a file, and every way in which that can be wrong."""

import json
import sys
from pathlib import Path

import pytest

from outhaul.broker_admin.topology_load import load_topology, topology_from
from outhaul.errors import ConfigurationError
from outhaul.topology import Exchange, consumer_topology

TOML = """
[[consumers]]
queue = "shop.waybill"
bindings = [{exchange = "shop.events", routing_key = "order.created"}]
retry_delays = ["250ms", "5m"]
max_length = 10
consumer_timeout = "10m"

[[exchanges]]
name = "shop.other"
kind = "fanout"
"""
WANTED = consumer_topology(
    "shop.waybill",
    [("shop.events", "order.created")],
    retry_delays_seconds=(0.25, 300),
    max_length=10,
    consumer_timeout_seconds=600,
)
BINDING = {"exchange": "e", "routing_key": "k"}


def test_a_toml_file_describes_consumers_and_exchanges(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(TOML)
    topology = load_topology(str(tmp_path / "t.toml"))

    assert topology.queues == WANTED.queues
    assert topology.policies == WANTED.policies
    assert topology.exchanges == WANTED.exchanges | {Exchange("shop.other", "fanout")}


def test_a_json_file_does_too(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"consumers": [{"queue": "q", "bindings": [BINDING]}]}))
    assert load_topology(str(tmp_path / "t.json")) == consumer_topology("q", [("e", "k")])


def test_an_import_path_finds_modules_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_topology_of_test.py").write_text(
        "from outhaul.topology import consumer_topology\n"
        "TOPOLOGY = consumer_topology('q', [('e', 'k')])\n"
        "class Inner:\n    @staticmethod\n    def made():\n        return TOPOLOGY\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_topology("shop_topology_of_test:TOPOLOGY") == consumer_topology("q", [("e", "k")])
    assert load_topology("shop_topology_of_test:Inner.made") == consumer_topology("q", [("e", "k")])
    assert sys.path == before


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("no_such_module_at_all:X", "cannot be imported"),
        ("outhaul.topology:NOPE", "cannot be imported"),
        ("outhaul.topology:", "cannot be imported"),
        (":X", "cannot be imported"),
        ("outhaul.topology:RETRY_EXCHANGE", "is a str, not an outhaul.topology.Topology"),
        ("no-such-name", "no such entry point"),
        ("/no/such/file.toml", "cannot be read"),
        ("/tmp.toml\x00.json", "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_with_the_way_out(source: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        load_topology(source, setting="--topology")
    assert str(caught.value).startswith("--topology")


@pytest.mark.parametrize("text", ["[[consumers", "= 1", "\x00", "[" * 100_000])
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_file_that_is_no_toml_or_json_is_refused(text: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"t.{suffix}"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=f"is no {suffix.upper()}"):
        load_topology(str(file))


def test_a_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b" " * 2_000_000)
    with pytest.raises(ConfigurationError, match="larger than"):
        load_topology(str(tmp_path / "t.json"))


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ([], "must be a table"),
        ({}, "describes nothing"),
        ({"consumer": []}, "did you mean consumers"),
        ({"consumers": {}}, "must be a list"),
        ({"consumers": ["x"]}, r"consumers\[0\].*must be a table"),
        ({"consumers": [{"bindings": [BINDING]}]}, r"consumers\[0\] queue.*missing"),
        ({"consumers": [{"queue": "q"}]}, r"consumers\[0\] bindings.*missing"),
        ({"consumers": [{"queue": "q", "bindings": []}]}, "would receive nothing"),
        ({"consumers": [{"queue": 5, "bindings": [BINDING]}]}, r"queue='5': must be a str"),
        ({"consumers": [{"queue": "q", "bindings": [{"exchange": "e"}]}]}, "routing_key.*missing"),
        ({"consumers": [{"queue": "q", "bindings": [BINDING], "max_length": True}]}, "must be a int"),
        ({"consumers": [{"queue": "q", "bindings": [BINDING], "retry_delays": ["soon"]}]}, "retry_delays='soon'"),
        ({"consumers": [{"queue": "q", "bindings": [BINDING], "retry_delay": ["5s"]}]}, "did you mean retry_delays"),
        ({"exchanges": [{"name": "e", "kind": "x"}]}, "kind of exchange"),
    ],
)
def test_a_description_that_is_wrong_is_refused_where_it_is_wrong(description: object, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        topology_from(description)


def test_the_file_shown_in_the_page_can_be_loaded(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "topology.md").read_text()
    (tmp_path / "t.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    topology = load_topology(str(tmp_path / "t.toml"))
    assert topology == consumer_topology("shop.waybill", [("shop.events", "order.created")])
