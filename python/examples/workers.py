"""Worker processes: starting them on this machine, and what each of them does about signals and silence."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

# of sysexits.h: a failure that passes, try again
EX_TEMPFAIL = 75
# how long the others may take to notice that a worker is gone
GRACE_SECONDS = 30
LAUNCHER = "TFJS_MLA_LAUNCHER"


def start(count, command):
    """Starts the command as workers of one cluster, passes signals on, waits for all. -> exit code.

    When one fails, the others end by themselves; after a while they are killed.
    """
    addresses = [f"localhost:{port}" for port in free_ports(count)]
    arguments = without_workers(command)
    running = {}
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        env = {**os.environ, "TF_CONFIG": json.dumps(config), LAUNCHER: str(os.getpid())}
        # a session of its own: Ctrl-C in a terminal comes once, from here
        running[index] = subprocess.Popen(arguments, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
        print(f"worker    {index} of {count} is process {running[index].pid}", flush=True)

    def pass_on(number, _):
        for process in running.values():
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    return wait(running, count)


def wait(running, count):
    """Until no process is left in `running`. -> 0, or the code of the first worker that failed."""
    first_code, deadline = 0, float("inf")
    while running:
        for index, process in list(running.items()):
            code = process.poll()
            if code is None:
                if time.monotonic() > deadline:
                    process.kill()
                continue
            del running[index]
            if code and not first_code:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                print(f"error: worker {index} of {count} {how}", file=sys.stderr, flush=True)
                first_code, deadline = code if code > 0 else EX_TEMPFAIL, time.monotonic() + GRACE_SECONDS
        time.sleep(0.05)
    if first_code == EX_TEMPFAIL:
        print("the same command goes on from the newest checkpoint", file=sys.stderr, flush=True)
    return first_code


def without_workers(command):
    at = next(i for i, word in enumerate(command) if word.split("=")[0] == "--workers")
    return command[:at] + command[at + (1 if "=" in command[at] else 2) :]


def free_ports(count):
    """Below those that systems give to outgoing connections, so that none of them is taken before a worker listens on it."""
    ports = []
    for port in random.sample(range(15000, 32000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("localhost", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free ports on localhost")


class Watch(threading.Thread):
    """Takes this worker's signals, and ends it when nothing happens for too long, whatever TensorFlow waits for.

    Ctrl-C (or SIGTERM) asks for an end after this step, and ends at once before the first step or the second time. A worker
    whose launcher is gone ends too. To be made before other threads are.
    """

    def __init__(self, timeout):
        super().__init__(daemon=True)
        self.timeout, self.last_sign = timeout, time.monotonic()
        self.is_training, self.is_stop_asked = False, False
        self.launcher = int(os.environ.get(LAUNCHER, 0))
        task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
        self.name = f"{task['type']} {task['index']}" if task else "this worker"
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        self.start()

    def start_training(self):
        self.is_training = True
        self.alive()

    def alive(self):
        self.last_sign = time.monotonic()

    def run(self):
        while True:
            if signal.sigtimedwait({signal.SIGINT, signal.SIGTERM}, 0.5):
                if self.is_stop_asked or not self.is_training:
                    self.leave(130)
                self.is_stop_asked = True
            if self.launcher and os.getppid() != self.launcher:
                self.leave(EX_TEMPFAIL, f"error: {self.name}: the process that started it is gone")
            if time.monotonic() - self.last_sign > self.timeout:
                self.leave_without_peers(f"no step and no word from the other workers for {self.timeout:g} s")

    def leave_without_peers(self, reason):
        self.leave(EX_TEMPFAIL, f"error: {self.name}: {reason}; start all workers again to go on from the newest checkpoint")

    def leave_with_stack(self):
        self.leave(1, f"{traceback.format_exc()}error: {self.name}: see above")

    @staticmethod
    def leave(code, message=None):
        """At once: Python's own end would wait for workers that may not answer any more."""
        if message:
            print(message, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
