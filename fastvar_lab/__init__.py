"""fastvar_lab: visual autoregressive image generators with cached token pruning, seen from inside.

>>> import fastvar_lab as fv
>>> model = fv.load("tiny")
>>> full = fv.generate(model, "a red striped circle", fv.Dense(), seed=1, snapshot=True)
>>> fast = fv.resume(model, full, fv.Prune({-2: 0.5, -1: 0.75}))
"""

from fastvar_lab.draws import Keyed, Streamed
from fastvar_lab.generation import Generation, generate, resume
from fastvar_lab.instruments.observe import observe, observe_again
from fastvar_lab.instruments.recorder import Recorder
from fastvar_lab.instruments.stopwatch import Stopwatch
from fastvar_lab.instruments.trace import Trace
from fastvar_lab.methods.merge import Merge
from fastvar_lab.methods.presets import PRESETS, paper_preset
from fastvar_lab.methods.prune import Dense, Prune
from fastvar_lab.methods.restore import CachedBranch, NearestKept, Zero
from fastvar_lab.methods.select import FarFromMean, HighPass, NearMean, Random, UniformGrid
from fastvar_lab.models.build import from_states
from fastvar_lab.models.loading import load
from fastvar_lab.models.model import Model
from fastvar_lab.pictures import to_uint8
from fastvar_lab.sampling import Sampling
from fastvar_lab.seam import Act, Grid, Group, Handles, Rows, Runner, Site, Stack, Wrapper
from fastvar_lab.snapshots import Snapshot, resume_step
from fastvar_lab.speed.flops import costs

__all__ = [
    "PRESETS",
    "Act",
    "CachedBranch",
    "Dense",
    "FarFromMean",
    "Generation",
    "Grid",
    "Group",
    "Handles",
    "HighPass",
    "Keyed",
    "Merge",
    "Model",
    "NearMean",
    "NearestKept",
    "Prune",
    "Random",
    "Recorder",
    "Rows",
    "Runner",
    "Sampling",
    "Site",
    "Snapshot",
    "Stack",
    "Stopwatch",
    "Streamed",
    "Trace",
    "UniformGrid",
    "Wrapper",
    "Zero",
    "costs",
    "from_states",
    "generate",
    "load",
    "observe",
    "observe_again",
    "paper_preset",
    "resume",
    "resume_step",
    "to_uint8",
]
