"""Every released version of the database and of the backup can still be read and changed."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from make_sample import facts

from accrue.store import Store, class_id, restore
from accrue.sync.shelf import StoreLedger

VERSIONS = sorted((Path(__file__).parents[1] / "data/store").iterdir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def sample(request) -> Path:
    return request.param


def test_there_is_a_sample_of_the_present_version():
    assert [path.name for path in VERSIONS] == ["v1", "v2", "v3", "v4", "v5"]


@pytest.mark.parametrize("way", ["database", "backup"])
def test_an_old_state_reads_as_it_was_written_and_can_be_changed(sample, state, teach, way):
    if way == "database":
        state.mkdir()
        shutil.copyfile(sample / "state.db", state / "state.db")
    else:
        restore(sample / "backup.accrue", state)
    expected = json.loads((sample / "expected.json").read_text(encoding="utf-8"))
    with Store.open(state) as store:
        assert facts(store).items() >= expected.items()  # old versions had fewer things to say
        if store.joined is not None:
            assert StoreLedger(store).check() == []
        assert store.check() == []
        assert store.resolve("NUT").id == class_id("default", "schraubenmutter äö")
        store.undo()
        assert "gone" in [row.name for row in store.classes()]
        teach(store, "bolt")
        assert store.check() == []


def test_the_header_of_a_backup_is_where_the_reference_says(sample):
    data = (sample / "backup.accrue").read_bytes()
    magic, version, length = struct.unpack_from("<8sII", data)
    assert (magic, version) == (b"ACCRBAK\n", 1)
    header = json.loads(data[16 : 16 + length])
    assert 16 + length + 32 + header["payload_bytes"] == len(data)
