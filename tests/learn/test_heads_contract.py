"""What every head promises. Heads are found, not listed: a new one is tested by being there."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from learn_cases import (
    NON_DEFAULT,
    SPACE,
    by_id,
    classes,
    drift,
    each_head,
    each_head_of_sums,
    off_by,
    queries,
    taught,
)

import accrue.learn
from accrue.errors import NotFound, Refused, RowsError, UsageError
from accrue.learn import (
    HEADS,
    Gaussian,
    Learner,
    RandomFeatures,
    Ridge,
    State,
    Statistics,
    leave_one_out,
    quantise,
)
from accrue.learn.served import Head

DIM = 10
ROWS = classes({"c0": 6, "c1": 1, "c2": 9, "c3": 2}, DIM)
X = queries(7, DIM)
TOLERANCE = 1e-6  # of the quick update, relative to the largest score


def learner_of(head: Head, rows: dict[str, np.ndarray] = ROWS, dim: int = DIM) -> Learner:
    learner = Learner(State(SPACE, dim), head)
    for class_id, class_rows in rows.items():
        learner.add(class_id, class_rows)
    return learner


def test_every_head_is_under_contract() -> None:
    """Each class of the package that solves a state is in HEADS, with other parameters to test."""
    found = {
        value.name: value
        for value in vars(accrue.learn).values()
        if isinstance(value, type) and callable(getattr(value, "solve", None)) and value is not Head
    }
    assert found == HEADS
    assert set(NON_DEFAULT) == set(HEADS)
    for name, head in NON_DEFAULT.items():
        assert head != HEADS[name]()


@each_head
def test_inputs_are_not_written_to(head: Head) -> None:
    """Teaching, solving, scoring and leaving out only read their inputs and the state."""
    rows = {class_id: r.copy() for class_id, r in ROWS.items()}
    for r in rows.values():
        r.flags.writeable = False
    x = X.copy()
    x.flags.writeable = False
    learner = learner_of(head, rows)
    before = learner.state.to_bytes()
    served = head.solve(learner.state)
    first = served.scores(x)
    leave_one_out(served, [(c, r[:1]) for c, r in rows.items()])
    served.describe()
    learner.scores(x)
    assert learner.state.to_bytes() == before
    np.testing.assert_array_equal(served.scores(x), first)


@each_head
def test_a_solved_head_does_not_follow_the_state_by_itself(head: Head) -> None:
    """What was solved stays as it is when the state goes on: no array is shared."""
    state = taught(ROWS, DIM)
    served = head.solve(state)
    before = served.scores(X)
    state.add("c0", ROWS["c2"])
    state.remove("c3")
    _ = state.total
    np.testing.assert_array_equal(served.scores(X), before)


@each_head
def test_one_by_one_equals_batch(head: Head) -> None:
    """Rows one at a time teach what a batch teaches; queries one at a time score the same."""
    batch, single = learner_of(head), Learner(State(SPACE, DIM), head)
    for class_id, rows in ROWS.items():
        for row in rows:
            single.add(class_id, row[None])
    assert single.state.digest() == batch.state.digest()
    batch.resolve()
    single.resolve()
    assert off_by(by_id(single.served, X), by_id(batch.served, X)) <= 1e-9
    one = np.vstack([batch.scores(x[None]) for x in X])
    assert off_by(one, batch.scores(X)) <= 1e-9


@each_head
def test_order_is_irrelevant(head: Head) -> None:
    """Classes and rows in reverse order give the same head."""
    back = {c: ROWS[c][::-1] for c in reversed(ROWS)}
    a, b = head.solve(taught(ROWS, DIM)), head.solve(taught(back, DIM))
    assert a.ids == b.ids
    assert off_by(a.scores(X), b.scores(X)) <= 1e-12


@each_head_of_sums
def test_merge_of_two_devices_equals_the_joint_fit(head: Head) -> None:
    """Two devices that share classes and have their own predict, once merged, as one would."""
    first = taught({"c0": ROWS["c0"][:2], "c1": ROWS["c1"], "c2": ROWS["c2"][:5]}, DIM)
    second = taught({"c0": ROWS["c0"][2:], "c3": ROWS["c3"]}, DIM)
    second.add_statistics("c2", Statistics.of(ROWS["c2"][5:]))
    first.merge(second)
    a, b = head.solve(first), head.solve(taught(ROWS, DIM))
    assert a.ids == b.ids
    assert off_by(a.scores(X), b.scores(X)) <= 1e-12


@each_head_of_sums
def test_reloaded_state_predicts_the_same_and_learns_on(head: Head) -> None:
    """Bytes carry all there is, counts too (Deep-SLDA loses them): the next row weighs alike."""
    learner = learner_of(head)
    reloaded = Learner(State.from_bytes(learner.state.to_bytes()), head)
    learner.resolve()
    assert off_by(by_id(reloaded.served, X), by_id(learner.served, X)) <= 1e-12
    extra = classes({"c0": 3, "new": 2}, DIM, seed=9)
    for class_id, rows in extra.items():
        learner.add(class_id, rows)
        reloaded.add(class_id, rows)
    assert learner.state.digest() == reloaded.state.digest()
    learner.resolve()
    reloaded.resolve()
    assert off_by(by_id(reloaded.served, X), by_id(learner.served, X)) <= 1e-12


@each_head
def test_memory_stays_flat_over_a_long_stream(head: Head) -> None:
    """Hundreds of rows that come and go leave no memory behind."""
    learner = learner_of(head)
    stream = classes({"c0": 400}, DIM, seed=5)["c0"]

    def pass_by(rows: np.ndarray) -> None:
        for row in rows:
            learner.add("passing", row[None])
            learner.subtract("passing", row[None])
            learner.add("c2", row[None])
            learner.subtract("c2", row[None])

    pass_by(stream[:80])
    tracemalloc.start()
    try:
        pass_by(stream[80:120])
        before = tracemalloc.get_traced_memory()[0]
        pass_by(stream[120:])
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 20_000
    assert learner.state.digest() == taught(ROWS, DIM).digest()


@each_head
def test_shapes_and_ids(head: Head) -> None:
    """One column a class, one row a query, the ids in step through growth and removal."""
    many = classes({f"k{i:02d}": 1 + i % 2 for i in range(40)}, DIM)
    learner = learner_of(head, many)
    for gone in ("k00", "k39", "k17"):
        learner.remove(gone)
    served = learner.served
    assert sorted(served.ids) == sorted(set(many) - {"k00", "k39", "k17"})
    assert [served.index[c] for c in served.ids] == list(range(len(served)))
    assert learner.scores(X).shape == (len(X), 37)
    assert learner.scores(X[:0]).shape == (0, 37)
    assert learner.scores(X.astype(np.float32)).dtype == np.float64
    assert drift(learner, X) <= TOLERANCE


@each_head
@pytest.mark.parametrize("shape", [(DIM,), (2, DIM + 1), (1, 1, DIM)])
def test_queries_of_another_shape_are_refused(head: Head, shape: tuple[int, ...]) -> None:
    """A query of another dimension names what was found and expected."""
    with pytest.raises(RowsError) as refused:
        learner_of(head).scores(np.zeros(shape))
    assert str(refused.value) == f"embeddings of shape {shape}; expected (n, {DIM})"


@each_head
def test_nothing_taught(head: Head) -> None:
    """An empty state has scores of no columns, and the first lesson makes one."""
    learner = Learner(State(SPACE, DIM), head)
    assert learner.scores(X).shape == (len(X), 0)
    assert learner.served.describe().startswith(head.name)
    learner.add("c0", ROWS["c0"][:1])
    assert learner.served.ids == ["c0"]
    assert np.isfinite(learner.scores(X)).all()
    learner.remove("c0")
    assert learner.scores(X).shape == (len(X), 0)
    assert len(learner.state) == 0


HARD = {
    "one class": {"c0": ROWS["c0"]},
    "one row": {"c0": ROWS["c0"][:1]},
    "one shot a class": {c: r[:1] for c, r in ROWS.items()},
    "fewer rows than dimensions": {"c0": ROWS["c0"][:2], "c2": ROWS["c2"][:3]},
    "duplicates only": {"c0": ROWS["c0"][[0] * 5], "c2": ROWS["c2"][[0] * 4]},
    "the same rows in both": {"c0": ROWS["c0"], "c2": ROWS["c0"]},
    "constant features": {
        c: quantise(np.hstack([r[:, :3] / 2**15, np.zeros((len(r), 6)), np.full((len(r), 1), 0.5)]))
        for c, r in ROWS.items()
    },
    "very uneven classes": {"c0": ROWS["c0"][:1], "c2": classes({"c2": 300}, DIM)["c2"]},
}


@each_head
@pytest.mark.parametrize("case", HARD)
def test_hard_cases(head: Head, case: str) -> None:
    """Scores are finite, the quick update agrees, and leaving out works where data is poor."""
    learner = learner_of(head, HARD[case])
    assert np.isfinite(learner.scores(X)).all()
    assert drift(learner, X) <= TOLERANCE
    shots = [(c, row[None]) for c, rows in HARD[case].items() for row in rows]
    left_out = leave_one_out(learner.served, shots)
    assert np.isfinite(left_out.own).all()
    assert len(left_out) == sum(len(r) for r in HARD[case].values() if len(r) > 1)
    for row in HARD[case]["c0"]:
        learner.subtract("c0", row[None])
    assert "c0" not in learner.served.ids
    assert drift(learner, X) <= TOLERANCE


@each_head
def test_a_taught_row_is_recognised(head: Head) -> None:
    """With classes apart, each class's own rows score best for it, from one shot on."""
    apart = classes({"c0": 1, "c1": 4, "c2": 3}, 16, seed=3, spread=0.1)
    served = learner_of(head, apart, 16).served
    for class_id, rows in apart.items():
        best = served.scores(rows / 2.0**15).argmax(axis=1)
        assert {served.ids[k] for k in best} == {class_id}


@each_head
def test_a_class_seen_again_is_not_overwritten(head: Head) -> None:
    """The mean is over all visits (SimpleCIL keeps the last, Avalanche's NCM mixes by half)."""
    learner = learner_of(head, {"c0": ROWS["c0"][:5], "c2": ROWS["c2"]})
    learner.add("c0", ROWS["c0"][5:])
    mean = (ROWS["c0"] / 2.0**15).mean(axis=0)
    served = learner.served
    np.testing.assert_allclose(served.means[served.index["c0"]], mean, rtol=0, atol=1e-15)
    assert served.n[served.index["c0"]] == 6


@each_head
def test_refused_lessons_leave_the_served_head_as_it_was(head: Head) -> None:
    """A lesson that is refused changes neither the state nor the scores."""
    learner = learner_of(head)
    before, digest = learner.scores(X), learner.state.digest()
    with pytest.raises(NotFound) as missing:
        learner.subtract("never", ROWS["c0"])
    assert str(missing.value) == "no class 'never' in this state"
    with pytest.raises(NotFound):
        learner.remove("never")
    with pytest.raises(RowsError):
        learner.subtract("c1", ROWS["c0"])
    with pytest.raises(RowsError):
        learner.add("c1", np.zeros((1, DIM + 1), np.int16))
    learner.add("c1", ROWS["c0"][:0])
    np.testing.assert_array_equal(learner.scores(X), before)
    assert learner.state.digest() == digest


@each_head_of_sums
def test_folded_classes_can_be_followed_and_removed(head: Head) -> None:
    """A class whose rows were folded into sums takes rows, gives rows back, and can go."""
    state = taught({"c0": ROWS["c0"]}, DIM)
    state.add_statistics("c2", Statistics.of(ROWS["c2"]))
    learner = Learner(state, head)
    learner.add("c2", ROWS["c0"][:2])
    assert drift(learner, X) <= TOLERANCE
    learner.subtract("c2", ROWS["c2"][:3])
    assert drift(learner, X) <= TOLERANCE
    learner.remove("c2")
    assert learner.served.ids == ["c0"]
    assert drift(learner, X) <= TOLERANCE


def test_random_features_of_folded_rows_are_refused() -> None:
    """Where rows have been folded into sums, the head says so and what to do."""
    state = taught({"c0": ROWS["c0"]}, DIM)
    state.add_statistics("c2", Statistics.of(ROWS["c2"]))
    with pytest.raises(Refused) as refused:
        RandomFeatures().solve(state)
    assert str(refused.value).startswith(
        "the random-feature head needs the rows of each class; 1 of 2 classes have theirs folded"
    )


@each_head
def test_a_class_of_many_rows_can_go(head: Head) -> None:
    """Removing more rows than are worth following is solved exactly."""
    learner = learner_of(head, {**ROWS, "many": classes({"many": 60}, DIM, seed=8)["many"]})
    learner.remove("many")
    assert sorted(learner.served.ids) == sorted(ROWS)
    assert drift(learner, X) == 0


@pytest.mark.parametrize("shrinkage", [0.0, 1.0, -0.1, float("nan")])
def test_shrinkage_out_of_range_is_refused(shrinkage: float) -> None:
    """Shrinkage is between 0 and 1, both exclusive."""
    with pytest.raises(UsageError) as refused:
        Gaussian(shrinkage=shrinkage)
    assert str(refused.value) == (
        f"shrinkage {shrinkage}; expected a number between 0 and 1, both exclusive"
    )


@pytest.mark.parametrize("priors", [{"a": 0.0}, {"a": -1.0}, {"a": 0.6, "b": 0.5}])
def test_priors_that_are_no_probabilities_are_refused(priors: dict[str, float]) -> None:
    """Priors are positive and have a sum up to 1."""
    with pytest.raises(UsageError) as refused:
        Gaussian(priors=priors)
    assert str(refused.value) == f"priors {priors}; expected positive numbers with a sum up to 1"


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_ridge_strength_out_of_range_is_refused(strength: float) -> None:
    """A ridge strength is positive."""
    with pytest.raises(UsageError) as refused:
        Ridge(strength=strength)
    assert str(refused.value) == f"ridge strength {strength}; expected more than 0"


def test_the_grid_stays_within_what_it_promises() -> None:
    """A value on the grid is at most 4.5 % from what was asked, and the grid holds still."""
    asked = np.geomspace(1e-9, 1e9, 5001)
    met = np.array([accrue.learn.served.on_grid(v) for v in asked])
    assert np.abs(met / asked - 1).max() <= 0.045
    assert all(a <= b for a, b in pairwise(met))
    assert [accrue.learn.served.on_grid(v) for v in met] == met.tolist()
