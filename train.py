"""Train Gaussians on posed photos, down to a given number of them.

photos + poses          TrainConfig + Schedule (frozen)
      |                          |
 load_scene --> Scene            v
                  |     Training(scene, model, schedule, strategies, loss)    the method: compact_splats/training
                  |       for step in training:                               views, render, loss, update, edits
                  +------>    context.record(step)                            folder, bar, log, viewer, checkpoints
                  |
            point_cloud.ply --> render.py -> metrics.py, compress.py, view.py
"""

import sys
from collections.abc import Sequence

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.options import flags_that_save_memory
from compact_splats.training.processes import joined_processes
from compact_splats.utils.errors import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    with joined_processes() as processes:
        config = TrainConfig.from_command_line(sys.argv[1:] if argv is None else argv)
        from compact_splats.compression import read_model  # these load torch, for which --help does not wait
        from compact_splats.training.run import train
        from compact_splats.viewer.training import viewer_of

        train(config, processes, viewer_of(config, processes), read_model)


if __name__ == "__main__":
    run_script(main, less_memory=flags_that_save_memory(TrainConfig))
