"""The cosine head, and texts in it."""

from __future__ import annotations

import numpy as np
import pytest
from learn_cases import classes, queries, taught

from accrue.errors import RowsError, UsageError
from accrue.learn import Cosine, Prototype, leave_one_out

DIM = 14
ROWS = classes({"a": 6, "b": 4, "c": 9}, DIM)
X = queries(9, DIM)


def test_scores_are_cosines() -> None:
    """They lie within -1 and 1, and a class mean has 1 with itself."""
    served = Cosine().solve(taught(ROWS, DIM))
    assert np.abs(served.scores(X)).max() <= 1
    np.testing.assert_allclose(np.diagonal(served.scores(served.means)), 1)


def test_much_shrinkage_is_the_centred_prototype_head() -> None:
    """With a spherical covariance nothing is left of the whitening."""
    rows = {c: r[:4] for c, r in ROWS.items()}  # alike, so that both heads have one centre
    cosine = Cosine(shrinkage=1 - 1e-12).solve(taught(rows, DIM))
    prototype = Prototype(centred=True).solve(taught(rows, DIM))
    np.testing.assert_allclose(cosine.scores(X), prototype.scores(X), atol=1e-6)


def test_a_class_of_a_name_alone_is_answered() -> None:
    """A text vector where its class lies, in a space moved and scaled, finds its class."""
    held_out = classes({**dict.fromkeys("abcdefgh", 6), "new": 6}, DIM, seed=2, spread=0.2)
    means = {c: r.mean(axis=0) / 2**15 for c, r in held_out.items()}
    gap = np.random.default_rng(0).normal(size=DIM)
    texts = {c: 3 * mean + gap for c, mean in means.items()}
    state = taught({c: r for c, r in held_out.items() if c != "new"}, DIM)
    served = Cosine(texts=texts).solve(state)
    assert "new" not in state
    scores = served.scores(held_out["new"] / 2.0**15)
    assert (scores.argmax(axis=1) == served.index["new"]).all()


def test_texts_alone_make_a_head() -> None:
    """Before the first shot, a query is answered by the cosine to the texts."""
    texts = dict(zip("abc", queries(3, DIM, seed=3), strict=True))
    served = Cosine(texts=texts).solve(taught({}, DIM))
    assert served.ids == ["a", "b", "c"]
    x = np.array(list(texts.values()))
    assert served.scores(x).argmax(axis=1).tolist() == [0, 1, 2]


def test_the_weight_of_a_text_fades_with_shots() -> None:
    """A misleading text moves a class of one row a lot, a class of many rows little."""
    x = ROWS["c"] / 2.0**15
    moved = []
    for n in (1, 9):
        rows = {**ROWS, "c": ROWS["c"][:n]}
        plain = Cosine().solve(taught(rows, DIM))
        misled = Cosine(texts={"c": -plain.means[plain.index["c"]]}).solve(taught(rows, DIM))
        moved.append(np.abs(plain.scores(x) - misled.scores(x)).max())
    assert moved[0] > 2 * moved[1]


def test_left_out_shots_keep_their_text() -> None:
    """A left-out shot leaves the text of its class behind; texts stay where they were put."""
    texts = {"a": X[0], "b": X[1], "new": X[2]}
    served = Cosine(texts=texts).solve(taught(ROWS, DIM))
    shots = [(c, r[i : i + 2]) for c, r in ROWS.items() for i in range(0, len(r), 2)]
    found = leave_one_out(served, shots)
    i = int(found.shots[0])
    class_id, rows = shots[i]
    k = served.index[class_id]
    # by hand: mean and scatter without the shot, regulariser and text as they are
    row_means = {c: ROWS[c].mean(axis=0) / 2**15 for c in ROWS}
    n = len(ROWS[class_id])
    placed = (served.means[k] * (n + 4) - n * row_means[class_id]) / 4  # the text, where it is
    rest = np.vstack([s[1] for j, s in enumerate(shots) if s[0] == class_id and j != i]) / 2**15
    means = served.means.copy()
    means[k] = (rest.sum(axis=0) + 4 * placed) / (len(rest) + 4)
    scatter = np.zeros((DIM, DIM))
    for c in ROWS:
        data = rest if c == class_id else ROWS[c] / 2**15
        scatter += (data - data.mean(axis=0)).T @ (data - data.mean(axis=0))
    root = np.linalg.cholesky(np.linalg.inv(scatter + served.rho * np.eye(DIM)))  # type: ignore[attr-defined]
    centre = means.mean(axis=0)
    query = ((rows / 2.0**15).mean(axis=0) - centre) @ root
    own = (means[k] - centre) @ root
    expected = query @ own / np.linalg.norm(query) / np.linalg.norm(own)
    assert found.own[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "text", [np.ones(DIM + 1), np.zeros(DIM), np.full(DIM, np.nan)], ids=["long", "zero", "nan"]
)
def test_a_text_that_is_no_embedding_is_refused(text: np.ndarray) -> None:
    """The class is named, with what was expected."""
    with pytest.raises(RowsError) as refused:
        Cosine(texts={"a": text}).solve(taught(ROWS, DIM))
    assert str(refused.value) == (
        f"text vector of class 'a' is of shape {text.shape} or not finite; "
        f"expected ({DIM},), finite, of a length above 0"
    )


def test_text_rows_out_of_range_are_refused() -> None:
    """A text weighs more than nothing."""
    with pytest.raises(UsageError) as refused:
        Cosine(text_rows=0.0)
    assert str(refused.value) == "text_rows 0.0; expected more than 0"
