"""Tables and figures with their terms, as a page for people and as files for programs."""

from .write import write_report as write_report
