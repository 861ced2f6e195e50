"""Worker processes: starting them on this machine, and what each of them does about signals and silence."""

import faulthandler
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

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
            if not code:
                continue
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            print(f"error: worker {index} of {count} {how}", file=sys.stderr, flush=True)
            if not first_code:
                first_code, deadline = exit_code(code), time.monotonic() + GRACE_SECONDS
        time.sleep(0.05)
    if first_code == EX_TEMPFAIL:
        print("the same command goes on from the newest checkpoint", file=sys.stderr, flush=True)
    return first_code


def exit_code(code):
    """Of Popen's return code: a worker that was killed can be started again, one that was asked to end was not killed."""
    return code if code > 0 else 130 if -code in Watch.SIGNALS else EX_TEMPFAIL


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


def worker_name():
    """This worker's place in TF_CONFIG, '' without one. Throws ValueError on a TF_CONFIG that says nothing."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return ""
    try:
        task = json.loads(text)["task"]
        return f"{task['type']} {task['index']}"
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"TF_CONFIG must be JSON with a cluster and a task, as in --help, got {text}") from None


class Watch(threading.Thread):
    """Takes this worker's signals, and ends it when nothing happens for too long, whatever TensorFlow waits for.

    Ctrl-C (or SIGTERM) asks for an end after this step, and ends at once before the first step or the second time. A worker
    whose launcher is gone ends too. To be made before other threads are: they must leave the signals to this one.
    """

    SIGNALS = {signal.SIGINT, signal.SIGTERM}

    def __init__(self, timeout):
        super().__init__(daemon=True)
        self.timeout, self.last_sign = timeout, time.monotonic()
        self.is_stop_asked = False
        self.training = threading.Event()
        self.launcher = int(os.environ.get(LAUNCHER, 0))
        self.worker = worker_name()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        # TensorFlow keeps Python's lock while it waits for the others to start: until then, C's thread watches
        faulthandler.dump_traceback_later(timeout, exit=True)
        if self.worker and not self.launcher:
            print(f"{self.worker} waits for the other workers, at most {timeout:g} s", flush=True)
        self.start()

    def start_training(self):
        self.alive()
        faulthandler.cancel_dump_traceback_later()
        self.training.set()

    def alive(self):
        self.last_sign = time.monotonic()

    def run(self):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        self.training.wait()
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        while True:
            if signal.sigtimedwait(self.SIGNALS, 0.5):
                if self.is_stop_asked:
                    self.leave(130)
                self.is_stop_asked = True
            if self.launcher and os.getppid() != self.launcher:
                self.fail("the process that started it is gone", EX_TEMPFAIL)
            if time.monotonic() - self.last_sign > self.timeout:
                self.leave_without_peers(f"no step and no word from the other workers for {self.timeout:g} s")

    def leave_without_peers(self, reason):
        self.fail(f"{reason}; start all workers again to go on from the newest checkpoint", EX_TEMPFAIL)

    def fail(self, reason, code=1):
        self.leave(code, f"error: {self.worker}{': ' if self.worker else ''}{reason}\n")

    @staticmethod
    def leave(code, message=""):
        """At once: Python's own end would wait for workers that may not answer any more."""
        sys.stdout.flush()
        sys.stderr.write(message)
        sys.stderr.flush()
        os._exit(code)
