"""Writes a batch script for Slurm: `rlif launch` on each machine by srun, saved and requeued when time is up.

    name       a recipe without one is called STEM-JOB, so that jobs have separate runs; a requeued job keeps its number
    resume     only a run that this very job began: `environment.json` has its number
    signals    Slurm sends USR1 to the batch shell (`--signal=B:`) before the time limit, and where it is told to before
               pre-emption. The shell passes USR1 on by srun - not TERM, upon which srun kills its tasks - and each
               machine's shell to its launcher, which stops its processes at a checkpoint
    exit 75    of a launcher is 0 towards srun: --kill-on-bad-exit would end the others while they still write. So an
               ending without failure that left no summary.json is a run to go on with
    processors srun gives a task one, unless SRUN_CPUS_PER_TASK says more

Tested with a pretended Slurm, see docs/scaling.md.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rlif.config.loading import folder_name
from rlif.config.recipe import Recipe
from rlif.launching.commands import Layout, options, server_command
from rlif.runs.launcher_contract import PREEMPTED, SERVER_HOST

NOTICE = 300  # seconds before the time limit: a step and a checkpoint

BATCH = """\
#!/bin/bash
#SBATCH --job-name=rlif-{stem}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
{gpus}#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{notice}
# Partition, account and time: `sbatch --partition=... FILE`, or SBATCH_PARTITION and the like in the environment.
# The folder this is submitted from has to be there, under the same name, on every machine.
set -uo pipefail
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export HEAD="${{machines[0]}}" PORT=$((20000 + SLURM_JOB_ID % 20000)) SRUN_CPUS_PER_TASK="$SLURM_CPUS_ON_NODE"

# Runs a command to its end, and sends it USR1 where this shell is sent USR1 or TERM.
stoppable() {{
  local came="" child code
  "$@" &
  child=$!
  trap 'came=1; kill -USR1 "$child" 2>/dev/null' USR1 TERM
  wait "$child"; code=$?
  while [ -n "$came" ]; do came=""; wait "$child"; code=$?; done
  return "$code"
}}
export -f stoppable

folder={folder}
# A requeued job resumes the run that it began, and no other.
if grep -qs "\\"job\\": \\"$SLURM_JOB_ID\\"" "$folder/environment.json"; then
  what=(--resume "$folder")
else
  what=({what})
fi
{server}
stoppable srun --kill-on-bad-exit=1 --nodes={trainers} --ntasks={trainers} \\
  --nodelist="$(IFS=,; echo "${{machines[*]:0:{trainers}}}")" \\
  bash -c {task} rlif "${{what[@]}}"
code=$?
if [ "$code" = 0 ] && [ ! -f "$folder/summary.json" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

SERVER = """
export {variable}="${{machines[{trainers}]}}"
srun --nodes=1 --ntasks=1 --nodelist="${variable}" {command} &
server=$!
trap 'kill "$server" 2>/dev/null' EXIT
"""


def batch_script(recipe: Recipe, layout: Layout, start: Sequence[str], stem: str, folder: Path | None) -> str:
    """Writes a batch script for Slurm.

    Args:
        layout: with server_gpus above 0 the script asks for one machine more, for the server alone.
        start: what `rlif launch` begins with: the recipe and its overrides, or --resume and a run folder.
        stem: names a run whose recipe gives no name.
        folder: of the run; None where it depends on the job's number.
    """
    resumed, stem = start[0] == "--resume", folder_name(stem)
    place = shlex.quote(str(folder))
    if folder is None:
        place = f'{shlex.quote(str(Path(recipe.output).expanduser()))}/"{stem}-$SLURM_JOB_ID"'
    server = SERVER.format(
        variable=SERVER_HOST, trainers=layout.nodes, command=shlex.join(server_command(recipe, layout.server_gpus))
    )
    gpus = 0 if recipe.training.get("use_cpu") else max(layout.per_node, layout.server_gpus)
    return BATCH.format(
        stem=stem,
        nodes=layout.nodes + bool(layout.server_gpus),
        gpus=f"#SBATCH --gpus-per-node={gpus}\n" if gpus else "",
        notice=NOTICE,
        trainers=layout.nodes,
        server=server if layout.server_gpus else "",
        folder=place,
        what=" ".join([shlex.join(start), *([] if resumed or recipe.name else ['"name=${folder##*/}"'])]),
        task=shlex.quote(_task(layout)),
    )


def _task(layout: Layout) -> str:
    """Writes what each machine's shell runs; its arguments say what is trained."""
    launch = [sys.executable, "-m", "rlif", "launch", *options(layout, server=False)]
    machine = ' --head "$HEAD:$PORT" --rank "$SLURM_PROCID"' if layout.nodes > 1 else ""
    return f'stoppable {shlex.join(launch)}{machine} "$@"; code=$?; [ "$code" = {PREEMPTED} ] || exit "$code"'
