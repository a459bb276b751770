from __future__ import annotations

from lit_viz.errors import did_you_mean


def test_near_names_are_offered() -> None:
    names = ["iterations", "seed", "tarantula", "wolf spider"]
    assert did_you_mean("itrations", names) == "; did you mean 'iterations'?"
    assert did_you_mean("TARANT", names) == "; did you mean 'tarantula'?"
    assert did_you_mean("seed_of_everything", names) == "; did you mean 'seed'?"
    assert did_you_mean("xyz", names) == ""
