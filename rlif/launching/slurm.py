"""Writes a batch script for Slurm: `rlif launch` on each machine by srun, saved and requeued when time is up.

The text is launchers/slurm.sh, with launchers/slurm_server.sh where a recipe wants a vLLM server.

    name       a recipe without one is called STEM-JOB, so that jobs have separate runs; a requeued job keeps its number
    resume     only a run that this very job began: `environment.json` has its number
    signals    Slurm sends USR1 to the batch shell (`--signal=B:`) 300 seconds before the time limit, for a step and a
               checkpoint, and where it is told to before pre-emption. The shell passes USR1 on by srun - not TERM, upon
               which srun kills its tasks - and each machine's shell to its launcher, which stops its processes at a
               checkpoint
    exit 75    of a launcher is 0 towards srun: --kill-on-bad-exit would end the others while they still write. So an
               ending without failure that left no summary.json is a run to go on with
    processors srun gives a task one, unless SRUN_CPUS_PER_TASK says more

Tested with a pretended Slurm, see docs/scaling.md.
"""

import shlex
import string
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rlif.config.loading import folder_name
from rlif.config.recipe import Recipe
from rlif.launching.commands import Layout, options, server_command
from rlif.runs.launcher_contract import PREEMPTED, SERVER_HOST


class _Script(string.Template):
    """A file of launchers/; a value stands where it has %%NAME, for $ is the shell's."""

    delimiter = "%%"

    def __init__(self, name: str) -> None:
        super().__init__((resources.files("rlif.launching") / "launchers" / name).read_text(encoding="utf-8"))


def batch_script(recipe: Recipe, layout: Layout, start: Sequence[str], stem: str, folder: Path | None) -> str:
    """Writes a batch script for Slurm.

    Args:
        layout: with server_gpus above 0 the script asks for one machine more, for the server alone.
        start: what `rlif launch` begins with: the recipe and its overrides, or --resume and a run folder.
        stem: names a run whose recipe gives no name.
        folder: the run folder; None where it depends on the job's number.
    """
    resumed, stem = start[0] == "--resume", folder_name(stem)
    place = shlex.quote(str(folder))
    if folder is None:
        place = f'{shlex.quote(str(Path(recipe.output).expanduser()))}/"{stem}-$SLURM_JOB_ID"'
    server = ""
    if layout.server_gpus:
        serve = shlex.join(server_command(recipe, layout.server_gpus))
        server = _Script("slurm_server.sh").substitute(variable=SERVER_HOST, trainers=layout.nodes, command=serve)
    gpus = 0 if recipe.training.get("use_cpu") else max(layout.per_node, layout.server_gpus)
    launch = shlex.join([sys.executable, "-m", "rlif", "launch", *options(layout, server=False)])
    machine = ' --head "$HEAD:$PORT" --rank "$SLURM_PROCID"' if layout.nodes > 1 else ""
    # What each machine's shell runs; its arguments say what is trained.
    task = f'stoppable {launch}{machine} "$@"; code=$?; [ "$code" = {PREEMPTED} ] || exit "$code"'
    return _Script("slurm.sh").substitute(
        stem=stem,
        nodes=layout.nodes + bool(layout.server_gpus),
        gpus=f"#SBATCH --gpus-per-node={gpus}\n" if gpus else "",
        trainers=layout.nodes,
        server=f"\n{server}" if server else "",
        folder=place,
        what=" ".join([shlex.join(start), *([] if resumed or recipe.name else ['"name=${folder##*/}"'])]),
        task=shlex.quote(task),
    )
