/**
 * Several threads on one kernel, on shared memory. Every thread has an instance of the module, a number and scratch of
 * its own, and takes units until none is left. The host's thread is number 0: it works too, and waits at the end for
 * the others, awake, since a page's main thread must not sleep.
 */
import { Kernel, place, runUnit, unitsOf } from './kernels';
import { Problem } from './problem';

/** The kernel at hand, as all threads see it. It changes only when every unit is finished. */
@unmanaged
class Job {
  /** units that nobody has taken; below 0 when threads come too late */
  remaining!: i32;
  unfinished!: i32;
  /** no other job of this memory has it */
  number!: i32;
  /** the number again, once the job is there to be taken: idle threads sleep until it changes */
  published!: i32;
  /** threads go home when there is nothing left to do */
  isOver!: i32;
  kernel!: i32;
  problem!: usize;
  /** of thread 0; the others' follow */
  scratch!: usize;
  scratchBytes!: usize;
}

/** The number of the job that this thread's scratch is cut up for. */
let placedFor: i32 = 0;

/** Jobs that this thread has given out: those of another pool have other numbers. */
let jobs: i32 = 0;

export function jobBytes(): usize {
  return offsetof<Job>();
}

/** Runs a kernel on all threads; `scratch` is scratchBytes for each of them. */
export function runOnThreads(
  job: Job,
  kernel: Kernel,
  problem: Problem,
  scratch: usize,
  scratchBytes: usize,
): void {
  const at = changetype<usize>(job);
  const units = unitsOf(kernel, problem);
  job.kernel = kernel;
  job.problem = changetype<usize>(problem);
  job.scratch = scratch;
  job.scratchBytes = scratchBytes;
  atomic.store<i32>(at + offsetof<Job>('unfinished'), units);
  job.number = ++jobs;
  // after all that: who takes a unit sees the whole job that it belongs to
  atomic.store<i32>(at + offsetof<Job>('remaining'), units);
  atomic.store<i32>(at + offsetof<Job>('published'), job.number);
  if (units > 1) atomic.notify(at + offsetof<Job>('published'), units - 1);
  work(job, 0);
  while (atomic.load<i32>(at + offsetof<Job>('unfinished')) > 0);
}

/** The life of a thread that helps: until endJobs. */
export function serve(job: Job, thread: i32): void {
  const published = changetype<usize>(job) + offsetof<Job>('published');
  for (let seen = 0; !atomic.load<i32>(changetype<usize>(job) + offsetof<Job>('isOver'));) {
    work(job, thread);
    atomic.wait<i32>(published, seen, -1);
    seen = atomic.load<i32>(published);
  }
}

/** Lets all threads return from serve. */
export function endJobs(job: Job): void {
  const published = changetype<usize>(job) + offsetof<Job>('published');
  atomic.store<i32>(changetype<usize>(job) + offsetof<Job>('isOver'), 1);
  atomic.add<i32>(published, 1);
  atomic.notify(published, -1);
}

function work(job: Job, thread: i32): void {
  const at = changetype<usize>(job);
  for (;;) {
    const unit = atomic.sub<i32>(at + offsetof<Job>('remaining'), 1) - 1;
    if (unit < 0) return;
    const problem = changetype<Problem>(job.problem);
    if (placedFor !== job.number) {
      place(job.kernel, problem, job.scratch + (thread as usize) * job.scratchBytes);
      placedFor = job.number;
    }
    runUnit(job.kernel, problem, unit);
    atomic.sub<i32>(at + offsetof<Job>('unfinished'), 1);
  }
}
