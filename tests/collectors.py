"""What Filebeat and Logstash make of log files, by the templates' own words: globs, parsers, switches and patterns.

Only what the templates use is known here, by the words of Elastic's documentation; anything else is an error, so that a
template cannot grow what no test has seen.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ftslurm.paths import templates

FILEBEAT = templates() / "filebeat" / "filebeat.yml"
LOGSTASH = templates() / "logstash" / "ftslurm.conf"
_GROK = {"NONNEGINT": r"\b(?:[0-9]+)\b"}
"""Of logstash-patterns-core."""
_NDJSON = {"target": "", "overwrite_keys": True, "expand_keys": True, "add_error_key": True}


def inputs(run_root: Path) -> dict[str, dict[str, Any]]:
    """Filebeat's inputs by their ids, with the files that each follows under `files`."""
    text = FILEBEAT.read_text(encoding="utf-8").replace("${FTSLURM_RUN_ROOT}", str(run_root))
    found = {}
    for each in yaml.safe_load(text)["filebeat.inputs"]:
        assert each["type"] == "filestream"
        # An identity by path needs its counterpart off, or Filebeat does not start.
        assert "file_identity.path" in each
        assert each["prospector.scanner.fingerprint.enabled"] is False
        files = sorted({Path(name) for pattern in each["paths"] for name in glob.glob(pattern)})  # noqa: PTH207
        found[each["id"]] = {**each, "files": files}
    return found


def expanded(record: Mapping[str, Any]) -> dict[str, Any]:
    """`expand_keys`: "log.level" becomes log: {level}; objects of the same name are merged. A clash is an error."""
    tree: dict[str, Any] = {}
    for key, value in record.items():
        *path, last = key.split(".") if key != "ecs.version" else ["ecs", "version"]
        place = tree
        for name in path:
            place = place.setdefault(name, {})
        if isinstance(value, Mapping):
            merged = expanded(value)
            assert not set(merged) & set(place.get(last, {})), key
            place.setdefault(last, {}).update(merged)
        else:
            assert last not in place, key
            place[last] = value
    return tree


def events(run_root: Path) -> Iterator[dict[str, Any]]:
    """The events that Filebeat sends of a run root."""
    for name, each in inputs(run_root).items():
        (parser,) = each["parsers"]
        for path in each["files"]:
            base = {"log": {"file": {"path": str(path)}}, "tags": each.get("tags", []), "input": name}
            text = path.read_text(encoding="utf-8", errors="replace")
            if "ndjson" in parser:
                assert parser["ndjson"] == _NDJSON
                for line in text.splitlines():
                    yield _over(base, expanded(json.loads(line)))
            else:
                yield from ({**base, "message": line} for line in _joined(text, parser["multiline"]))


def _over(base: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """`overwrite_keys`: what the line says stands before what Filebeat says."""
    both = {name: {**value, **told.get(name, {})} for name, value in base.items() if isinstance(value, Mapping)}
    return {**base, **told, **both}


def _joined(text: str, rule: Mapping[str, Any]) -> list[str]:
    assert (rule["type"], rule["negate"], rule["match"]) == ("pattern", False, "after")
    pattern = re.compile(rule["pattern"].replace("[[:space:]]", r"\s"))
    found: list[str] = []
    for line in text.splitlines():
        if found and pattern.search(line):
            found[-1] += f"\n{line}"
        else:
            found.append(line)
    return found


def grok() -> tuple[str, re.Pattern[str], dict[str, str]]:
    """The pipeline's grok filter: the field that it reads, its pattern, and the field of each of its groups."""
    text = LOGSTASH.read_text(encoding="utf-8")
    (match,) = re.findall(r'match => \{ "([^"]+)" => "([^"]+)" \}', text)
    (own,) = re.findall(r"pattern_definitions => \{\n(.*?)\n {6}\}", text, re.DOTALL)
    known = {**_GROK, **dict(re.findall(r'"(\w+)" => "([^"]+)"', own))}
    fields: dict[str, str] = {}

    def group(found: re.Match[str]) -> str:
        name = f"g{len(fields)}"
        fields[name] = found[2].replace("][", ".").strip("[]")
        return f"(?P<{name}>{known[found[1]]})"

    pattern = re.sub(r"%\{(\w+):([\w\[\]]+)\}", group, match[1])
    return match[0].replace("][", ".").strip("[]"), re.compile(pattern), fields


def conditions() -> list[re.Pattern[str]]:
    """The patterns that the pipeline holds messages against, in their order: an error in output, a line of JSON."""
    return [
        re.compile(found) for found in re.findall(r"\[message\] =~ /(.*)/ \{", LOGSTASH.read_text(encoding="utf-8"))
    ]
