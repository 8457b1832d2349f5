"""Where results go that are no scalars: tables, figures, and the layout of charts."""

from .figure_sink import log_figure as log_figure
from .figures import parametric_figure as parametric_figure
from .figures import sharpness_figure as sharpness_figure
from .figures import surface_figure as surface_figure
from .layout import layout_of as layout_of
from .layout import write_layout as write_layout
from .meanings import meaning as meaning
from .tables import Column as Column
from .tables import mean_and_std as mean_and_std
from .tables import write_csv as write_csv
from .tables import write_markdown as write_markdown
