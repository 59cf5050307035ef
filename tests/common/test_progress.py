"""Progress lines in a log."""

from crumple import progress
from crumple.progress import progress_line


def test_line_names_counts_rate_and_time_left():
    line = progress_line("simulate 0003", "design", 12, 64, 37.2)
    assert line == "simulate 0003: 12/64 designs, 3.1 s/design, ETA 161 s"


def test_log_gets_plain_lines_and_all_items(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress.progress("abc", total=3, desc="mesh")) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[-1].startswith("mesh: 3/3 designs")
