from lightning_gap.logging import parametric_figure


def test_the_figure_draws_the_given_curves_between_the_named_ends(tmp_path):
    alphas = [-1.0, 0.0, 1.0, 2.0]
    loss = {"train": [1.0, 0.1, 0.2, 3.0], "test": [1.5, 0.3, 0.4, 4.0]}
    accuracy = {"train": [0.5, 1.0, 1.0, 0.1], "test": [0.4, 0.9, 0.8, 0.1]}
    figure = parametric_figure(alphas, loss, accuracy, ends=("small", "large"), title="Title")
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.get_lines()[:2]] == list(loss.values())
    assert [list(line.get_ydata()) for line in right.get_lines()] == [[100 * a for a in v] for v in accuracy.values()]
    assert [line.get_linestyle() for line in right.get_lines()] == ["-", "--"]
    assert [text.get_text() for text in left.texts] == ["small", "large"]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
