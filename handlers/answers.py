"""
The shapes of answers that handlers put together from records, for the OpenAPI document.

Answers that are a model themselves are in ``models.py``. A test sends the calls and checks what comes back
against these.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  # pydantic reads annotations at run time
from typing import Annotated, Any

from pydantic import BaseModel, Field

from handlers.models import ContainmentView, Judgement


class ErrorDetail(BaseModel):
    """What went wrong. Decide by ``code``; ``message`` is for people."""

    code: str
    message: str
    details: dict[str, Any]


class ErrorAnswer(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class ContainmentAnswer(ContainmentView):
    """The containment that an order opened or joined, and what comes next in a sentence."""

    message: str


class UndoAnswer(ContainmentAnswer):
    """The containment that is taken back, and what that may not bring back."""

    warnings: list[str]


class DryRunAnswer(Judgement):
    """What would be done; nothing was."""

    dry_run: Annotated[bool, Field(alias="dryRun")]
    breaker: Annotated[str, Field(description="Whether an enabled policy would block it.")]


class ContainmentList(BaseModel):
    """Containments, the newest first."""

    value: list[ContainmentView]


class ResidualAccess(BaseModel):
    """How long what the principal holds may work on."""

    until: datetime | None
    meaning: str


class Dossier(BaseModel):
    """What is known of one principal."""

    principal: Annotated[
        dict[str, Any],
        Field(
            description="objectId, appId, displayName (untrusted) and more; only unknown where it could not be read."
        ),
    ]
    breaker: Annotated[str, Field(description="Armed or not, and why.")]
    protected: Annotated[bool | None, Field(description="null: the protected list could not be read.")]
    findings: list[dict[str, Any]]
    containments: list[ContainmentView]
    residual_access: Annotated[ResidualAccess, Field(alias="residualAccess")]


class KillSwitchAnswer(BaseModel):
    """The kill switch as it stands."""

    stopped: bool
    reason: str
    by: Annotated[str, Field(description="Object id of who set it.")]
    at: datetime


class Check(BaseModel):
    """One precondition."""

    name: str
    ok: Annotated[bool | None, Field(description="null: not known.")]
    detail: str


class Readiness(BaseModel):
    """Whether containment can work, and what is missing."""

    ready: bool
    mode: str
    checks: list[Check]


class DormantPage(BaseModel):
    """A page of the newest report on principals that nobody uses."""

    made_at: Annotated[datetime, Field(alias="madeAt")]
    dormant_after_days: Annotated[int, Field(alias="dormantAfterDays")]
    looked_at: Annotated[int, Field(alias="lookedAt")]
    found: int
    shown: int
    unread: Annotated[list[str], Field(description="Sources that gave no answer.")]
    not_read: Annotated[list[str], Field(alias="notRead", description="What is never read.")]
    page: int
    pages: int
    value: list[dict[str, Any]]


class Health(BaseModel):
    """It lives."""

    status: str
