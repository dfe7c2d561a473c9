"""Taking over what the owner published: install, see whether answers got worse, keep or undo."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accrue.errors import Refused
from accrue.learn.guard import Measured, compare

if TYPE_CHECKING:
    from accrue.service.box import Box, Learned
    from accrue.sync.ledger import Applied, Heard
    from accrue.sync.shelf import StoreLedger


@dataclass(frozen=True)
class Installation:
    """What an installation did, and how good the device was before and is now, by the shots that
    it kept before and after."""

    applied: Applied
    before: Measured
    after: Measured


def measured(learned: Learned, only: Collection[str] | None = None) -> Measured:
    """How good a state is by its own kept shots; by these alone, where `only` gives their ids."""
    learned = learned.answering
    left_out, served = learned.left_out, learned.choice.served
    right = [
        margin > 0
        for shot, margin in zip(left_out.shots.tolist(), left_out.margin.tolist(), strict=True)
        if only is None or learned.shot_ids[shot] in only
    ]
    by_name = [k for k, c in enumerate(served.ids) if c not in learned.state]
    zero_shot = math.nan
    if by_name:
        agreed = served.scores(served.means[by_name]).argmax(axis=1) == by_name
        zero_shot = float(agreed.mean())
    return Measured(sum(right) / len(right) if right else math.nan, len(right), zero_shot)


def install(
    box: Box,
    ledger: StoreLedger,
    entries: Sequence[Heard],
    considered: Mapping[tuple[str, str], int],
    summary: str,
) -> Installation:
    """Puts a manifest in force on this device, in one transaction and one entry of the journal.

    It is measured by the kept shots that the device has before and after: what was known must not
    get worse by more than the setting `guard`.

    Raises:
        Refused: it would; the device is as it was before.
    """
    store, allowed = box.store(), box.settings.guard
    before = box.learned()
    with store.atomic():  # what is refused is rolled back
        applied = ledger.install(entries, considered, summary)
        after = box.read_now()
        common = set(before.shot_ids) & set(after.shot_ids)
        was, now = measured(before, common), measured(after, common)
        verdict = compare(was, now, allowed)
        if allowed < 1 and not verdict.passed:
            raise Refused(verdict.reason, hint="see `accrue fleet status`")
    return Installation(applied, was, now)
