"""Defines the exit codes and the environment variables that `rlif launch` shares with its training processes.

Exit codes of a training process:

    0      finished
    2      an error that the user can put right
    3      the guard ended the run
    75     a scheduler's signal ended it at a checkpoint
    130    Ctrl-C ended it at a checkpoint
"""

from rlif.errors import PREEMPTED as PREEMPTED

USER_ERROR = 2
GUARD_STOPPED = 3
INTERRUPTED = 130  # 128 + SIGINT

SERVER_HOST = "RLIF_VLLM_SERVER"  # environment variable: the host of the vLLM server that the launcher started
RESUMES = "RLIF_RESUMES"  # environment variable: the command that resumes a run which was launched
ECHO_SECONDS = 5.0  # a second signal within this time is a copy of the first, sent to another process of the job
