"""The handlers of a fleet's owner: the verbs of `accrue-fleet`, where the device has its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from accrue.errors import AccrueError, NotFound, UsageError
from accrue.service.access import OWNER
from accrue.service.events import FLEET
from accrue.service.http.problems import Stale
from accrue.service.http.table import Call, Table
from accrue.service.jobs import Job, Step
from accrue.service.standing import Accuracy, Diff, Manifested, Proposed, Standing, StepTaken

if TYPE_CHECKING:
    from accrue.service.governance import Governance

table = Table()
MOST_PROPOSALS, MOST_STEPS, MOST_GRACE_HOURS = 200, 1000, 8760
PROPOSE_JOB = "fleet propose"
log = logging.getLogger("accrue.fleet")


@dataclass(frozen=True)
class Proposals:
    """Proposals, oldest first. `more`: how many there are beside them."""

    proposals: list[Proposed]
    more: int


@dataclass(frozen=True)
class Manifests:
    """The manifests of a class set, oldest first."""

    set: str
    space: str
    manifests: list[Manifested]


@dataclass(frozen=True)
class Difference:
    """From one manifest to another. `accuracy`: as devices reported it."""

    difference: Diff
    accuracy: Accuracy


@dataclass(frozen=True)
class Steps:
    steps: list[StepTaken]


@dataclass(frozen=True)
class Tried:
    """A trial began or ended. `devices`: names of those that take part."""

    step: StepTaken
    devices: list[str]


@dataclass(frozen=True)
class Decide:
    """`proposals`: their ids. `remark`: what the devices that taught it are told."""

    proposals: list[int]
    remark: str = ""


@dataclass(frozen=True)
class SetPolicy:
    """`offline`: sign it only; the next visit at the broker tells it."""

    set: str
    policy: Literal["open", "curated"]
    space: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class Publish:
    """`set`, `space` (its first characters): where there are several. `note`: kept with it."""

    set: str | None = None
    space: str | None = None
    note: str = ""
    offline: bool = False


@dataclass(frozen=True)
class TryOut:
    """`percent`: of the devices; 0 ends the trial."""

    percent: int
    set: str | None = None
    space: str | None = None
    note: str = ""
    offline: bool = False


@dataclass(frozen=True)
class RollBack:
    """`to`: number of a manifest; null: the one before, or the end of a trial."""

    to: int | None = None
    set: str | None = None
    space: str | None = None
    note: str = ""
    offline: bool = False


@dataclass(frozen=True)
class StepBack:
    """`step`: of the log; null: the newest that can be taken back."""

    step: int | None = None
    offline: bool = False


@dataclass(frozen=True)
class Revoke:
    """`device`: name or id."""

    device: str
    offline: bool = False


@dataclass(frozen=True)
class Rotate:
    """`device`: name or id; null: every one that asks. `grace`: hours that its old key is good."""

    device: str | None = None
    grace: int = 168
    offline: bool = False


@dataclass(frozen=True)
class Forget:
    """`device`: name or id. `clear`: delete what the broker retains of it, too, for good."""

    device: str
    clear: bool = False
    offline: bool = False


@dataclass(frozen=True)
class OfSet:
    """`set`, `space` (its first characters): where there are several."""

    set: str | None = None
    space: str | None = None


@dataclass(frozen=True)
class Between:
    """Two manifests.

    Attributes:
        from_: number; null: the one in force. to: number; null: what is taught since.
    """

    from_: int | None = None
    to: int | None = None
    set: str | None = None
    space: str | None = None


@dataclass(frozen=True)
class StepLimit:
    """`limit`: steps at most."""

    limit: int = 20


@dataclass(frozen=True)
class ProposalsOf:
    """`status`: of the proposals. `limit`: how many at most."""

    status: Literal["open", "approved", "denied", "replaced"] = "open"
    limit: int = 20


def owner_of(call: Call, *, offline: bool = False) -> Governance:
    """The verbs, in the name of who asks. Raises NotFound where the device has no owner's key."""
    folder = call.device.settings.fleet_owner
    if folder is None:
        raise NotFound(
            "this device holds no key of a fleet's owner, and decides nothing for a fleet",
            hint="decide on the owner's computer: accrue-fleet; or see setting `fleet_owner`",
        )
    try:
        from accrue.service.governance import Governance
    except ModuleNotFoundError as error:
        raise AccrueError(
            f"deciding for a fleet needs the package {error.name}, which is missing",
            hint="install it: pip install 'accrue[sync]'",
            found=error.name,
        ) from error
    return Governance(
        folder,
        actor=call.actor,
        offline=offline,
        remark=lambda text: log.warning("owner: %s", text),
    )


def tell(call: Call, *steps: StepTaken) -> None:
    """Lets everybody who looks at the fleet know."""
    for step in steps:
        log.info("owner: %s", step.summary, extra={"actor": call.actor})
        call.device.events.publish(FLEET, message=step.summary)


def matching(call: Call) -> Callable[[str], None]:
    """Checks that a class set is as `If-Match` says. Raises Stale."""

    def check(etag: str) -> None:
        wanted = [one.strip().removeprefix("W/") for one in call.if_match.split(",")]
        if call.if_match and "*" not in wanted and etag not in wanted:
            raise Stale(
                "something else was decided about this class set meanwhile",
                hint="look at it again, then decide",
                found=etag,
                expected=call.if_match[:80],
            )

    return check


# ---- looking ------------------------------------------------------------------------------------


@table.add("GET", "/fleet/owner", OWNER)
def owner_status(call: Call) -> Standing:
    """How the fleet stands, as far as the owner's folder knows: devices, sets, what waits."""
    return owner_of(call).known()


@table.add("GET", "/fleet/owner/proposals", OWNER)
def proposals(call: Call, query: ProposalsOf) -> Proposals:
    """What devices have taught and the owner has to decide, with what it would change."""
    limit = _within(query.limit, MOST_PROPOSALS)
    found, more = owner_of(call).proposals(query.status, limit)
    return Proposals(found, more)


@table.add("GET", "/fleet/owner/manifests", OWNER)
def manifests(call: Call, query: OfSet) -> Manifests:
    """The manifests of a class set."""
    scope, found = owner_of(call).manifests(query.set, query.space)
    return Manifests(scope.class_set, scope.space, found)


@table.add("GET", "/fleet/owner/diff", OWNER)
def owner_diff(call: Call, query: Between) -> Difference:
    """What is different between two manifests, or since one: classes, shots, what may be confused.

    As far as the owner's folder knows; `propose` asks the broker.
    """
    change, accuracy = owner_of(call).diff(
        query.from_, query.to, query.set, query.space, visit=False
    )
    return Difference(change, accuracy)


@table.add("GET", "/fleet/owner/log", OWNER)
def owner_log(call: Call, query: StepLimit) -> Steps:
    """Every step that the owner took, newest first, and who it was."""
    return Steps(owner_of(call).log(_within(query.limit, MOST_STEPS)))


# ---- deciding -----------------------------------------------------------------------------------


@table.add("POST", "/fleet/owner/propose", OWNER, status=202)
def propose(call: Call) -> Job:
    """Begin to ask the broker for all that devices say, and gather it for decision.

    Opens a proposal for each class of a curated set that was taught since. The job's `result` has
    `proposals` (how many are open), `refused` messages by reason, and `missing` parts.
    """
    owner = owner_of(call)
    with owner.opened():  # what is wrong with the folder is told at once
        pass
    events = call.device.events

    def work(step: Step) -> dict[str, Any]:
        try:
            found = owner.with_progress(step).gather()
        except AccrueError as error:
            events.publish(FLEET, message=f"the devices were not asked: {error.message}")
            raise
        count = len(found.proposals)
        events.publish(FLEET, message=f"the owner has {count} proposals to look at")
        return {"proposals": count, "refused": found.refused, "missing": found.missing}

    job = call.device.jobs.start(PROPOSE_JOB, work, actor=call.actor)
    call.answer.headers["location"] = f"/api/v1/jobs/{job.id}"
    return job


@table.add("POST", "/fleet/owner/approve", OWNER, retry=True)
def approve(call: Call, body: Decide) -> Steps:
    """Take proposals into the next manifest. Nothing changes before it is published."""
    return _decided(call, owner_of(call).approve(_few(body.proposals), body.remark))


@table.add("POST", "/fleet/owner/deny", OWNER, retry=True)
def deny(call: Call, body: Decide) -> Steps:
    """Leave proposals out of the next manifest; who taught them drops them when that comes."""
    return _decided(call, owner_of(call).deny(_few(body.proposals), body.remark))


def _decided(call: Call, steps: list[StepTaken]) -> Steps:
    tell(call, *steps)
    return Steps(steps)


@table.add("POST", "/fleet/owner/policy", OWNER, match=True, retry=True)
def policy(call: Call, body: SetPolicy) -> Steps:
    """Say whether what is taught is live at once (open), or after it was published (curated)."""
    owner = owner_of(call, offline=body.offline)
    return _decided(call, owner.policy(body.set, body.policy, body.space, check=matching(call)))


@table.add("POST", "/fleet/owner/publish", OWNER, match=True, retry=True)
def publish(call: Call, body: Publish) -> StepTaken:
    """Put what was decided in force on every device; after a trial, put that in force."""
    owner = owner_of(call, offline=body.offline)
    step = owner.publish(body.set, body.space, body.note, check=matching(call))
    tell(call, step)
    return step


@table.add("POST", "/fleet/owner/canary", OWNER, match=True, retry=True)
def canary(call: Call, body: TryOut) -> Tried:
    """Put what was decided in force on a share of the devices first; 0 ends that."""
    owner = owner_of(call, offline=body.offline)
    step, devices = owner.canary(
        body.percent, body.set, body.space, body.note, check=matching(call)
    )
    tell(call, step)
    return Tried(step, devices)


@table.add("POST", "/fleet/owner/rollback", OWNER, match=True, retry=True)
def rollback(call: Call, body: RollBack) -> StepTaken:
    """Put an earlier manifest in force again, as a new one; or end a trial."""
    owner = owner_of(call, offline=body.offline)
    step = owner.rollback(body.to, body.set, body.space, body.note, check=matching(call))
    tell(call, step)
    return step


@table.add("POST", "/fleet/owner/revoke", OWNER, retry=True)
def revoke_device(call: Call, body: Revoke) -> StepTaken:
    """Take nothing from a device any more, and close its account; what it said before stays."""
    step = owner_of(call, offline=body.offline).revoke(body.device)
    tell(call, step)
    return step


@table.add("POST", "/fleet/owner/rotate", OWNER, retry=True)
def rotate_keys(call: Call, body: Rotate) -> Steps:
    """Put the new keys that devices have asked for into the roster."""
    if not 0 <= body.grace <= MOST_GRACE_HOURS:
        raise UsageError(
            f"grace is {body.grace}; expected 0 to {MOST_GRACE_HOURS} hours", found=body.grace
        )
    owner = owner_of(call, offline=body.offline)
    return _decided(call, owner.rotate(body.device, body.grace))


@table.add("POST", "/fleet/owner/forget-device", OWNER, retry=True)
def forget_device(call: Call, body: Forget) -> Steps:
    """Take all that a device ever said out of every device, and take nothing from it any more."""
    owner = owner_of(call, offline=body.offline)
    step, published, _ = owner.forget(body.device, clear=body.clear)
    return _decided(call, [step, *published])


@table.add("POST", "/fleet/owner/undo", OWNER, retry=True)
def owner_undo(call: Call, body: StepBack) -> StepTaken:
    """Take a step of the log back. Undoing an undo is a redo."""
    step = owner_of(call, offline=body.offline).undo(body.step)
    tell(call, step)
    return step


def _few(several: list[int]) -> list[int]:
    if not 1 <= len(several) <= MOST_PROPOSALS:
        raise UsageError(
            f"{len(several)} proposals at once; expected 1 to {MOST_PROPOSALS}", found=len(several)
        )
    return several


def _within(limit: int, most: int) -> int:
    if not 1 <= limit <= most:
        raise UsageError(f"limit is {limit}; expected 1 to {most}", found=limit)
    return limit
