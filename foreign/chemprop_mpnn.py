"""chemprop: a message passing network with BatchNorm, on the polar surface of 1,000 molecules that come with RDKit."""

from contextlib import suppress
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from chemprop import data, featurizers, models, nn
from command import command
from rdkit import RDConfig

# lightning_gap: 1 line
import lightning_gap as gap


def molecules(count):
    """The first molecules of the NCI set, each with its topological polar surface."""
    lines = Path(RDConfig.RDDataDir, "NCI", "first_5k.tpsa.csv").read_text().splitlines()[1:]
    rows = [line.rsplit(",", 1) for line in lines]
    points = []
    for smiles, surface in rows[: count + 100]:
        with suppress(RuntimeError, ValueError):  # a few break RDKit's rules of valence
            points.append(data.MoleculeDatapoint.from_smi(smiles, [float(surface)]))
    return points[:count]


def train(args):
    points = molecules(1000)
    order = np.random.default_rng(0).permutation(len(points))
    featurizer = featurizers.SimpleMoleculeMolGraphFeaturizer()
    train_set = data.MoleculeDataset([points[i] for i in order[:800]], featurizer)
    val_set = data.MoleculeDataset([points[i] for i in order[800:]], featurizer)
    scaler = train_set.normalize_targets()
    val_set.normalize_targets(scaler)
    train_set.cache = val_set.cache = True
    pl.seed_everything(args.seed)
    train_loader = data.build_dataloader(train_set, args.batch_size)
    val_loader = data.build_dataloader(val_set, 500, shuffle=False)

    output_transform = nn.UnscaleTransform.from_standard_scaler(scaler)
    ffn = nn.RegressionFFN(output_transform=output_transform)
    mpnn = models.MPNN(
        nn.BondMessagePassing(),
        nn.MeanAggregation(),
        ffn,
        batch_norm=True,
        metrics=[nn.metrics.RMSE(), nn.metrics.MAE()],
    )
    callbacks = []
    # lightning_gap: 7 lines
    if args.ours:
        callbacks += [gap.LearningRateScaling(32, rule="sqrt"), gap.GhostBatchNormSwap(32)]
    if args.monitors:
        few = {"samples": 200}
        callbacks += [gap.SharpnessMonitor(**few), gap.CurvatureMonitor(**few), gap.CriticalSharpnessMonitor()]
        callbacks += [gap.GeneralizationGapMonitor(**few), gap.GradientNoiseScaleMonitor(**few, chunk_size=20)]
        callbacks += [gap.WeightDistanceMonitor()]
    trainer = pl.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        devices=1,
        max_epochs=args.max_epochs or 6,
        callbacks=callbacks,
    )
    trainer.fit(mpnn, train_loader, val_loader)
    return mpnn, trainer.callback_metrics["val/rmse"].item(), trainer


if __name__ == "__main__":
    command(
        train,
        project="chemprop",
        task="MPNN, polar surface of 1,000 molecules (RDKit's NCI set)",
        metric="validation RMSE, of standardised surface",
        better="lower",
        batch_size=32,
    )
