"""The documentation site: `make docs` builds it, with every warning an error, and every name that leads nowhere one."""

from __future__ import annotations

import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import api_pages
import error_list
import type_hints

from lightning_gap import __version__

project = "lightning-gap"
author = copyright = "the lightning-gap authors"
release = version = __version__

extensions = [
    "myst_nb",  # MyST Markdown, and the notebooks among it
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "formulas",  # of this folder
]
html_math_renderer = "mathml"
myst_fence_as_directive = ["math"]  # what GitHub typesets too
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# `make docs NOTEBOOKS=force` runs the notebooks and shows their outputs; by default their text has them.
nb_execution_mode = "off"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
html_theme = "furo"
html_title = "lightning-gap"
html_favicon = "images/favicon.svg"
html_static_path = ["static"]
html_css_files = ["tables.css"]
pygments_dark_style = "github-dark"  # the default underlines imports as if they were links
ADDRESSES = dict(each.split(", ", 1) for each in metadata(project).get_all("Project-URL") or ())
if "Repository" in ADDRESSES:  # "edit this page", once pyproject.toml has the address
    html_theme_options = {
        "source_repository": ADDRESSES["Repository"],
        "source_branch": "main",
        "source_directory": "",
    }
html_extra_path = ["front"]  # the address of the site leads to its first page, which lies in docs as its source does
# The sources lie in the whole repository, so that a link that works in a checkout works on the site.
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/results/*.md", "CHANGELOG.md", "CONTRIBUTING.md"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"  # a callback's own arguments and not those of Lightning's hooks
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
autodoc_inherit_docstrings = False  # Lightning's and torch's hooks are described there
default_role = "py:obj"
napoleon_use_ivar = True
# The inventories are ours: the names that our pages refer to, in Sphinx's plain-text format. So a build without a
# network has the same links as one with it. `make docs-links` tries where they lead.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "docs/inventories/python.inv"),
    "torch": ("https://docs.pytorch.org/docs/stable", "docs/inventories/torch.inv"),
    "lightning": ("https://lightning.ai/docs/pytorch/stable", "docs/inventories/lightning.inv"),
    "matplotlib": ("https://matplotlib.org/stable", "docs/inventories/matplotlib.inv"),
}
# Where others describe a class under another name than that of the file which defines it, or we say the last part only.
ELSEWHERE = {
    "DataLoader": "torch.utils.data.DataLoader",
    "Trainer.fit": "lightning.pytorch.trainer.trainer.Trainer.fit",
    "default_collate": "torch.utils.data.default_collate",
    "estimated_stepping_batches": "lightning.pytorch.trainer.trainer.Trainer.estimated_stepping_batches",
    "fit": "lightning.pytorch.trainer.trainer.Trainer.fit",
    "grad": "torch.Tensor.grad",
    "nn.Module.eval": "torch.nn.Module.eval",
    "once_differentiable": "torch.autograd.function.once_differentiable",
    "step": "torch.optim.Optimizer.step",
    "update_bn": "torch.optim.swa_utils.update_bn",
    "IterableDataset": "torch.utils.data.IterableDataset",
    "TensorDataset": "torch.utils.data.TensorDataset",
    "Path": "pathlib.Path",
    "ProcessGroup": "torch.distributed.ProcessGroup",
    "SequentialLR": "torch.optim.lr_scheduler.SequentialLR",
    "SyncBatchNorm": "torch.nn.SyncBatchNorm",
    "Tensor": "torch.Tensor",
    "cross_entropy": "torch.nn.functional.cross_entropy",
    "nn.Module": "torch.nn.Module",
    "torch._C.Generator": "torch.Generator",
    "torch.distributed.distributed_c10d.ProcessGroup": "torch.distributed.ProcessGroup",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
    "matplotlib.axes._axes.Axes": "matplotlib.axes.Axes",
    "lightning.pytorch.callbacks.callback.Callback": "lightning.pytorch.callbacks.Callback",
    "lightning.pytorch.core.datamodule.LightningDataModule": "lightning.pytorch.core.LightningDataModule",
    "lightning.pytorch.core.module.LightningModule": "lightning.pytorch.core.LightningModule",
    "torch.utils.data.dataset.Dataset": "torch.utils.data.Dataset",
    **{name: f"torch.nn.Module.{name}" for name in ("forward", "state_dict")},
    **{
        f"SummaryWriter.{name}": f"torch.utils.tensorboard.writer.SummaryWriter.{name}"
        for name in ("add_custom_scalars", "add_figure")
    },
    **{
        name: f"lightning.pytorch.core.LightningModule.{name}"
        for name in ("backward", "configure_optimizers", "optimizer_step", "training_step")
    },
    **{f"torch.nn.modules.batchnorm.BatchNorm{n}d": f"torch.nn.BatchNorm{n}d" for n in (1, 2, 3)},
    **{name: f"torch.optim.{name}" for name in ("Adam", "AdamW", "RMSprop")},
    **{
        name: f"lightning.pytorch.callbacks.{name}"
        for name in ("BatchSizeFinder", "EMAWeightAveraging", "StochasticWeightAveraging", "WeightAveraging")
    },
}
nitpicky = True  # but for
nitpick_ignore_regex = [
    ("py:.*", r"lightning_gap\..*"),  # classes and type variables of ours that are not public
    ("py:obj", "(Loss|Subset)?Monitor|PublishedImages|RegimeSettings"),  # the same, by their last part
    ("py:obj", "lightning-gap .*"),  # commands
    ("py:obj", "accumulate_grad_batches|val_check_interval|batch_size|dataset|elapsed"),  # arguments and attributes
    ("py:obj", "on_before_optimizer_step|train_dataloader|log_image|__getitems__"),  # hooks of several classes
    ("py:class", r"torchvision\..*"),  # a base of one network
]
copybutton_exclude = ".linenos, .gp, .go"


def complete_docstring(_app: Any, what: str, _name: str, value: Any, _options: Any, lines: list[str]) -> None:
    if what == "class":
        api_pages.add_arguments(lines, value)


def name_public_bases(_app: Any, _name: str, _value: Any, _options: Any, bases: list[Any]) -> None:
    """Leave out bases that are ours and hidden, for what they come from: a reader cannot look them up."""
    hidden = [base for base in bases if "._" in getattr(base, "__module__", "")]
    for base in hidden:
        found = next(each for each in base.__mro__ if "._" not in each.__module__)
        bases[bases.index(base)] = found
    bases[:] = dict.fromkeys(bases)


def add_aliases(_app: Any, env: Any) -> None:
    """Let a name that two packages give be found under both: in references, and in the inventory for other projects."""
    python = env.get_domain("py")
    for alias, name in api_pages.aliases():
        python.objects[alias] = python.objects[name]._replace(aliased=True)


def find_elsewhere(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve our own public names by their last part, and those of others by the name they are described under."""
    target = node.get("reftarget", "")
    node["reftarget"] = ELSEWHERE.get(target, target)
    own = {name: f"{owner}.{name}" for (_, name), owner in api_pages.places().items()}.get(target.rpartition(".")[2])
    if own is None or (target != own and target != target.rpartition(".")[2]):
        return None  # intersphinx comes next
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, node["reftype"], own, node, content)


def setup(app: Any) -> None:
    generated = Path(__file__).parent / "api"
    type_hints.resolve()
    api_pages.write(generated)
    (generated / "error_list.inc").write_text(error_list.page(), encoding="utf-8")
    app.connect("autodoc-process-docstring", complete_docstring, priority=400)  # before napoleon reads it
    app.connect("autodoc-process-bases", name_public_bases)
    app.connect("missing-reference", find_elsewhere, priority=100)  # before intersphinx
    app.connect("env-check-consistency", add_aliases)
