"""From what devices have taught to the next manifest: proposals, decisions, contents.

A *draft* is a contribution of a device that is newer than what the manifest in force has
considered. A *proposal* is the drafts of one class, kept as they are at that moment. Decided
proposals go into the next content; nothing changes on a device before that is published.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accrue.errors import Conflict, NotFound
from accrue.store.names import shown
from accrue.sync.archive import open_parcel
from accrue.sync.content import sha256
from accrue.sync.contribution import Scope
from accrue.sync.difference import Difference, Summary, difference, summarise
from accrue.sync.ledger import Heard
from accrue.sync.manifest import (
    Canary,
    Listed,
    ListedClass,
    Manifest,
    ManifestHead,
    Remark,
    Version,
)
from accrue.sync.workspace import SALT_BYTES, Proposal, Step, Workspace, approved_and_denied

Key = tuple[str, str]  # device, class id


@dataclass(frozen=True)
class Basis:
    """What the next content is made from: the content in force, or nothing yet."""

    number: int
    listed: Mapping[Key, Heard]
    considered: Mapping[Key, int]
    parcels: Mapping[str, ListedClass]


def basis(workspace: Workspace, scope: Scope) -> Basis:
    """That of the canary where there is one, else the stable one."""
    head = workspace.head(scope)
    version = None if head is None else (head.canary.version if head.canary else head.stable)
    if version is None:
        return Basis(0, {}, {}, {})
    manifest = workspace.manifest(scope, version)
    return Basis(manifest.number, workspace.listed(manifest), manifest.considered, manifest.classes)


def considered(workspace: Workspace, scope: Scope) -> Mapping[Key, int]:
    """What the newest content in force has considered; cheap, where `basis` reads all of it."""
    head = workspace.head(scope)
    version = None if head is None else (head.canary.version if head.canary else head.stable)
    return {} if version is None else workspace.manifest(scope, version).considered


def undecided_and_decided(
    workspace: Workspace, scope: Scope
) -> tuple[list[Proposal], list[Proposal]]:
    """Open proposals, and decided ones that wait for a manifest; oldest first."""
    found = workspace.proposals(scope)
    seen = considered(workspace, scope)
    return [one for one in found if one.status == "open"], approved_and_denied(found, seen)


def require_curated(workspace: Workspace, scope: Scope) -> ManifestHead:
    """The head in force; where there is none yet, one of version 0 that holds nothing.

    Raises:
        Conflict: the class set is open.
    """
    head = workspace.head(scope)
    if workspace.roster().policy(scope.class_set) != "curated":
        raise Conflict(
            f"class set {shown(scope.class_set)} is open: what is taught is live at once, and "
            "there is nothing to publish",
            hint=f"to decide what goes live: accrue-fleet policy {scope.class_set} curated",
        )
    return head or ManifestHead(scope.fleet, scope.class_set, scope.space, scope.dim, 0, None)


def propose(workspace: Workspace, scope: Scope) -> list[Proposal]:
    """Opens a proposal for each class with drafts; one that says the same stays. All open ones."""
    require_curated(workspace, scope)
    base = basis(workspace, scope)
    by_class: dict[str, list[Heard]] = {}
    for (_, class_id), one in _drafts(workspace, scope, base).items():
        by_class.setdefault(class_id, []).append(one)
    names = summarise(
        [*base.listed.values(), *(one for found in by_class.values() for one in found)], scope
    )
    known = {(p.class_id, p.entries) for p in workspace.proposals(scope) if p.status != "replaced"}
    with workspace.database.atomic():
        for class_id, found in sorted(by_class.items()):
            entries = tuple(
                sorted((one.contribution.device, one.contribution.revision) for one in found)
            )
            if (class_id, entries) not in known:
                name = _name(names, class_id)
                pointer = workspace.keep_parcel(found)
                workspace.add_proposal(scope, class_id, name, entries, pointer.sha256)
    return workspace.proposals(scope, "open")


def proposed_differences(
    workspace: Workspace, proposals: Sequence[Proposal]
) -> dict[int, Difference]:
    """What approving each proposal, by itself, would change; by its id."""
    found: dict[int, Difference] = {}
    for scope in dict.fromkeys(one.scope for one in proposals):
        base = basis(workspace, scope)
        before = summarise(base.listed.values(), scope)
        for one in proposals:
            if one.scope == scope:
                after = {**base.listed, **_content_of(workspace, one)}
                found[one.id] = difference(before, summarise(after.values(), scope))
    return found


def publish(
    workspace: Workspace, scope: Scope, *, percent: int | None = None, note: str = ""
) -> Step:
    """Puts what was decided in force: for all devices, or for a share of them as a canary.

    Without new decisions it puts the canary in force for all, or changes its share.

    Raises:
        Conflict: nothing was decided and there is no canary; or it is so already.
    """
    head = require_curated(workspace, scope)
    if percent == 0:
        return end_canary(workspace, scope)
    base = basis(workspace, scope)
    decided = approved_and_denied(workspace.proposals(scope), base.considered)
    with workspace.database.atomic():
        if decided:
            version = _next(workspace, scope, base, decided, note)
        elif head.canary is not None:
            version = head.canary.version
        else:
            raise Conflict(
                f"nothing new was decided for class set {shown(scope.class_set)}",
                hint="accrue-fleet propose, then approve or deny",
            )
        said = f"manifest {version.number} of {scope.class_set}"
        if percent is None:
            return workspace.set_head(scope, version, None, "publish", f"published {said}")
        salt = head.canary.salt if head.canary else secrets.token_hex(SALT_BYTES)
        canary = Canary(percent, salt, version)
        if head.canary == canary:
            raise Conflict(f"{said} is on trial with {percent} % of the devices already")
        return workspace.set_head(
            scope, head.stable, canary, "canary", f"{said} on trial with {percent} % of the devices"
        )


def end_canary(workspace: Workspace, scope: Scope) -> Step:
    """Puts the stable content in force for all again. Raises Conflict where there is no canary."""
    head = require_curated(workspace, scope)
    if head.canary is None:
        raise Conflict(
            f"class set {shown(scope.class_set)} has no canary",
            hint="start one: accrue-fleet canary PERCENT",
        )
    number = head.canary.version.number
    return workspace.set_head(
        scope, head.stable, None, "canary", f"ended the trial of manifest {number}"
    )


def rollback(workspace: Workspace, scope: Scope, to: int | None = None, note: str = "") -> Step:
    """Puts an earlier content in force again, as a new one; or ends the canary.

    What was considered since stays considered, so that what is rolled back does not live on as a
    draft on the device that taught it.

    Raises:
        NotFound: no such number. Conflict: there is none before.
    """
    head = require_curated(workspace, scope)
    if head.canary is not None and to is None:
        return end_canary(workspace, scope)
    base = basis(workspace, scope)
    wanted = to
    if to is None:
        wanted = 0
        if base.number:
            version = workspace.version(scope, base.number)
            wanted = workspace.manifest(scope, version).previous
    if not wanted:
        raise Conflict(
            f"manifest {base.number} of class set {shown(scope.class_set)} is the first; there is "
            "none before it",
            hint="see: accrue-fleet manifests",
        )
    old = workspace.manifest(scope, workspace.version(scope, wanted))
    with workspace.database.atomic():
        version = workspace.add_manifest(
            scope,
            lambda number: Manifest(
                scope.fleet,
                scope.class_set,
                scope.space,
                scope.dim,
                number,
                old.classes,
                _latest(old.considered, base.considered),
                (),
                old.previous,
                note or f"as manifest {wanted}",
            ),
        )
        return workspace.set_head(
            scope,
            version,
            None,
            "rollback",
            f"rolled {scope.class_set} back to manifest {wanted}, as {version.number}",
        )


def curate(workspace: Workspace, class_set: str, scopes: Sequence[Scope]) -> list[Step]:
    """Makes a class set curated. What devices have taught so far is its first content, so that
    nothing changes on any of them.

    Raises:
        Conflict: it is curated already. NotFound: nothing is known of it.
    """
    if workspace.roster().policy(class_set) == "curated":
        raise Conflict(f"class set {shown(class_set)} is curated already")
    if not scopes:
        raise NotFound(
            f"no class set {shown(class_set)} is known in fleet {workspace.fleet}",
            hint="it is known once a device has taught something: accrue-fleet status",
        )
    steps = []
    with workspace.database.atomic():
        for scope in scopes:
            held = _known(workspace, scope)
            base = basis(workspace, scope)
            note = "all that was taught so far"
            version = _keep(workspace, scope, base, held, _revisions(held), (), note)
            said = f"published manifest {version.number} of {class_set}: {note}"
            steps.append(workspace.set_head(scope, version, None, "publish", said))
        steps.append(workspace.set_policy(class_set, "curated"))
    return steps


def without_forgotten(workspace: Workspace) -> list[Step]:
    """After a device was forgotten: manifests in force that list it are put in force without it."""
    forgotten = _forgotten(workspace)
    steps = []
    for scope in workspace.scopes():
        head = workspace.head(scope)
        if head is None or workspace.roster().policy(scope.class_set) != "curated":
            continue
        base = basis(workspace, scope)
        if any(device in forgotten for device, _ in base.listed):
            note = "without devices that were forgotten"
            version = _keep(workspace, scope, base, base.listed, base.considered, (), note)
            said = f"published manifest {version.number} of {scope.class_set}: {note}"
            steps.append(workspace.set_head(scope, version, None, "publish", said))
    return steps


def drafts(workspace: Workspace, scope: Scope) -> frozenset[tuple[str, str, int]]:
    """What no manifest has considered yet: (device, class id, revision) of each."""
    found = _drafts(workspace, scope, basis(workspace, scope))
    return frozenset((d, c, one.contribution.revision) for (d, c), one in found.items())


def compare(workspace: Workspace, scope: Scope, first: int | None, last: int | None) -> Difference:
    """From one manifest (else the one in force for all) to another (else all that is taught now,
    and what is on trial)."""
    base = basis(workspace, scope)
    head = workspace.head(scope)
    before: Mapping[Key, Heard] = base.listed
    version = head.stable if head else None
    if first is not None:
        version = workspace.version(scope, first)
    if version is not None:
        before = workspace.listed(workspace.manifest(scope, version))
    if last is not None:
        version = workspace.version(scope, last)
        after = workspace.listed(workspace.manifest(scope, version))
    else:
        after = {**base.listed, **_drafts(workspace, scope, base)}
    return difference(summarise(before.values(), scope), summarise(after.values(), scope))


# ---- parts of it --------------------------------------------------------------------------------


def _next(
    workspace: Workspace, scope: Scope, base: Basis, decided: Sequence[Proposal], note: str
) -> Version:
    listed, considered = dict(base.listed), dict(base.considered)
    remarks = []
    for proposal in decided:
        taken = proposal.status == "approved"
        content = _content_of(workspace, proposal)
        for device, revision in proposal.entries:
            key = device, proposal.class_id
            considered[key] = max(revision, considered.get(key, 0))
            if taken:
                listed[key] = content[key]
            if proposal.remark or not taken:
                remarks.append(Remark(device, proposal.class_id, revision, taken, proposal.remark))
    for key, one in _known(workspace, scope).items():
        if _is_same(one, listed.get(key)):
            considered[key] = max(one.contribution.revision, considered.get(key, 0))
    return _keep(workspace, scope, base, listed, considered, tuple(remarks), note)


def _keep(
    workspace: Workspace,
    scope: Scope,
    base: Basis,
    listed: Mapping[Key, Heard],
    considered: Mapping[Key, int],
    remarks: tuple[Remark, ...],
    note: str,
) -> Version:
    forgotten = _forgotten(workspace)
    by_class: dict[str, list[Heard]] = {}
    for (device, class_id), one in sorted(listed.items()):
        if device not in forgotten and not one.contribution.is_empty:
            by_class.setdefault(class_id, []).append(one)
    classes = {}
    for class_id, found in by_class.items():
        entries = tuple(
            Listed(one.contribution.device, one.contribution.revision, sha256(one.envelope))
            for one in found
        )
        present = base.parcels.get(class_id)
        if present is not None and present.entries == entries:
            classes[class_id] = present
        else:
            classes[class_id] = ListedClass(workspace.keep_parcel(found), entries)
    return workspace.add_manifest(
        scope,
        lambda number: Manifest(
            scope.fleet,
            scope.class_set,
            scope.space,
            scope.dim,
            number,
            classes,
            considered,
            remarks,
            base.number,
            note,
        ),
    )


def _known(workspace: Workspace, scope: Scope) -> dict[Key, Heard]:
    """What devices of the roster say, without those that are forgotten."""
    roster = workspace.roster()
    return {
        key: one
        for key, one in workspace.ledger(scope).heard().items()
        if (member := roster.devices.get(key[0])) is not None
        and (member.forgotten is None or one.contribution.revision > member.forgotten)
    }


def _forgotten(workspace: Workspace) -> set[str]:
    return {d for d, m in workspace.roster().devices.items() if m.forgotten is not None}


def _drafts(workspace: Workspace, scope: Scope, base: Basis) -> dict[Key, Heard]:
    """What is newer than was considered, and says something else than what is listed."""
    return {
        key: one
        for key, one in _known(workspace, scope).items()
        if one.contribution.revision > base.considered.get(key, 0)
        and not _is_same(one, base.listed.get(key))
    }


def _is_same(one: Heard, listed: Heard | None) -> bool:
    """Whether a contribution repeats what is listed, as after a device took a manifest over."""
    said = one.contribution
    if listed is None:
        return said.is_empty
    there = listed.contribution
    return (dict(said.facts), dict(said.gone), said.parts) == (
        dict(there.facts),
        dict(there.gone),
        there.parts,
    )


def _content_of(workspace: Workspace, proposal: Proposal) -> dict[Key, Heard]:
    return {one.contribution.key: one for one in open_parcel(workspace.content(proposal.parcel))}


def _revisions(heard: Mapping[Key, Heard]) -> dict[Key, int]:
    return {key: one.contribution.revision for key, one in heard.items()}


def _latest(first: Mapping[Key, int], second: Mapping[Key, int]) -> dict[Key, int]:
    return {key: max(first.get(key, 0), second.get(key, 0)) for key in first.keys() | second.keys()}


def _name(summary: Summary, class_id: str) -> str:
    found = summary.classes.get(class_id)
    return found.name if found else class_id
