"""Names that the parts of the plug-in share. Loads neither torch nor verl."""

VERSION = "0.9."  # of verl, whose private names are used
MODE = "rlif_sync"  # trainer.v1.trainer_mode
SECTION = "rlif"  # of verl's configuration
FIELDS = "rlif_fields"  # in the extra information of a batch: the statistics that a pass must give
PREFIX = "rlif_"  # of these statistics in verl's batches
