/** Throws an error that names the function it comes from: `mlaAttention: k must be …, got …`. */
export function fail(functionName: string, message: string): never {
  throw new Error(`${functionName}: ${message}`);
}

/** `[2, 128, 8, 192]`, as shapes are written in every message. */
export function shapeText(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}
