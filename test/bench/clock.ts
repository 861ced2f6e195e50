/** A GPU between short launches falls to its idle clock, and times grow four to five times: this keeps it up. */
export interface Clock {
  /** Keeps the GPU busy for long enough to lift its clock. */
  heat(): Promise<void>;
  /** Milliseconds of a fixed piece of work. */
  probe(): Promise<number>;
}

export interface Steady<T> {
  value: T;
  /** true: the clock never settled, and the value is of the attempt with the quickest probes */
  isSlow: boolean;
}

const tolerance = 1.1;
const mostAttempts = 6;

export class SteadyClock {
  /** the quickest probe so far, in this run */
  private best = Infinity;

  constructor(private readonly clock: Clock) {}

  /** Takes a figure between two probes, again and again until neither is slower than the best by a tenth. */
  async steadily<T>(figure: () => Promise<T>): Promise<Steady<T>> {
    const attempts: { value: T; probeMs: number }[] = [];
    while (attempts.length < mostAttempts) {
      await this.clock.heat();
      const before = await this.clock.probe();
      const value = await figure();
      const after = await this.clock.probe();
      this.best = Math.min(this.best, before, after);
      const probeMs = Math.max(before, after);
      if (probeMs <= tolerance * this.best) return { value, isSlow: false };
      attempts.push({ value, probeMs });
    }
    const quickest = attempts.reduce((a, b) => (b.probeMs < a.probeMs ? b : a));
    return { value: quickest.value, isSlow: true };
  }
}

/** For CPUs and software devices: there is no clock to wait for. */
export const anyClock: Clock = { heat: async () => undefined, probe: async () => 1 };
