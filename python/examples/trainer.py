"""Data-parallel training under tf.distribute.MultiWorkerMirroredStrategy: the step, the run's folder and the loop.

Every worker holds the whole model, takes its slice of the global batch, and adds up gradients with all others. A batch follows
from seed and step, so that a checkpoint needs no more than the model, Adam's moments and the step.
"""

import json
import os
import pathlib
import sys
import tempfile
import time
import zlib

import numpy as np
import tensorflow as tf

from decoder import Adam, Config, Decoder

WARMUP_STEPS = 20
CLIP_NORM = 1.0

# what TensorFlow says when a worker that takes part in a sum is gone
PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


class OptionsError(Exception):
    """What is wrong with the options, the text or the folder, to be shown without a stack."""


class Trainer:
    def __init__(self, options, strategy, text):
        self.options, self.strategy, self.text = options, strategy, text
        replicas = strategy.num_replicas_in_sync
        if options.batch % replicas:
            raise OptionsError(f"--batch {options.batch} must be a multiple of the number of workers, got {replicas}")
        config = Config(options.hidden, options.layers, options.heads, round(options.hidden * 8 / 3))
        with strategy.scope():
            self.model = Decoder(config, options.seed)
            self.adam = Adam(self.model.trainable_variables)
        self.step = tf.Variable(0, dtype=tf.int64, name="step")
        self.checkpoint = tf.train.Checkpoint(model=self.model, adam=self.adam, step=self.step)

    def train(self, stop):
        """One step. -> loss (the global batch's mean, before the update), and whether any worker was asked to stop."""
        step = int(self.step.numpy()) + 1
        rate = self.options.lr * min(1, step / WARMUP_STEPS)
        loss, stops = self._train(self._batch(step), tf.constant(rate), tf.constant(step), tf.constant(float(stop)))
        loss = float(loss)
        if not np.isfinite(loss):
            raise OptionsError(f"the loss of step {step} is {loss}")
        self.step.assign(step)
        return loss, float(stops) > 0

    def _batch(self, step):
        """Each replica's slice [b, s + 1] of the windows that seed and step choose, whatever the number of workers."""
        batch, sequence = self.options.batch, self.options.sequence
        places = tf.random.stateless_uniform([batch], [self.options.seed, step], maxval=len(self.text) - sequence, dtype=tf.int32)
        windows = self.text[places.numpy()[:, np.newaxis] + np.arange(sequence + 1)].astype(np.int32)
        slices = np.split(windows, self.strategy.num_replicas_in_sync)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(slices[context.replica_id_in_sync_group])
        )

    @tf.function
    def _train(self, batch, learning_rate, updates, stop):
        return self.strategy.run(self._train_replica, args=(batch, learning_rate, updates, stop))

    def _train_replica(self, windows, learning_rate, updates, stop):
        sums = [tf.identity(stop), *self._sum_of_micro_batches(windows)]
        stops, loss, *gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)
        gradients, _ = tf.clip_by_global_norm(gradients, CLIP_NORM)
        self.adam.update(self.model.trainable_variables, gradients, learning_rate, updates)
        return loss, stops

    def _sum_of_micro_batches(self, windows):
        """[loss, *gradients], added up as a tree over the batch.

        Where workers hold its branches, sums have the order that one worker alone gives them.
        """
        size = windows.shape[0]
        if size <= self.options.micro_batch:
            return self._loss_and_gradients(windows)
        first = self._sum_of_micro_batches(windows[: size // 2])
        with tf.control_dependencies(first):  # one after the other: less memory
            second = self._sum_of_micro_batches(windows[size // 2 :])
        return [a + b for a, b in zip(first, second)]

    # not put in line: TensorFlow would merge one micro-batch's sums with another's, and round otherwise
    @tf.function(experimental_attributes={"_noinline": True})
    def _loss_and_gradients(self, windows):
        """A micro-batch's share of the mean over the global batch."""
        with tf.GradientTape() as tape:
            logits = self.model.logits(windows[:, :-1])
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(windows[:, 1:], logits)
            loss = tf.reduce_sum(losses) / (self.options.batch * self.options.sequence)
        return [loss, *tape.gradient(loss, self.model.trainable_variables)]


class RunFolder:
    """The folder of a run: the newest checkpoints (step-*), settings.json and losses.jsonl, a line for each step.

    All workers read it. The chief writes, so that what is there is whole at any time: TensorFlow renames a checkpoint's files
    when they are complete, and then the file `checkpoint`, which says which one is the newest.
    """

    def __init__(self, path, checkpoint, is_chief):
        self.path, self.checkpoint, self.is_chief = pathlib.Path(path), checkpoint, is_chief
        self.manager = None
        self.losses = None

    def restore(self, settings):
        """The newest checkpoint's step, or 0 where there is none. Throws if it is of a run with other settings."""
        newest = tf.train.latest_checkpoint(self.path)
        if newest is None:
            return 0
        before = json.loads((self.path / "settings.json").read_text())
        for name, value in settings.items():
            if before.get(name) != value:
                raise OptionsError(f"{self.path} holds a run with {name} {before.get(name)}, this is {value}: give another --checkpoint")
        self.checkpoint.restore(newest).assert_consumed()
        return int(self.checkpoint.step.numpy())

    def open(self, settings, step):
        """For writing, without the losses of steps after the checkpoint: they come again."""
        if not self.is_chief:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(self.path), max_to_keep=2, checkpoint_name="step")
        self._replace("settings.json", json.dumps(settings, indent=1) + "\n")
        file = self.path / "losses.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        self._replace(file.name, "".join(f"{line}\n" for line in lines[:step]))
        self.losses = file.open("a", buffering=1)

    def append_loss(self, step, loss):
        if self.losses:
            self.losses.write(json.dumps({"step": step, "loss": loss}) + "\n")

    def save(self, step):
        """Every worker calls it, since TensorFlow may need all of them to read a variable. Only the chief's copy stays."""
        if self.manager:
            if self.manager.latest_checkpoint != str(self.path / f"step-{step}"):
                self.manager.save(checkpoint_number=step)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                self.checkpoint.write(os.path.join(scratch, "step"))

    def _replace(self, name, text):
        partial = self.path / f".{name}.partial"
        partial.write_text(text)
        os.replace(partial, self.path / name)


def train(options, watch):
    """Trains to the last step, or until a worker is asked to stop. -> exit code.

    Returns 0 when all is saved, 75 ("try again") when another worker is gone.
    """
    tf.config.experimental.enable_op_determinism()
    text = np.frombuffer(pathlib.Path(options.text).read_bytes(), np.uint8)
    if len(text) <= options.sequence:
        raise OptionsError(f"--text {options.text}: expected more than --sequence {options.sequence} bytes, got {len(text)}")
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        trainer = Trainer(options, strategy, text)
        resolver = strategy.cluster_resolver
        is_chief = not resolver.task_type or resolver.task_type == "chief" or is_first_worker(resolver)
        folder = RunFolder(options.checkpoint, trainer.checkpoint, is_chief)
        settings = settings_of(options, text)
        step = folder.restore(settings)
        check_agreement(strategy, settings, step)
        folder.open(settings, step)
        if is_chief:
            introduce(options, trainer, step)
        return run_steps(options, trainer, folder, watch)
    except PEER_ERRORS as error:
        lines = error.message.splitlines()
        cause = next((line for line in lines if "aborted by" in line), lines[0])
        watch.leave_without_peers(f"another worker is gone (TensorFlow: {cause})")


def run_steps(options, trainer, folder, watch):
    progress = Progress(options) if folder.is_chief else None
    step, is_stopped = int(trainer.step.numpy()), False
    watch.start_training()
    while step < options.steps and not is_stopped:
        loss, is_stopped = trainer.train(watch.is_stop_asked)
        watch.alive()
        step += 1
        folder.append_loss(step, loss)
        if progress:
            progress.show(step, loss)
        if step % options.save_every == 0 or step == options.steps or is_stopped:
            folder.save(step)
    say_goodbye(trainer.strategy)
    if folder.is_chief:
        print(f"\n{'trained' if step >= options.steps else 'stopped'} and saved at step {step} in {folder.path}", flush=True)
        if step < options.steps:
            print("go on with the same command", flush=True)
    return 0


def is_first_worker(resolver):
    return resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs


def settings_of(options, text):
    """What a run's losses depend on, --steps and the number of workers aside."""
    names = ("batch", "sequence", "micro_batch", "lr", "seed", "hidden", "layers", "heads")
    settings = {name: getattr(options, name) for name in names}
    return {**settings, "text": f"{len(text)}-{zlib.crc32(text.tobytes()):08x}"}


def check_agreement(strategy, settings, step):
    """Throws unless all workers have the same options and stand at the same step."""
    own = [zlib.crc32(json.dumps(settings).encode()), step]
    each = strategy.experimental_distribute_values_from_function(lambda _: tf.constant([own], tf.int64))
    everyone = strategy.gather(each, axis=0).numpy().tolist()
    steps = [step for _, step in everyone]
    if len(set(steps)) > 1:
        raise OptionsError(f"the workers stand at the steps {steps}: all of them must see the same folder of --checkpoint")
    if everyone != [own] * len(everyone):
        raise OptionsError("the workers have other options or another text than one another")


def say_goodbye(strategy):
    """Nobody leaves while another still needs it. A worker that has left already does no harm."""
    try:
        everyone = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(1.0))
        strategy.reduce(tf.distribute.ReduceOp.SUM, everyone, axis=None)
    except PEER_ERRORS:
        pass


def introduce(options, trainer, step):
    config = trainer.model.config
    parameters = sum(variable.shape.num_elements() for variable in trainer.model.trainable_variables)
    head = f"{config.num_attention_heads} heads of {config.qk_nope_head_dim}+{config.qk_rope_head_dim}/{config.v_head_dim}"
    print(f"model     {parameters:,} parameters: {config.num_hidden_layers} layers, {head}, latent {config.kv_lora_rank}")
    print(f"text      {len(trainer.text) / 1000:.0f} kB of {options.text}")
    start = f"from step {step} " if step else ""
    print(f"training  {start}to step {options.steps}, {options.batch} x {options.sequence} bytes a step")
    print(f"workers   {trainer.strategy.num_replicas_in_sync}")
    print(f"run       {options.checkpoint}\n", flush=True)


class Progress:
    """A line that is written over in a terminal, a line every few seconds elsewhere."""

    def __init__(self, options):
        self.options, self.is_terminal = options, sys.stdout.isatty()
        self.shown, self.steps = time.monotonic(), 0

    def show(self, step, loss):
        self.steps += 1
        seconds = time.monotonic() - self.shown
        if seconds < (0.5 if self.is_terminal else 5) and step < self.options.steps:
            return
        tokens_per_second = self.steps * self.options.batch * self.options.sequence / seconds
        line = f"{step}/{self.options.steps} | loss {loss:.3f} | {tokens_per_second:.0f} tokens/s"
        print(f"\r{line}\033[K" if self.is_terminal else line, end="" if self.is_terminal else "\n", flush=True)
        self.shown, self.steps = time.monotonic(), 0
