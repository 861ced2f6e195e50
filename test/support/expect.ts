/** Assertions for files that also run in a page, where node:assert is not. */

/** Throws unless both are the same when written out; -0, NaN and infinities count as themselves. */
export function expectEqual(got: unknown, expected: unknown, what = 'value'): void {
  const [gotText, expectedText] = [textOf(got), textOf(expected)];
  if (gotText !== expectedText) throw new Error(`${what}: expected ${expectedText}, got ${gotText}`);
}

export function expectTrue(condition: boolean, otherwise: string): void {
  if (!condition) throw new Error(otherwise);
}

/** Throws unless `run` throws an error with exactly this message. */
export function expectThrows(run: () => unknown, message: string): void {
  let result: unknown;
  try {
    result = run();
  } catch (error) {
    expectEqual((error as Error).message, message, 'message');
    return;
  }
  throw new Error(`expected an error "${message}", got the result ${textOf(result)}`);
}

/** The same for a promise. */
export async function expectRejects(run: () => Promise<unknown>, message: string): Promise<void> {
  let result: unknown;
  try {
    result = await run();
  } catch (error) {
    expectEqual((error as Error).message, message, 'message');
    return;
  }
  throw new Error(`expected an error "${message}", got the result ${textOf(result)}`);
}

function textOf(value: unknown): string {
  const text = JSON.stringify(value, (_key, part: unknown) => {
    if (typeof part === 'number' && (!Number.isFinite(part) || Object.is(part, -0))) {
      return `number ${Object.is(part, -0) ? '-0' : String(part)}`;
    }
    return ArrayBuffer.isView(part) ? [...(part as Float32Array)] : part;
  });
  return text ?? String(value);
}
