"""pytorch-forecasting: a Temporal Fusion Transformer, on the electricity demand of Victoria that statsmodels brings."""

from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
import statsmodels
from command import command
from pytorch_forecasting import GroupNormalizer, QuantileLoss, TemporalFusionTransformer, TimeSeriesDataSet

# lightning_gap: 1 line
import lightning_gap as gap


def demand():
    path = Path(statsmodels.__path__[0], "tsa/stl/tests/results/mstl_elec_vic.csv")
    data = pd.read_csv(path, parse_dates=["ds"]).rename(columns={"y": "demand"})
    data["time_idx"] = range(len(data))
    data["state"] = "Victoria"
    data["hour"] = data.ds.dt.hour.astype(str)
    data["weekday"] = data.ds.dt.weekday.astype(str)
    return data.drop(columns="ds").astype({"demand": "float32"})


def train(args):
    pl.seed_everything(args.seed)
    data = demand()
    training = TimeSeriesDataSet(
        data[data.time_idx < 900],
        time_idx="time_idx",
        target="demand",
        group_ids=["state"],
        max_encoder_length=24,
        max_prediction_length=12,
        time_varying_known_categoricals=["hour", "weekday"],
        time_varying_unknown_reals=["demand"],
        target_normalizer=GroupNormalizer(groups=["state"]),
    )
    validation = TimeSeriesDataSet.from_dataset(training, data[data.time_idx < 1200], min_prediction_idx=900)
    train_dataloader = training.to_dataloader(train=True, batch_size=args.batch_size, num_workers=0)
    val_dataloader = validation.to_dataloader(train=False, batch_size=250, num_workers=0)
    tft = TemporalFusionTransformer.from_dataset(
        training,
        learning_rate=0.01,
        hidden_size=8,
        attention_head_size=1,
        dropout=0.1,
        hidden_continuous_size=8,
        loss=QuantileLoss(),
        optimizer="adam",
        log_interval=-1,
    )
    callbacks = []
    # lightning_gap: 7 lines
    if args.ours:
        callbacks += [gap.LearningRateScaling(16, rule="sqrt", warmup_epochs=1)]
    if args.monitors:
        few = {"samples": 200}
        callbacks += [gap.SharpnessMonitor(**few), gap.CurvatureMonitor(**few), gap.CriticalSharpnessMonitor()]
        callbacks += [gap.GeneralizationGapMonitor(**few), gap.GradientNoiseScaleMonitor(**few, chunk_size=20)]
        callbacks += [gap.WeightDistanceMonitor()]
    trainer = pl.Trainer(
        max_epochs=args.max_epochs or 3,
        accelerator="cpu",
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
        gradient_clip_val=0.1,
        callbacks=callbacks,
    )
    trainer.fit(tft, train_dataloaders=train_dataloader, val_dataloaders=val_dataloader)
    return tft, trainer.callback_metrics["val_loss"].item(), trainer


if __name__ == "__main__":
    command(
        train,
        project="pytorch-forecasting",
        task="Temporal Fusion Transformer, hourly electricity demand of Victoria (statsmodels)",
        metric="validation quantile loss, MW",
        better="lower",
        batch_size=16,
    )
