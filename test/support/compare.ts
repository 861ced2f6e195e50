/** How far numbers are from the right ones: the two measures of the golden files' README, in float64. */

/** The most that each measure may be; null: it is not applied. */
export interface Bounds {
  metric: number | null;
  relativeL2: number | null;
}

/** The float32 floors: out and lse, and gradients. */
export const forwardBounds: Bounds = { metric: 1e-5, relativeL2: 1e-5 };
export const gradientBounds: Bounds = { metric: 2e-5, relativeL2: 2e-5 };

/** Those of float16 storage with float32 sums. */
export const forwardFloat16Bounds: Bounds = { metric: 2e-3, relativeL2: 2e-3 };
export const gradientFloat16Bounds: Bounds = { metric: 4e-3, relativeL2: 4e-3 };

/** The floors of each precision, out and lse, and gradients. */
export function boundsOf(precision: 'float32' | 'float16'): { forward: Bounds; gradient: Bounds } {
  if (precision === 'float32') return { forward: forwardBounds, gradient: gradientBounds };
  return { forward: forwardFloat16Bounds, gradient: gradientFloat16Bounds };
}

export interface Difference {
  /** max|a-b| / (1 + max|b|) */
  metric: number;
  /** ‖a-b‖ / ‖b‖; 0 when b is all zero: only the metric can say anything then */
  relativeL2: number;
  /** index of the worst element */
  worst: number;
}

/** NaN in both measures at the first NaN, and where an infinity stands in one of the two only. */
export function difference(got: ArrayLike<number>, expected: ArrayLike<number>): Difference {
  if (got.length !== expected.length) {
    throw new Error(`expected ${expected.length} numbers, got ${got.length}`);
  }
  let [worst, largest, largestError, squares, squaredErrors] = [0, 0, 0, 0, 0];
  for (let index = 0; index < expected.length; index++) {
    const [a, b] = [got[index], expected[index]];
    if (!Number.isFinite(a) || !Number.isFinite(b)) {
      if (a !== b) return { metric: NaN, relativeL2: NaN, worst: index };
      continue;
    }
    const error = Math.abs(a - b);
    if (error > largestError) [worst, largestError] = [index, error];
    largest = Math.max(largest, Math.abs(b));
    squares += b * b;
    squaredErrors += error * error;
  }
  return {
    metric: largestError / (1 + largest),
    relativeL2: squares > 0 ? Math.sqrt(squaredErrors / squares) : 0,
    worst,
  };
}

/** Throws, with the worst place, unless both measures are within the bounds. */
export function expectClose(
  name: string,
  got: { shape: readonly number[]; values: ArrayLike<number> },
  expected: { shape: readonly number[]; values: ArrayLike<number> },
  bounds: Bounds,
): void {
  const [gotShape, expectedShape] = [got.shape.join(', '), expected.shape.join(', ')];
  if (gotShape !== expectedShape) {
    throw new Error(`${name}: expected shape [${expectedShape}], got [${gotShape}]`);
  }
  const { metric, relativeL2, worst } = difference(got.values, expected.values);
  // written so that NaN fails
  const isClose =
    (bounds.metric === null || metric <= bounds.metric) &&
    (bounds.relativeL2 === null || relativeL2 <= bounds.relativeL2) &&
    !Number.isNaN(metric);
  if (isClose) return;
  const measures = `metric ${metric.toExponential(2)} (at most ${bounds.metric}), relative L2 ${relativeL2.toExponential(2)} (at most ${bounds.relativeL2})`;
  throw new Error(
    `${name}: ${measures}; worst at [${placeOf(worst, got.shape).join(', ')}] of [${gotShape}]: expected ${expected.values[worst]}, got ${got.values[worst]}`,
  );
}

/** Throws unless every bit is the same; NaN equals NaN. */
export function expectSameBits(name: string, got: ArrayLike<number>, expected: ArrayLike<number>): void {
  if (got.length !== expected.length) {
    throw new Error(`${name}: expected ${expected.length} numbers, got ${got.length}`);
  }
  for (let index = 0; index < expected.length; index++) {
    if (!Object.is(got[index], expected[index])) {
      throw new Error(`${name}: at ${index} expected exactly ${expected[index]}, got ${got[index]}`);
    }
  }
}

function placeOf(index: number, shape: readonly number[]): number[] {
  const place: number[] = [];
  for (let rest = index, axis = shape.length - 1; axis >= 0; axis--) {
    place.unshift(rest % shape[axis]);
    rest = Math.floor(rest / shape[axis]);
  }
  return place;
}
