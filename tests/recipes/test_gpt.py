"""The small GPT: its network against plain loops, its text, and its learning rate by the share of the run."""

import json
import math

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy, gelu

from lightning_gap.recipes import GPT
from lightning_gap.recipes.datasets import PythonLibrary, Text
from lightning_gap.recipes.networks import GPT as Network
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.trainer import make_trainer

TINY = {
    "length": 16,
    "width": 8,
    "depth": 2,
    "heads": 2,
    "small_batch_size": 4,
    "large_batch_size": 16,
    "sequences": 151,
}
WORDS = b"the quick brown fox jumps over the lazy dog. " * 60
SEQUENCES = (len(WORDS) * 9 // 10 - 1) // 16


@pytest.fixture
def text(tmp_path):
    (tmp_path / "b.txt").write_bytes(WORDS[1000:])
    (tmp_path / "a.txt").write_bytes(WORDS[:1000])
    return tmp_path


def normalised(x, layer):
    spread = ((x - x.mean()).square().mean() + layer.eps).sqrt()
    return (x - x.mean()) / spread * layer.weight + layer.bias


def scores_by_loops(network, tokens):
    """Radford et al.'s transformer for one sequence, position by position and head by head."""
    stream = [network.tokens.weight[token] + network.positions[t] for t, token in enumerate(tokens)]
    for block in network.blocks:
        size = len(stream[0]) // block.heads
        rows = [block.queries_keys_values(normalised(x, block.norm_attention)).split(len(x)) for x in stream]
        added = []
        for t, (query, _, _) in enumerate(rows):
            seen = []
            for head in range(block.heads):
                part = slice(head * size, (head + 1) * size)
                fits = torch.stack([query[part] @ key[part] / math.sqrt(size) for _, key, _ in rows[: t + 1]])
                shares = fits.exp() / fits.exp().sum()
                seen.append(sum(share * row[2][part] for share, row in zip(shares, rows, strict=False)))
            added.append(block.join(torch.cat(seen)))
        stream = [x + more for x, more in zip(stream, added, strict=True)]
        stream = [x + block.narrow(gelu(block.widen(normalised(x, block.norm_dense)))) for x in stream]
    return torch.stack([network.scores.weight @ normalised(x, network.norm) for x in stream], dim=1)


def test_scores_are_those_of_plain_loops():
    torch.manual_seed(0)
    network = Network(11, length=6, width=8, depth=2, heads=2).double()
    for weight in network.parameters():
        torch.nn.init.normal_(weight)
    tokens = torch.randint(11, (3, 5))
    expected = torch.stack([scores_by_loops(network, row) for row in tokens])
    torch.testing.assert_close(network(tokens), expected, rtol=1e-10, atol=1e-10)


def test_no_position_sees_what_comes_after_it():
    network, tokens = Network(11, length=6, width=8, depth=2, heads=2), torch.randint(11, (2, 6))
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 11
    before, after = network(tokens), network(changed)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4:], after[:, :, 4:])


def test_weights_are_those_of_the_formula_and_the_first_loss_that_of_guessing():
    width, depth, tokens, length = 128, 6, 256, 128
    block = 12 * width**2 + 9 * width + 4 * width  # matrices, their biases, two norms
    recipe = GPT()
    assert sum(w.numel() for w in recipe.parameters()) == (2 * tokens + length + 2) * width + depth * block
    x = torch.randint(256, (4, 129))
    assert cross_entropy(recipe(x[:, :-1]), x[:, 1:]).item() == pytest.approx(math.log(256), rel=0.02)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": 3}, "width=128 cannot be shared by heads=3; use a multiple of 3"),
        ({"depth": 0}, "depth must be .* at least 1, got 0"),
        ({"schedule": "step"}, "schedule 'step'.*cosine"),
        ({"warmup_share": 1.0}, "warmup_share must be at least 0 and below 1, got 1.0"),
        ({"beta2": 1.5}, "beta2 must be at least 0 and below 1, got 1.5"),
    ],
)
def test_what_cannot_work_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        GPT(**changed)


# Text


def test_sequences_are_the_text_and_targets_the_bytes_that_follow(text):
    data = Text(data_dir=text, batch_size=4, length=16)
    data.setup()
    inputs, targets = data.train.whole()
    kept = WORDS[: len(WORDS) * 9 // 10]
    assert bytes(inputs.flatten().tolist()) == kept[: inputs.numel()]
    assert bytes(targets.flatten().tolist()) == kept[1 : inputs.numel() + 1]
    assert inputs.numel() + 1 > len(kept) - 16
    first = data.test[0][0].tolist()
    assert bytes(first) == WORDS[len(kept) :][:16]
    assert inputs.dtype == targets.dtype == torch.int64


def test_the_librarys_text_has_its_length_and_no_byte_of_it_is_tested_on():
    data = PythonLibrary(batch_size=4)
    train, test = data.texts()
    assert (len(train), len(test)) == (2**22 + 1, 2**19 + 1)
    data.setup()
    assert (len(data.train), len(data.test), data.train.input_shape) == (2**15, 2**12, (128,))
    assert train.count(b"def ") > 3000
    assert (train, test) == PythonLibrary(batch_size=8).texts()


def test_text_that_is_not_there_or_too_short_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"put one there whose name ends in .txt, or use .* python-library"):
        Text(data_dir=tmp_path, batch_size=4).setup()
    (tmp_path / "short.txt").write_bytes(b"a few words")
    with pytest.raises(ValueError, match=r"the train text has 9 bytes, .* length=128"):
        Text(data_dir=tmp_path, batch_size=4).setup()
    (tmp_path / "short.txt").write_bytes(WORDS)
    with pytest.raises(ValueError, match=r"the train text has 151 sequences of length=16, and sequences=152"):
        Text(GPT(**TINY | {"sequences": 152}), data_dir=tmp_path).setup()
    with pytest.raises(ValueError, match="length=4 contradicts length=16 of the recipe GPT"):
        Text(GPT(**TINY), length=4)


# Training


def fitted(recipe, text, **trainer):
    callbacks = trainer.pop("callbacks", [])
    options = {"accelerator": "cpu", "enable_checkpointing": False, **trainer}
    made = make_trainer(options, epochs=recipe.epochs, callbacks=callbacks, logger=None)
    rates = []
    step = recipe.training_step

    def training_step(batch, batch_idx):
        rates.append((recipe.sequences_read - len(batch[0]), recipe.optimizers().param_groups[0]["lr"]))
        return step(batch, batch_idx)

    recipe.training_step = training_step
    made.fit(recipe, Text(recipe, data_dir=text))
    return made, dict(rates)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_the_learning_rate_after_so_many_bytes_is_the_same_for_every_batch(schedule, text):
    small, large = (
        fitted(GPT(regime, **TINY, epochs=2, schedule=schedule, warmup_share=0.1), text)[1]
        for regime in ("small", "large")
    )
    shared = [read for read in large if read in small and read]
    assert len(shared) > 5
    assert all(large[read] == small[read] for read in shared)
    total = 2 * SEQUENCES
    for read, rate in small.items():
        share = read / total
        factor = {
            "cosine": 0.1 + 0.9 * (1 + math.cos(math.pi * (share - 0.1) / 0.9)) / 2,
            "wsd": 1.0 if share <= 0.8 else (1 - share) / 0.2,
            "constant": 1.0,
        }[schedule]
        factor = max(0.01, share / 0.1) if share < 0.1 else factor
        assert rate == pytest.approx(1e-3 * factor)


class Seen(Callback):
    """Sizes and learning rates of the steps, by sequences read before."""

    def __init__(self):
        self.read, self.steps = 0, {}

    def on_train_start(self, trainer, pl_module):
        (optimizer,) = trainer.optimizers
        optimizer.register_step_post_hook(self.stepped)

    def stepped(self, optimizer, args, kwargs):
        self.rate = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps[self.read] = len(batch[0]), self.rate
        self.read += len(batch[0])


def test_seesaw_and_smith_follow_the_decay_that_they_replace(text):
    """Adam's noise per byte is rate / root of the batch, SGD's rate / batch: what the decay would have made of it."""
    for regime, power in (("seesaw", 0.5), ("smith", 1.0)):
        recipe, seen = GPT(regime, **TINY, epochs=8, warmup_share=0.0), Seen()
        fitted(recipe, text, callbacks=[seen])
        sizes = [size for size, _ in seen.steps.values()]
        assert sizes[0] == 4
        assert max(sizes) == 16
        total = 8 * SEQUENCES
        for read, (size, rate) in seen.steps.items():
            if (read + size) % SEQUENCES == 0:
                continue  # the last batch of an epoch is smaller
            decay = 0.1 + 0.9 * (1 + math.cos(math.pi * read / total)) / 2
            cut = 2.0 ** -math.floor(math.log2(1 / decay) + 1e-9)
            assert rate * (4 / size) ** power == pytest.approx(1e-3 * cut)


def test_the_early_ramp_is_over_after_a_fifth_and_its_rate_is_the_roots(text):
    recipe, seen = GPT("early-ramp", **TINY, epochs=8, warmup_share=0.0, schedule="constant"), Seen()
    fitted(recipe, text, callbacks=[seen])
    whole = {read: step for read, step in seen.steps.items() if (read + step[0]) % SEQUENCES}  # not an epoch's last
    assert {size for read, (size, _) in whole.items() if read >= 8 * SEQUENCES // 5} == {16}
    assert {size for size, _ in whole.values()} == {4, 8, 12, 16}
    assert all(rate == pytest.approx(1e-3 * math.sqrt(size / 4)) for size, rate in whole.values())


@pytest.mark.parametrize("regime", GPT.regimes)
def test_it_trains_under_each_of_its_regimes(regime, text):
    recipe = GPT(regime, **TINY, epochs=4)
    before = recipe.network.tokens.weight.clone()
    trainer, _ = fitted(recipe, text, limit_train_batches=8)
    assert trainer.current_epoch == recipe.epochs
    assert not torch.equal(recipe.network.tokens.weight, before)


def test_it_learns_and_the_command_measures_it_by_the_byte(text, tmp_path):
    options = [word for name, value in TINY.items() for word in (f"--{name}", f"{value}")]
    options += ["--epochs", "4", "--learning_rate", "0.01", "--output", str(tmp_path / "out"), "--data_dir", str(text)]
    assert main(["run", "gpt", "--regime", "small", "--data", "text", *options]) == 0
    (folder,) = {file.parent for file in (tmp_path / "out").rglob("outcome.json")}
    found = json.loads((folder / "outcome.json").read_text())
    recipe = GPT("small", **TINY)
    recipe.network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    data = Text(recipe, data_dir=text)
    data.setup()
    inputs, targets = data.test.whole()
    chances = recipe.eval()(inputs).softmax(dim=1).gather(1, targets[:, None])
    assert found["test_loss"] == pytest.approx(-chances.log().mean().item(), rel=1e-5)
    guessed = recipe(inputs).argmax(dim=1)
    assert found["test_accuracy"] == pytest.approx((guessed == targets).double().mean().item())
    assert found["test_loss"] < 2.5 < math.log(256)  # letters alone: 4.2 bits, 2.9 nats
