import pytest

from lightning_gap.functional.counts import check_counts


@pytest.mark.parametrize("value", [0, -1, 2.0, 2.5, True, "3", None, float("nan")])
def test_what_is_no_count_is_refused_by_name_and_value(value):
    with pytest.raises(ValueError, match=rf"^second must be a whole number, at least 1, got {value!r}$"):
        check_counts(first=1, second=value)
    with pytest.raises(ValueError, match=rf"^first must be a whole number of samples, at least 1, got {value!r}$"):
        check_counts(unit="samples", first=value, second=1)


def test_counts_pass():
    check_counts(first=1, second=10**9)
