"""examples/train.py: two workers on this machine have the losses of one, and go on after one of them was killed."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PYTHON = pathlib.Path(__file__).resolve().parents[1]
TRAIN = PYTHON / "examples" / "train.py"
# a start of TensorFlow included, on a busy machine
SECONDS = 120
SAVE_EVERY = 5
# what another number of workers, or the other order of the same sums, may change in so few steps
TOLERANCE = 1e-5
SIZES = ["--batch", "4", "--micro-batch", "2", "--sequence", "32", "--hidden", "32", "--heads", "2", "--save-every", str(SAVE_EVERY)]


class Run:
    """A running train.py whose output goes to a file, so that it never waits for a reader."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.log = tempfile.TemporaryFile(mode="w+")
        env = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
        command = [sys.executable, str(TRAIN), *SIZES, "--timeout", str(SECONDS), "--checkpoint", str(folder), *options]
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=subprocess.STDOUT)

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def losses(self):
        """By step, as far as they are written."""
        file = self.folder / "losses.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["loss"] for row in rows]

    def wait_for_steps(self, count):
        deadline = time.monotonic() + SECONDS
        while len(self.losses()) < count:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"no step {count}:\n{self.output()}")
            time.sleep(0.02)

    def kill_worker(self, index):
        os.kill(self.workers()[index], signal.SIGKILL)

    def workers(self):
        """Their processes."""
        return [int(line.split()[-1]) for line in self.output().splitlines() if line.startswith("worker ") and " is process " in line]

    def wait(self):
        """-> exit code."""
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.output()}") from None

    def end(self):
        if self.process.poll() is None:
            # workers first: the launcher waits for them, and their numbers are still theirs
            for worker in self.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self.log.close()


class Workers(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_example(self, name, *options):
        run = Run(self.folder / name, *options)
        self.addCleanup(run.end)
        return run

    def train_to_the_end(self, name, steps, *options):
        run = self.run_example(name, "--steps", str(steps), *options)
        self.assertEqual(run.wait(), 0, run.output())
        self.assertEqual(len(run.losses()), steps)
        return run.losses()

    def test_killed_workers_and_resumed_losses(self):
        endless = ["--workers", "2", "--steps", "1000000"]
        before = 0
        for victim, message in ((1, "worker 0: another worker is gone"), (0, "worker 1: another worker is gone")):
            run = self.run_example("interrupted", *endless)
            run.wait_for_steps(before + 2 * SAVE_EVERY + 2)
            run.kill_worker(victim)
            self.assertEqual(run.wait(), 75, run.output())
            self.assertIn(message, run.output())
            self.assertIn(f"worker {victim} of 2 was ended by SIGKILL", run.output())
            if before:
                self.assertRegex(run.output(), r"training  from step \d+ to")
            before = len(run.losses())
        run = self.run_example("interrupted", *endless)
        run.wait_for_steps(before + 2)
        run.process.send_signal(signal.SIGINT)
        self.assertEqual(run.wait(), 0, run.output())
        interrupted = run.losses()
        self.assertIn(f"stopped and saved at step {len(interrupted)}", run.output())

        two = self.train_to_the_end("two", len(interrupted), "--workers", "2")
        self.assertEqual(interrupted, two, "resumed losses have other bits than those of an uninterrupted run")
        self.assertLess(two[-1], two[0] - 1, "nothing was learnt")
        one = self.train_to_the_end("one", len(interrupted))
        for step, (a, b) in enumerate(zip(one, two), start=1):
            self.assertLessEqual(abs(a - b), TOLERANCE * a, f"loss of step {step}: {a} with one worker, {b} with two")

    def test_errors(self):
        run = self.run_example("three", "--batch", "3", "--workers", "2")
        self.assertEqual(run.wait(), 1, run.output())
        self.assertIn("--batch 3 must be a multiple of the number of workers, got 2", run.output())
        env = {**os.environ, "TF_CONFIG": "{"}
        answer = subprocess.run([sys.executable, TRAIN], env=env, capture_output=True, text=True, timeout=SECONDS)
        self.assertEqual(answer.returncode, 2)
        self.assertIn("TF_CONFIG must be JSON", answer.stderr)

    def test_help(self):
        answer = subprocess.run([sys.executable, TRAIN, "--help"], capture_output=True, text=True, timeout=SECONDS)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        for option in ("--workers", "--batch", "--checkpoint", "--save-every", "--text", "TF_CONFIG"):
            self.assertIn(option, answer.stdout)


if __name__ == "__main__":
    unittest.main()
