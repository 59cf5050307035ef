"""Rows, summary and tables of an evaluation against values worked out by hand."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from crumple import results
from crumple.errors import UserError
from crumple.layout import FRAME_STRAIN

CURVE = np.linspace(1, 11, 11)


def candidate(number, predicted, simulated, target="a", index=None, **more):
    """A candidate with its predicted and its simulated error, why it has none, or not chosen."""
    status = simulated if isinstance(simulated, str) else "ok"
    columns = {"design": "ok", "index": number if index is None else index, "verified": status}
    if simulated is None:
        columns = {"design": "ok"}
    elif status == "ok":
        columns |= {"nrmse_fe_target": simulated, "counted_error": simulated}
        columns |= {"nrmse_predicted_fe": 0.5 * simulated, "field_error_mean": 2 * simulated}
        columns |= {"field_errors": np.full(11, 2 * simulated), "fe_stress": CURVE}
    else:
        columns |= {"counted_error": 1.0}
    return results.CandidateRow(
        candidate=number,
        target=target,
        rank=number,
        seed=number,
        readouts_agree=np.nan,
        nrmse_predicted_target=predicted,
        predicted_stress=CURVE,
        **columns | more,
    )


def row(candidates, target="a", training=(0.4, 0.1, 0.25, 0.05)):
    return results.target_row(target, candidates, CURVE, np.array(training), (7, CURVE))


FIVE = [
    candidate(0, 0.1, 0.2),
    candidate(1, 0.05, "not meshable: gmsh gave up"),
    candidate(2, 0.3, 0.1),
    candidate(3, 0.01, "not acceptable: no solid", design="no solid"),
    candidate(4, 0.2, 0.3),
    candidate(5, 0.9, None),
]


def test_both_conventions_of_a_target():
    """0.2, 0.1 and 0.3 were simulated, two failed, one wasn't chosen."""
    found = row(FIVE)
    assert (found.candidates, found.acceptable, found.verified) == (6, 5, 5)
    assert found.acceptable_fraction == pytest.approx(5 / 6)
    assert found.failures == {"not meshable": 1, "not acceptable": 1}
    assert (found.counted_first, found.counted_best) == (0.2, 0.1)
    assert found.counted_mean == pytest.approx((0.2 + 1 + 0.1 + 1 + 0.3) / 5)
    assert (found.fe_first, found.fe_best, found.fe_median) == (0.2, 0.1, 0.2)
    assert found.fe_mean == pytest.approx(0.2)
    assert found.predicted_first == 0.1
    assert found.predicted_fe_mean == pytest.approx(0.1)
    assert found.field_error_mean == pytest.approx(0.4)
    assert (found.best_match, found.random_mean) == (0.05, pytest.approx(0.2))
    assert found.random_best_of_k == 0.05  # of more than there are


def test_a_failed_first_choice_counts_and_is_not_replaced():
    found = row([candidate(0, 0.1, "not converged: at 2 %"), candidate(1, 0.2, 0.4)])
    assert (found.counted_first, found.counted_mean, found.counted_best) == (1.0, 0.7, 0.4)
    assert (found.fe_first, found.fe_mean, found.fe_best) == (None, 0.4, 0.4)


def test_the_first_choice_is_the_first_by_index():
    found = row([candidate(0, 0.1, 0.3, index=1), candidate(1, 0.2, 0.4, index=0)])
    assert (found.counted_first, found.predicted_first) == (0.4, 0.2)


def test_a_target_of_which_nothing_is_left():
    found = row([candidate(k, 0.1 * k, "not meshable: x") for k in range(3)])
    assert (found.counted_first, found.counted_mean, found.counted_best) == (1, 1, 1)
    for name in ("fe_first", "fe_mean", "fe_median", "fe_best", "field_error_mean"):
        assert getattr(found, name) is None
    assert found.rank_correlation is None and found.predicted_fe_mean is None


def test_a_failure_is_better_than_what_is_worse_than_nothing():
    """An error above 100 % stays what it is."""
    found = row([candidate(0, 0.1, 1.8), candidate(1, 0.1, "not meshable: x")])
    assert (found.counted_best, found.fe_best, found.counted_mean) == (1.0, 1.8, 1.4)


def test_rank_correlation_by_hand():
    """Ranks 1, 3, 2 and 2, 1, 3: the squares of the differences add to 6, 1 - 6 * 6 / (3 * 8)."""
    assert row(FIVE).rank_correlation == pytest.approx(-0.5)
    assert results.rank_correlation(FIVE[::-1]) == pytest.approx(-0.5)
    errors = [0.01, 0.5, 0.02, 0.9]
    assert results.rank_correlation(
        [candidate(k, 3 * e**2, e) for k, e in enumerate(errors)]
    ) == pytest.approx(1)
    assert results.rank_correlation(
        [candidate(k, 1 - e, e) for k, e in enumerate(errors)]
    ) == pytest.approx(-1)


def test_rank_correlation_needs_three_with_an_order():
    pairs = [candidate(0, 0.1, 0.1), candidate(1, 0.2, 0.2)]
    assert results.rank_correlation(pairs) is None
    assert results.rank_correlation([*pairs, candidate(2, np.nan, 0.3)]) is None
    assert results.rank_correlation([*pairs, candidate(2, 0.3, "not meshable: x")]) is None
    assert results.rank_correlation([candidate(k, 0.1, 0.1 * k) for k in range(4)]) is None
    assert results.rank_correlation([*pairs, candidate(2, 0.3, 0.3)]) == pytest.approx(1)


def test_the_pooled_rank_correlation_also_sees_which_target_is_hard():
    """Reversed within both targets; ranks 1 to 6 and 3, 2, 1, 6, 5, 4: 1 - 6 * 16 / (6 * 35)."""
    easy = [candidate(k, 0.1 * (k + 1), 0.1 * (3 - k)) for k in range(3)]
    hard = [candidate(k, 0.8 + 0.1 * k, 1.3 - 0.1 * k, "b") for k in range(3)]
    summary = results.summarise([row(easy), row(hard, "b")], easy + hard)
    assert summary.rank_correlation.mean == pytest.approx(-1)
    assert summary.rank_correlation_pooled == pytest.approx(1 - 96 / 210, abs=1e-5)
    assert results.summarise([row(easy)], easy + hard).rank_correlation_pooled == pytest.approx(-1)


def test_summary_by_hand():
    """First choices 0.1, 0.2, 0.3, 0.4 and a failure; the failure has no second candidate."""
    candidates = [candidate(k, 0.1, 0.1 * (k + 1), f"t{k}") for k in range(4)]
    candidates.append(candidate(4, 0.1, "not meshable: x", "t4", design="no solid"))
    rows = [row([c], c.target, training=(0.25, 0.5)) for c in candidates]
    summary = results.summarise(rows, candidates)
    counted = summary.counted_first
    assert (counted.targets, counted.median) == (5, 0.3)
    assert (counted.lower_quartile, counted.upper_quartile) == (0.2, 0.4)
    assert counted.mean == pytest.approx(0.4)
    left = summary.fe_first
    assert (left.targets, left.mean, left.median) == (4, 0.25, 0.25)
    assert (left.lower_quartile, left.upper_quartile) == pytest.approx((0.175, 0.325))
    assert summary.better_than_best_match == pytest.approx(2 / 5)
    assert summary.targets_without_result == 1 and summary.failures == {"not meshable": 1}
    assert (summary.acceptable, summary.candidates) == (4, 5)
    assert summary.acceptable_fraction == pytest.approx(0.8)
    assert summary.rank_correlation.targets == 0 and summary.rank_correlation.median is None
    assert summary.best_match.median == 0.25


@pytest.mark.parametrize("k", [1, 2, 3, 6, 9])
def test_expected_best_of_matches_enumeration(k):
    errors = np.array([0.3, 0.1, 0.9, 0.4, 0.4, 0.7])
    draws = list(combinations(errors, min(k, len(errors))))
    assert results.expected_best_of(errors, k) == pytest.approx(np.mean([min(d) for d in draws]))


def evaluation(candidates):
    names = list(dict.fromkeys(c.target for c in candidates))
    rows = [row([c for c in candidates if c.target == name], name) for name in names]
    return results.Results(
        frame_strain=FRAME_STRAIN.tolist(),
        training_designs=4,
        summary={"all": results.summarise(rows, candidates)},
        targets=rows,
        candidates=candidates,
    )


def test_results_are_read_as_they_were_written(tmp_path):
    whole = evaluation(FIVE)
    results.write_results(tmp_path, whole)
    assert results.read_results(tmp_path) == whole
    assert (tmp_path / "evaluation.json").read_text().count("NaN") == 0


def test_tables_say_the_same_as_the_rows(tmp_path):
    """What a reader works out of candidates.csv are the figures of targets.csv."""
    whole = evaluation(FIVE)
    results.write_results(tmp_path, whole)
    candidates = pd.read_csv(tmp_path / "candidates.csv")
    target = pd.read_csv(tmp_path / "targets.csv").iloc[0]
    assert candidates.counted_error.mean() == pytest.approx(target.counted_mean)
    assert candidates.nrmse_fe_target.mean() == pytest.approx(target.fe_mean)
    done = candidates[candidates.verified == "ok"]
    rank = done.nrmse_predicted_target.corr(done.nrmse_fe_target, method="spearman")
    assert rank == pytest.approx(target.rank_correlation)
    assert target.failures == "1 not meshable; 1 not acceptable"
    steps = [f"field_error_{strain:g}" for strain in FRAME_STRAIN]
    assert done[steps].mean(axis=1).to_list() == pytest.approx(done.field_error_mean.to_list())
    text = (tmp_path / "candidates.csv").read_text().splitlines()
    assert text[1].split(",")[:8] == ["0", "a", "0", "0", "ok", "", "0", "ok"]
    assert text[6].split(",")[6:8] == ["", ""]  # not chosen


@pytest.mark.parametrize(
    "change",
    [
        {"candidates": FIVE[1:]},
        {"frame_strain": [0.1] * 11},
        {"summary": {}},
        {"targets": []},
        {"candidates": [c.model_copy(update={"target": "b"}) for c in FIVE]},
        {"candidates": [c.model_copy(update={"predicted_stress": [1.0]}) for c in FIVE]},
    ],
)
def test_contradictory_results_are_refused(tmp_path, change):
    whole = evaluation(FIVE)
    results.write_results(tmp_path, whole.model_copy(update=change))
    with pytest.raises(
        UserError, match="cannot read .*evaluation.json: .*; run `crumple evaluate`"
    ):
        results.read_results(tmp_path)
