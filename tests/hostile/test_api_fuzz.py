"""The API asked by machine, from its own description: right and wrong requests of every operation.

schemathesis makes them from docs/reference/openapi.json. Whatever comes, the answer is one of those
that the description has, with a body of that form, and never that something unexpected happened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hostile_device import Open, opened
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import checks as known_checks

from accrue.service.http import guard
from accrue.service.http.openapi import document

FILE = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"
SCHEMA = schemathesis.openapi.from_dict(json.loads(FILE.read_text(encoding="utf-8")))
EXAMPLES, NIGHTLY_EXAMPLES = int(os.environ.get("ACCRUE_EX", "12")), 500
# Go on for ever, or are no HTTP: tests/http/test_http_live.py asks them.
STREAMS = ("live", "events", "mjpeg", "snapshot")
# Each is asked for what is there half of the time, and what is made up otherwise.
THERE = {"id": ["bolt", "nut", "..", "%2e%2e%2fetc"], "name": ["bolt", "new/one"], "n": [0, 1]}
OPERATIONS = [
    (path, method)
    for path, methods in document()["paths"].items()
    for method, about in methods.items()
    if about["operationId"] not in STREAMS
]


@pytest.fixture(scope="module")
def device(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, photo: Callable[..., np.ndarray]
) -> Iterator[Open]:
    taught = {
        name: [photo(100 * kind + i, kind=kind) for i in range(3)]
        for kind, name in enumerate(("bolt", "nut", "gear"))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "REQUESTS_PER_S", 1e6)
        patch.setattr(guard, "STRANGER_PER_S", 1e6)
        with opened(tmp_path_factory.mktemp("fuzz"), tiny_bundle, taught) as found:
            yield found


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda value: str(value))
def test_every_operation_answers_whatever_it_is_asked_as_it_is_described(
    device: Open, path: str, method: str, nightly: bool
) -> None:
    operation = SCHEMA[path][method.upper()]
    checks = (
        known_checks.not_a_server_error,
        known_checks.status_code_conformance,
        known_checks.content_type_conformance,
        known_checks.response_schema_conformance,
    )

    @settings(
        max_examples=NIGHTLY_EXAMPLES if nightly else EXAMPLES,
        deadline=None,
        derandomize=not nightly,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), data=st.data())
    def ask(case: Any, data: st.DataObject) -> None:
        for name in case.path_parameters or {}:
            if name in THERE and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(THERE[name]))
        response = case.call(base_url=device.url, headers=device.headers("owner"), timeout=20)
        case.validate_response(response, checks=checks)

    ask()


def test_after_all_of_it_the_device_is_well(device: Open) -> None:
    """Its state is sound, its loop watches, and nothing unexpected was counted."""
    from accrue.store import Store

    assert device.device.ready == ""
    with Store.open(device.device.settings.state, readonly=True) as store:
        assert store.check() == []
    counted = device.device.figures.all()
    assert not [name for (name, _) in counted if name == "accrue_errors_total"]
