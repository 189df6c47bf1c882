"""Which address other nodes are told: by interface, by route, by a rule for names; never one of loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from ftslurm.config import parse
from ftslurm.errors import ConfigError, FtslurmError, ServiceUnavailable, SiteForbids
from ftslurm.runtime import network
from ftslurm.runtime.clients import refusals

NAMES = {"n1": "127.0.1.1", "n1i": "127.0.1.1", "n2": "127.0.0.9", "n1x": "127.0.1.1", "n1old": "192.0.2.7"}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Give a resolver that knows these names, on a host whose own one leads to loopback, as Debian installs it."""
    known = dict(NAMES)

    def lookup(name: str) -> str:
        if network._is_address(name):
            return name
        if name not in known:
            raise socket.gaierror(-2, "Name or service not known")
        return known[name]

    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr(socket, "gethostbyname", lookup)
    monkeypatch.setattr(socket, "gethostname", lambda: "n1.cluster")
    network.resolved.cache_clear()
    yield known
    network.resolved.cache_clear()


@pytest.fixture
def real() -> str:
    """Give an address of this machine that is not of loopback."""
    found = network._of_all_interfaces()
    if not found:
        pytest.skip("this machine has no address but loopback's")
    return found[0]


def test_a_rule_names_the_other_interface(names: dict[str, str], real: str) -> None:
    """{host}-ib is looked up on the node itself, and is taken where it is an address of the node."""
    names["n1-ib"] = real
    assert network.find_address("{host}-ib", ["n2"]) == network.Address(real)


def test_a_rule_that_leads_to_loopback_falls_back_to_the_way_to_others(names: dict[str, str], real: str) -> None:
    """The address on the way to another node's name by the same rule, or to its address, is taken, and that is said."""
    names["n2i"] = real
    for others in (["n2"], ["n1", "n3", "n2"], [real]):
        found = network.find_address("{host}i", others)
        assert found.ip == real
        assert "n1i leads to 127.0.1.1 here" in found.remark


@pytest.mark.parametrize(
    ("interface", "words", "kind"),
    [
        ("{host}i", "network.interface: {host}i leads to 127.0.1.1 (n1i)", SiteForbids),
        ("{host}old", "n1old leads to 192.0.2.7, which is no address of n1", SiteForbids),
        ("{host}no", "n1no cannot be resolved on n1", ServiceUnavailable),
        ("lo", "network.interface: lo gives 127.0.0.1 on n1", SiteForbids),
        ("nowhere0", "'nowhere0' has no IPv4 address here", ServiceUnavailable),
        ("auto", "network.interface: auto gives no address but loopback", SiteForbids),
    ],
)
def test_an_address_that_others_cannot_reach_is_refused(interface: str, words: str, kind: type[FtslurmError]) -> None:
    """The reason names the setting, the address and where it came from; a hint says what to do."""
    with pytest.raises(kind) as caught:
        network.find_address(interface, ["n2"])
    assert words in str(caught.value)
    assert caught.value.hint


def test_the_supervisors_own_name_may_lead_to_loopback(names: dict[str, str], real: str) -> None:
    """Then the address on the way to the other nodes is told, with the reason; also in a job of one node."""
    names["n2"] = real
    for others in (["n1", "n2"], ["n1"]):
        found = network.own_address("auto", others)
        assert found.ip == real
        assert "the name n1 leads to 127.0.1.1 on its own host" in found.remark
    names["n1"] = "10.9.8.7"
    network.resolved.cache_clear()
    assert network.own_address("auto", ["n2"]) == network.Address("10.9.8.7")


def test_a_resolver_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name service that hangs is an error with words, after a bounded time."""
    monkeypatch.setattr(network, "RESOLVE_S", 0.05)
    monkeypatch.setattr(socket, "gethostbyname", lambda _: __import__("time").sleep(1))
    with pytest.raises(ServiceUnavailable, match="says nothing about n1i"):
        network.find_address("{host}i", [])


def test_an_agent_that_cannot_run_says_why_in_the_jobs_output(tmp_path: object) -> None:
    """The last line of its traceback, with its node; an agent that was killed has said nothing."""
    folder = __import__("pathlib").Path(str(tmp_path))
    (folder / "agents-1-1-n1.out").write_text("Traceback\n  x\nftslurm.errors.SiteForbids: lo gives 127.0.0.1\n")
    (folder / "agents-1-1-n2.out").write_text("slurmstepd: error: killed\n")
    (folder / "agents-1-2-n3.out").write_text("ftslurm.errors.SiteForbids: of another launch\n")
    assert refusals(folder, "agents-1-1") == ["no agent on n1: lo gives 127.0.0.1"]


@pytest.mark.parametrize("interface", ["{host}i", "{host}-ib.cluster", "ib-{host}", "auto", "eth0:1"])
def test_an_interface_or_a_rule_is_accepted(interface: str) -> None:
    """Names and rules are told apart by the placeholder."""
    text = json.dumps({"name": "a", "command": ["x"], "resources": {"nodes": 2}, "network": {"interface": interface}})
    assert parse(text, "a").network.interface == interface


@pytest.mark.parametrize("interface", ["{node}i", "{host}{host}", "a-name-that-is-too-long", "{host}; id"])
def test_what_is_no_interface_is_refused(interface: str) -> None:
    """The message says what is expected."""
    text = json.dumps({"name": "a", "command": ["x"], "resources": {"nodes": 2}, "network": {"interface": interface}})
    with pytest.raises(ConfigError, match="a rule for names such as"):
        parse(text, "a")
