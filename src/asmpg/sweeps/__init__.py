"""Sweeps: suites of items, each done once on one machine or many, and the tidy table that comes of them."""

from .engines import AbstractEngine as AbstractEngine
from .engines import ENGINES as ENGINES
from .engines import InProcess as InProcess
from .engines import make_engine as make_engine
from .state import check_versions as check_versions
from .state import look as look
from .state import State as State
from .state import summary as summary
from .store import open_store as open_store
from .suite import Grid as Grid
from .suite import Item as Item
from .suite import load_suite as load_suite
from .suite import make_suite as make_suite
from .suite import Scale as Scale
from .suite import SCALES as SCALES
from .suite import Suite as Suite
from .sweep import calibrate as calibrate
from .sweep import run_sweep as run_sweep
from .sweep import Watch as Watch
from .tidy import read_table as read_table
