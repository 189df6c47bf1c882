"""Values that would do harm if anything read them as more than text."""

from __future__ import annotations

import itertools

CANARY = "canary"
"""The file that an executed value would create in its working folder."""

_COMMANDS = [
    f"$(touch {CANARY})", f"`touch {CANARY}`", f"; touch {CANARY}", f"&& touch {CANARY}", f"|| touch {CANARY}",
    f"| touch {CANARY}", f"& touch {CANARY} &", f"${{x:-$(touch {CANARY})}}", f"<(touch {CANARY})", f"> {CANARY}",
    f">> {CANARY}", f"$((a[$(touch {CANARY})]))", f"'; touch {CANARY}; '", f'"; touch {CANARY}; "',
    f"\\'; touch {CANARY}; \\'", f"){{ touch {CANARY}; }}", f"}}; touch {CANARY}", f"() {{ :; }}; touch {CANARY}",
]  # fmt: skip
_PIECES = [
    "$HOME", "${HOME}", "$", "$$", "$?", "$1", "$@", "$*", "~", "~root", "!", "!!", "!-1", "^a^b", "*", "?", "[a-z]",
    "{a,b}", "{1..9}", "#", "# x", "a#b", "a #b", "#SBATCH --account=evil", "\\", "\\\\", "\\n", "\\x41", "a\\", "'", '"',
    "''", '""', "'a", '"a', "'\"'\"'", "$'\\n'", "<", "<<EOF", "<<<x", ">", "2>&1", "&", "&&", ";", ";;", "|", "||", "(",
    ")", "()", "{", "}", "[", "]", "[[", "=", "==", "a=b", "--", "-", "-n", "--uid=0", "-rf /", ":", ",", ".", "..", "../x",
    "%", "%%", "%j", "%s%n", "%99999d", "@", " ", "  ", " a", "a ", "a b", "a  b", "", "0", "-1", "1e99", "true", "null",
    "none", "NaN", "é", "ß", "中文", "日本", "\U0001f600", "\u202e\u202d", "\u2028", "\u00a0", "\u200b", "\ufeff", "\ud7ff",
    "\udc80", "a\udcffb", "{{ name }}", "{% raw %}", "{# x #}", "${{ x }}", "<script>", "&amp;", "' OR 1=1 --", "x" * 1000,
    "a b " * 200, "'" * 200, '"' * 200, "\\" * 200, "$(" * 100, "`" * 101,
]  # fmt: skip

TEXTS = list(dict.fromkeys([*_COMMANDS, *_PIECES, *(a + b for a, b in itertools.product(_COMMANDS[:9], _PIECES[:9]))]))
"""All of these must arrive as they are, or be refused."""

CONTROL = [
    "a\nb", "\n", "x\n#SBATCH --account=evil", f"x\ntouch {CANARY}", f"x\r\ntouch {CANARY}", "a\rb", "\t", "a\tb", "\0",
    "a\0b", "\x1b[31mred", "\x1b]0;title\x07", "\x07", "\x08", "\x7f", "\x85", "\x9b31m", "\v", "\f", "\x01", "\x1f",
]  # fmt: skip
"""All of these must be refused."""
