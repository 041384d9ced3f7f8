"""The report: everything that was reproduced, as one page that needs no network."""

from .page import build_report as build_report
from .page import LIMIT as LIMIT
