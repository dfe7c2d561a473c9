"""The screens and forms of a fleet's owner, on a device that was given the owner's folder."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from starlette.responses import Response

from accrue.errors import AccrueError, UsageError
from accrue.service.access import OWNER
from accrue.service.console.forms import Filled, Form, Outcome
from accrue.service.console.page import Said, call_of
from accrue.service.http import owner as api
from accrue.service.jobs import RUNNING
from accrue.service.standing import (
    ClassChange,
    Diff,
    FleetDevice,
    FleetSet,
    Manifested,
    Proposed,
    StepTaken,
)

if TYPE_CHECKING:
    from accrue.service.console.pages import Asked
    from accrue.service.governance import Governance
    from accrue.service.http.table import Call

HOME, UNDO = "/fleet/owner", "/fleet/owner/undo"
SHOWN, DEVICES_SHOWN = 20, 50  # proposals and steps; devices
ASK_S = 8.0  # that a form waits for the broker; after that, the page says that it is at work
SHARES = (5, 10, 25, 50, 100)


@dataclass(frozen=True)
class SetShown:
    """A class set with all that is to be decided about it."""

    about: FleetSet
    proposals: list[Proposed]
    decided: list[Proposed]
    manifests: list[Manifested]
    trying: list[str]

    @property
    def number(self) -> int:
        """The newest manifest that is in force anywhere; 0: none."""
        return self.about.canary.manifest if self.about.canary else self.about.manifest or 0


@dataclass(frozen=True)
class Bar:
    """A class of a difference, as a picture: lengths are shares of the longest one, 0 to 100."""

    kind: Literal["added", "changed", "removed"]
    change: ClassChange
    before: float
    after: float


def longest(*diffs: Diff | None) -> int:
    """The most shots of any class of some differences: what their bars are measured by."""
    changes = [
        change for diff in diffs if diff for change in (*diff.added, *diff.changed, *diff.removed)
    ]
    return max((max(one.shots_before, one.shots_after) for one in changes), default=1) or 1


def bars(diff: Diff, most: int) -> list[Bar]:
    """All changes of a difference, by what they are, then by name.

    Args:
        most: shots of the longest bar.
    """
    changes = [
        (kind, one)
        for kind, found in (
            ("added", diff.added),
            ("changed", diff.changed),
            ("removed", diff.removed),
        )
        for one in found
    ]
    return [
        Bar(
            cast(Literal["added", "changed", "removed"], kind),
            one,
            round(100 * one.shots_before / most, 1),
            round(100 * one.shots_after / most, 1),
        )
        for kind, one in changes
    ]


# ---- screens ------------------------------------------------------------------------------------


def owned(call: Call) -> dict[str, Any] | None:
    """For the Fleet screen: what waits for the owner; None where this device decides nothing."""
    if call.device.settings.fleet_owner is None or not (call.grant and call.grant.may(OWNER)):
        return None
    try:
        known = api.owner_of(call).known()
    except AccrueError as error:
        return {"fleet": "", "error": error}
    return {
        "fleet": known.fleet,
        "error": None,
        "drafts": sum(one.drafts for one in known.sets),
        "decided": sum(one.decided for one in known.sets),
    }


def home(ask: Asked) -> Response:
    call = call_of(ask.request, ask.device, ask.access)
    owner = api.owner_of(call)
    known = owner.known()
    proposals, more = owner.proposals("open", SHOWN)
    decided = owner.decided()
    sets = [
        SetShown(
            one,
            [p for p in proposals if (p.set, p.space) == (one.set, one.space)],
            [p for p in decided if (p.set, p.space) == (one.set, one.space)],
            _manifests(owner, one),
            owner.chosen(one.set, one.space) if one.canary else [],
        )
        for one in known.sets
    ]
    wanted = ask.query("q")
    key = wanted.casefold()
    found = [one for one in known.devices if key in one.name.casefold() or key == one.device]
    devices = sorted(found, key=_attention)
    return ask.show(
        "owner",
        known=known,
        sets=sets,
        more=more,
        job=next((job for job in ask.device.jobs.all() if job.name == api.PROPOSE_JOB), None),
        devices=devices[:DEVICES_SHOWN],
        more_devices=max(0, len(devices) - DEVICES_SHOWN),
        q=wanted,
        searchable=len(known.devices) > DEVICES_SHOWN,
        steps=owner.log(SHOWN),
        shares=SHARES,
        bars=partial(bars, most=longest(*(one.difference for one in proposals))),
        cli=["accrue-fleet status", "accrue-fleet propose", "accrue-fleet publish"],
    )


def difference(ask: Asked) -> Response:
    call = call_of(ask.request, ask.device, ask.access)
    owner = api.owner_of(call)
    class_set, space = ask.query("set") or None, ask.query("space") or None
    first, last = _number(ask.query("from")), _number(ask.query("to"))
    scope, manifests = owner.manifests(class_set, space)
    change, accuracy = owner.diff(first, last, scope.class_set, scope.space, visit=False)
    quoted = f" --set {shlex.quote(scope.class_set)}" if class_set else ""
    chosen = "".join(
        f" --{name} {number}" for name, number in (("from", first), ("to", last)) if number
    )
    return ask.show(
        "owner_diff",
        scope=scope,
        manifests=list(reversed(manifests)),
        first=first,
        last=last,
        bars=bars(change, longest(change)),
        clashes=change.collisions,
        accuracy=accuracy,
        cli=[f"accrue-fleet diff{chosen}{quoted}"],
    )


def _manifests(owner: Governance, one: FleetSet) -> list[Manifested]:
    """Newest first."""
    return list(reversed(owner.manifests(one.set, one.space)[1]))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None


def _attention(one: FleetDevice) -> tuple[int, str]:
    """Those first that an owner should look at."""
    if one.asks_for_key or any(said.refused for said in one.sets):
        return 0, one.name
    if one.state == "offline":
        return 1, one.name
    return 2 if any(said.wanted != said.manifest for said in one.sets) else 3, one.name


# ---- forms --------------------------------------------------------------------------------------


def propose(form: Filled) -> Outcome:
    job = api.propose(form.call)
    until = time.monotonic() + ASK_S
    while job.state == RUNNING and time.monotonic() < until:
        time.sleep(0.05)
        job = form.device.jobs.get(job.id)
    if job.error is not None:
        about = job.error
        raise AccrueError(str(about.get("message", "")), hint=str(about.get("hint", "")))
    if job.result is None:
        return Outcome(HOME)  # the page says that it is at work, and when it has ended
    return Outcome(HOME, Said(form.words("owner.asked", n=job.result["proposals"])))


def approve(form: Filled) -> Outcome:
    return _decided(form, api.approve(form.call, _decision(form)))


def deny(form: Filled) -> Outcome:
    return _decided(form, api.deny(form.call, _decision(form)))


def _decision(form: Filled) -> api.Decide:
    return api.Decide(form.numbers("proposals"), form.text("remark"))


def _decided(form: Filled, done: api.Steps) -> Outcome:
    if len(done.steps) == 1:
        return _taken(done.steps[0])
    return Outcome(HOME, Said(form.words("owner.decided_all", n=len(done.steps))))


def policy(form: Filled) -> Outcome:
    wanted = form.text("policy")
    if wanted not in ("open", "curated"):
        raise UsageError(f"policy {wanted!r}; expected open or curated", found=wanted)
    body = api.SetPolicy(
        form.text("set"), cast(Literal["open", "curated"], wanted), form.text("space") or None
    )
    return _taken(api.policy(_matched(form), body).steps[-1])


def publish(form: Filled) -> Outcome:
    body = api.Publish(form.text("set"), form.text("space"), form.text("note"))
    return _taken(api.publish(_matched(form), body))


def canary(form: Filled) -> Outcome:
    (percent,) = form.numbers("percent")
    body = api.TryOut(percent, form.text("set"), form.text("space"), form.text("note"))
    return _taken(api.canary(_matched(form), body).step)


def rollback(form: Filled) -> Outcome:
    to = form.numbers("to")[0] if form.text("to") else None
    body = api.RollBack(to, form.text("set"), form.text("space"), form.text("note"))
    return _taken(api.rollback(_matched(form), body))


def revoke(form: Filled) -> Outcome:
    return _taken(api.revoke_device(form.call, api.Revoke(form.text("device"))))


def rotate(form: Filled) -> Outcome:
    return _taken(api.rotate_keys(form.call, api.Rotate(form.text("device"))).steps[0])


def forget(form: Filled) -> Outcome:
    return _taken(api.forget_device(form.call, api.Forget(form.text("device"))).steps[0])


def undo(form: Filled) -> Outcome:
    (step,) = form.numbers("entry")
    return _taken(api.owner_undo(form.call, api.StepBack(step)))


def _matched(form: Filled) -> Call:
    return replace(form.call, if_match=form.text("etag"))


def _taken(step: StepTaken) -> Outcome:
    return Outcome(HOME, Said(step.summary, step.seq, undo_at=UNDO))


FORMS: Sequence[Form] = tuple(
    (f"{HOME}/{handler.__name__}", OWNER, handler, HOME)
    for handler in (
        propose,
        approve,
        deny,
        policy,
        publish,
        canary,
        rollback,
        revoke,
        rotate,
        forget,
        undo,
    )
)
