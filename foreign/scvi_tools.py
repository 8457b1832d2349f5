"""scvi-tools: scVI, a variational autoencoder with BatchNorm, on 700 blood cells that come with scanpy."""

import numpy as np
import scanpy
import scvi
from command import command

# lightning_gap: 1 line
import lightning_gap as gap


def cells():
    """The counts that scanpy normalised: in each cell the smallest positive value is one molecule."""
    adata = scanpy.datasets.pbmc68k_reduced().raw.to_adata()
    values = np.expm1(adata.X.toarray())
    adata.X = np.round(values / np.where(values > 0, values, np.inf).min(axis=1, keepdims=True)).astype("float32")
    return adata


def train(args):
    scvi.settings.seed = args.seed
    adata = cells()
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata)
    callbacks = []
    # lightning_gap: 7 lines
    if args.ours:
        callbacks += [gap.LearningRateScaling(16, rule="sqrt"), gap.GhostBatchNormSwap(16)]
    if args.monitors:
        few = {"samples": 200}
        callbacks += [gap.SharpnessMonitor(**few), gap.CurvatureMonitor(**few), gap.CriticalSharpnessMonitor()]
        callbacks += [gap.GeneralizationGapMonitor(**few), gap.GradientNoiseScaleMonitor(**few, chunk_size=20)]
        callbacks += [gap.WeightDistanceMonitor()]
    model.train(
        max_epochs=args.max_epochs or 20,
        batch_size=args.batch_size,
        accelerator="cpu",
        check_val_every_n_epoch=1,
        enable_progress_bar=False,
        callbacks=callbacks,
    )
    return model.module, model.history["elbo_validation"].iloc[-1].item(), model.trainer


if __name__ == "__main__":
    command(
        train,
        project="scvi-tools",
        task="scVI on 700 blood cells (scanpy's pbmc68k_reduced)",
        metric="validation ELBO, nats",
        better="lower",
        batch_size=16,
    )
