/** What setup-tensorflow says while it works. */
import { fail } from '../core/errors.js';

/** To stderr: stdout has the result alone. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

export function stop(message: string): never {
  fail('setup-tensorflow', message);
}
