#!/usr/bin/env python3
"""Trains a small DeepSeek-V3-style decoder on bytes of text, with the ops of tfjs_mla, on one worker or on several."""

import argparse
import os
import pathlib
import sys
import traceback

import workers

HERE = pathlib.Path(__file__).resolve().parent

NOTES = """
All workers together take --batch sequences a step, an equal slice each; losses do not depend on how many there are. Sums in
two workers have the order that one alone gives them: with the same --micro-batch, on machines alike, losses are the same bits.
With more workers, or other machines, they differ as float32 rounds: by some 1e-6 in the first 100 steps, 1e-4 after 300.

FOLDER holds the newest checkpoints, settings.json and losses.jsonl, a line for each step. The same command goes on from the
newest checkpoint, after Ctrl-C (which saves), after its end with more --steps, or after a worker was killed: the others notice
and end with code 75. With the same number of workers the losses are those of a run that was never interrupted, bit for bit.

Workers on several machines are started by hand, all with the same options and a FOLDER that all of them see, each with its
place in TF_CONFIG:
  TF_CONFIG='{"cluster": {"worker": ["one:4000", "two:4000"]}, "task": {"type": "worker", "index": 0}}' \\
    python3 python/examples/train.py --checkpoint FOLDER
and on the other one with "index": 1. The first worker is the chief, which writes. --workers does this with processes of this machine.
"""


def main():
    options = read_options()
    if options.workers:
        sys.exit(workers.start(options.workers, [sys.executable, *sys.argv]))
    watch = workers.Watch(options.timeout)
    # after the watch, whose signals no thread of TensorFlow should take
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.append(str(HERE.parent))
    try:
        import trainer
    except ModuleNotFoundError as error:
        watch.fail(f"{error}: TensorFlow is needed, python3 -m pip install tensorflow-cpu==2.18.1")
    except ImportError as error:
        watch.fail(error)
    try:
        watch.leave(trainer.train(options, watch))
    except (OSError, trainer.OptionsError) as error:
        watch.fail(error)
    except Exception:
        watch.fail(traceback.format_exc())


def read_options():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=NOTES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--workers", type=count, metavar="N", help="start N workers on this machine (default: this process is the only one)")
    add("--text", metavar="FILE", default=str(HERE.parents[1] / "LICENSE"), help="what to train on (default: this package's LICENSE)")
    add("--steps", type=count, metavar="N", default=200, help="training steps in all (200)")
    add("--batch", type=count, metavar="N", default=8, help="sequences per step, of all workers together (8)")
    add("--micro-batch", type=count, metavar="N", default=4, help="sequences that a worker computes at once, at most (4)")
    add("--sequence", type=count, metavar="N", default=128, help="bytes per sequence (128)")
    add("--lr", type=positive, metavar="X", default=5e-3, help="learning rate after the warm-up (0.005)")
    add("--seed", type=count, metavar="N", default=1, help="of initial weights and batches (1)")
    add("--hidden", type=count, metavar="N", default=96, help="columns of the hidden state (96)")
    add("--layers", type=count, metavar="N", default=2, help="decoder layers (2)")
    add("--heads", type=count, metavar="N", default=4, help="attention heads (4)")
    add("--checkpoint", metavar="FOLDER", default="runs/python", help="folder of the run (runs/python)")
    add("--save-every", type=count, metavar="STEPS", default=50, help="steps between checkpoints (50)")
    add("--timeout", type=positive, metavar="SECONDS", default=300, help="how long to wait for other workers, or for a step (300)")
    options = parser.parse_args()
    if options.workers and "TF_CONFIG" in os.environ:
        parser.error("--workers and TF_CONFIG exclude one another: TF_CONFIG says that this is one worker of several")
    try:
        workers.worker_name()
    except ValueError as error:
        parser.error(str(error))
    return options


def count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return value


def positive(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


if __name__ == "__main__":
    main()
