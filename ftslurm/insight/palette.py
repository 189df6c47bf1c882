"""One fixed colour for everything that is shown, in pictures, pages and dashboards.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), which people with any common form of colour
blindness can tell apart, and two greys. Cold colours are for time that brings the training on, warm ones for time that
a failure costs, greys for time in which nothing runs. Red and green never stand for opposites.
"""

from __future__ import annotations

from collections.abc import Mapping

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#B4B4B4"
DARK_GREY = "#6E6E6E"

CATEGORIES: Mapping[str, str] = {
    "queued": GREY,
    "starting": YELLOW,
    "loading": GREEN,
    "productive": BLUE,
    "saving": SKY,
    "detecting": PURPLE,
    "recovering": VERMILION,
    "recomputing": ORANGE,
    "idle": DARK_GREY,
}
"""What wall time is spent on, in the order in which it is always listed."""

SERIES = (BLUE, ORANGE, SKY, PURPLE, GREEN, VERMILION, DARK_GREY, YELLOW)
"""Lines side by side, such as those of nodes."""
