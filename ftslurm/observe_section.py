"""The part of a configuration that says who is told how a run is: `observe`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ftslurm.fields import AbsolutePath, Line, SampleEvery, Texts, duration, list_to_tuple
from ftslurm.passthrough import HIDDEN, hide_assignments
from ftslurm.sections import Section

Occasion = Literal[
    "started", "failure", "recovered", "node_excluded", "node_health", "requeued", "finished", "failed", "stopped"
]
"""What somebody may want to be told of."""
_MAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}(@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)?")
"""An address, or the name of a user of this site. It cannot begin with a dash in effect: it follows `--`."""
_WEB = re.compile(r"https?://[^\s/?#]+[^\s]*")


class Notify(Section):
    """Somebody who is told, in one way. Facts travel as JSON: on standard input, as the body of a POST, as text."""

    on: Annotated[tuple[Occasion, ...], BeforeValidator(list_to_tuple), Field(min_length=1)] = Field(
        description="Occasions, as in [failure, recovered, finished, failed]"
    )
    exec: Texts = Field((), description="A program and its arguments, one list item each; no shell; at most 30 s")
    webhook: Annotated[Line, Field(max_length=4096)] | None = Field(
        None, description="Address that gets a POST with JSON, as in https://chat.example/hook; it is kept out of logs"
    )
    email: Annotated[Line, Field(max_length=320)] | None = Field(
        None, description="Address that gets a mail through the site's sendmail, or through SMTP on the batch host"
    )
    every: Annotated[float, *duration(0, 7 * 86400)] = Field(
        60.0,
        description="At most one in this time; what comes meanwhile is told together with the next; too low is a flood"
        " in a crash loop",
    )

    @field_validator("webhook")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not _WEB.fullmatch(value):
            raise ValueError("expected an address that begins with http:// or https://")
        return value

    @field_validator("email")
    @classmethod
    def _mailbox(cls, value: str | None) -> str | None:
        if value is not None and (value.startswith("-") or not _MAIL.fullmatch(value)):
            raise ValueError("expected one mail address, or the name of a user")
        return value

    def plain(self) -> dict[str, Any]:
        """For the observer's process, secrets and all."""
        ways = {"exec": list(self.exec), "webhook": self.webhook, "email": self.email}
        return {"on": list(self.on), "every_s": self.every, **ways}

    @model_validator(mode="after")
    def _one_way(self) -> Notify:
        if sum((bool(self.exec), self.webhook is not None, self.email is not None)) != 1:
            raise ValueError("expected exactly one of exec, webhook and email")
        return self


class Observe(Section):
    """Who is told how the run is, and how."""

    metrics: Literal["textfile", "http", "none"] = Field(
        "textfile",
        description="For Prometheus. textfile: metrics.prom in the run's folder; http: on a port of the loopback"
        " address that is chosen anew, named in metrics.sd.json there; none",
    )
    metrics_dir: AbsolutePath | None = Field(
        None,
        description="Folder for the metrics of all runs instead of the run's own, as that of node_exporter's textfile"
        " collector on the batch host; with http the one that Prometheus' file_sd reads",
    )
    sample_every: SampleEvery = Field(
        5.0,
        description="Time between two samples of what each node uses, for `ftslurm report`; none: no samples; too low"
        " writes much to shared storage",
    )
    notify: Annotated[tuple[Notify, ...], BeforeValidator(list_to_tuple)] = Field(
        (), description="Who is told of what, by a program, a webhook or a mail"
    )

    def plain(self) -> dict[str, Any]:
        """For the observer's process, secrets and all."""
        told = [each.plain() for each in self.notify]
        return {"metrics": self.metrics, "metrics_dir": self.metrics_dir, "notify": told}


def hide_secrets(plain: dict[str, Any]) -> None:
    """Hide what nobody else may read in an `observe` section made ready for JSON: who knows a webhook can use it."""
    for each in plain["notify"]:
        each["exec"] = [hide_assignments(word) for word in each["exec"]]
        if each["webhook"] is not None:
            each["webhook"] = hidden_address(each["webhook"])


def hidden_address(webhook: str) -> str:
    """The host of a webhook, which may be read by anybody."""
    parts = urlsplit(webhook)
    return f"{parts.scheme}://{parts.hostname}/{HIDDEN}"
