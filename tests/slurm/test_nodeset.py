from __future__ import annotations

import pytest
from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.errors import UsageError
from ftslurm.slurm import nodeset

_PREFIX = st.from_regex(r"[a-z][a-z0-9-]{0,4}[a-z-]", fullmatch=True)
_NUMBER = st.one_of(
    st.integers(0, 30).map(str), st.integers(0, 30).map("{:02}".format), st.integers(990, 1010).map("{:04}".format)
)
_NAME = st.one_of(st.builds("{}{}".format, _PREFIX, _NUMBER), _PREFIX)
_NAMES = st.lists(_NAME, unique=True, max_size=30)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("m5,n[3,1-2]", ("m5", "n3", "n1", "n2")),
        ("n[08-11]", ("n08", "n09", "n10", "n11")),
        ("n[99-101]", ("n99", "n100", "n101")),
        ("n[1,01,001]", ("n1", "n01", "n001")),
        ("rack[0-1]node[1-2]", ("rack0node1", "rack0node2", "rack1node1", "rack1node2")),
        ("n[1-2]-ib,login.cluster", ("n1-ib", "n2-ib", "login.cluster")),
        ("n1,n1,n[1-2]", ("n1", "n2")),
        ("gpu_a[0-1]", ("gpu_a0", "gpu_a1")),
    ],
)
def test_expand_gives_names_in_order(text, names):
    """The order of the text is the order of the names, zeros stay, each name comes once."""
    assert nodeset.expand(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "n[", "n]", "n[]", "n[1", "n[1-]", "n[-1]", "n[3-1]", "n[1-2-3]", "n[a-b]", "n[1,]", "n[[1]]", ",", "n1,", ",n1",
        "n1,,n2", " n1", "n1 ", "n 1", "n1;rm", "$(id)", "`id`", "n1\n", "n\0", "-n1", "--help", "n/1", "n[1-2]\n", "*",
        "n[10-09]", "n[1-002]", "@gpu", "n[1-3/2]", "n[1-2]&m1", "n!1", "n^m", "ñ1", "n[\u0661-\u0662]", ".n1", "n" * 300,
        "n[1-99999999999999999999]",
    ],
)  # fmt: skip
def test_hostile_lists_are_refused(text):
    """What is no node list is a usage error, not a name."""
    with pytest.raises(UsageError):
        nodeset.expand(text)


@pytest.mark.parametrize(
    "text", ["n[1-99999999]", "a[1-999]b[1-999]c[1-999]", "n[1-60000],m[1-60000]", "n" * 2_000_000]
)
def test_lists_without_end_are_refused(text):
    """A few characters cannot make more names than a cluster has."""
    with pytest.raises(UsageError, match=r"more than|too long"):
        nodeset.expand(text)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["n1", "n2", "n3"], "n[1-3]"),
        (["n3", "n1", "n2"], "n[3,1-2]"),
        (["n08", "n09", "n10"], "n[08-10]"),
        (["n9", "n10"], "n[9-10]"),
        (["n1", "m1", "n2"], "n1,m1,n2"),
        (["login"], "login"),
        (["n1-ib", "n2-ib"], "n1-ib,n2-ib"),
        (["7", "8"], "7,8"),
        ([], ""),
    ],
)
def test_fold_is_short_and_keeps_order(names, text):
    """Neighbours are folded; names that are no neighbours keep their place."""
    assert nodeset.fold(names) == text


@pytest.mark.parametrize("name", ["", "-w", "n[1-2]", "n1,n2", "a b", "n\n", "$x", "é1"])
def test_fold_takes_only_names(name):
    """Nothing that is no name gets into a list for Slurm."""
    with pytest.raises(UsageError):
        nodeset.fold([name])


@given(_NAMES)
def test_expand_undoes_fold(names):
    """expand(fold(names)) is names, order included."""
    assert nodeset.expand(nodeset.fold(names)) == tuple(names)


@given(_NAMES)
def test_clustershell_reads_what_fold_writes(names):
    """An independent parser finds the same set of names in what fold writes."""
    assert set(NodeSet(nodeset.fold(names), resolver=RESOLVER_NOGROUP)) == set(names)


@given(_NAMES)
def test_expand_reads_what_clustershell_writes(names):
    """What an independent folder writes expands to the same set of names."""
    assert set(nodeset.expand(str(NodeSet.fromlist(names, resolver=RESOLVER_NOGROUP)))) == set(names)


@given(st.text(max_size=40))
def test_any_text_is_a_list_or_refused(text):
    """No text makes expand do anything but return names or raise UsageError."""
    try:
        names = nodeset.expand(text)
    except UsageError:
        return
    assert all(nodeset.check_name(name) for name in names)
