import { Presets, SingleBar } from 'cli-progress';
import type { StepReport, Trainer } from '../shared/trainer.js';

/** A bar in a terminal, a line every few seconds elsewhere. */
export class Progress {
  private readonly bar = new SingleBar(
    {
      format: '{bar} {value}/{total} | loss {loss} | {tokensPerSecond} tokens/s | {left} left',
      noTTYOutput: true,
      notTTYSchedule: 5000,
      hideCursor: true,
      // Ctrl-C is ours
      gracefulExit: false,
    },
    Presets.shades_classic,
  );
  private loss = 0;
  private secondsPerStep = 0;

  constructor(private readonly trainer: Trainer) {
    this.bar.start(trainer.settings.totalSteps, trainer.step, { loss: '…', tokensPerSecond: '…', left: '…' });
  }

  show({ step, loss, tokensPerSecond }: StepReport): void {
    const { batch, sequence, totalSteps } = this.trainer.settings;
    const seconds = (batch * sequence) / tokensPerSecond;
    // running means: single batches and steps jump about
    this.loss = this.loss ? this.loss + (loss - this.loss) * 0.1 : loss;
    this.secondsPerStep = this.secondsPerStep
      ? this.secondsPerStep + (seconds - this.secondsPerStep) * 0.1
      : seconds;
    this.bar.update(step, {
      loss: this.loss.toFixed(3),
      tokensPerSecond: Math.round((batch * sequence) / this.secondsPerStep),
      left: duration((totalSteps - step) * this.secondsPerStep),
    });
  }

  stop(): void {
    this.bar.stop();
  }
}

export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function bytesText(bytes: number): string {
  const [size, unit] = bytes < 1e6 ? [bytes / 1e3, 'kB'] : [bytes / 1e6, 'MB'];
  return `${size.toFixed(size < 10 ? 1 : 0)} ${unit}`;
}
