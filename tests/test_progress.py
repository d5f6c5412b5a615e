"""How far work is: told without a terminal too."""

from cbseg import progress as module
from cbseg.progress import progress


def test_a_log_has_a_line_now_and_then(monkeypatch, capsys):
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    assert list(progress(range(5), "segmented", 8, 37)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == "segmented 16 of 37, about 16 s left\n"


def test_short_work_is_quiet(capsys):
    assert list(progress("ab", "segmented", 1, 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""
