"""Target curves from CSV: every accepted form, resampling, and one sentence per mistake."""

from pathlib import Path

import numpy as np
import pytest

from crumple.errors import UserError
from crumple.targets import read_targets, resample

STRAIN = np.array([0.002, *np.arange(0.02, 0.21, 0.02)])
PAPER = Path(__file__).parents[2] / "workflow/targets/paper.csv"


def write(folder: Path, text: str, name: str = "curve.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def line(values) -> str:
    return ",".join(f"{value:.6g}" for value in values)


def response(strain):
    return 100 * strain / (0.03 + strain)


def test_the_four_targets_of_the_paper():
    targets = read_targets([PAPER], STRAIN)
    assert len(targets.names) == 4 and targets.known.all()
    assert targets.names[3] == "d_softening"
    assert targets.stress[3, 3] == 19.7 and targets.stress[0, -1] == 85.1


@pytest.mark.parametrize(
    "text",
    [
        "target," + line(STRAIN) + "\nmine," + line(response(STRAIN)),
        line(response(STRAIN)),
        "strain,stress\n" + "\n".join(line(p) for p in zip(STRAIN, response(STRAIN), strict=True)),
        "strain [%];stress [kPa]\n"
        + "\n".join(f"{100 * s:.8g};{1e3 * response(s):.8g}" for s in STRAIN),
        "# measured today\nstrain_%,stress_Pa\n\n"
        + "\n".join(line((100 * s, 1e6 * response(s))) for s in STRAIN),
    ],
)
def test_every_form_gives_the_same_curve(tmp_path, text):
    targets = read_targets([write(tmp_path, text)], STRAIN)
    assert targets.known.all()
    assert np.allclose(targets.stress[0], response(STRAIN), rtol=1e-5)


def test_51_columns_are_resampled(tmp_path):
    fine = np.linspace(0, 0.2, 51)
    targets = read_targets([write(tmp_path, line(response(fine)))], STRAIN)
    assert np.allclose(targets.stress[0, 1:], response(STRAIN[1:]), rtol=1e-5)
    assert targets.stress[0, 0] == pytest.approx(response(0.004) / 2, rel=1e-5)  # between 0, 0.4 %


def test_a_partial_curve_leaves_the_rest_unknown(tmp_path):
    text = "strain,stress\n" + "\n".join(line((s, response(s))) for s in (0.05, 0.1, 0.15))
    targets = read_targets([write(tmp_path, text)], STRAIN)
    assert targets.known[0].tolist() == [0.05 <= s <= 0.15 for s in STRAIN]
    assert (targets.stress[0][~targets.known[0]] == 0).all()

    text = "target," + line(STRAIN) + "\nmine,1,2,3,,5,6,7,8,9,10,11"
    targets = read_targets([write(tmp_path, text)], STRAIN)
    assert targets.known[0].tolist() == [True] * 3 + [False] + [True] * 7


def test_resampling_does_not_bridge_a_gap():
    given = np.array([0.0, 0.1, 0.2, 0.3])
    stress, known = resample(given, np.array([0, 1, np.nan, 3]), np.array([0.05, 0.1, 0.15, 0.3]))
    assert known.tolist() == [True, True, False, True]
    assert stress == pytest.approx([0.5, 1, 0, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no target curve"),
        ("1,2,3", "3 columns and no header"),
        ("target,0.002,0.02\nmine,1", "row 2: 2 columns where the first row has 3"),
        ("target,0.002,0.02\nmine,1,stiff", "row 2: 'stiff' in column 3 isn't a number"),
        ("target,0.002,0.02\nmine,1,inf", "row 2: 'inf'"),
        ("target,0.02,0.002\nmine,1,2", "rise from point to point"),
        ("target,2,20\nmine,1,2", "strain is a fraction"),
        ("target,0.002,0.02\nmine,1e6,2e7", "stress is in MPa"),
        ("target,0.002,0.02\nmine,-1,-2", "positive in compression"),
        ("target,0.002,0.02\nmine,,2", "at least 2 are needed"),
        ("target,0.002,0.02\na,1,2\na,1,2", "two targets are called a"),
        (line(STRAIN) + "\n" + line(response(STRAIN)), "starts with strains"),
        ("design,mass\nx,1", "expected a header"),
        ("strain,stress [psi]\n0,1\n0.1,2", r"cannot tell the unit of 'stress \[psi\]'"),
        ("strain [mm],stress\n0,1\n0.1,2", r"cannot tell the unit of 'strain \[mm\]'"),
        ("strain,force\n0,1\n0.1,2", "needs stress beside it"),
        ("strain,stress\n0.1,2", "at least 2"),
    ],
)
def test_a_malformed_file_is_one_sentence(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        read_targets([path], STRAIN)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="nowhere.csv"):
        read_targets([tmp_path / "nowhere.csv"], STRAIN)
