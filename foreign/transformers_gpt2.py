"""transformers: a small GPT-2, on the text of Python's own standard library, byte by byte."""

import sysconfig
from pathlib import Path

import lightning.pytorch as pl
import torch
from command import command
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

# lightning_gap: 1 line
import lightning_gap as gap


class LanguageModel(pl.LightningModule):
    def __init__(self):
        super().__init__()
        config = GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=2, n_head=4)
        self.model = GPT2LMHeadModel(config)

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.model(**batch).loss, batch_size=len(batch["labels"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def text(blocks, length=64):
    """The first blocks of the standard library's modules by name, for training and, every fifth, for validation."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    joined = b"\n".join(file.read_bytes() for file in files)[: blocks * length]
    rows = torch.frombuffer(bytearray(joined), dtype=torch.uint8).long().view(-1, length)
    examples = [{"input_ids": row, "labels": row} for row in rows]
    return [example for i, example in enumerate(examples) if i % 5], examples[::5]


def train(args):
    pl.seed_everything(args.seed)
    train_set, val_set = text(2000)
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=100)
    module = LanguageModel()
    callbacks = []
    # lightning_gap: 7 lines
    if args.ours:
        callbacks += [gap.LearningRateScaling(8, rule="sqrt", warmup_epochs=1)]
    if args.monitors:
        few = {"samples": 200}
        callbacks += [gap.SharpnessMonitor(**few), gap.CurvatureMonitor(**few), gap.CriticalSharpnessMonitor()]
        callbacks += [gap.GeneralizationGapMonitor(**few), gap.GradientNoiseScaleMonitor(**few, chunk_size=20)]
        callbacks += [gap.WeightDistanceMonitor()]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=args.max_epochs or 3,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=callbacks,
    )
    trainer.fit(module, train_loader, val_loader)
    return module, trainer.callback_metrics["val_loss"].item(), trainer


if __name__ == "__main__":
    command(
        train,
        project="transformers",
        task="GPT-2 (2 layers, 64 wide), bytes of Python's standard library",
        metric="validation loss, nats per byte",
        better="lower",
        batch_size=8,
    )
