"""darts, through pytorch_lightning: N-HiTS, on the electricity demand of Victoria that statsmodels brings."""

from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels
from command import command
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from darts.models import NHiTSModel

# lightning_gap: 1 line
import lightning_gap as gap


def demand():
    path = Path(statsmodels.__path__[0], "tsa/stl/tests/results/mstl_elec_vic.csv")
    table = pd.read_csv(path, parse_dates=["ds"])
    return TimeSeries.from_dataframe(table, "ds", "y").astype(np.float32)


def train(args):
    series = demand()
    training, validation = series[:2400], series[2400 - 48 :]
    scaler = Scaler()
    training, validation = scaler.fit_transform(training), scaler.transform(validation)
    callbacks = []
    # lightning_gap: 7 lines
    if args.ours:
        callbacks += [gap.LearningRateScaling(32, rule="sqrt", warmup_epochs=1)]
    if args.monitors:
        few = {"samples": 200}
        callbacks += [gap.SharpnessMonitor(**few), gap.CurvatureMonitor(**few), gap.CriticalSharpnessMonitor()]
        callbacks += [gap.GeneralizationGapMonitor(**few), gap.GradientNoiseScaleMonitor(**few, chunk_size=20)]
        callbacks += [gap.WeightDistanceMonitor()]
    model = NHiTSModel(
        input_chunk_length=48,
        output_chunk_length=24,
        layer_widths=64,
        batch_size=args.batch_size,
        n_epochs=args.max_epochs or 5,
        random_state=args.seed,
        pl_trainer_kwargs={
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
        },
    )
    model.fit(training, val_series=validation, dataloader_kwargs={"num_workers": 0})
    return model.model, model.trainer.callback_metrics["val_loss"].item(), model.trainer


if __name__ == "__main__":
    command(
        train,
        project="darts",
        task="N-HiTS, hourly electricity demand of Victoria (statsmodels)",
        metric="validation MSE, of demand scaled to 0..1",
        better="lower",
        batch_size=32,
    )
