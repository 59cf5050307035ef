"""What a round proposes: from the results so far alone, within the limits, different designs."""

import json
from dataclasses import replace

import numpy as np
import pytest

from crumple import designs
from crumple.config import Config
from crumple.diffusion.response import load_response
from crumple.goals import read_goals
from crumple.layout import CURVE_STRAIN
from crumple.library import packaged, read_library
from crumple.search import proposing
from crumple.search.history import EMPTY, History, read_history
from crumple.search.restarting import PATIENCE
from crumple.search.screening import Screen

LIBRARY = read_library()
COLUMNS = ("index", "quarter", "curve_stress")
CONFIG = Config.model_validate({"search": {"batch": 4, "screened": 40, "generations": 2}})


@pytest.fixture(scope="module")
def screen():
    return Screen(load_response(packaged("response")))


@pytest.fixture(scope="module")
def goal(tmp_path_factory):
    path = tmp_path_factory.mktemp("goal") / "mine.csv"
    rows = zip(CURVE_STRAIN, 1.1 * LIBRARY.curve_stress[7], strict=True)
    path.write_text("strain,stress\n" + "".join(f"{x:.4f},{y:.5f}\n" for x, y in rows))
    return read_goals([path])[0]


def history_of(goal, quarter, curve):
    count = len(quarter)
    columns = EMPTY | {
        "index": np.arange(count),
        "quarter": quarter,
        "curve_stress": curve,
        "status": np.full(count, "ok"),
        "violation": np.full(count, ""),
        "error": goal.error(curve),
        "source": np.full(count, "wave"),
        "predicted_error": np.zeros(count),
        "round": np.zeros(count, int),
    }
    return History(**columns)


def proposed(goal, screen, history=None, number=0, config=CONFIG, count=4):
    history = read_history([]) if history is None else history
    return proposing.propose(goal, history, LIBRARY, screen, config, number, count)


def test_a_search_begins_with_the_best_match(goal, screen):
    found = proposed(goal, screen)
    best = np.argmin(goal.error(LIBRARY.curve_stress))
    assert found.source[0] == "library"
    assert np.array_equal(found.quarter[0], LIBRARY.quarter[best])
    assert len(found.quarter) == 4 and len(np.unique(found.quarter, axis=0)) == 4


def test_proposals_depend_on_seed_round_and_results_alone(goal, screen):
    one, again = (proposed(goal, screen) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    fresh = proposed(goal, Screen(load_response(packaged("response"))))
    assert np.array_equal(one.quarter, fresh.quarter)
    other = proposed(goal, screen, config=CONFIG.model_copy(update={"seed": 1}))
    later = proposed(goal, screen, number=1)
    assert not np.array_equal(one.quarter[1:], other.quarter[1:])
    assert not np.array_equal(one.quarter[1:], later.quarter[1:4])


def test_what_is_left_of_the_screened_designs_is_for_moves(goal, screen, monkeypatch):
    """Aimed designs and single pixels come first; where none are wanted, moves make all."""
    seen = []
    choose = proposing.choose
    monkeypatch.setattr(
        proposing, "choose", lambda pool, *rest: seen.append(pool) or choose(pool, *rest)
    )
    for screened in (400, 40):
        search = CONFIG.search.model_copy(update={"screened": screened})
        proposed(goal, screen, config=CONFIG.model_copy(update={"search": search}))
    many, few = (set(pool.source) for pool in seen)
    assert many > {"aim", "flip"} and len(many) > 3
    assert "aim" in few and "flip" not in few
    assert len(seen[1].quarter) < 100 < 400 <= len(seen[0].quarter)


def test_proposals_differ_from_all_that_is_known_and_from_each_other(goal, screen):
    first = proposed(goal, screen)
    curves = np.repeat(LIBRARY.curve_stress[[7]], 4, axis=0)
    history = history_of(goal, first.quarter, curves)
    second = proposed(goal, screen, history, number=1)
    known = proposing.known_designs(goal, history, LIBRARY)
    assert len(second.quarter) == 4
    assert proposing.differing(second.quarter, known.quarter).min() >= proposing.DIFFERENT
    among = proposing.differing(second.quarter, second.quarter)[~np.eye(4, dtype=bool)]
    assert among.min() >= proposing.DIFFERENT


def test_a_stuck_search_begins_anew_elsewhere(goal, screen, monkeypatch):
    best = np.argsort(goal.error(LIBRARY.curve_stress))[:2]
    count = PATIENCE // 4 + 1
    quarter, curve = LIBRARY.quarter[best], LIBRARY.curve_stress[best]
    many = [np.repeat(part, 2 * count, axis=0) for part in (quarter, curve)]
    history = history_of(goal, *many)._replace(round=np.arange(4 * count) // 4)
    found = proposed(goal, screen, history, number=count)
    assert len(found.quarter) == 4
    assert proposing.differing(found.quarter, quarter[:1]).min() >= proposing.FAMILY / 2
    monkeypatch.setattr(proposing, "fresh_start", lambda *_: None)
    ordinary = proposed(goal, screen, history, number=count)
    assert not np.array_equal(found.quarter, ordinary.quarter)
    # what a fresh start knows is far from what it leaves, and its own
    fresh = proposing.FreshStart(own=np.array([0]), left=np.array([0, 2 * count]))
    known = proposing.known_elsewhere(goal, history, LIBRARY, fresh)
    assert len(known.quarter) == proposing.MATCHES + 1
    assert np.array_equal(known.quarter[-1], quarter[0])
    assert proposing.differing(known.quarter[:-1], quarter).min() >= proposing.FAMILY
    few = replace(LIBRARY, **{name: getattr(LIBRARY, name)[best] for name in COLUMNS})
    assert proposing.known_elsewhere(goal, history, few, fresh) is None


def test_half_of_the_proposals_are_far_from_the_most_promising_ones(goal):
    generator = np.random.default_rng(0)
    base = LIBRARY.quarter[:3]
    copies = np.repeat(base, 10, axis=0)  # ten designs near each of three
    for k, image in enumerate(copies):
        image.reshape(-1)[generator.choice(2304, 10 + k % 10, replace=False)] ^= 1
    merit = np.arange(30.0)
    curves = np.zeros((30, len(CURVE_STRAIN)))
    pool = proposing.Pool(copies, np.full(30, "wave"), curves, merit, merit)
    chosen = proposing.choose(pool, LIBRARY.quarter[10:20], goal, 4)
    assert chosen == [0, 1, 10, 20]
    taken = np.concatenate([copies[:9], base])  # a copy is no news
    assert proposing.choose(pool, taken, goal, 2) == [9, 10]
    few = proposing.choose(pool, copies[:29], goal, 9)  # better than nothing
    assert few[0] == 29 and len(few) == 1


def test_distance_of_designs_is_that_of_brute_force():
    one, other = LIBRARY.quarter[:4], LIBRARY.quarter[4:10]
    found = proposing.differing(one, other)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            least = min(np.count_nonzero(a != b), np.count_nonzero(a != b[:, ::-1]))
            assert found[i, j] == least
    assert proposing.differing(one, one[:, :, ::-1]).diagonal().max() == 0


def test_starts_are_the_best_that_are_far_from_each_other(goal):
    best = LIBRARY.quarter[np.argmin(goal.error(LIBRARY.curve_stress))]
    copy = best.copy()
    copy[:2, :2] ^= 1
    curve = np.stack([goal.representative()[0]] * 2)
    known = proposing.known_designs(goal, history_of(goal, np.stack([best, copy]), curve), LIBRARY)
    starts = np.stack([start.quarter for start in proposing.choose_starts(known)])
    assert len(starts) == proposing.STARTS
    assert np.array_equal(starts[0], best)
    apart = proposing.differing(starts, starts)[~np.eye(len(starts), dtype=bool)]
    assert apart.min() >= proposing.NICHE


def test_parents_are_the_best_simulated_or_not(goal):
    strange = LIBRARY.quarter[np.argmax(goal.error(LIBRARY.curve_stress))][None]
    history = history_of(goal, strange, 1.1 * LIBRARY.curve_stress[[7]])
    known = proposing.known_designs(goal, history, LIBRARY)
    merit = np.array([known.score[1:].min() / 2, 10.0])
    names, curves = np.array(["wave", "dent"]), LIBRARY.curve_stress[:2]
    pool = proposing.Pool(LIBRARY.quarter[:2], names, curves, merit, merit)
    parents = proposing.choose_parents(known, pool)
    assert len(parents) == proposing.PARENTS
    assert any(np.array_equal(one, strange[0]) for one in parents[:2])
    assert any(np.array_equal(one, LIBRARY.quarter[0]) for one in parents[:2])
    assert not any(np.array_equal(one, LIBRARY.quarter[1]) for one in parents)


def test_limits_are_kept(tmp_path, screen):
    path = tmp_path / "solid.yaml"
    path.write_text(
        "response:\n  - plateau: {stress: 10 MPa, from: 5 %, to: 20 %}\n"
        "limits: {solid_fraction: {at_most: 0.45}, strut: {at_least: 2 px}}\n"
    )
    goal = read_goals([path])[0]
    found = proposed(goal, screen)
    assert len(found.quarter) > 0
    for quarter in found.quarter:
        assert proposing.violation(goal, quarter) == ""
        assert quarter.mean() <= 0.45


def test_designs_that_are_apart(goal):
    quarter = np.zeros((4, 48, 48), np.uint8)
    quarter[1, 0, :5] = 1
    quarter[2, 0, -5:] = 1  # design 1, shifted by half a period
    quarter[3, 0, :9] = 1
    assert proposing.apart(quarter, [0, 1, 2, 3], 4, pixels=5) == [0, 1]
    assert proposing.apart(quarter, [3, 2, 1, 0], 4, pixels=4) == [3, 2, 0]
    assert proposing.apart(quarter, [0, 1], 4, pixels=1, chosen=[0]) == [1]


def test_files_of_a_round(tmp_path, goal, screen):
    found = proposed(goal, screen)
    record = {"stage": "propose", "settings": {}, "inputs": {"results": "none"}}
    config = Config.model_validate({"search": {"batch": 6, "shard_size": 2}})
    proposing.write_proposals(tmp_path / "designs", found, 100, config, record)
    shards = [np.load(tmp_path / f"designs/{k:04d}.npz") for k in range(3)]
    assert [len(shard["index"]) for shard in shards] == [2, 2, 0]
    assert np.array_equal(np.concatenate([shard["index"] for shard in shards]), range(100, 104))
    assert np.array_equal(np.concatenate([shard["quarter"] for shard in shards]), found.quarter)
    for shard in shards:
        made = json.loads(str(shard["made_by"]))
        hashed = proposing.hash_designs(shard["index"], shard["quarter"])
        assert made["inputs"] == {"results": "none", "designs": hashed}
    assert designs.DESIGNS.arrays.keys() <= set(shards[0].files)
