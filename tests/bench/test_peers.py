"""Each peer against a published property of its method, at other than its usual hyperparameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bench_cases import CLASSES, DIM, blobs
from peers import PEERS, ZeroShot
from peers.acil import Acil, leave_one_out_error
from peers.base import Peer, halves, one_hot, unit
from peers.fecam import FeCam
from peers.fetril import FeTril
from peers.gda import Gda
from peers.joint import LinearSvm, Logistic
from peers.ranpac import RIDGES, RanPac
from peers.simplecil import SimpleCil
from peers.slca import TAU, Slca, logit_gradient
from peers.slda import DeepSlda, ExactSlda
from peers.teen import Teen
from peers.tip_adapter import TipAdapter

Split = tuple[Any, Any]


def flat(rows: Any) -> Any:
    return rows[:, 0].astype(np.float64)


def means(x: Any, labels: Any) -> Any:
    return np.stack([x[labels == c].mean(axis=0) for c in np.unique(labels)])


def in_sessions(peer: Peer, rows: Any, labels: Any, *sessions: list[int]) -> Peer:
    for classes in sessions:
        at = np.isin(labels, classes)
        peer.partial_fit(rows[at], labels[at])
    return peer


# ---- what all share ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
def test_a_peer_learns_in_sessions_and_names_its_columns(
    kind: type[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two sessions each peer answers most of easy queries rightly, by label and not by
    column, and leaves its input alone."""
    monkeypatch.setattr(Acil, "BUFFER", 64)
    rows, labels = blobs(0, each=12, positive=True)
    labels = labels * 10 + 3
    before = rows.copy()
    peer = in_sessions(kind(seed=1), rows, labels, [13, 43], [3, 23, 33])
    assert sorted(peer.classes) == [3, 13, 23, 33, 43]
    assert set(peer.classes[:2]) == {13, 43}
    queries, wanted = blobs(1, positive=True)
    assert peer.scores(queries).shape == (len(queries), CLASSES)
    assert (peer.predict(queries) == wanted * 10 + 3).mean() > 0.6
    assert (rows == before).all()
    assert peer.n_bytes() > 0


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
def test_a_seed_decides_everything(kind: type[Peer], train: Split, test: Split) -> None:
    """Two peers of one seed give the same scores; without `seeded`, so do two of other seeds."""
    scores = [kind(seed).fit(*train).scores(test[0]) for seed in (4, 4, 5)]
    assert (scores[0] == scores[1]).all()
    if not kind.seeded:
        np.testing.assert_allclose(scores[0], scores[2], atol=0.02)  # liblinear mixes by the seed


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
def test_one_shot_a_class_is_enough_for_an_answer(kind: type[Peer], test: Split) -> None:
    """With one row a class no covariance exists; every peer still answers, better than chance."""
    peer = kind(seed=0).fit(*blobs(0, each=1))
    scores = peer.scores(test[0])
    assert np.isfinite(scores).all()
    assert (peer.predict(test[0]) == test[1]).mean() > 0.4


def test_views_of_a_photo_are_rows_to_learn_and_a_mean_to_ask() -> None:
    """Three views a photo teach as three rows would, and are asked by their mean."""
    rows, labels = blobs(0, views=3)
    by_views = Gda().fit(rows, labels)
    by_rows = Gda().fit(rows.reshape(-1, DIM), np.repeat(labels, 3))
    mean = unit(rows.astype(np.float64).mean(axis=1))
    np.testing.assert_allclose(by_views.scores(rows), by_rows.scores(mean), rtol=1e-9)


def test_halves_split_every_class_and_leave_single_rows_in_the_first() -> None:
    """No row is in both parts, and a class of one row is only learned from."""
    columns = np.array([0, 0, 0, 1, 2, 2])
    parts = halves(columns, seed=3)
    assert parts is not None
    assert sorted([*parts[0], *parts[1]]) == list(range(6))
    assert set(columns[parts[0]]) == {0, 1, 2}
    assert set(columns[parts[1]]) == {0, 2}
    assert halves(np.array([0, 1, 2]), seed=3) is None


# ---- prototypes --------------------------------------------------------------------------------


def test_simplecil_is_the_cosine_to_the_mean_of_all_rows_whenever_they_came(
    train: Split, test: Split
) -> None:
    """Prototype = class mean, also of a class that came twice."""
    rows, labels = train
    peer = SimpleCil()
    peer.partial_fit(rows[::2], labels[::2])
    peer.partial_fit(rows[1::2], labels[1::2])
    expected = unit(flat(test[0])) @ unit(means(flat(rows), labels)).T
    np.testing.assert_allclose(peer.scores(test[0]), expected, atol=1e-12)


def test_teen_without_calibration_is_the_nearest_mean(train: Split, test: Split) -> None:
    """alpha = 0, and also a single session, give SimpleCIL's scores."""
    plain = in_sessions(SimpleCil(), *train, [0, 1], [2, 3, 4]).scores(test[0])
    without = in_sessions(Teen(tau=3.0, alpha=0.0), *train, [0, 1], [2, 3, 4])
    np.testing.assert_allclose(without.scores(test[0]), plain, atol=1e-12)
    once = Teen(alpha=0.7).fit(*train).scores(test[0])
    np.testing.assert_allclose(once, SimpleCil().fit(*train).scores(test[0]), atol=1e-12)


def test_teen_moves_new_prototypes_toward_similar_base_ones_and_leaves_the_base(
    train: Split,
) -> None:
    """New prototypes come nearer to the base class most like them; base ones stay; at tau = 0 and
    alpha = 1 all new ones are the mean direction of the base."""
    before = in_sessions(Teen(alpha=0.0), *train, [0, 1, 2], [3, 4]).prototypes()
    after = in_sessions(Teen(tau=30.0, alpha=0.3), *train, [0, 1, 2], [3, 4]).prototypes()
    assert (after[:3] == before[:3]).all()
    for k in (3, 4):
        near = int((before[:3] @ before[k]).argmax())
        assert after[k] @ before[near] > before[k] @ before[near]
    flattened = in_sessions(Teen(tau=0.0, alpha=1.0), *train, [0, 1, 2], [3, 4]).prototypes()
    np.testing.assert_allclose(flattened[3], unit(before[:3].mean(axis=0)), atol=1e-12)
    np.testing.assert_allclose(flattened[4], flattened[3], atol=1e-12)


# ---- discriminant analysis ---------------------------------------------------------------------


def test_exact_slda_is_batch_discriminant_analysis(train: Split, test: Split) -> None:
    """Row by row in any order, it gives scikit-learn's LDA with the shrinkage that eps means."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rows, labels = train
    eps = 0.05
    peer = ExactSlda(eps=eps)
    for i in np.random.default_rng(2).permutation(len(rows)):
        peer.partial_fit(rows[i : i + 1], labels[i : i + 1])
    x = flat(rows)
    within = x - means(x, labels)[labels]
    mean_variance = (within**2).sum() / len(x) / DIM
    share = eps / (1 - eps) / (eps / (1 - eps) + mean_variance)
    batch = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=share).fit(x, labels)
    expected = batch.decision_function(flat(test[0])) * (1 - share) / (1 - eps)
    found = peer.scores(test[0])[:, np.argsort(peer.classes)]
    level = expected.mean(axis=1, keepdims=True) - found.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected - level, rtol=1e-6, atol=1e-6)


def test_deep_slda_is_the_published_recursion_row_by_row(train: Split) -> None:
    """Two batches leave the covariance and means of eqs. 2 to 4 applied to one row at a time."""
    rows, labels = train
    order = np.random.default_rng(5).permutation(len(rows))
    x, y = flat(rows)[order], labels[order]
    sigma, mu, count = np.zeros((DIM, DIM)), np.zeros((CLASSES, DIM)), np.zeros(CLASSES)
    for t, (z, c) in enumerate(zip(x, y, strict=True)):
        delta = t / (t + 1) * np.outer(z - mu[c], z - mu[c])
        sigma = (t * sigma + delta) / (t + 1)
        mu[c] = (count[c] * mu[c] + z) / (count[c] + 1)
        count[c] += 1
    peer = DeepSlda(eps=0.01)
    peer.partial_fit(x[:17], y[:17])
    peer.partial_fit(x[17:], y[17:])
    assert peer.scatter is not None
    np.testing.assert_allclose(peer.scatter / peer.t, sigma, atol=1e-12)
    np.testing.assert_allclose(peer.means.mu[np.argsort(peer.classes)], mu, atol=1e-12)
    w = np.linalg.inv(0.99 * sigma + 0.01 * np.eye(DIM)) @ mu.T
    expected = x @ w - np.einsum("kd,dk->k", mu, w) / 2
    np.testing.assert_allclose(peer.scores(x)[:, np.argsort(peer.classes)], expected, atol=1e-8)


def test_deep_slda_counts_first_rows_as_spread_and_exact_slda_does_not(train: Split) -> None:
    """The published rule has a larger covariance; the exact one is the within-class scatter."""
    deep, exact = DeepSlda().fit(*train), ExactSlda().fit(*train)
    assert deep.scatter is not None
    assert exact.scatter is not None
    assert np.trace(deep.scatter) > 1.5 * np.trace(exact.scatter)
    x = flat(train[0])
    within = x - means(x, train[1])[train[1]]
    np.testing.assert_allclose(exact.scatter, within.T @ within, atol=1e-10)


def test_gda_is_discriminant_analysis_with_the_shrinkage_of_kubokawa_and_srivastava(
    train: Split, test: Split
) -> None:
    """d ((n-1) S + tr(S) I)^-1 is scikit-learn's LDA at shrinkage d / (d + n - 1), up to a scale
    and a level of all scores."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rows, labels = train
    n = len(rows)
    batch = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=DIM / (DIM + n - 1))
    expected = batch.fit(flat(rows), labels).decision_function(flat(test[0]))
    found = in_sessions(Gda(), rows, labels, [0, 1], [2, 3, 4]).scores(test[0])
    found = found - found.mean(axis=1, keepdims=True)
    expected = expected - expected.mean(axis=1, keepdims=True)
    ratio = (found * expected).sum() / (expected**2).sum()
    np.testing.assert_allclose(found, ratio * expected, rtol=1e-6, atol=1e-8)


def test_gda_with_text_and_alpha_zero_is_zero_shot(train: Split, test: Split) -> None:
    """Without the gaussian term the text decides; a chosen alpha is one of the authors'."""
    text = np.random.default_rng(3).normal(size=(CLASSES, DIM))
    peer = Gda(text=text, alpha=1e-12).fit(*train)
    zero = ZeroShot(text=unit(text)).fit(*train)
    np.testing.assert_allclose(peer.scores(test[0]), 100 * flat(test[0]) @ text.T, rtol=1e-6)
    assert zero.scores(test[0]).shape == (len(test[0]), CLASSES)
    chosen = Gda(text=text).fit(*train)
    assert chosen.alpha in 10.0 ** np.arange(-4, 3)
    assert (chosen.predict(test[0]) == test[1]).mean() > 0.8  # the text is noise: it learned so


def test_fecam_without_covariances_is_the_nearest_mean(test: Split) -> None:
    """With the identity as covariance the ranking is that of the cosine to the class means."""
    rows, labels = blobs(0, positive=True)
    peer = FeCam(tukey=0.3, covariances=False).fit(rows, labels)
    x, q = flat(rows) ** 0.3, unit(np.abs(flat(test[0])) ** 0.3)
    cosine = q @ unit(means(x, labels)).T
    found = peer.scores(np.abs(test[0]))
    assert (found.argsort(axis=1) == cosine.argsort(axis=1)).all()


@pytest.mark.parametrize("each", [4, 40])
def test_fecam_is_the_dense_formula(each: int) -> None:
    """Covariance, twice shrunk, its correlation matrix, Mahalanobis: as with whole matrices, with
    fewer rows than dimensions and with more."""
    rows, labels = blobs(0, each=each, positive=True)
    queries, _ = blobs(1, positive=True)
    g1, g2 = 0.7, 0.4
    found = FeCam(tukey=0.4, shrinkage=(g1, g2), times=2).fit(rows, labels).scores(queries)
    x, q = flat(rows) ** 0.4, unit(flat(queries) ** 0.4)
    for k in range(CLASSES):
        cov = np.cov(x[labels == k].T)
        for _ in range(2):
            v1 = np.diag(cov).mean()
            v2 = cov[~np.eye(DIM, dtype=bool)].mean()
            cov = cov + g1 * v1 * np.eye(DIM) + g2 * v2 * (1 - np.eye(DIM))
        deviation = np.sqrt(np.diag(cov))
        correlation = cov / np.outer(deviation, deviation)
        v = q - unit(x[labels == k].mean(axis=0)[None])
        expected = -np.einsum("md,de,me->m", v, np.linalg.inv(correlation), v)
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-6)


# ---- ridge on random features ------------------------------------------------------------------


def test_acil_in_sessions_equals_joint_ridge_on_the_same_features(
    train: Split, test: Split
) -> None:
    """Three sessions, in which a class also comes again, leave the weights of one ridge
    regression on all rows (absolute memorisation)."""
    rows, labels = train
    peer = Acil(seed=2, buffer=60, gamma=0.3)
    for at in (labels < 2, (labels == 2) & (np.arange(len(labels)) % 2 == 0)):
        peer.partial_fit(rows[at], labels[at])
    rest = (labels > 2) | ((labels == 2) & (np.arange(len(labels)) % 2 == 1))
    peer.partial_fit(rows[rest], labels[rest])
    b = peer.features(flat(rows))
    joint = np.linalg.solve(b.T @ b + 0.3 * np.eye(60), b.T @ one_hot(labels, CLASSES))
    assert peer.classes == list(range(CLASSES))
    np.testing.assert_allclose(peer.weights, joint, atol=1e-9)
    np.testing.assert_allclose(peer.scores(test[0]), peer.features(flat(test[0])) @ joint)


def test_left_out_errors_are_those_of_refitting(train: Split) -> None:
    """The closed form of the leave-one-out error is what leaving each row out gives."""
    x = flat(train[0])
    y = one_hot(train[1], CLASSES)
    ridges = np.array([0.1, 2.0])
    refitted = []
    for ridge in ridges:
        errors = []
        for i in range(len(x)):
            keep = np.arange(len(x)) != i
            w = np.linalg.solve(x[keep].T @ x[keep] + ridge * np.eye(DIM), x[keep].T @ y[keep])
            errors.append((x[i] @ w - y[i]) ** 2)
        refitted.append(np.mean(errors))
    np.testing.assert_allclose(leave_one_out_error(x @ x.T, y, ridges), refitted, rtol=1e-9)


@pytest.mark.parametrize("width", [20, 300])
def test_ranpac_solves_the_pooled_gram_matrix(width: int, train: Split, test: Split) -> None:
    """(G + lambda I)^-1 Q of all sessions, with fewer and with more features than rows."""
    peer = in_sessions(RanPac(seed=3, width=width, ridge=7.0), *train, [1, 4], [0, 2, 3])
    h = peer.features(flat(train[0]))
    y = one_hot(train[1], CLASSES)[:, peer.classes]
    weights = np.linalg.solve(h.T @ h + 7.0 * np.eye(width), h.T @ y)
    np.testing.assert_allclose(
        peer.scores(test[0]), peer.features(flat(test[0])) @ weights, atol=1e-9
    )


def test_wide_ranpac_is_kernel_ridge_with_the_arc_cosine_kernel(train: Split, test: Split) -> None:
    """ReLU of many random projections is the arc-cosine kernel of order 1 (Cho and Saul 2009)."""
    width, ridge = 60_000, 0.05
    peer = RanPac(seed=0, width=width, ridge=ridge * width).fit(*train)

    def kernel(a: Any, b: Any) -> Any:
        angle = np.arccos(np.clip(unit(a) @ unit(b).T, -1, 1))
        lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        return lengths * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)

    x, q = flat(train[0]), flat(test[0])
    solved = np.linalg.solve(kernel(x, x) + ridge * np.eye(len(x)), one_hot(train[1], CLASSES))
    np.testing.assert_allclose(peer.scores(test[0]), kernel(q, x) @ solved, atol=0.03)


def test_ranpac_takes_the_ridge_that_does_best_on_a_fifth_of_the_session(train: Split) -> None:
    """The chosen lambda is that of a plain loop of solves over the published 17."""
    peer = RanPac(seed=6, width=50).fit(*train)
    h = peer.features(flat(train[0]))
    y = one_hot(train[1], CLASSES)
    mixed = np.random.default_rng(6).permutation(len(h))
    fit, rest = mixed[:32], mixed[32:]
    errors = [
        (
            (
                h[rest]
                @ np.linalg.lstsq(
                    np.vstack([h[fit], np.sqrt(r) * np.eye(50)]),
                    np.vstack([y[fit], np.zeros((50, CLASSES))]),
                    rcond=None,
                )[0]
                - y[rest]
            )
            ** 2
        ).mean()
        for r in RIDGES
    ]
    chosen = list(RIDGES).index(peer.ridge)
    assert errors[chosen] <= min(errors) * (1 + 1e-6)


# ---- cache and text ----------------------------------------------------------------------------


def test_tip_adapter_is_its_formula(train: Split, test: Split) -> None:
    """alpha exp(-beta (1 - x K^T)) L + 100 x T^T."""
    text = unit(np.random.default_rng(3).normal(size=(CLASSES, DIM)))
    peer = TipAdapter(text=text, beta=3.0, alpha=2.0).fit(*train)
    cosine = unit(flat(test[0])) @ unit(flat(train[0])).T
    expected = 2.0 * np.exp(-3.0 * (1 - cosine)) @ one_hot(train[1], CLASSES)
    expected += 100 * unit(flat(test[0])) @ text.T
    np.testing.assert_allclose(peer.scores(test[0]), expected, rtol=1e-9)


def test_tip_adapter_with_a_sharp_cache_is_the_nearest_neighbour(train: Split, test: Split) -> None:
    """As beta grows the most similar shot decides alone; its own beta is chosen without it."""
    peer = TipAdapter(beta=2000.0).fit(*train)
    nearest = (unit(flat(test[0])) @ unit(flat(train[0])).T).argmax(axis=1)
    assert (peer.predict(test[0]) == train[1][nearest]).all()
    rng = np.random.default_rng(0)
    noise = TipAdapter().fit(rng.normal(size=(40, 1, DIM)), rng.integers(4, size=40))
    assert noise.beta is not None  # chosen among rows that vouch for nothing
    assert (noise.predict(rng.normal(size=(200, DIM))) < 4).all()


# ---- replay and joint references ---------------------------------------------------------------


def test_fetril_pseudo_features_have_the_mean_of_the_past_and_the_spread_of_the_new(
    train: Split,
) -> None:
    """eq. 1 moves rows of a new class: their mean is the past class's, their covariance stays."""
    rows, labels = train
    peer = FeTril(c=0.5)
    peer.partial_fit(rows[labels < 2], labels[labels < 2])
    x, columns = flat(rows)[labels >= 2], labels[labels >= 2]
    peer.partial_fit(rows[labels >= 2], columns)
    pseudo, owners = peer.pseudo_features(x, columns)
    mu = means(flat(rows), labels)
    for past in (0, 1):
        moved = pseudo[owners == past]
        np.testing.assert_allclose(moved.mean(axis=0), mu[past], atol=1e-9)
        near = 2 + int((unit(mu[2:]) @ unit(mu[past])).argmax())
        np.testing.assert_allclose(np.cov(moved.T), np.cov(x[columns == near].T), atol=1e-9)


def test_fetril_in_one_session_is_a_linear_svm(train: Split, test: Split) -> None:
    """Without past classes there is nothing to translate."""
    ours = FeTril(c=0.5).fit(*train).scores(test[0])
    assert (ours == LinearSvm(c=0.5).fit(*train).scores(test[0])).all()


def test_slca_draws_from_the_gaussian_of_each_class(train: Split) -> None:
    """Many samples have the class's mean (the last session's undamped) and covariance."""
    peer = in_sessions(Slca(epochs=1, per_class=8), *train, [0, 1, 2], [3, 4])
    kept = peer._framed(flat(train[0]))
    drawn = peer.sample(3, 40_000, np.random.default_rng(0)).astype(np.float64)
    own = kept[train[1] == 3]
    np.testing.assert_allclose(drawn.mean(axis=0), own.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(own.T) + 1e-4 * np.eye(DIM), atol=0.05)
    old = peer.sample(0, 40_000, np.random.default_rng(0)).mean(axis=0)
    np.testing.assert_allclose(old, 0.95 * kept[train[1] == 0].mean(axis=0), atol=0.03)


def test_slca_gradient_is_that_of_the_normalised_cross_entropy() -> None:
    """By finite differences; and it never stretches the logits, whose length does not matter."""
    rng = np.random.default_rng(1)
    logits, owners = rng.normal(size=(6, 4)), rng.integers(4, size=6)

    def loss(values: Any) -> float:
        z = values / (np.linalg.norm(values, axis=1, keepdims=True) + 1e-7) / TAU
        z = z - z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return float(-log_p[np.arange(6), owners].mean())

    slope = logit_gradient(logits, owners)
    for i, j in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[i, j] = 1e-6
        numeric = (loss(logits + step) - loss(logits - step)) / 2e-6
        assert slope[i, j] == pytest.approx(numeric, abs=1e-5)
    np.testing.assert_allclose((slope * logits).sum(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize("kind", [Logistic, LinearSvm])
def test_a_joint_reference_is_scikit_learns_own_fit(
    kind: type[Logistic] | type[LinearSvm], test: Split
) -> None:
    """The span of few rows changes nothing: the answers are those of a fit in all dimensions, in
    one session or in two."""
    rng = np.random.default_rng(0)
    rows, labels = blobs(0, each=2)
    wide = np.hstack([flat(rows), 0.1 * rng.normal(size=(len(rows), 40))])
    queries = np.hstack([flat(test[0]), 0.1 * rng.normal(size=(len(test[0]), 40))])
    peer = in_sessions(kind(seed=1, c=3.0), wide, labels, [0, 1, 2], [3, 4])
    model = kind(seed=1, c=3.0)._model().set_params(tol=1e-7, max_iter=20_000)
    centre = wide.mean(axis=0)
    direct = model.fit(wide - centre, labels).decision_function(queries - centre)
    np.testing.assert_allclose(peer.scores(queries), direct, atol=0.02)


def test_zero_shot_needs_text(train: Split) -> None:
    """It says what is missing."""
    with pytest.raises(ValueError, match="needs text"):
        ZeroShot().fit(*train)
